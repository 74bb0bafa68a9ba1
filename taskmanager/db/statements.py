"""Running one statement: a template, with values for its `?`. Rows are dicts by column name.

The words in braces that a template may hold are listed in dialect.py. A list among the values
stands for several: `id IN ?` with `[1, 2]` is `id IN (1, 2)`.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import peewee

from taskmanager.db.cache import Row as Row
from taskmanager.db.connection import database
from taskmanager.db.errors import is_too_large

# What one statement may have: SQLite before 3.32 takes 999 values, every later one 32,766.
MAX_VALUES = 999 if sqlite3.sqlite_version_info < (3, 32) else 32_766
MAX_ROWS = 500

T = TypeVar("T")


def execute(template: str, values: Sequence[Any] = ()) -> Any:
    """Runs one statement; returns the cursor (`rowcount`: rows that matched).

    Raises peewee.IntegrityError where a constraint forbids it.
    """
    engine = database.obj
    sql = engine.spelled(template)
    for value in values:
        if type(value) is list:
            sql, values = _expanded(sql, engine.dialect.placeholder, values)
            break
    return engine.execute_sql(sql, values)


def _expanded(sql: str, placeholder: str, values: Sequence[Any]) -> tuple[str, list[Any]]:
    """The statement with a placeholder for each item of each list, and all values in a row."""
    first, *rest = sql.split(placeholder)
    parts, flat = [first], []
    for value, text in zip(values, rest, strict=True):
        if type(value) is list:
            parts += ["(", ", ".join([placeholder] * len(value)), ")", text]
            flat += value
        else:
            parts += [placeholder, text]
            flat.append(value)
    return "".join(parts), flat


def fetch_all(template: str, values: Sequence[Any] = ()) -> list[Row]:
    """Every row of a SELECT."""
    cursor = execute(template, values)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def fetch_one(template: str, values: Sequence[Any] = ()) -> Row | None:
    """The first row of a SELECT, or None."""
    cursor = execute(template, values)
    row = cursor.fetchone()
    if row is None:
        return None
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def fetch_value(template: str, values: Sequence[Any] = ()) -> Any:
    """The first column of the first row of a SELECT, or None."""
    row = execute(template, values).fetchone()
    return None if row is None else row[0]


def parts_of(items: Sequence[T], most: int) -> list[Sequence[T]]:
    """Items in parts of at most `most`, where one statement cannot take them all."""
    return [items[start : start + most] for start in range(0, len(items), most)]


def insert(table: str, row: Mapping[str, Any]) -> int:
    """Inserts one row; returns its id."""
    return int(insert_rows(table, [row]).lastrowid)


def insert_rows(table: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    """Inserts rows that all have the same columns with one statement; returns its cursor."""
    row_of_values = f"({', '.join(['?'] * len(rows[0]))})"
    return execute(
        f"INSERT INTO {{{table}}} ({', '.join(rows[0])}) "
        f"VALUES {', '.join([row_of_values] * len(rows))}",
        [value for row in rows for value in row.values()],
    )


def insert_many(table: str, rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Inserts rows that all have the same columns, within a transaction; there may be none.

    Returns the `lastrowid` and the number of rows of each statement: where one would be too large,
    the rows are inserted in halves.
    """
    if not rows:
        return []
    if len(rows) <= min(MAX_ROWS, MAX_VALUES // len(rows[0])):
        try:
            return [(insert_rows(table, rows).lastrowid, len(rows))]
        except peewee.OperationalError as error:
            if len(rows) == 1 or not is_too_large(error):
                raise
    half = len(rows) // 2
    return insert_many(table, rows[:half]) + insert_many(table, rows[half:])


def update(
    table: str, changes: Mapping[str, Any], where: str, values: Sequence[Any] = (), hint: str = ""
) -> int:
    """Sets columns of the rows that match `where`; returns how many matched.

    `hint` follows the table's name, such as `{by_id}`.
    """
    assignments = ", ".join([f"{column} = ?" for column in changes])
    cursor = execute(
        f"UPDATE {{{table}}} {hint} SET {assignments} WHERE {where}", (*changes.values(), *values)
    )
    return int(cursor.rowcount)
