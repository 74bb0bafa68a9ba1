"""The server that the races are run against."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskmanager.db.connection import close_connection, connect_database
from tests.conftest import MODES, mariadb_kind
from tests.support.mariadb import LOGS_STATEMENTS, MariaDB
from tests.support.server import Server

# As MODES: servers on which a transaction keeps its snapshot.
OF_STATEMENTS = {
    "mariadb that logs statements": "",
    "mariadb that logs statements without SKIP LOCKED": "?skip_locked=off",
}


@pytest.fixture(params=[*MODES, *OF_STATEMENTS])
def engine(request: pytest.FixtureRequest) -> str:
    """Every race is run in every mode."""
    return str(request.param).partition(" ")[0]


@pytest.fixture(scope="session")
def statement_server(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[MariaDB]:
    kind = mariadb_kind(request.config)
    server = kind(tmp_path_factory.mktemp("statements"), options=LOGS_STATEMENTS)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def url_options(request: pytest.FixtureRequest) -> str:
    return {**MODES, **OF_STATEMENTS}[request.node.callspec.params["engine"]]


@pytest.fixture
def fresh_database_url(
    engine: str, url_options: str, tmp_path: Path, request: pytest.FixtureRequest
) -> str:
    if engine == "sqlite":
        return f"sqlite:///{tmp_path / 'queue.db'}{url_options}"
    logs_statements = request.node.callspec.params["engine"] in OF_STATEMENTS
    name = "statement_server" if logs_statements else "mariadb_server"
    server: MariaDB = request.getfixturevalue(name)
    return server.create_database("fresh") + url_options


@pytest.fixture
def queue(start_server: Callable[..., Server], fresh_database_url: str) -> Iterator[Server]:
    """A server of several processes; the test itself may read its database with `fetch_all`."""
    server = start_server(workers=4, threads=2)
    connect_database(fresh_database_url)
    yield server
    close_connection()
    assert "Traceback" not in server.log()
