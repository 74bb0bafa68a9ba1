"""Reads the database as it was at one moment, row by row, and holds up nobody who writes to it."""

import contextlib
from collections.abc import Iterator
from typing import Any

import peewee

from taskmanager.db.connection import close_connection, database, dialect
from taskmanager.db.dialect import SQLITE
from taskmanager.db.errors import translated
from taskmanager.db.statements import execute

# A reader that writes to a slow disk or pipe may pause: the server would give it up after a minute.
MYSQL_WRITE_PATIENCE_SECONDS = 3600


@contextlib.contextmanager
def read_snapshot() -> Iterator[None]:
    """Within it this thread sees what was committed before it began, and nothing later.

    A lost connection ends it: nothing is read again, since it would be another
    moment. Raises DatabaseUnavailable.
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
        execute("SELECT 1 FROM schema_versions LIMIT 1")  # the moment is that of the first read
    else:
        execute(f"SET SESSION net_write_timeout = {MYSQL_WRITE_PATIENCE_SECONDS}")
        # Without SESSION: for the next transaction alone.
        execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")


@contextlib.contextmanager
def streamed_rows(statement: str) -> Iterator[Iterator[tuple[Any, ...]]]:
    """The rows of a SELECT, of which neither the program nor the driver keeps more than one.

    For use within `read_snapshot`, whose connection is of no use when rows were left unread.
    """
    with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
        cursor = database.connection().cursor(*_unbuffered())
        try:
            cursor.execute(statement)
            yield iter(cursor)
        finally:
            if dialect() is not SQLITE and cursor._result is not None:
                # PyMySQL would read all that is left, and can once the connection is lost no more.
                cursor._result.unbuffered_active = False
            cursor.close()


def _unbuffered() -> tuple[type, ...]:
    if dialect() is SQLITE:
        return ()
    from pymysql.cursors import SSCursor

    return (SSCursor,)
