"""Fixtures: two queues on the engines that a test asks for."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskmanager.db.connection import close_connection
from tests.support import mariadb
from tests.transfer.queues import Queue

MakeQueue = Callable[[str, str], Queue]


@pytest.fixture
def make_queue(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MakeQueue]:
    """Makes a queue without tables: `make_queue(engine, name)`."""

    def make(engine: str, name: str) -> Queue:
        url = ""
        if engine == "mariadb":
            server: mariadb.MariaDB = request.getfixturevalue("mariadb_server")
            url = server.create_database(f"transfer_{name}")
        return Queue(tmp_path / name, url or f"sqlite:///{tmp_path / name / 'queue.db'}")

    yield make
    close_connection()


@pytest.fixture
def old(make_queue: MakeQueue, engine: str) -> Queue:
    """The queue to be moved."""
    return make_queue(engine, "old")


@pytest.fixture
def new(make_queue: MakeQueue, engine: str) -> Queue:
    """The queue to be filled."""
    return make_queue(engine, "new")
