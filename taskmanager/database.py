"""Owns the connection, the transaction and what differs between SQLite and MySQL.

Refuses to know any table. SQL is written once, with `?`
for values; the dialect turns it into what the engine wants.

The rules held here: a write transaction is always outermost, on SQLite it
takes the write lock at once, and when the server throws one away (deadlock,
lock wait, lost connection) the whole of it is run again, never a part.
"""

import contextlib
import functools
import logging
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import peewee

from taskmanager.database_errors import is_connection_lost, is_rolled_back, translated
from taskmanager.database_errors import is_duplicate as is_duplicate  # services look here for it
from taskmanager.exceptions import ConfigurationError, DatabaseUnavailable
from taskmanager.file_locks import Turnstile

log = logging.getLogger(__name__)

SQLITE_BUSY_TIMEOUT_SECONDS = 10
MYSQL_CONNECT_TIMEOUT_SECONDS = 5
MYSQL_READ_TIMEOUT_SECONDS = 60
MAX_TRANSACTION_RUNS = 10
MAX_BACKOFF_SECONDS = 0.25

Row = dict[str, Any]
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Dialect:
    """What differs between the engines, as words to put into a statement."""

    name: str
    placeholder: str
    lock_rows: str  # closes a SELECT of rows that this transaction will change
    lock_free_rows: str  # the same, leaving out rows that another transaction has locked
    use_index: str  # follows the table's name; `{}` is the index
    # The same for rows looked up by id: MySQL would otherwise reach them through an index that the
    # statement changes, and lock the neighbours that other transactions are at work on.
    by_id: str
    union_member: str  # a SELECT with its own ORDER BY and LIMIT inside a UNION ALL

    def sql(self, statement: str) -> str:
        return _with_placeholder(statement, self.placeholder)


@functools.lru_cache(maxsize=512)
def _with_placeholder(statement: str, placeholder: str) -> str:
    return statement.replace("?", placeholder)


SQLITE = Dialect(
    name="sqlite",
    placeholder="?",
    lock_rows="",
    lock_free_rows="",
    use_index="INDEXED BY {}",
    by_id="NOT INDEXED",
    union_member="SELECT * FROM ({})",
)
MYSQL = Dialect(
    name="mysql",
    placeholder="%s",
    lock_rows="FOR UPDATE",
    lock_free_rows="FOR UPDATE SKIP LOCKED",
    use_index="FORCE INDEX ({})",
    by_id="FORCE INDEX (PRIMARY)",
    union_member="({})",
)

database = peewee.DatabaseProxy()


class _Recovering:
    """Outside a transaction: opens a connection that was closed meanwhile again, once.

    Every statement passes here, those of the models too. Raises
    DatabaseUnavailable where the database cannot do it now. Inside a
    transaction errors pass as they are, for write_transaction() to judge.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # What services remember of this very database; another one starts empty.
        self.cache: dict[str, Any] = {}

    def execute_sql(self, sql: str, params: Sequence[Any] | None = None) -> Any:
        run = super().execute_sql  # type: ignore[misc]
        if self.in_transaction():  # type: ignore[attr-defined]
            return run(sql, params)
        try:
            return run(sql, params)
        except (peewee.DatabaseError, peewee.InterfaceError) as error:
            if not is_connection_lost(error):
                raise _given_up(error) from error
        close_connection()
        try:
            return run(sql, params)
        except (peewee.DatabaseError, peewee.InterfaceError) as error:
            raise _given_up(error) from error


def _given_up(error: Exception) -> Exception:
    """What to raise outside a transaction. Where the database failed, the next call connects anew:

    a file may have been put back in another's place, which an open connection never sees.
    """
    given_up = translated(error)
    if isinstance(given_up, DatabaseUnavailable):
        close_connection()
    return given_up


class _SqliteDatabase(_Recovering, peewee.SqliteDatabase):
    """Writers queue up at a turnstile before they ask SQLite for its lock.

    SQLite's own waiting sleeps and looks again, which wastes time while the lock
    is free and lets a newcomer overtake those who sleep.
    """

    dialect = SQLITE

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        self._writers = Turnstile(Path(path + ".writers"))

    def begin(self, lock_type: str | None = None) -> None:
        waited = self._writers.enter()
        try:
            if waited > SQLITE_BUSY_TIMEOUT_SECONDS:
                # Whoever was before has waited in vain too: no use to try that long again.
                raise DatabaseUnavailable(
                    "The database stayed locked by another process. Nothing was changed; "
                    "try again shortly."
                )
            super().begin(lock_type)
        except BaseException:
            self._writers.leave()
            raise

    def commit(self) -> None:
        super().commit()
        self._writers.leave()

    def rollback(self) -> None:
        try:
            super().rollback()
        finally:
            self._writers.leave()

    def close(self) -> bool:
        try:
            return bool(super().close())
        finally:
            self._writers.close()

    def dispose(self) -> None:
        super().dispose()
        self._writers.forget_files_of_parent()


class _MySQLDatabase(_Recovering, peewee.MySQLDatabase):
    dialect = MYSQL

    def _initialize_connection(self, conn: Any) -> None:
        with conn.cursor() as cursor:
            # Hosts often run without strict mode, which cuts what does not fit without a word.
            cursor.execute(
                "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,"
                "ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION,PIPES_AS_CONCAT'"
            )
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")


def connect_database(url: str, *, sqlite_synchronous: str = "FULL") -> None:
    """Points the proxy at `url`; no connection is opened before the first statement.

    Raises ConfigurationError where the URL cannot be understood.
    """
    engine = _sqlite(url, sqlite_synchronous) if url.startswith("sqlite:///") else _mysql(url)
    if database.obj is not None:
        close_connection()
    database.initialize(engine)


def _sqlite(url: str, synchronous: str) -> _SqliteDatabase:
    path = url.removeprefix("sqlite:///")
    if not path:
        raise ConfigurationError(
            "TASKMANAGER_DATABASE_URL names no file: write sqlite:///path/to/file.db"
        )
    return _SqliteDatabase(
        path,
        lock_type="IMMEDIATE",
        timeout=SQLITE_BUSY_TIMEOUT_SECONDS,
        pragmas={
            "foreign_keys": 1,
            "synchronous": synchronous,
            "temp_store": "memory",
            "cache_size": -8000,
        },
    )


def _mysql(url: str) -> _MySQLDatabase:
    from pymysql.constants import CLIENT

    try:
        parts = urlsplit(url)
        port = parts.port or 3306
    except ValueError:  # the port is no number, or the host no address
        parts, port = urlsplit(""), 0
    name = unquote(parts.path.lstrip("/"))
    if not name or not parts.username:
        raise ConfigurationError(
            "TASKMANAGER_DATABASE_URL must look like mysql://user:password@host:3306/name"
        )
    options = dict(parse_qsl(parts.query))
    unknown = set(options) - {"unix_socket", "ssl_ca"}
    if unknown:
        raise ConfigurationError(
            f"TASKMANAGER_DATABASE_URL has an option that is not known: {', '.join(unknown)}. "
            "Known: unix_socket, ssl_ca."
        )
    connect: dict[str, Any] = {
        "user": unquote(parts.username),
        "password": unquote(parts.password or ""),
        "host": parts.hostname or "localhost",
        "port": port,
        "charset": "utf8mb4",
        # Guarded updates count the rows that matched, not those whose values differ.
        "client_flag": CLIENT.FOUND_ROWS,
        "connect_timeout": MYSQL_CONNECT_TIMEOUT_SECONDS,
        "read_timeout": MYSQL_READ_TIMEOUT_SECONDS,
        "write_timeout": MYSQL_READ_TIMEOUT_SECONDS,
    }
    if "unix_socket" in options:
        connect["unix_socket"] = options["unix_socket"]
    if "ssl_ca" in options:
        connect["ssl"] = {"ca": options["ssl_ca"]}
    elif "unix_socket" in options or parts.hostname in ("localhost", "127.0.0.1", "::1"):
        # PyMySQL otherwise spends 30 ms of CPU on an SSL context for every connection.
        connect["ssl_disabled"] = True
    return _MySQLDatabase(name, **connect)


def dialect() -> Dialect:
    """The dialect of the database that is connected."""
    found: Dialect = database.obj.dialect
    return found


def close_connection() -> None:
    """Closes this thread's connection in whatever state; the next statement opens another."""
    with contextlib.suppress(Exception):  # a dead connection may fail to say goodbye
        database.close()


def forget_connections_of_parent() -> None:
    """A forked child must not talk over, nor close, a connection that its parent still uses."""
    if database.obj is not None:
        database.dispose()


os.register_at_fork(after_in_child=forget_connections_of_parent)


def execute(statement: str, values: Sequence[Any] = ()) -> Any:
    """Runs one statement with `?` for values; returns the cursor (`rowcount`: rows that matched).

    Raises peewee.IntegrityError where a constraint forbids it.
    """
    return database.execute_sql(dialect().sql(statement), values)


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
    """Inserts rows that all have the same columns with one statement per 500."""
    for start in range(0, len(rows), 500):
        some = rows[start : start + 500]
        one = f"({placeholders(list(some[0]))})"
        execute(
            f"INSERT INTO {table} ({', '.join(some[0])}) VALUES {', '.join([one] * len(some))}",
            [value for row in some for value in row.values()],
        )


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
                if failure.ambiguous or attempt == MAX_TRANSACTION_RUNS:
                    raise _given_up(failure.error) from failure.error
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
    try:
        # Peewee forgets that it is in a transaction when it connects within one.
        database.connection()
    except (peewee.DatabaseError, peewee.InterfaceError) as error:
        raise _failure(error) from error
    with database.manual_commit():
        try:
            database.begin()
            result = operation(*args, **kwargs)
        except (peewee.DatabaseError, peewee.InterfaceError) as error:
            _roll_back()
            if isinstance(error, peewee.IntegrityError):
                raise
            raise _failure(error) from error
        except BaseException:
            _roll_back()
            raise
        try:
            database.commit()
        except (peewee.DatabaseError, peewee.InterfaceError) as error:
            _roll_back()
            raise _failure(error, during_commit=True) from error
        return result


def _roll_back() -> None:
    # A lost connection cannot roll back and need not: the server does when it notices.
    with contextlib.suppress(peewee.PeeweeException):
        database.rollback()


def _failure(error: Exception, *, during_commit: bool = False) -> Exception:
    if is_connection_lost(error):
        return _ConnectionLost(error, ambiguous=during_commit)
    if is_rolled_back(error):
        return _RolledBack(error)
    return translated(error)
