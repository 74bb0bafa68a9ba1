"""Sealing what is stored of a task, and opening what was read.

A task is encrypted from its creation on if its type is: its row names the key. Then every text that
a user has put into it is sealed: its params, its result, errors, progress, and the messages of its
history. Not sealed are its type, status, times, worker, tags and `error_code`, by which tasks are
found and counted.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from taskmanager.db.connection import database
from taskmanager.db.statements import Row
from taskmanager.errors import InvalidRequest

if TYPE_CHECKING:
    from taskmanager.payloads.keyring import Keyring

# Of tasks, and `params` and `last_error` of schedules.
COLUMNS = ("params", "result", "error_message", "progress_message", "last_error")


def keyring() -> "Keyring | None":
    """The keys of the application at work."""
    found: Keyring | None = database.obj.keyring
    return found


def require_keyring() -> "Keyring":
    """The same. Raises InvalidRequest where there are none."""
    found = keyring()
    if found is None:
        raise InvalidRequest(
            "Tasks can be encrypted once TASKMANAGER_PAYLOAD_KEY is set on the server; "
            "`taskmanager payloads new-key` prints a key for it.",
            code="no_payload_key",
        )
    return found


def opened(text: str) -> str:
    """A text that may be sealed."""
    keys = keyring()
    return text if keys is None else keys.open(text)


def with_opened(row: Row, columns: Sequence[str] = COLUMNS) -> Row:
    """A row with those of its columns opened that are sealed."""
    keys = keyring()
    if keys is None:
        return row
    return {**row, **{name: keys.open(row[name]) for name in columns if row.get(name)}}


def all_opened(rows: Iterable[Row], columns: Sequence[str] = COLUMNS) -> list[Row]:
    """The same for many rows."""
    return [with_opened(row, columns) for row in rows]


def sealed(text: str, *, of: Row) -> str:
    """A text as it is stored for a task, which has `payload_key`."""
    return text if of["payload_key"] is None else require_keyring().seal(text)


def with_sealed(columns: Row, *, of: Row) -> Row:
    """New values for columns of a task as they are stored."""
    if of["payload_key"] is None:
        return columns
    return {
        name: sealed(value, of=of) if name in COLUMNS and value is not None else value
        for name, value in columns.items()
    }
