"""Writes the whole queue to a stream, as it was at one moment."""

from collections.abc import Callable
from typing import BinaryIO

from peewee import SQL, fn

from taskmanager import __version__
from taskmanager.clock import format_time
from taskmanager.db import schema
from taskmanager.db.ids import next_id
from taskmanager.db.snapshot import read_snapshot, streamed_rows
from taskmanager.errors import TransferFailed
from taskmanager.transfer.format import (
    FORMAT,
    FORMAT_VERSION,
    LineWriter,
    Table,
    first_wrong,
    queue_tables,
)

REPORTED_ROWS = 1000

Report = Callable[[str, int], None]


def export_queue(stream: BinaryIO, *, now: int, report: Report) -> dict[str, int]:
    """Writes every row of every table of the queue; returns the number of rows by table.

    Transition: none; nothing is changed, and no writer waits.
    Commits together: everything written was in the database at the same moment.
    Raises DatabaseUnavailable; TransferFailed if the database holds a value that
    no import would accept; OSError of the stream.
    A crash leaves a file without its last line, which no import accepts.
    """
    with read_snapshot():
        writer = LineWriter(stream)
        writer.write(
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "program": f"TaskManager {__version__}",
                "schema_version": schema.SCHEMA_VERSION,
                "exported_at": format_time(now),
                "next_ids": _next_ids(),
            }
        )
        rows = {table.name: _export_table(writer, table, report) for table in queue_tables()}
        writer.close(rows)
    return rows


def _next_ids() -> dict[str, int]:
    """The next id of each table whose last rows were deleted: an import cannot compute it."""
    found = {}
    for table in queue_tables():
        if table.is_counted:
            last = table.model.select(fn.MAX(SQL(table.key))).scalar() or 0
            if (next_one := next_id(table.name)) > last + 1:
                found[table.name] = next_one
    return found


def _export_table(writer: LineWriter, table: Table, report: Report) -> int:
    writer.write({"table": table.name, "columns": list(table.columns)})
    count = 0
    with streamed_rows(table.model.select().order_by(SQL(table.key))) as rows:
        for row in rows:
            if wrong := first_wrong(table.columns, row):
                key = row[list(table.columns).index(table.key)]
                raise TransferFailed(
                    "The database holds what TaskManager never writes: in the table "
                    f"{table.name}, where {table.key} is {key!r}, {wrong} is not "
                    f"{table.columns[wrong].expected}. Correct or remove that row, then export "
                    "again."
                )
            writer.write(row)
            count += 1
            if count % REPORTED_ROWS == 0:
                report(table.name, count)
    report(table.name, count)
    return count
