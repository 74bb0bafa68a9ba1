"""The file format of a queue: JSON lines that show whether the file is complete.

    {"format": "taskmanager-queue", "format_version": 1, "schema_version": …, "next_ids": {}, …}
    {"table": "task_types", "columns": ["id", "name", …]}
    [1, "video.scrape", …]
    …
    {"end": true, "rows": {"task_types": 1, …}, "sha256": "…"}

`next_ids` in the first line has the tables whose last rows were deleted: their ids are not used
again. `payloads` there is one of PAYLOAD_FORMS. A table is followed by its rows, one per line, in
the order of its key. Each table refers only to tables before it. The last line has the number of
rows and the SHA-256 of all lines before it. Tables and columns are those of the models, without a
table prefix, so a queue can move between prefixes. Refuses to know files and databases.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, NoReturn

import peewee

from taskmanager.db.models import (
    MODELS,
    MigrationStep,
    SchemaVersion,
    StatisticsSnapshot,
    plain_name,
)
from taskmanager.errors import TransferFailed

FORMAT = "taskmanager-queue"
FORMAT_VERSION = 1
# What the texts of encrypted types are in a file; the first is the default.
PAYLOAD_FORMS = ("encrypted", "plain")
MAX_HEADER_BYTES = 4096
MAX_LINE_BYTES = 256 * 1024 * 1024  # two texts of 16 MB with every character escaped

# Tables about the database that holds the queue, not about the queue.
OF_THE_DATABASE = (SchemaVersion, MigrationStep, StatisticsSnapshot)

_BITS = {peewee.SmallIntegerField: 16, peewee.BigIntegerField: 64, peewee.BigAutoField: 64}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column and its valid values: SQLite would store anything anywhere."""

    is_number: bool
    valid: range  # whole numbers, or lengths of a text
    is_nullable: bool
    expected: str

    def accepts(self, value: Any) -> bool:
        if value is None:
            return self.is_nullable
        if self.is_number:
            return type(value) is int and value in self.valid
        return _is_text(value) and len(value) in self.valid


class Table(NamedTuple):
    """A table of the queue; its rows are ordered by the column `key`."""

    name: str
    model: type[peewee.Model]
    key: str
    is_counted: bool  # the database assigns the keys, and none of them twice
    columns: Mapping[str, Column]


def queue_tables() -> tuple[Table, ...]:
    """Every table of the queue, after those that it refers to."""
    return tuple(
        Table(
            name=plain_name(model),
            model=model,
            key=model._meta.primary_key.column_name,  # type: ignore[union-attr]
            is_counted=isinstance(model._meta.primary_key, peewee.AutoField),
            columns={field.column_name: _column(field) for field in model._meta.sorted_fields},
        )
        for model in MODELS
        if model not in OF_THE_DATABASE
    )


def _column(field: peewee.Field) -> Column:
    size = getattr(field, "max_length", 0)
    if isinstance(field, peewee.IntegerField):
        bits = _BITS.get(type(field), 32)
        valid = range(-(2 ** (bits - 1)), 2 ** (bits - 1))
        expected = f"a whole number of {bits} bits"
    elif isinstance(field, peewee.FixedCharField):
        valid, expected = range(size, size + 1), f"a text of {size} characters"
    elif isinstance(field, peewee.CharField):
        valid, expected = range(size + 1), f"a text of at most {size} characters"
    elif isinstance(field, peewee.TextField):
        valid, expected = range(sys.maxsize), "a text"
    else:
        raise AssertionError(f"no rule for what may be in the column '{field.column_name}'")
    return Column(
        is_number=isinstance(field, peewee.IntegerField),
        valid=valid,
        is_nullable=field.null,
        expected=f"{expected}, or null" if field.null else expected,
    )


def _is_text(value: Any) -> bool:
    """A lone surrogate, which JSON can spell, is no character."""
    try:
        return type(value) is str and (value.isascii() or bool(value.encode()))
    except UnicodeEncodeError:
        return False


def first_wrong(columns: Mapping[str, Column], row: Sequence[Any]) -> str | None:
    """The first column whose value is not valid; None if all are."""
    pairs = zip(columns.items(), row, strict=True)
    return next((name for (name, column), value in pairs if not column.accepts(value)), None)


class LineWriter:
    """Writes lines to a stream and computes their digest."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self._encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

    def write(self, content: Any) -> None:
        """Writes one line."""
        line = (self._encode(content) + "\n").encode()
        self._digest.update(line)
        self._stream.write(line)

    def close(self, rows: dict[str, int]) -> None:
        """Writes the last line, which completes the file."""
        self.write({"end": True, "rows": rows, "sha256": self._digest.hexdigest()})


class LineReader:
    """Reads lines from a stream and computes their digest.

    `number` and `size` (bytes) are those of the line read last, `digest` is that
    of all lines before it. Raises TransferFailed, which names the line.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self.number = 0
        self.size = 0
        self.digest = ""

    def read_header(self) -> dict[str, Any]:
        """The first line. Raises TransferFailed if it is not that of an export."""
        line = self._stream.readline(MAX_HEADER_BYTES)
        self.number = 1
        self._digest.update(line)
        try:
            header = json.loads(line.decode())
        except (ValueError, RecursionError):
            header = None
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise TransferFailed(
                "This is not a queue: its first line is not the one that 'taskmanager export' "
                "writes. Nothing was imported."
            )
        return header

    def __iter__(self) -> Iterator[Any]:
        """The content of each line after the first: a list (a row) or a dict."""
        while True:
            line = self._stream.readline(MAX_LINE_BYTES)
            if not line.endswith(b"\n"):
                if len(line) == MAX_LINE_BYTES:
                    self.refuse("is longer than any row can be", number=self.number + 1)
                raise TransferFailed(
                    f"The file was cut off: it ends after line {self.number}, without the line "
                    "that closes it. Nothing was imported; export again, or copy the file again."
                )
            self.number += 1
            self.size = len(line)
            try:
                content = json.loads(line.decode(), parse_constant=self._refuse_constant)
            except (ValueError, RecursionError):
                self.refuse("is not JSON: the file is damaged, or something has changed it")
            if type(content) is dict:
                self.digest = self._digest.hexdigest()
            elif type(content) is not list:
                self.refuse("is neither a row nor a table")
            self._digest.update(line)
            yield content

    def is_at_end(self) -> bool:
        return not self._stream.read(1)

    def refuse(self, what: str, *, number: int | None = None) -> NoReturn:
        """Raises TransferFailed for the line read last, or for the line `number`."""
        raise TransferFailed(f"Line {number or self.number} {what}. Nothing was imported.")

    def _refuse_constant(self, name: str) -> NoReturn:
        raise ValueError(name)
