"""The server that the races are run against."""

from collections.abc import Callable, Iterator

import pytest

from taskmanager.db.connection import close_connection, connect_database
from tests.conftest import MODES
from tests.support.server import Server


@pytest.fixture(params=list(MODES))
def engine(request: pytest.FixtureRequest) -> str:
    """Every race is run in every mode."""
    return str(request.param).partition(" ")[0]


@pytest.fixture
def queue(start_server: Callable[..., Server], fresh_database_url: str) -> Iterator[Server]:
    """A server of several processes; the test itself may read its database with `fetch_all`."""
    server = start_server(workers=4, threads=2)
    connect_database(fresh_database_url)
    yield server
    close_connection()
    assert "Traceback" not in server.log()
