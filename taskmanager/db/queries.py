"""Running Peewee queries on the models, where Peewee alone is not enough. Rows are dicts.

For what people look at and change. Building a query takes Peewee 0.3 ms or more, so what every
task or worker causes is a template instead: see statements.py.
"""

import logging
from collections.abc import Iterable
from typing import Any, TypeAlias, cast

import peewee

from taskmanager.db.cache import Row
from taskmanager.db.connection import database, dialect
from taskmanager.db.dialect import SQLITE
from taskmanager.db.statements import fetch_value
from taskmanager.errors import ChangedMeanwhile, DatabaseUnavailable

log = logging.getLogger(__name__)

Select: TypeAlias = "peewee.ModelSelect[Any]"


def rows_of(query: Select) -> list[Row]:
    """Every row of a SELECT."""
    return list(cast("Iterable[Row]", query.dicts()))


def first_row(query: Select) -> Row | None:
    """The first row of a SELECT, or None."""
    row: Row | None = query.dicts().first()
    return row


def locking(query: Select) -> Select:
    """A SELECT that locks its rows until the transaction ends.

    On SQLite a write transaction has locked the whole database already, and
    Peewee raises ValueError for FOR UPDATE.
    """
    return query if dialect() is SQLITE else query.for_update()


def require_unchanged(table: str, row_id: int, updated_at: int | None) -> None:
    """Locks a row that somebody wants to change as they have seen it, until the transaction ends.

    Raises ChangedMeanwhile unless it was last changed at `updated_at`, in milliseconds. None: they
    change it whatever it is by now, and nothing is locked.
    """
    if updated_at is None:
        return
    row = f"SELECT updated_at FROM {{{table}}} WHERE id = ? {{lock_rows}}"
    if fetch_value(row, (row_id,)) != updated_at:
        raise ChangedMeanwhile("It has changed since then, so it was left as it is.")


def execute_if_free(query: peewee.Query) -> bool:
    """Runs one INSERT or UPDATE that may be left out: outside a transaction, on few rows.

    Returns whether it has written anything.

    It is left out where another writer has locked what it needs. Failures of the
    database are logged and not raised.
    """
    try:
        with database.without_waiting():
            return bool(query.execute())
    except DatabaseUnavailable as error:
        log.info("left out: %s", error.message)
    return False
