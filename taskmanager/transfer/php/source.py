"""The tables of the PHP TaskManager, read as they were at one moment. Refuses to interpret them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import peewee

from taskmanager.db.connection import database, other_database
from taskmanager.db.ids import next_id
from taskmanager.db.snapshot import read_snapshot, streamed_rows
from taskmanager.db.statements import Row, fetch_all
from taskmanager.errors import ConfigurationError, DatabaseUnavailable, TransferFailed

# Its columns by table, in the order in which they are read. It calls a task's type `type_id`.
COLUMNS = {
    "task_types": ("id", "name", "version", "param_schema_json", "is_active"),
    "tasks": (
        *("id", "type_id", "status", "params_json", "result_json", "error_message", "priority"),
        *("progress", "attempts", "claimed_by"),
    ),
    "task_history": ("id", "task_id", "status_change", "worker_id", "message"),
}
TIMES = {
    "task_types": ("created_at", "updated_at"),
    "tasks": ("claimed_at", "completed_at", "created_at", "updated_at"),
    "task_history": ("created_at",),
}


# Its first versions did not have these.
OPTIONAL = {"priority", "progress"}


class Source:
    """The open database. Created by `open_source`."""

    def __init__(self) -> None:
        self._columns: dict[str, set[str]] = {}
        for row in fetch_all(
            "SELECT table_name AS name, column_name AS part FROM information_schema.columns "
            "WHERE table_schema = DATABASE()"
        ):
            self._columns.setdefault(row["name"], set()).add(row["part"])
        for table, columns in COLUMNS.items():
            self._require(table, {*columns, *TIMES[table]} - OPTIONAL)

    def _require(self, table: str, columns: set[str]) -> None:
        missing = sorted(columns - self._columns.get(table, set()))
        if missing:
            what = f"the table {table}"
            if table in self._columns:
                what = f"in {table} the columns {', '.join(missing)}"
            raise TransferFailed(
                f"The database is not one of the PHP TaskManager: it lacks {what}. Nothing was "
                "imported."
            )

    def rows(self, table: str) -> Iterator[Row]:
        """Every row of a table in the order of its ids.

        Times are milliseconds since 1970. What is missing is None.
        """
        columns = [
            name if name in self._columns[table] else f"NULL AS {name}" for name in COLUMNS[table]
        ]
        # UNIX_TIMESTAMP does not depend on the time zone of the session; 0 is a date of only zeros.
        times = [
            f"CAST(NULLIF(UNIX_TIMESTAMP({name}), 0) * 1000 AS SIGNED)" for name in TIMES[table]
        ]
        query: Any = peewee.RawQuery(
            f"SELECT {', '.join([*columns, *times])} FROM {table} ORDER BY id",
            _database=database,
        )
        names = (*COLUMNS[table], *TIMES[table])
        with streamed_rows(query) as rows:
            for row in rows:
                yield dict(zip(names, row, strict=True))

    def next_ids(self) -> dict[str, int]:
        """By table, the id of its next row: ids of deleted rows are not used again."""
        return {table: next_id(table) for table in ("task_types", "tasks")}


@contextlib.contextmanager
def open_source(url: str) -> Iterator[Source]:
    """The database at `url`, as it is at this moment. Nothing is written there.

    Raises TransferFailed where it is none of the PHP TaskManager, or cannot be read.
    """
    if not url.startswith("mysql://"):
        raise TransferFailed(
            "The address must look like mysql://user:password@host:3306/name. Nothing was imported."
        )
    try:
        with other_database(url):
            source = Source()
            with read_snapshot():
                yield source
    except ConfigurationError as error:
        message = error.message.replace("TASKMANAGER_DATABASE_URL", "The address")
        raise TransferFailed(f"{message}. Nothing was imported.") from error
    except DatabaseUnavailable as error:
        cause = error.cause or error.message.partition(". ")[0]
        raise TransferFailed(
            f"The database of the PHP TaskManager cannot be read: {cause}. Check user, password, "
            "host and name in the address. Nothing was imported."
        ) from error
