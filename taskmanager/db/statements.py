"""Running one statement: `?` for values, rows as dicts. Refuses to know any table."""

import json
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from taskmanager.db.connection import database, dialect
from taskmanager.db.dialect import SQLITE
from taskmanager.db.sqlite.engine import SQLITE_BUSY_TIMEOUT_SECONDS
from taskmanager.errors import DatabaseUnavailable

log = logging.getLogger(__name__)
# What one statement may have: SQLite before 3.32 takes 999 values, every later one 32,766.
MAX_VALUES = 999 if sqlite3.sqlite_version_info < (3, 32) else 32_766
MAX_ROWS = 500
Row = dict[str, Any]


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
