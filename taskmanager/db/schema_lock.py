"""Lets one process at a time, of all hosts, make or upgrade the tables.

SQLite has a file for this, and one server GET_LOCK. In a cluster GET_LOCK holds on one node only.
There a row says who has the lock: whoever takes it writes the row, so that of two nodes that write
it at once the cluster refuses one.
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import peewee

from taskmanager.clock import utc_now
from taskmanager.db.connection import database, dialect
from taskmanager.db.dialect import SQLITE
from taskmanager.db.statements import execute, fetch_value, insert, update
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import DatabaseUnavailable
from taskmanager.files.locks import try_file_lock

RETRY_AFTER_SECONDS = 5
# A change of a table waits for the transactions that use it, and new ones wait behind it.
TABLE_LOCK_SECONDS = 5

# The row of migration_steps; no step has this name.
ROW = "lock"
# A killed process keeps the row for so long. Longer than a cluster needs to leave out a node.
LEASE_SECONDS = 10
LOOK_AGAIN_SECONDS = 0.2

# Raises DatabaseUnavailable where the lock is no longer held. Within a transaction, nothing of it
# is committed after another process has taken the lock.
Keep = Callable[[], None]


@contextlib.contextmanager
def schema_lock(patience_seconds: int) -> Iterator[Keep]:
    """Within it no other process changes tables. What it yields is called before each change.

    In a cluster the table migration_steps must be there.

    Raises DatabaseUnavailable if another process has the lock for longer than `patience_seconds`.
    """
    if dialect() is SQLITE:
        lock = _lock_of_file(patience_seconds)
    elif database.is_clustered():
        lock = _lock_of_cluster(patience_seconds)
    else:
        lock = _lock_of_server(patience_seconds)
    with lock as keep:
        yield keep


@contextlib.contextmanager
def _lock_of_file(patience_seconds: int) -> Iterator[Keep]:
    path = Path(database.database)
    lock = path.with_name(path.name + ".lock")
    with try_file_lock(lock, patience_seconds=patience_seconds) as locked:
        _require(locked)
        database.switch_journal()
        with database.atomic():
            yield lambda: None


@contextlib.contextmanager
def _lock_of_server(patience_seconds: int) -> Iterator[Keep]:
    """Closing the connection releases it, and so does losing it."""
    name = f"taskmanager-schema-{database.table_prefix}{database.database}"[:64]

    def keep() -> None:
        _require(fetch_value("SELECT IS_USED_LOCK(?) = CONNECTION_ID()", (name,)) == 1)

    with database.patient():
        execute(f"SET SESSION lock_wait_timeout = {TABLE_LOCK_SECONDS}")
        _require(fetch_value("SELECT GET_LOCK(?, ?)", (name, patience_seconds)) == 1)
        yield keep


@contextlib.contextmanager
def _lock_of_cluster(patience_seconds: int) -> Iterator[Keep]:
    """While a table is changed the whole cluster waits, so that nobody can take the row then."""
    holder = secrets.randbits(62)

    def keep() -> None:
        renew = _renew if database.in_transaction() else write_transaction(_renew)
        _require(renew(holder))

    _wait_for_row(holder, patience_seconds)
    try:
        with database.patient():
            execute(f"SET SESSION lock_wait_timeout = {TABLE_LOCK_SECONDS}")
            yield keep
    finally:
        with contextlib.suppress(DatabaseUnavailable):  # then others wait until it has expired
            execute("DELETE FROM {migration_steps} WHERE name = ? AND position = ?", (ROW, holder))


def _wait_for_row(holder: int, patience_seconds: int) -> None:
    end = time.monotonic() + patience_seconds
    while not _take(holder):
        _require(time.monotonic() < end)
        time.sleep(LOOK_AGAIN_SECONDS)


def _take(holder: int) -> bool:
    with contextlib.suppress(peewee.IntegrityError):
        write_transaction(insert)(
            "migration_steps", {"name": ROW, "version": 0, "position": 0, "finished_at": 0}
        )
    return write_transaction(_take_if_free)(holder)


def _take_if_free(holder: int) -> bool:
    return _write(holder, "finished_at < ?", utc_now())


def _renew(holder: int) -> bool:
    return _write(holder, "position = ?", holder)


def _write(holder: int, condition: str, value: int) -> bool:
    changes = {"position": holder, "finished_at": utc_now() + LEASE_SECONDS * 1_000}
    return update("migration_steps", changes, f"name = ? AND {condition}", (ROW, value)) == 1


def _require(locked: bool) -> None:
    if not locked:
        raise DatabaseUnavailable(
            "Another process is making the tables or bringing them up to date. What is done so "
            "far is kept; try again shortly.",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )
