"""Fills an empty queue from the database of the PHP TaskManager, completely or not at all."""

from collections.abc import Iterable, Iterator
from typing import BinaryIO

from taskmanager.access.caller import Caller
from taskmanager.clock import format_time
from taskmanager.db import schema
from taskmanager.db.statements import Row
from taskmanager.errors import TransferFailed
from taskmanager.transfer.exporting import REPORTED_ROWS, Report
from taskmanager.transfer.format import (
    FORMAT,
    FORMAT_VERSION,
    LineWriter,
    Table,
    first_wrong,
    queue_tables,
)
from taskmanager.transfer.importing import import_queue
from taskmanager.transfer.php.conversion import Conversion
from taskmanager.transfer.php.source import Source, open_source

FILLED = ("task_types", "task_type_versions", "tasks", "task_logs")


def import_php(
    url: str, file: BinaryIO, *, conversion: Conversion, caller: Caller, now: int, report: Report
) -> dict[str, int]:
    """Imports types, tasks and history from the database at `url`; returns the rows by table.

    It writes them to `file`, which is empty, in the format of an export, and imports that.

    Transition: claimed → pending. The database at `url` is only read.
    Commits together: all rows, and an audit event.
    Raises TransferFailed; DatabaseUnavailable; OSError of the file.
    A crash leaves the queue as empty as it was; run the import again.
    """
    tables = {table.name: table for table in queue_tables() if table.name in FILLED}
    with open_source(url) as source:
        _write_tables(LineWriter(file), tables, source, conversion, now, report)

    def streams() -> Iterator[BinaryIO]:
        while True:
            file.seek(0)
            yield file

    imported = import_queue(
        streams(),
        tables=list(tables.values()),
        replace_keys=True,  # the file has none, so all stay
        caller=caller,
        now=now,
        report=report,
    )
    return imported.rows


def _write_tables(
    writer: LineWriter,
    tables: dict[str, Table],
    source: Source,
    conversion: Conversion,
    now: int,
    report: Report,
) -> None:
    writer.write(
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "program": "PHP TaskManager",
            "schema_version": schema.SCHEMA_VERSION,
            "exported_at": format_time(now),
            "next_ids": source.next_ids(),
        }
    )
    types = [conversion.task_type(row) for row in source.rows("task_types")]
    contents: dict[str, Iterable[Row | None]] = {
        "task_types": (row for row, _ in types),
        "task_type_versions": (row for _, row in types),
        "tasks": map(conversion.task, source.rows("tasks")),
        "task_logs": _history(source, conversion),
    }
    rows = {
        name: _write_table(writer, tables[name], filter(None, contents[name]), report)
        for name in FILLED
    }
    writer.close(rows)


def _history(source: Source, conversion: Conversion) -> Iterator[Row | None]:
    last_id = 0
    for row in source.rows("task_history"):
        last_id = row["id"]
        yield conversion.event(row)
    yield from conversion.events_of_import(last_id + 1)


def _write_table(writer: LineWriter, table: Table, rows: Iterable[Row], report: Report) -> int:
    writer.write({"table": table.name, "columns": list(table.columns)})
    count = 0
    for count, row in enumerate(rows, 1):
        values = [row.get(column) for column in table.columns]
        if wrong := first_wrong(table.columns, values):
            raise TransferFailed(
                f"The row {row['id']} for the table {table.name} cannot be stored: {wrong} is not "
                f"{table.columns[wrong].expected}. Nothing was imported."
            )
        writer.write(values)
        if count % REPORTED_ROWS == 0:
            report(table.name, count)
    return count
