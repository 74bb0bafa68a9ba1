"""Owns the connection, the statement and the transaction; all that services know of a database.

Refuses to know any table. SQL is written once, with `?` for values; the dialect turns it into
what the engine wants.

The rules held here: a write transaction is always outermost, on SQLite it
takes the write lock at once, and when the server throws one away (deadlock,
lock wait, lost connection) the whole of it is run again, never a part.
"""

import functools
import json
import logging
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import peewee

from taskmanager.database_engines import MYSQL as MYSQL  # this and the like: for the layers above
from taskmanager.database_engines import SQLITE as SQLITE
from taskmanager.database_engines import Dialect as Dialect
from taskmanager.database_errors import is_connection_lost, is_rolled_back, translated
from taskmanager.database_errors import is_duplicate as is_duplicate
from taskmanager.exceptions import DatabaseUnavailable
from taskmanager.sqlite_engine import SQLITE_BUSY_TIMEOUT_SECONDS, sqlite_engine

log = logging.getLogger(__name__)

# What one statement may have: SQLite before 3.32 takes 999 values, every later one 32,766.
MAX_VALUES = 999 if sqlite3.sqlite_version_info < (3, 32) else 32_766
MAX_ROWS = 500
MAX_TRANSACTION_RUNS = 10
MAX_BACKOFF_SECONDS = 0.25

Row = dict[str, Any]
P = ParamSpec("P")
R = TypeVar("R")

database = peewee.DatabaseProxy()


def connect_database(
    url: str, *, sqlite_synchronous: str = "FULL", idle_seconds: float = 60
) -> None:
    """Points the proxy at `url`; no connection is opened before the first statement.

    Raises ConfigurationError where the URL cannot be understood.
    """
    engine: peewee.Database
    if url.startswith("sqlite:///"):
        engine = sqlite_engine(url, sqlite_synchronous)
    else:
        from taskmanager.mysql_engine import mysql_engine  # TLS, for one: SQLite needs none of it

        engine = mysql_engine(url, idle_seconds)
    if database.obj is not None:
        close_connection()
    database.initialize(engine)


def dialect() -> Dialect:
    """The dialect of the database that is connected."""
    found: Dialect = database.obj.dialect
    return found


def skips_locked() -> bool:
    """Whether `lock_free_rows` may be used; where not, rows must be taken by guarded updates.

    Found out once per database. On SQLite nobody else holds a lock within a write transaction.
    """
    skips: bool = database.obj.skips_locked()
    return skips


def close_connection() -> None:
    """Closes this thread's connection in whatever state; the next statement opens another.

    On MySQL also those that no thread uses.
    """
    if database.obj is not None:
        database.close_quietly()


def release_connection() -> None:
    """This thread needs none for now: another one may use it, and if nobody does it is closed.

    Nothing happens within a transaction, nor on SQLite, where an open connection is an open file.
    """
    database.release()


def forget_connections_of_parent() -> None:
    """A forked child must not talk over, nor close, a connection that its parent still uses."""
    if database.obj is not None:
        database.dispose()


os.register_at_fork(after_in_child=forget_connections_of_parent)


def execute(statement: str, values: Sequence[Any] = ()) -> Any:
    """Runs one statement with `?` for values; returns the cursor (`rowcount`: rows that matched).

    Raises peewee.IntegrityError where a constraint forbids it.
    """
    engine = database.obj  # what the proxy stands for: asking it costs more than some of the calls
    return engine.execute_sql(engine.dialect.sql(statement), values)


def execute_later(statement: str, values: Sequence[Any] = (), *, rows: int | None = None) -> None:
    """Runs one statement of a transaction whose outcome nobody waits for: at COMMIT at the latest.

    What goes wrong is raised then, and nothing is committed. On MySQL it travels
    with the next statement, which comes after it on the server too. Where it does
    not match just so many `rows`, that is an AssertionError: for what a lock
    guarantees.
    """
    engine = database.obj
    if not engine.in_transaction():
        raise RuntimeError("nothing may be put off outside a transaction")
    if engine.dialect is not SQLITE:
        engine.execute_later(engine.dialect.sql(statement), values, rows)
        return
    matched = execute(statement, values).rowcount
    if rows is not None and matched != rows:
        raise AssertionError(f"a statement put off matched {matched} rows, not {rows}")


def look_before_next(statement: str, values: Sequence[Any] = ()) -> None:
    """Only on MySQL, in a transaction: runs a SELECT … INTO just before the next statement.

    That must follow at once. What is not committed may be seen.
    """
    database.look_before_next(dialect().sql(statement), values)


def execute_if_free(statement: str, values: Sequence[Any] = ()) -> None:
    """Runs one statement that may as well be left out: outside a transaction, on one row.

    Waits for no other writer on SQLite, and no failure of the database is raised.
    """
    try:
        if dialect() is not SQLITE:
            execute(statement, values)
            return
        execute("PRAGMA busy_timeout = 0")
        try:
            execute(statement, values)
        finally:
            execute(f"PRAGMA busy_timeout = {SQLITE_BUSY_TIMEOUT_SECONDS * 1000}")
    except DatabaseUnavailable as error:
        log.info("left out: %s", error.message)


def fetch_all(statement: str, values: Sequence[Any] = ()) -> list[Row]:
    """Every row of a SELECT as a dict by column name."""
    cursor = execute(statement, values)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def fetch_packed(
    columns: Sequence[str] | Mapping[str, str], rest: str, values: Sequence[Any] = ()
) -> list[Row]:
    """Every row of `SELECT columns rest` as a dict; `rest` begins with FROM.

    `columns` may be names, or name → expression.

    On MySQL a row travels as one JSON array: for each column of an answer PyMySQL
    takes apart a description of it, which costs more than all else about a row.
    """
    expressions = columns.values() if isinstance(columns, Mapping) else columns
    selected = ", ".join(expressions)
    if dialect() is not SQLITE:
        found = execute(f"SELECT JSON_ARRAY({selected}) AS packed {rest}", values).fetchall()
        texts = [text for (text,) in found]
        if None not in texts:  # what is longer than the server's max_allowed_packet is
            return [dict(zip(columns, json.loads(text), strict=True)) for text in texts]
    rows = execute(f"SELECT {selected} {rest}", values).fetchall()
    return [dict(zip(columns, row, strict=True)) for row in rows]


def fetch_one(statement: str, values: Sequence[Any] = ()) -> Row | None:
    """The first row of a SELECT as a dict by column name, or None."""
    cursor = execute(statement, values)
    row = cursor.fetchone()
    if row is None:
        return None
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def placeholders(values: Sequence[Any]) -> str:
    """`?, ?, ?` for an IN list."""
    return ", ".join("?" * len(values))


def insert(table: str, row: Row) -> int:
    """Inserts one row given as a dict by column name; returns its id."""
    cursor = execute(
        f"INSERT INTO {table} ({', '.join(row)}) VALUES ({placeholders(list(row))})",
        list(row.values()),
    )
    return int(cursor.lastrowid)


def insert_many(table: str, rows: Sequence[Row]) -> None:
    """Inserts rows that all have the same columns with as few statements as may be, put off."""
    at_once = min(MAX_ROWS, MAX_VALUES // len(rows[0])) if rows else 1
    for start in range(0, len(rows), at_once):
        some = rows[start : start + at_once]
        one = f"({placeholders(list(some[0]))})"
        execute_later(
            f"INSERT INTO {table} ({', '.join(some[0])}) VALUES {', '.join([one] * len(some))}",
            [value for row in some for value in row.values()],
        )


class _PerThread(threading.local):
    """`after_commit`: what is to be done once the thread's transaction is committed."""

    def __init__(self) -> None:
        self.after_commit: list[Callable[[], None]] = []


_own = _PerThread()


def after_commit(action: Callable[[], None]) -> None:
    """Does something once the present write transaction is committed; never if it is not."""
    _own.after_commit.append(action)


def write_transaction(operation: Callable[P, R]) -> Callable[P, R]:
    """Runs the whole function as one transaction: all of it is committed, or nothing.

    The function may run several times: whatever it does besides SQL must be
    repeatable. It is run again when the server has rolled it back (deadlock,
    lock wait, Galera certification) or the connection was lost before COMMIT.
    A connection lost during COMMIT is not repeated, since nobody can know
    whether it was done: the caller gets DatabaseUnavailable and asks again.

    Raises DatabaseUnavailable, and RuntimeError when called inside another
    transaction (peewee would turn it into a savepoint and drop the lock).
    """

    @functools.wraps(operation)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if database.in_transaction():
            raise RuntimeError(f"{operation.__name__} must be the outermost transaction")
        for attempt in range(1, MAX_TRANSACTION_RUNS + 1):
            try:
                return _run_once(operation, args, kwargs)
            except DatabaseUnavailable:
                close_connection()
                raise
            except (_RolledBack, _ConnectionLost) as failure:
                if isinstance(failure, _ConnectionLost):
                    close_connection()
                if failure.ambiguous:
                    raise DatabaseUnavailable(
                        "The connection to the database was lost at the last moment, and it cannot "
                        "be told whether this was done. Look, or send the same again."
                    ) from failure.error
                if attempt == MAX_TRANSACTION_RUNS:
                    raise database.given_up(failure.error) from failure.error
                log.info("transaction %s again: %s", operation.__name__, failure.error)
            time.sleep(random.uniform(0, min(MAX_BACKOFF_SECONDS, 0.005 * 2**attempt)))  # noqa: S311
        raise AssertionError("unreachable: the last run returns or raises")

    return run


class _RolledBack(Exception):
    """The server has undone the transaction; the same may be tried again."""

    def __init__(self, error: Exception, *, ambiguous: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.ambiguous = ambiguous


class _ConnectionLost(_RolledBack):
    """The connection is gone; with it the transaction, unless it was lost during COMMIT."""


def _run_once(operation: Callable[..., R], args: Any, kwargs: Any) -> R:
    engine = database.obj
    try:
        # Peewee forgets that it is in a transaction when it connects within one.
        engine.connection()
    except (peewee.DatabaseError, peewee.InterfaceError) as error:
        raise _failure(error) from error
    _own.after_commit = []
    committing = False
    with engine.manual_commit():
        try:
            engine.begin()
            result = operation(*args, **kwargs)
            committing = True
            engine.commit()
        except (peewee.DatabaseError, peewee.InterfaceError) as error:
            _roll_back()
            if isinstance(error, peewee.IntegrityError):
                raise
            raise _failure(error, during_commit=committing) from error
        except BaseException:
            _roll_back()
            raise
    for action in _own.after_commit:
        action()
    return result


def _roll_back() -> None:
    try:
        database.rollback()
    except peewee.PeeweeException:
        # A lost connection cannot roll back and need not: the server does when it notices. And
        # nobody else may go on where a transaction may still be open.
        close_connection()


def _failure(error: Exception, *, during_commit: bool = False) -> Exception:
    if is_connection_lost(error):
        return _ConnectionLost(error, ambiguous=during_commit)
    if is_rolled_back(error):
        return _RolledBack(error)
    return translated(error)
