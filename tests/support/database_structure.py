"""All that a database says of its tables: columns, defaults, keys, constraints and indexes."""

import re
from typing import Any

from taskmanager.db.connection import dialect
from taskmanager.db.dialect import SQLITE
from taskmanager.db.statements import fetch_all


def structure() -> dict[str, list[Any]]:
    """Table → what it is made of, sorted: the order of columns and of indexes means nothing."""
    if dialect() is SQLITE:
        rows = fetch_all("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
        return {
            row["name"]: _of_sqlite_table(row["name"], row["sql"])
            for row in rows
            if row["name"] != "sqlite_sequence"
        }
    rows = fetch_all(
        "SELECT table_name AS name FROM information_schema.tables WHERE table_schema = DATABASE()"
    )
    return {row["name"]: _of_mysql_table(row["name"]) for row in rows}


_LEFT = r" AUTO_INCREMENT=\d+| ROW_FORMAT=\w+| /\*!80016 NOT ENFORCED \*/"


def _of_mysql_table(table: str) -> list[Any]:
    """The lines of SHOW CREATE TABLE, without what an upgrade may leave as it was.

    That is the counter of ids, the row format, which was the server's choice in earlier versions,
    and whether a CHECK is enforced: MySQL would copy the table to enforce one that has changed.
    """
    text = fetch_all(f"SHOW CREATE TABLE {table}")[0]["Create Table"]
    lines = [line.strip().rstrip(",") for line in text.splitlines()]
    return sorted(re.sub(_LEFT, "", line) for line in lines)


def _of_sqlite_table(table: str, sql: str) -> list[Any]:
    columns = [
        ("column", row["name"], row["type"], row["notnull"], row["dflt_value"], row["pk"])
        for row in fetch_all(f"PRAGMA table_info({table})")
    ]
    foreign_keys = [
        ("foreign key", row["from"], row["table"], row["to"], row["on_update"], row["on_delete"])
        for row in fetch_all(f"PRAGMA foreign_key_list({table})")
    ]
    indexes = [
        (
            "index",
            # A number that SQLite gives those of constraints tells nothing.
            index["name"] if index["origin"] == "c" else "of a constraint",
            index["unique"],
            index["partial"],
            [
                (row["name"], row["desc"], row["coll"], row["key"])
                for row in fetch_all(f"PRAGMA index_xinfo({index['name']})")
            ],
        )
        for index in fetch_all(f"PRAGMA index_list({table})")
    ]
    checks = [("check", _condition(sql, found.end())) for found in re.finditer("CHECK *", sql)]
    words = [("words", "AUTOINCREMENT" in sql, "WITHOUT ROWID" in sql)]
    return sorted(columns + foreign_keys + indexes + checks + words, key=str)


def _condition(sql: str, start: int) -> str:
    """The text in the parentheses that open at `start`, without its white space."""
    depth = 0
    for end in range(start, len(sql)):
        depth += {"(": 1, ")": -1}.get(sql[end], 0)
        if depth == 0:
            return re.sub(r"\s+", "", sql[start:end])
    raise AssertionError("unreachable: the parentheses close")
