"""Reads that see something else than what is committed now, and block no writer.

The database as it was at one moment, row by row; or rows that are still to be committed.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import peewee

from taskmanager.db.connection import close_connection, database, dialect
from taskmanager.db.dialect import SQLITE
from taskmanager.db.errors import translated
from taskmanager.db.queries import Select
from taskmanager.db.statements import Row, execute, fetch_all

# A reader may pause while it writes to a slow disk or pipe; the server's default is a minute.
MYSQL_WRITE_PATIENCE_SECONDS = 3600


@contextlib.contextmanager
def read_snapshot() -> Iterator[None]:
    """Within it this thread sees what was committed before it began, and nothing later.

    A lost connection ends it, since a new one would read another moment. Raises
    DatabaseUnavailable.
    """
    try:
        # Peewee forgets that it is in a transaction when it connects within one.
        database.connection()
        with database.manual_commit():
            _begin()
            yield
    except (peewee.DatabaseError, peewee.InterfaceError) as error:
        raise translated(error) from error
    finally:
        close_connection()  # ends the transaction too, even where rows were left unread


def _begin() -> None:
    if dialect() is SQLITE:
        execute("BEGIN")
        execute("SELECT 1 FROM {schema_versions} LIMIT 1")  # the first read sets the moment
    else:
        execute(f"SET SESSION net_write_timeout = {MYSQL_WRITE_PATIENCE_SECONDS}")
        # Without SESSION: for the next transaction alone.
        execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")


@contextlib.contextmanager
def streamed_rows(query: Select) -> Iterator[Iterator[tuple[Any, ...]]]:
    """The rows of a SELECT, one at a time in memory.

    For use within `read_snapshot`, which closes the connection afterwards: rows may be left unread.
    """
    with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
        cursor = database.connection().cursor(*database.unbuffered)
        try:
            cursor.execute(*query.sql())
            yield iter(cursor)
        finally:
            if dialect() is not SQLITE and cursor._result is not None:
                # Otherwise PyMySQL reads all remaining rows, which a lost connection cannot give.
                cursor._result.unbuffered_active = False
            cursor.close()


def fetch_uncommitted(template: str, values: Sequence[Any] = ()) -> list[Row]:
    """The rows of a SELECT with those that open transactions have written. MySQL and MariaDB only.

    Raises DatabaseUnavailable.
    """
    try:
        database.connection()
        with database.manual_commit():  # a new connection would not have the level set here
            execute("SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
            return fetch_all(template, values)
    except (peewee.DatabaseError, peewee.InterfaceError) as error:
        close_connection()
        raise translated(error) from error
