"""Changes a constraint of an SQLite table without copying the table.

SQLite cannot alter a constraint, but documents how to change the text of the table instead, where
the rows need no change: https://www.sqlite.org/lang_altertable.html, "Making Other Kinds Of Table
Schema Changes". Refuses to know which change is right.
"""

import peewee

from taskmanager.db.statements import execute, fetch_value
from taskmanager.errors import ConfigurationError


def rewrite_definition(table: str, old: str, new: str) -> None:
    """Replaces `old`, which occurs once, in the stored CREATE TABLE of `table`.

    Part of the caller's transaction. The caller knows that every row fits the
    new definition: nothing checks them. Time and disk space do not depend on the
    number of rows. Raises ConfigurationError where the library is in its
    defensive mode, which forbids this.
    """
    stored = "FROM sqlite_master WHERE type = 'table' AND name = ?"
    sql = fetch_value(f"SELECT sql {stored}", (table,)) or ""
    if sql.count(old) != 1:
        raise AssertionError(f"the definition of {table} has {old!r} {sql.count(old)} times")
    version = fetch_value("PRAGMA schema_version")
    execute("PRAGMA writable_schema = ON")
    try:
        _store(table, sql.replace(old, new))
        # So that every connection, this one too, reads the definitions anew.
        execute(f"PRAGMA schema_version = {version + 1}")
    finally:
        execute("PRAGMA writable_schema = OFF")


def _store(table: str, sql: str) -> None:
    try:
        execute("UPDATE sqlite_master SET sql = ? WHERE type = 'table' AND name = ?", (sql, table))
    except peewee.OperationalError as error:
        if "may not be modified" not in str(error):
            raise
        raise ConfigurationError(
            "The SQLite of this Python is in its defensive mode and lets no program change the "
            "definition of a table. Nothing was changed. Start TaskManager with another Python, "
            "or run 'taskmanager export' with the version before, and import the file here."
        ) from error
