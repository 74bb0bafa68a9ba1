"""Where a claim begins to look on MySQL: behind the tasks that were claimed a moment ago.

Their entries stay in the index until the server cleans it up, which it does
not as long as some transaction may still want to read them.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest

from taskmanager.app import create_app
from taskmanager.db.connection import close_connection
from tests.conftest import Api, make_key
from tests.support.mariadb import MariaDB

CLAIMED = 1_000


@pytest.fixture
def api(mariadb_server: MariaDB, tmp_path: Path) -> Iterator[Api]:
    url = mariadb_server.create_database("heads")
    application = create_app({"instance_path": tmp_path / "instance", "database_url": url})
    yield Api(application.test_client(), make_key("admin"))
    close_connection()


@pytest.fixture
def old_reader(api: Api, mariadb_server: MariaDB) -> Iterator[None]:
    """A transaction that keeps the server from cleaning up what came after it."""
    connection = pymysql.connect(
        host="127.0.0.1", port=mariadb_server.port, user="root", ssl_disabled=True
    )
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        yield


def pages_of_a_claim(api: Api, server: MariaDB, order: dict[str, str]) -> int:
    """The fewest of some: what the server does by itself reads pages too, now and then."""
    read = []
    for _ in range(5):
        before = _pages_read(server)
        api.claim(**order)
        read.append(_pages_read(server) - before)
    return min(read)


def _pages_read(server: MariaDB) -> int:
    [(_, pages)] = server.rows("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_read_requests'")
    return int(pages)


def create(api: Api, count: int) -> None:
    tasks = [{"type": "job", "params": {}, "dedupe": "none"}] * count
    for start in range(0, count, 100):
        api.post("/api/tasks/batch", {"tasks": tasks[start : start + 100]}, 201)


@pytest.mark.parametrize("sort_order", ["asc", "desc"])
@pytest.mark.parametrize("sort_by", ["priority", "id", "attempts"])
def test_claimed_tasks_do_not_slow_the_next_claim_down(
    api: Api, old_reader: None, mariadb_server: MariaDB, sort_by: str, sort_order: str
) -> None:
    order = {"type": "job", "sort_by": sort_by, "sort_order": sort_order}
    api.register()
    create(api, CLAIMED + 100)
    of_first = pages_of_a_claim(api, mariadb_server, order)

    for _ in range(CLAIMED // 100):
        api.claim(limit=100, **order)

    assert pages_of_a_claim(api, mariadb_server, order) < of_first + CLAIMED / 2
