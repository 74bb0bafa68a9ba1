"""Transactions that keep their snapshot: what others change meanwhile is found all the same."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from taskmanager.app import close_app, create_app
from taskmanager.db.connection import database
from taskmanager.db.statements import fetch_one, fetch_value
from taskmanager.queue import claim_sql, maintenance, store
from tests.conftest import Api, Clock, make_key, require
from tests.support.mariadb import LOGS_STATEMENTS, MariaDB, is_installed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDB]:
    require("MariaDB (mariadbd)", is_installed())
    server = MariaDB(tmp_path_factory.mktemp("statements"), options=LOGS_STATEMENTS)
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["", "?skip_locked=off"], ids=["skip locked", "guarded"])
def api(server: MariaDB, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Api]:
    url = server.create_database("queue") + request.param
    app = create_app({"instance_path": tmp_path / "instance", "database_url": url})
    api = Api(app.test_client(), make_key("admin"))
    api.register()
    yield api
    close_app(app)


@pytest.fixture
def other() -> Iterator[Callable[..., None]]:
    """Runs a statement on a connection of its own, which commits at once."""
    opened: list[Any] = []

    def run(statement: str, *values: object) -> None:
        if not opened:
            opened.append(
                pymysql.connect(
                    **{**database.connect_params, "autocommit": True},
                    **database.nodes.first._asdict(),
                    database=database.database,
                )
            )
        with opened[0].cursor() as cursor:
            cursor.execute(statement, values)

    yield run
    for connection in opened:
        connection.close()


def test_a_session_has_repeatable_read(api: Api) -> None:
    assert fetch_value("SELECT @@tx_isolation") == "REPEATABLE-READ"
    findings = {one["code"]: one for one in api.get("/api/admin/doctor")["findings"]}
    assert findings["binary_log"]["level"] == "ok"
    assert "REPEATABLE READ" in findings["binary_log"]["found"]


def test_the_holder_of_a_key_that_came_after_the_snapshot_is_found(
    api: Api, other: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for policy in ("active", "forever"):
        body = {"type": "job", "params": {"p": policy}, "dedupe": policy}
        made = api.post("/api/tasks", body, 201)["id"]
        other("UPDATE tasks SET dedupe_key = 'elsewhere' WHERE id = %s", made)
        key = fetch_one("SELECT dedupe FROM tasks WHERE id = ?", (made,))
        assert key is not None
        look = store._open_duplicates

        def look_and_lose(rows: Any, look: Any = look, made: int = made) -> Any:
            found = look(rows)
            wanted = next(iter(rows.values()))["dedupe_key"]
            other("UPDATE tasks SET dedupe_key = %s WHERE id = %s", wanted, made)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(store, "_open_duplicates", look_and_lose)
            again = api.post("/api/tasks", body)
        assert (again["id"], again["deduplicated"]) == (made, True)


def test_maintenance_that_loses_every_candidate_looks_again_and_ends(
    api: Api, clock: Clock, other: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [api.create(delay_seconds=1)["id"] for _ in range(3)]
    clock.advance(2)
    look = maintenance.fetch_all

    def look_and_lose(sql: str, values: Any = ()) -> Any:
        rows = look(sql, values)
        if "lock" not in sql and rows and made:
            other("UPDATE tasks SET status = 'pending' WHERE id IN %s", [made.pop() for _ in rows])
        return rows

    monkeypatch.setattr(maintenance, "fetch_all", look_and_lose)
    api.post("/api/maintenance/run")
    assert fetch_value("SELECT COUNT(*) FROM tasks WHERE status = 'pending'") == 3


def test_a_claim_that_loses_its_candidate_takes_the_next(
    api: Api, other: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [api.create()["id"] for _ in range(4)]
    stolen: list[int] = []

    def lose(rows: Any) -> None:
        if rows and len(stolen) < 2:
            stolen.append(rows[0]["id"])
            other("UPDATE tasks SET status = 'claimed' WHERE id = %s", stolen[-1])

    many = claim_sql.fetch_all

    def look(sql: str, values: Any = ()) -> Any:
        rows = many(sql, values)
        if "FOR UPDATE" not in sql and "{lock" not in sql:
            lose(rows)
        return rows

    monkeypatch.setattr(claim_sql, "fetch_all", look)
    task = api.claim()
    assert task["id"] in set(made) - set(stolen)
    assert stolen
