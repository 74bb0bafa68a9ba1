"""The counters that ids come from, so that an id is never used twice, also after an import."""

import re

from taskmanager.db.connection import database, dialect
from taskmanager.db.dialect import SQLITE
from taskmanager.db.schema import change_tables
from taskmanager.db.statements import execute, fetch_one


def next_id(table: str) -> int:
    """The lowest id that the next row of a table can get."""
    if dialect() is SQLITE:
        row = fetch_one("SELECT seq FROM sqlite_sequence WHERE name = ?", (_full_name(table),))
        return int(row["seq"]) + 1 if row else 1
    # MySQL's information_schema has figures of yesterday.
    row = fetch_one(f"SHOW CREATE TABLE {_full_name(table)}")
    found = re.search(r"\bAUTO_INCREMENT=(\d+)", row["Create Table"] if row else "")
    return int(found[1]) if found else 1


def skip_ids_below(table: str, wanted: int) -> None:
    """Makes `wanted` the next id of a table, unless the next one is higher already.

    For use outside a transaction: on MySQL it changes the table. Raises
    DatabaseUnavailable, and ConfigurationError where the user may not change tables.
    """
    if next_id(table) >= wanted:
        return
    if dialect() is not SQLITE:
        change_tables(f"ALTER TABLE {_full_name(table)} AUTO_INCREMENT = {wanted:d}")
        return
    row = (wanted - 1, _full_name(table))
    if not execute("UPDATE sqlite_sequence SET seq = ? WHERE name = ?", row).rowcount:
        execute("INSERT INTO sqlite_sequence (seq, name) VALUES (?, ?)", row)


def _full_name(table: str) -> str:
    return str(database.table_prefix) + table
