"""Sealing what is stored of a task or a schedule, and opening what was read.

A task is encrypted from its creation on if its type is: `payload_key` of its row names the key.
Then every text that a user has put into it is sealed for its column and its row: its params, its
result, errors, progress, and the messages of its history. Not sealed are its type, status, times,
worker, tags and `error_code`, by which tasks are found and counted.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from taskmanager.db.connection import database
from taskmanager.db.statements import Row
from taskmanager.errors import InvalidRequest, PayloadUnreadable

if TYPE_CHECKING:
    from taskmanager.payloads.keyring import Key, Keyring

# By table, the columns that are sealed.
TEXTS = {
    "tasks": ("params", "result", "error_message", "progress_message"),
    "task_logs": ("message",),
    "schedules": ("params", "last_error"),
}
UNREADABLE = "This text is encrypted and cannot be read: its key is missing, or it was damaged."
IS_OPENED = "is_opened"  # in a row whose texts are opened already


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


def find_key(name: str) -> "Key":
    """The key with this id. Raises PayloadUnreadable."""
    found = keyring()
    if found is None:
        raise PayloadUnreadable(
            f"TASKMANAGER_PAYLOAD_KEY is empty, and this was encrypted with the key {name}. Set "
            "it, and restart.",
            code="no_payload_key",
        )
    return found.find(name)


def with_opened(row: Row, table: str = "tasks") -> Row:
    """A row as it was read from the table, with its texts opened. Raises PayloadUnreadable."""
    if row.get("payload_key") is None or IS_OPENED in row:
        return row
    key = find_key(row["payload_key"])
    texts = {name: row[name] for name in TEXTS[table] if row.get(name) is not None}
    opened = {name: key.open(text, _place(table, name, row)) for name, text in texts.items()}
    return {**row, **opened, IS_OPENED: True}


def with_legible(row: Row) -> Row:
    """The same of a task, with UNREADABLE for what cannot be opened: the task can be changed."""
    try:
        return with_opened(row)
    except PayloadUnreadable:
        texts = {name: UNREADABLE for name in TEXTS["tasks"] if row.get(name) is not None}
        return {**row, **texts, IS_OPENED: True}


def all_opened(rows: Iterable[Row], table: str = "tasks") -> list[Row]:
    """The same as `with_opened` for many rows."""
    return [with_opened(row, table) for row in rows]


def with_sealed(columns: Row, *, of: Row, table: str = "tasks") -> Row:
    """New values for columns of a row as they are stored."""
    if of["payload_key"] is None:
        return columns
    return {**columns, **_sealed(columns, of, table, find_key(of["payload_key"]))}


def under_key(row: Row, table: str, key: "Key | None") -> Row:
    """The texts of an opened row as they are stored with this key, or without one."""
    texts = {name: row[name] for name in TEXTS[table] if row.get(name) is not None}
    if key is None:
        return {**texts, "payload_key": None}
    return {**_sealed(texts, row, table, key), "payload_key": key.id}


def as_long(text: str, *, of: Row) -> str:
    """A text as long as this one is once it is stored for a task."""
    return text if of["payload_key"] is None else find_key(of["payload_key"]).seal(text, "")


def _sealed(columns: Row, row: Row, table: str, key: "Key") -> Row:
    return {
        name: key.seal(columns[name], _place(table, name, row))
        for name in TEXTS[table]
        if columns.get(name) is not None
    }


def _place(table: str, column: str, row: Row) -> str:
    if table == "task_logs":  # the id is not known before the row is stored
        names = ("task_id", "event", "attempt", "created_at")
        return f"{table}.{column} of {', '.join(f'{name} {row[name]}' for name in names)}"
    return f"{table}.{column} of id {row['id']}"
