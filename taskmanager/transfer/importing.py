"""Fills an empty queue from a stream, completely or not at all."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import peewee
from peewee import fn

from taskmanager.access import audit, keys
from taskmanager.access.caller import Caller
from taskmanager.db import schema
from taskmanager.db.connection import database, dialect
from taskmanager.db.dialect import SQLITE
from taskmanager.db.errors import is_connection_lost, is_rolled_back
from taskmanager.db.ids import skip_ids_below
from taskmanager.db.migrations import MIGRATIONS, DataStep
from taskmanager.db.models import Schedule, Task, TaskLog, TaskType, plain_name
from taskmanager.db.statements import execute
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import ConfigurationError, TransferFailed
from taskmanager.payloads import keys_in_use
from taskmanager.queue import history
from taskmanager.transfer.exporting import Report
from taskmanager.transfer.format import FORMAT_VERSION, LineReader, Table, first_wrong, queue_tables

# A queue with a row in one of these is in use. The other tables have rows soon after a start, which
# the rows of the file replace.
WORK = (TaskType, Task, Schedule)

HISTORY = "task_logs"
BATCH_ROWS = 500
MAX_ID = 2**63 - 1
BATCH_BYTES = 1_000_000


class Imported(NamedTuple):
    """The number of rows by table, and the names of the keys that are no longer valid."""

    rows: dict[str, int]
    lost_keys: tuple[str, ...]


def import_queue(
    streams: Iterator[BinaryIO],
    *,
    tables: Sequence[Table] | None = None,
    replace_keys: bool,
    caller: Caller,
    now: int,
    report: Report,
) -> Imported:
    """Reads what `export_queue` wrote into a queue without types, tasks and schedules.

    `streams` opens the file, and again each time the transaction has to be repeated.
    `tables` are those in the file, all by default; the others keep their rows.
    `replace_keys` allows it to replace keys that somebody has created in this queue.

    Transition: none; every task keeps its status and its claim.
    Commits together: everything in the stream, and an audit event. The counters
    of ids are advanced before that, which changes no row.
    Raises TransferFailed, which says what is wrong in which line;
    DatabaseUnavailable; the errors of the stream.
    A crash leaves the queue as empty as it was; run the import again.
    """
    _require_replaceable(replace_keys=replace_keys)
    chosen = queue_tables() if tables is None else tables
    imports = (_Import(LineReader(stream), chosen, report) for stream in streams)
    first = next(imports)
    for table, wanted in first.next_ids().items():
        if _counts_on(table):
            skip_ids_below(table, wanted)
    again = itertools.chain([first], imports)
    return _replace_all(again, replace_keys=replace_keys, caller=caller, now=now)


@write_transaction
def _replace_all(
    imports: Iterator["_Import"], *, replace_keys: bool, caller: Caller, now: int
) -> Imported:
    """Runs the next of `imports`; each reads the stream from its beginning."""
    keys_before = _require_replaceable(replace_keys=replace_keys)
    import_ = next(imports)
    for table in reversed(import_.tables.values()):
        table.model.delete().execute()
    import_.run()
    try:
        keys_in_use.check_keys()
    except ConfigurationError as error:
        raise TransferFailed(f"{error.message} Nothing was imported.") from None
    if HISTORY in import_.next_ids() and not _counts_on(HISTORY):
        # Readers of the history have seen rows with higher ids, which were deleted.
        history.record_cut(TaskLog.select(fn.MAX(TaskLog.id)).scalar() or 0)
    message = f"{sum(import_.rows.values())} rows, exported by {import_.origin}"
    audit.record(event="queue_imported", message=message, caller=caller, now=now)
    keys_after = _keys_by_hash()
    gone = [name for key_hash, name in keys_before.items() if key_hash not in keys_after]
    return Imported(import_.rows, tuple(gone))


def _counts_on(table: str) -> bool:
    """Whether this database goes on from the highest id of a table that was ever given out."""
    return table != HISTORY or dialect() is not SQLITE


def _require_replaceable(*, replace_keys: bool) -> dict[str, str]:
    """Raises unless a file may take this queue's place; returns the names of its keys, by hash."""
    used = [plain_name(model) for model in WORK if model.select().exists()]
    if used:
        raise TransferFailed(
            f"This queue is in use: it has {' and '.join(used).replace('_', ' ')}. A queue is "
            "imported into an empty one only; make a new database and let "
            "TASKMANAGER_DATABASE_URL name it. Nothing was imported."
        )
    found = _keys_by_hash()
    made = [name for name in found.values() if name not in keys.MADE_AT_START]
    if made and not replace_keys:
        raise TransferFailed(
            f"Somebody has made keys in this queue: {', '.join(made)}. The keys of the file would "
            "take their place, and these be refused from then on. If that is right, give "
            "--replace-keys. Nothing was imported."
        )
    return found


def _keys_by_hash() -> dict[str, str]:
    return {row["key_hash"]: row["name"] for row in keys.list_keys()}


class _Import:
    """The state of one import: the table that is being read, and the rows to be stored next."""

    def __init__(self, lines: LineReader, tables: Sequence[Table], report: Report) -> None:
        self._lines = lines
        self._report = report
        self._header = lines.read_header()
        self._require_known_version()
        self.origin = f"{self._header.get('program')} at {self._header.get('exported_at')}"
        self.tables = {table.name: table for table in tables}
        self.rows: dict[str, int] = {}
        self._table: Table | None = None
        self._insert = ""
        self._waiting: dict[int, list[Any]] = {}  # line → row
        self._waiting_bytes = 0

    def next_ids(self) -> dict[str, int]:
        """By table, the lowest id for new rows."""
        found = self._header.get("next_ids", {})
        counted = {table.name for table in self.tables.values() if table.is_counted}
        if not isinstance(found, dict) or not all(
            name in counted and type(value) is int and 0 < value < MAX_ID
            for name, value in found.items()
        ):
            self._lines.refuse("does not say as numbers by table which ids are free")
        return found

    def run(self) -> None:
        for content in self._lines:
            if type(content) is list:
                self._take_row(content)
                continue
            self._store()
            if "end" in content:
                self._check_end(content)
                return
            self._begin_table(content)

    def _require_known_version(self) -> None:
        form, version = (self._header.get(name) for name in ("format_version", "schema_version"))
        if type(form) is not int or type(version) is not int:
            self._lines.refuse("does not say which version of the queue this is")
        if form > FORMAT_VERSION or version > schema.SCHEMA_VERSION:
            raise TransferFailed(
                f"The file was written by a newer program ({self._header.get('program')}, schema "
                f"version {version}); this one knows schema version {schema.SCHEMA_VERSION}. "
                "Install the newer program here. Nothing was imported."
            )
        self._is_older = version < schema.SCHEMA_VERSION
        steps = [step for later in MIGRATIONS if later > version for step in MIGRATIONS[later]]
        if any(isinstance(step, DataStep) for step in steps):
            raise TransferFailed(
                f"The file has schema version {version}; version {schema.SCHEMA_VERSION} has data "
                "that are computed from the older. Run 'taskmanager migrate' where the file was "
                "exported, and export again. Nothing was imported."
            )

    def _begin_table(self, content: dict[str, Any]) -> None:
        name, names = content.get("table"), content.get("columns")
        table = self.tables.get(name) if isinstance(name, str) else None
        if table is None:
            self._lines.refuse(f"begins the table {name!r}, which this program does not know")
        if table.name in self.rows:
            self._lines.refuse(f"begins the table {table.name} a second time")
        if not isinstance(names, list) or len(set(map(str, names))) < len(names):
            self._lines.refuse(f"does not list the columns of {table.name}, each once")
        for column in names:
            if not isinstance(column, str) or column not in table.columns:
                self._lines.refuse(f"has a column {column!r}, which {table.name} does not have")
        missing = [column for column in table.columns if column not in names]
        if missing and not self._is_older:
            self._lines.refuse(f"lacks the columns {', '.join(missing)} of {table.name}")
        self._table = table._replace(columns={column: table.columns[column] for column in names})
        self._insert = database.spelled(
            f"INSERT INTO {{{table.name}}} ({', '.join(names)}) "
            f"VALUES ({', '.join('?' * len(names))})"
        )
        self.rows[table.name] = 0

    def _take_row(self, row: list[Any]) -> None:
        if self._table is None:
            self._lines.refuse("is a row before any table")
        name, columns = self._table.name, self._table.columns
        if len(row) != len(columns):
            self._lines.refuse(f"has {len(row)} values for the {len(columns)} columns of {name}")
        if wrong := first_wrong(columns, row):
            self._lines.refuse(f"is not right: {name}.{wrong} is {columns[wrong].expected}")
        if self._waiting_bytes + self._lines.size > BATCH_BYTES:
            self._store()
        self._waiting[self._lines.number] = row
        self._waiting_bytes += self._lines.size
        self.rows[name] += 1
        if len(self._waiting) == BATCH_ROWS:
            self._store()

    def _store(self) -> None:
        """Inserts the waiting rows."""
        if not self._waiting or self._table is None:
            return
        execute("SAVEPOINT batch")
        try:
            _execute_many(self._insert, list(self._waiting.values()))
        except (peewee.DatabaseError, peewee.InterfaceError) as error:
            if is_connection_lost(error) or is_rolled_back(error):
                raise
            execute("ROLLBACK TO SAVEPOINT batch")
            self._name_refused_row()
            raise
        execute("RELEASE SAVEPOINT batch")
        self._waiting = {}
        self._waiting_bytes = 0
        self._report(self._table.name, self.rows[self._table.name])

    def _name_refused_row(self) -> None:
        """Inserts the rows one by one to find the one that the database refuses."""
        for number, row in self._waiting.items():
            try:
                _execute_many(self._insert, [row])
            except (peewee.IntegrityError, peewee.DataError, peewee.OperationalError) as error:
                if is_connection_lost(error) or is_rolled_back(error):
                    raise
                self._lines.refuse(
                    f"is not taken by the database ({error.args[-1]})", number=number
                )

    def _check_end(self, content: dict[str, Any]) -> None:
        if content.get("rows") != self.rows or content.get("sha256") != self._lines.digest:
            raise TransferFailed(
                "The file was changed after it was written: its rows are not those that its last "
                "line tells of. Nothing was imported; export again, or copy the file again."
            )
        missing = [name for name in self.tables if name not in self.rows]
        if missing and not self._is_older:
            self._lines.refuse(f"ends a file without the tables {', '.join(missing)}")
        if not self._lines.is_at_end():
            self._lines.refuse("should be the last, but more follows")


def _execute_many(statement: str, rows: Sequence[Sequence[Any]]) -> None:
    with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
        database.cursor().executemany(statement, rows)
