"""What db/queries.py adds to Peewee: rows as dicts, and locks on every engine."""

import pytest
from flask import Flask

from taskmanager.db.connection import database
from taskmanager.db.models import Worker
from taskmanager.db.queries import first_row, locking, rows_of
from taskmanager.db.transactions import write_transaction


@pytest.fixture
def two_workers(app: Flask) -> None:
    rows = [
        {"id": name, "tasks_completed": 0, "tasks_failed": 0, "first_seen_at": 1, "last_seen_at": 1}
        for name in ("a", "b")
    ]
    Worker.insert_many(rows).execute()


def test_rows_are_dicts_by_column(two_workers: None) -> None:
    workers = Worker.select(Worker.id, Worker.shut_down_at).order_by(Worker.id.desc())
    last = {"id": "b", "shut_down_at": None}

    assert rows_of(workers) == [last, {"id": "a", "shut_down_at": None}]
    assert first_row(workers) == last
    assert first_row(workers.where(Worker.id == "nobody")) is None


def test_rows_are_locked_where_the_engine_locks_rows(two_workers: None, engine: str) -> None:
    statements: list[str] = []
    hook = database.query_hooks
    hook.append(lambda event: statements.append(event.sql))

    @write_transaction
    def lock() -> list[str]:
        return [row["id"] for row in rows_of(locking(Worker.select().order_by(Worker.id)))]

    assert lock() == ["a", "b"]
    hook.pop()
    [select] = [sql for sql in statements if sql.startswith("SELECT")]
    assert select.endswith("FOR UPDATE") is (engine == "mariadb")
