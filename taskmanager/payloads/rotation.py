"""Encrypting what is stored once more, with the first key; and what was stored before its type was
encrypted.

In slices, each a short transaction, so that it can be stopped anywhere and run again.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from taskmanager.db.statements import execute, fetch_all, fetch_value, parts_of, update
from taskmanager.db.transactions import rest_since, write_transaction
from taskmanager.errors import ConfigurationError
from taskmanager.payloads.callbacks import CALLBACKS, is_sealed, under_first_key
from taskmanager.payloads.keyring import Keyring
from taskmanager.payloads.keys_in_use import note_key
from taskmanager.payloads.sealing import TEXTS, keyring, under_key, with_opened

SLICE_ROWS = 10  # each may hold megabytes
LOOKED_AT = 1_000


class _Table(NamedTuple):
    """Rows with `payload_key`: the columns that opening and sealing reads, and which rows have an
    encrypted type."""

    name: str
    columns: Sequence[str]
    of_type: str


_OF_TYPE = "task_type_id IN (SELECT id FROM {task_types} WHERE is_encrypted = 1)"
_TABLES = (
    _Table("tasks", TEXTS["tasks"], f"pruned_at IS NULL AND {_OF_TYPE}"),
    _Table(
        "task_logs",
        ("task_id", "event", "attempt", "created_at", *TEXTS["task_logs"]),
        "message IS NOT NULL AND task_id IN (SELECT id FROM {tasks} WHERE payload_key IS NOT NULL)",
    ),
    _Table("schedules", TEXTS["schedules"], _OF_TYPE),
)


Report = Callable[[str, int], None]


def rotate(*, report: Report) -> int:
    """Seals everything with the first key; returns how many rows were written.

    `report` is called with the name of a table and how many of its rows are done, now and then.
    Raises ConfigurationError without a key, and PayloadUnreadable for a text that cannot be opened.
    """
    keys = keyring()
    if keys is None:
        raise ConfigurationError(
            "TASKMANAGER_PAYLOAD_KEY is empty: there is nothing to encrypt with."
        )
    note_key()
    total = _seal_all(keys, report, except_sealed=False)
    _forget_old_keys(keys)
    return total


def seal_plain(*, report: Report) -> int:
    """Seals what types have stored since before they were encrypted; returns how many rows."""
    keys = keyring()
    if keys is None:
        return 0
    note_key()
    return _seal_all(keys, report, except_sealed=True)


def _seal_all(keys: Keyring, report: Report, *, except_sealed: bool) -> int:
    total = 0
    for table in _TABLES:
        done = 0
        for ids in _due(table, keys, except_sealed=except_sealed):
            started = time.monotonic()
            done += _seal(table, keys, ids)
            rest_since(started)
            report(table.name, done)
        total += done
    return total + _seal_callbacks(keys, except_sealed=except_sealed)


def _due(table: _Table, keys: Keyring, *, except_sealed: bool) -> Iterator[Sequence[int]]:
    """The ids of rows to be sealed, SLICE_ROWS at most at a time. Read without a lock."""
    sealed = "1 = 0" if except_sealed else f"payload_key <> '{keys.current.id}'"
    after = 0
    while True:
        looked_at = fetch_all(
            f"SELECT id, CASE WHEN {sealed} OR payload_key IS NULL AND {table.of_type} "
            f"THEN 1 END AS is_due FROM {{{table.name}}} WHERE id > ? ORDER BY id LIMIT ?",
            (after, LOOKED_AT),
        )
        if not looked_at:
            return
        yield from parts_of([row["id"] for row in looked_at if row["is_due"]], SLICE_ROWS)
        after = looked_at[-1]["id"]


@write_transaction
def _seal(table: _Table, keys: Keyring, ids: Sequence[int]) -> int:
    """Seals these rows with the first key; returns how many there were.

    Transition: none.
    Commits together: the rows.
    Raises DatabaseUnavailable.
    A crash leaves the slice as it was.
    """
    columns = ", ".join(table.columns)
    rows = fetch_all(
        f"SELECT id, {columns}, payload_key FROM {{{table.name}}} WHERE id IN ? "
        "ORDER BY id {lock_rows}",
        (list(ids),),
    )
    for row in rows:
        texts = under_key(with_opened(row, table.name), table.name, keys.current)
        update(table.name, texts, "id = ?", (row["id"],))
    return len(rows)


def _seal_callbacks(keys: Keyring, *, except_sealed: bool) -> int:
    """Seals the params of the tasks that batches will create; returns how many batches had some."""
    done, after = 0, 0
    while True:
        looked_at = fetch_all(
            "SELECT id FROM {batches} WHERE id > ? ORDER BY id LIMIT ?", (after, SLICE_ROWS)
        )
        if not looked_at:
            return done
        ids = [row["id"] for row in looked_at]
        done += _seal_batches(keys, ids, except_sealed=except_sealed)
        after = ids[-1]


@write_transaction
def _seal_batches(keys: Keyring, ids: Sequence[int], *, except_sealed: bool) -> int:
    rows = fetch_all(
        f"SELECT id, {', '.join(CALLBACKS)} FROM {{batches}} WHERE id IN ? ORDER BY id "
        "{lock_rows}",
        (list(ids),),
    )
    done = 0
    for row in rows:
        stored = {
            name: row[name]
            for name in CALLBACKS
            if row[name] and not (except_sealed and is_sealed(row[name]))
        }
        texts = {name: under_first_key(text, keys) for name, text in stored.items()}
        if texts != stored:
            update("batches", texts, "id = ?", (row["id"],))
            done += 1
    return done


@write_transaction
def _forget_old_keys(keys: Keyring) -> None:
    """Those with which nothing is sealed any more need not be in the setting."""
    for row in fetch_all("SELECT id FROM {payload_keys} WHERE id <> ?", (keys.current.id,)):
        used = [
            fetch_value(
                f"SELECT id FROM {{{table.name}}} WHERE payload_key = ? LIMIT 1", (row["id"],)
            )
            for table in _TABLES
        ]
        if not any(used):  # a process that still seals with it comes back at the next rotation
            execute("DELETE FROM {payload_keys} WHERE id = ?", (row["id"],))
