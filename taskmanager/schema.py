"""Makes the tables from schema.sql, once, however many processes start together."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import peewee

from taskmanager.config import APP_ROOT
from taskmanager.database import SQLITE, Dialect, database, dialect, execute, fetch_one
from taskmanager.database_errors import mysql_code
from taskmanager.exceptions import ConfigurationError, DatabaseUnavailable
from taskmanager.file_locks import file_lock

SCHEMA_VERSION = 1

# "Duplicate key name" and "table already exists" in the server's error numbers.
MYSQL_MADE_BEFORE = frozenset({1061, 1050})


def is_ready() -> bool:
    """True where the database answers and holds this version's tables."""
    try:
        row = fetch_one("SELECT MAX(version) AS version FROM schema_versions")
    except DatabaseUnavailable:
        return False
    return row is not None and row["version"] == SCHEMA_VERSION


def schema_version() -> int | None:
    """The version of the tables in the database; None where there are none yet."""
    if not database.table_exists("schema_versions"):
        return None
    row = fetch_one("SELECT MAX(version) AS version FROM schema_versions")
    return row["version"] if row else None


def create_schema() -> bool:
    """Makes the tables where there are none; returns whether it made them.

    Safe to repeat and safe from several processes at once: one makes them
    while the others wait. Raises ConfigurationError where the database was
    made by a newer version.
    """
    found = schema_version()
    if found is None:
        with _schema_lock():
            found = schema_version()
            if found is None:
                for statement in schema_statements(dialect()):
                    _execute_ddl(statement)
                return True
    if found > SCHEMA_VERSION:
        raise ConfigurationError(
            f"The database has schema version {found}, this program knows {SCHEMA_VERSION}: "
            "upload the newer program again, or restore the database of this one."
        )
    return False


def schema_statements(target: Dialect) -> list[str]:
    """The statements of schema.sql, as the engine of `target` spells them."""
    text = re.sub(r"--.*", "", _schema_file().read_text(encoding="utf-8"))
    if target is SQLITE:
        text = text.replace(
            "BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY", "INTEGER PRIMARY KEY AUTOINCREMENT"
        )
    return [statement.strip() for statement in text.split(";") if statement.strip()]


def _schema_file() -> Path:
    """Beside the application; else where pip puts it: share/ of a folder above the package's own.

    Which folder that is depends on how it was installed (a virtual environment, --user, --target).
    """
    beside = APP_ROOT / "schema.sql"
    if beside.exists():
        return beside
    for folder in (APP_ROOT, *APP_ROOT.parents):
        installed = folder / "share" / "taskmanager" / "schema.sql"
        if installed.exists():
            return installed
    raise ConfigurationError(
        f"schema.sql is missing: upload it to {APP_ROOT}, or install the package again."
    )


def _execute_ddl(statement: str) -> None:
    """MySQL commits each DDL statement by itself, so a run that was cut short is taken up again."""
    try:
        database.execute_sql(statement)
    except peewee.DatabaseError as error:
        if mysql_code(error) not in MYSQL_MADE_BEFORE:
            raise


@contextlib.contextmanager
def _schema_lock() -> Iterator[None]:
    if dialect() is SQLITE:
        path = Path(database.database)
        with file_lock(path.with_name(path.name + ".lock")):
            # Kept in the file, so one connection sets it once. Answers another mode where the
            # file system has no shared memory; the queue works there too, only slower.
            database.execute_sql("PRAGMA journal_mode = WAL")
            with database.atomic():
                yield
    else:
        name = f"taskmanager-schema-{database.database}"[:64]
        row = fetch_one("SELECT GET_LOCK(?, 60) AS locked", (name,))
        if not row or row["locked"] != 1:
            raise DatabaseUnavailable("Another process has been making the tables for a minute")
        try:
            yield
        finally:
            execute("SELECT RELEASE_LOCK(?)", (name,))
