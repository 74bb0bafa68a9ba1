"""Writes the whole queue to a stream, as it was at one moment."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from peewee import SQL, fn

from taskmanager import __version__
from taskmanager.clock import format_time
from taskmanager.db import schema
from taskmanager.db.ids import next_id
from taskmanager.db.snapshot import read_snapshot, streamed_rows
from taskmanager.errors import TransferFailed
from taskmanager.payloads.callbacks import in_plain
from taskmanager.payloads.sealing import IS_OPENED, TEXTS, with_opened
from taskmanager.transfer.format import (
    FORMAT,
    FORMAT_VERSION,
    PAYLOAD_FORMS,
    LineWriter,
    Table,
    first_wrong,
    queue_tables,
)

REPORTED_ROWS = 1000

Report = Callable[[str, int], None]


def export_queue(
    stream: BinaryIO, *, now: int, report: Report, payloads: str = PAYLOAD_FORMS[0]
) -> dict[str, int]:
    """Writes every row of every table of the queue; returns the number of rows by table.

    `payloads` is one of PAYLOAD_FORMS. If they are plain, no keys are written.

    Transition: none; nothing is changed, and no writer waits.
    Commits together: everything written was in the database at the same moment.
    Raises DatabaseUnavailable; TransferFailed if the database holds a value that
    no import would accept; PayloadUnreadable; OSError of the stream.
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
                "payloads": payloads,
            }
        )
        is_plain = payloads == "plain"
        rows = {
            table.name: _export_table(writer, table, report, is_plain) for table in queue_tables()
        }
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


def _export_table(writer: LineWriter, table: Table, report: Report, is_plain: bool) -> int:
    writer.write({"table": table.name, "columns": list(table.columns)})
    count = 0
    if is_plain and table.name == "payload_keys":
        return count
    with streamed_rows(table.model.select().order_by(SQL(table.key))) as rows:
        for row in _plain_rows(table, rows) if is_plain else rows:
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


def _plain_rows(table: Table, rows: Iterator[Sequence[Any]]) -> Iterator[Sequence[Any]]:
    """The rows with their texts opened."""
    for row in rows:
        by_name = dict(zip(table.columns, row, strict=True))
        if table.name in TEXTS:
            by_name = {**with_opened(by_name, table.name), "payload_key": None}
            by_name.pop(IS_OPENED, None)
        elif table.name == "batches":
            by_name = in_plain(by_name)
        yield list(by_name.values())
