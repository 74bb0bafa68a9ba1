"""Encrypting what is stored once more, with the first key; and what was stored before its type was
encrypted.

In slices, each a short transaction, so that it can be stopped anywhere and run again.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from taskmanager.db.statements import Row, execute, fetch_all, fetch_value, parts_of, update
from taskmanager.db.transactions import rest_since, write_transaction
from taskmanager.errors import ConfigurationError
from taskmanager.payloads.callbacks import CALLBACKS, opened_params, sealed_params
from taskmanager.payloads.keyring import Keyring
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


def rotate(*, report: Callable[[str, int], None]) -> int:
    """Seals everything with the first key; returns how many rows were written.

    `report` is called with the name of a table and how many of its rows are done, now and then.
    Raises ConfigurationError without a key, and PayloadUnreadable for a text that cannot be opened.
    """
    keys = keyring()
    if keys is None:
        raise ConfigurationError(
            "TASKMANAGER_PAYLOAD_KEY is empty: there is nothing to encrypt with."
        )
    total = 0
    for table in _TABLES:
        done = 0
        for ids in _due(table, keys):
            started = time.monotonic()
            done += _seal(table, keys, ids)
            rest_since(started)
            report(table.name, done)
        total += done
    total += _in_slices(partial(_seal_batches, keys))
    _forget_old_keys(keys)
    return total


def _due(table: _Table, keys: Keyring) -> Iterator[Sequence[int]]:
    """The ids of rows to be sealed, SLICE_ROWS at most at a time. Read without a lock."""
    after = 0
    while True:
        looked_at = fetch_all(
            "SELECT id, CASE WHEN payload_key <> ? OR payload_key IS NULL "
            f"AND {table.of_type} THEN 1 END AS is_due FROM {{{table.name}}} "
            "WHERE id > ? ORDER BY id LIMIT ?",
            (keys.current.id, after, LOOKED_AT),
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


def _in_slices(seal_slice: Callable[[int], tuple[int, int]]) -> int:
    """Calls `seal_slice` with the last id of the slice before, until a slice has no rows."""
    done, after = 0, 0
    while True:
        after, count = seal_slice(after)
        done += count
        if not count:
            return done


@write_transaction
def _seal_batches(keys: Keyring, after: int) -> tuple[int, int]:
    """The params of the tasks that batches will create."""
    columns = ", ".join(CALLBACKS)
    rows = fetch_all(
        f"SELECT id, {columns} FROM {{batches}} WHERE id > ? ORDER BY id LIMIT ? {{lock_rows}}",
        (after, SLICE_ROWS),
    )
    for row in rows:
        if texts := {name: _sealed_callback(row[name], keys) for name in CALLBACKS if row[name]}:
            update("batches", texts, "id = ?", (row["id"],))
    return (rows[-1]["id"] if rows else after), len(rows)


def _sealed_callback(text: str, keys: Keyring) -> str:
    task: Row = json.loads(text)
    if task["payload_key"] is not None:
        task |= {"params": opened_params(task), "payload_key": keys.current.id}
        task["params"] = sealed_params(task)
    return json.dumps(task, ensure_ascii=False)


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
