"""write_transaction(): all or nothing, run again where the server has undone it, never nested."""

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peewee
import pytest
from flask import Flask

from taskmanager.db import transactions
from taskmanager.db.connection import close_connection, connect_database, database
from taskmanager.db.models import Worker
from taskmanager.db.probe import find_write_refusal
from taskmanager.db.queries import execute_if_free
from taskmanager.db.sqlite import engine
from taskmanager.db.statements import execute, fetch_all, fetch_one, insert
from taskmanager.db.transactions import after_commit, write_transaction
from taskmanager.errors import DatabaseUnavailable
from tests.support.mariadb import MariaDB


def add_worker(worker_id: str) -> None:
    insert("workers", {"id": worker_id, "first_seen_at": 0, "last_seen_at": 0})


def workers() -> list[str]:
    return [row["id"] for row in fetch_all("SELECT id FROM workers ORDER BY id")]


def in_other_thread(work: Callable[[], Any]) -> list[Any]:
    """Runs `work` on a connection of its own; its result or its exception."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:  # noqa: BLE001 - the test looks at it
            results.append(error)
        finally:
            close_connection()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    return results


def test_an_error_in_the_middle_leaves_nothing(app: Flask) -> None:
    @write_transaction
    def half_done() -> None:
        add_worker("a")
        raise LookupError("in the middle")

    with pytest.raises(LookupError):
        half_done()

    assert workers() == []
    assert not database.in_transaction()


def test_a_transaction_within_another_is_refused_and_undoes_the_outer_one(app: Flask) -> None:
    @write_transaction
    def inner() -> None:
        add_worker("inner")

    @write_transaction
    def outer() -> None:
        add_worker("outer")
        inner()

    with pytest.raises(RuntimeError, match="outermost"):
        outer()

    assert workers() == []


def test_the_first_statement_of_a_connection_may_be_a_transaction(app: Flask) -> None:
    @write_transaction
    def add() -> bool:
        add_worker("a")
        return database.in_transaction()

    close_connection()

    assert add() is True
    assert workers() == ["a"]
    assert not database.in_transaction()


def test_a_constraint_is_the_callers_affair_and_undoes_the_transaction(app: Flask) -> None:
    runs = 0

    @write_transaction
    def twice() -> None:
        nonlocal runs
        runs += 1
        add_worker("a")
        add_worker("a")

    with pytest.raises(peewee.IntegrityError):
        twice()

    assert workers() == []
    assert runs == 1


def test_what_is_to_be_done_after_the_commit_is_not_done_without_it(app: Flask) -> None:
    done: list[list[str]] = []

    @write_transaction
    def add(worker_id: str) -> None:
        add_worker(worker_id)
        after_commit(lambda: done.append(workers()))
        if worker_id == "b":
            raise LookupError

    add("a")
    with pytest.raises(LookupError):
        add("b")
    add("c")

    assert done == [["a"], ["a", "c"]]


def test_a_statement_that_is_wrong_is_not_run_again(app: Flask) -> None:
    runs = 0

    @write_transaction
    def wrong() -> None:
        nonlocal runs
        runs += 1
        execute("INSERT INTO")

    with pytest.raises(peewee.DatabaseError):
        wrong()

    assert runs == 1


def test_nobody_else_sees_half_of_a_transaction(app: Flask) -> None:
    @write_transaction
    def two() -> list[Any]:
        add_worker("a")
        seen = in_other_thread(workers)
        add_worker("b")
        return seen

    assert two() == [[]]
    assert in_other_thread(workers) == [["a", "b"]]


def test_on_sqlite_a_transaction_takes_the_write_lock_at_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    connect_database(f"sqlite:///{path}")
    stranger = sqlite3.connect(path, timeout=0, isolation_level=None)

    @write_transaction
    def holder() -> None:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            stranger.execute("BEGIN IMMEDIATE")

    holder()
    stranger.execute("BEGIN IMMEDIATE")
    stranger.close()
    close_connection()


def test_on_sqlite_a_lock_that_never_comes_is_reported_after_the_busy_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SQLITE_BUSY_TIMEOUT_SECONDS", 0.05)
    path = tmp_path / "queue.db"
    connect_database(f"sqlite:///{path}")
    execute("CREATE TABLE workers (id TEXT, first_seen_at INTEGER, last_seen_at INTEGER)")
    stranger = sqlite3.connect(path, isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")

    with pytest.raises(DatabaseUnavailable, match="locked"):
        write_transaction(add_worker)("never")

    stranger.execute("COMMIT")
    stranger.close()
    write_transaction(add_worker)("later")
    assert workers() == ["later"]
    close_connection()


@pytest.mark.parametrize("error", [ValueError, peewee.IntegrityError])
def test_where_a_rollback_fails_the_connection_is_closed_and_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    connect_database(f"sqlite:///{tmp_path / 'queue.db'}")
    execute("CREATE TABLE workers (id TEXT, first_seen_at INTEGER, last_seen_at INTEGER)")
    before = database.connection()

    def refuse() -> None:
        raise peewee.OperationalError("the disk failed")

    @write_transaction
    def add_and_fail() -> None:
        add_worker("a")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(database.obj, "rollback", refuse)
        with pytest.raises(error):
            add_and_fail()

    assert database.connection() is not before
    assert workers() == []
    write_transaction(add_worker)("b")
    assert workers() == ["b"]
    close_connection()


@pytest.fixture
def mariadb(mariadb_server: MariaDB) -> Iterator[MariaDB]:
    """The proxy on a database of two rows, `a` and `b`."""
    connect_database(mariadb_server.create_database("transactions"))
    execute(
        "CREATE TABLE workers (id VARCHAR(20) PRIMARY KEY, first_seen_at BIGINT, "
        "last_seen_at BIGINT)"
    )
    for worker_id in ("a", "b"):
        add_worker(worker_id)
    yield mariadb_server
    close_connection()


def connection_id() -> int:
    row = fetch_one("SELECT CONNECTION_ID() AS id")
    assert row is not None
    return int(row["id"])


def touch(worker_id: str) -> None:
    execute("UPDATE workers SET last_seen_at = last_seen_at + 1 WHERE id = ?", (worker_id,))


def test_a_deadlock_is_run_again_and_both_transactions_are_done(mariadb: MariaDB) -> None:
    both_hold_one = threading.Barrier(2)
    runs: list[str] = []

    def one_after_the_other(first: str, second: str) -> Callable[[], None]:
        @write_transaction
        def work() -> None:
            runs.append(first)
            touch(first)
            if runs.count(first) == 1:
                both_hold_one.wait(30)
            touch(second)

        return work

    others: list[Any] = []
    other = threading.Thread(
        target=lambda: others.extend(in_other_thread(one_after_the_other("b", "a")))
    )
    other.start()
    one_after_the_other("a", "b")()
    other.join(30)

    assert others == [None]
    assert sorted(runs) in (["a", "a", "b"], ["a", "b", "b"])
    assert fetch_all("SELECT id, last_seen_at FROM workers ORDER BY id") == [
        {"id": "a", "last_seen_at": 2},
        {"id": "b", "last_seen_at": 2},
    ]


def test_a_conflict_that_never_ends_is_run_more_often_and_called_one(
    mariadb: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "MAX_RUNS_IN_CONFLICT", 4)
    monkeypatch.setattr(transactions, "MAX_TRANSACTION_RUNS", 2)
    runs = []

    @write_transaction
    def loses(how: str) -> None:
        runs.append(how)
        add_worker(f"run {len(runs)}")
        if how == "snapshot":
            raise transactions.SnapshotTooOld
        execute("SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'Deadlock'")

    for how in ("deadlock", "snapshot"):
        with pytest.raises(DatabaseUnavailable, match="Others kept changing the same rows"):
            loses(how)
    assert runs == ["deadlock"] * 4 + ["snapshot"] * 4
    assert workers() == ["a", "b"]


def test_a_lock_that_never_comes_is_tried_a_bounded_number_of_times(
    mariadb: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "MAX_TRANSACTION_RUNS", 3)
    runs = 0
    version = fetch_all("SELECT VERSION() AS version")[0]["version"]
    least_seconds = 0 if "MariaDB" in version else 1

    @write_transaction
    def blocked() -> None:
        nonlocal runs
        runs += 1
        execute(f"SET SESSION innodb_lock_wait_timeout = {least_seconds}")
        add_worker(f"run {runs}")
        touch("a")

    @write_transaction
    def holder() -> list[Any]:
        touch("a")
        return in_other_thread(blocked)

    refused = holder()

    assert isinstance(refused[0], DatabaseUnavailable)
    assert runs == 3
    assert workers() == ["a", "b"]


def test_a_connection_lost_before_commit_is_repeated_on_a_new_one(mariadb: MariaDB) -> None:
    connections: list[int] = []

    @write_transaction
    def work() -> None:
        connections.append(connection_id())
        touch("a")
        if len(connections) == 1:
            mariadb.run(f"KILL {connections[0]}")
        touch("b")

    work()

    assert len(set(connections)) == 2
    rows = fetch_all("SELECT last_seen_at FROM workers")
    assert [row["last_seen_at"] for row in rows] == [1, 1]


def test_a_connection_lost_during_commit_is_not_repeated(mariadb: MariaDB) -> None:
    runs = 0

    @write_transaction
    def work() -> None:
        nonlocal runs
        runs += 1
        touch("a")
        # No statement of ours follows, so COMMIT is the first to notice.
        mariadb.run(f"KILL {connection_id()}")

    with pytest.raises(DatabaseUnavailable) as told:
        work()

    assert "it cannot be told whether this was done" in told.value.message
    assert runs == 1
    assert not database.in_transaction()
    write_transaction(touch)("b")
    rows = fetch_all("SELECT id, last_seen_at FROM workers ORDER BY id")
    assert rows[1] == {"id": "b", "last_seen_at": 1}


def test_a_read_outside_a_transaction_reconnects_by_itself(mariadb: MariaDB) -> None:
    before = connection_id()
    mariadb.run(f"KILL {before}")

    assert workers() == ["a", "b"]
    assert connection_id() != before


def test_updates_count_the_rows_that_matched_not_those_that_changed(mariadb: MariaDB) -> None:
    assert execute("UPDATE workers SET last_seen_at = 0").rowcount == 2


def test_what_does_not_fit_is_refused_and_never_cut(mariadb: MariaDB) -> None:
    with pytest.raises(peewee.DataError):
        add_worker("a name that is longer than the column")


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_statement_that_may_be_left_out_waits_for_no_other_writer(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    add_worker("a")

    @write_transaction
    def holder() -> None:
        assert in_other_thread(touches_if_free_on_one_connection) == [True]
        assert in_other_thread(find_write_refusal) == [None]

    with caplog.at_level(logging.INFO):
        holder()
    assert caplog.messages == []
    assert [row["last_seen_at"] for row in fetch_all("SELECT * FROM workers")] == [0]
    touch_if_free()
    assert [row["last_seen_at"] for row in fetch_all("SELECT * FROM workers")] == [1]


def touches_if_free_on_one_connection() -> bool:
    before = database.connection()
    touch_if_free()
    return database.connection() is before


def touch_if_free() -> None:
    execute_if_free(Worker.update(last_seen_at=Worker.last_seen_at + 1))
