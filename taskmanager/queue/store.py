"""Storing new tasks: each is made once, or the task that holds its key stands for it.

Knows nothing of requests, types or schemas: it is given whole rows of the table.
"""

from collections.abc import Mapping
from typing import Any

import peewee

from taskmanager.db.connection import dialect
from taskmanager.db.dialect import SQLITE
from taskmanager.db.errors import is_duplicate
from taskmanager.db.statements import (
    MAX_VALUES,
    Row,
    execute,
    fetch_all,
    fetch_one,
    fetch_packed,
    placeholders,
)
from taskmanager.errors import Conflict
from taskmanager.queue import history
from taskmanager.queue.answer_size import COLUMNS, LIGHT_COLUMNS, count_that_fits, sizes_of

ROWS_PER_INSERT = 30 if MAX_VALUES < 1_000 else 500
MAX_DUPLICATE_ROUNDS = 10

# Columns that a new row does not set.
_UNSET: Row = dict.fromkeys(
    (
        "result",
        "error_message",
        "error_code",
        "progress",
        "progress_message",
        "worker_id",
        "claimed_at",
        "lease_expires_at",
        "completed_at",
    )
)


class TypeHasChanged(Exception):
    """The transaction found another type than the one it was begun for."""


def store_tasks(
    rows: list[Row],
    *,
    key_id: int | None,
    message: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    task_type: Row | None = None,
) -> list[tuple[Row, bool]]:
    """For each row the task that stands for it now, and whether it was there before.

    Part of the caller's transaction. `message` and `metadata` say in the
    history of the tasks made where they come from. Where `task_type` is given
    and has changed since, nothing is made and TypeHasChanged is raised.
    """
    first_of_key: dict[str, int] = {}
    new: list[int] = []
    same_as: dict[int, int] = {}
    for index, row in enumerate(rows):
        holds_key = row["holds_key_while_open"]
        first = first_of_key.setdefault(row["dedupe_key"], index) if holds_key else index
        if first == index:
            new.append(index)
        else:
            same_as[index] = first

    tasks: dict[int, tuple[Row, bool]] = {}
    for start in range(0, len(new), ROWS_PER_INSERT):
        _insert_or_find(rows, new[start : start + ROWS_PER_INSERT], tasks, task_type)
    history.record(
        [
            history.event_row(
                task_id=task["id"],
                event="created",
                status=task["status"],
                api_key_id=key_id,
                message=message,
                metadata=metadata,
                now=task["created_at"],
            )
            for task, existed in tasks.values()
            if not existed
        ]
    )
    for index, first in same_as.items():
        tasks[index] = (tasks[first][0], True)
    return [tasks[index] for index in range(len(rows))]


def _insert_or_find(
    rows: list[Row],
    indexes: list[int],
    tasks: dict[int, tuple[Row, bool]],
    task_type: Row | None,
) -> None:
    """Inserts the rows at `indexes`; where the unique index refuses, finds who holds the keys.

    The index decides, never a look before the insert: after its refusal the
    holders are read and left out. A holder may let go of its key between the
    refusal and the read, hence the rounds.
    """
    remaining = _without_open_duplicates(rows, indexes, tasks, task_type)
    if not remaining:
        return
    for _ in range(MAX_DUPLICATE_ROUNDS):
        try:
            ids = _insert_tasks([rows[index] for index in remaining], task_type)
        except peewee.IntegrityError as error:
            if not is_duplicate(error):
                raise Conflict("The parent task has just been removed; try again.") from None
        else:
            for index, task_id in zip(remaining, ids, strict=True):
                tasks[index] = ({"id": task_id, **rows[index], **_UNSET}, False)
            return
        remaining = _without_duplicates(rows, remaining, tasks)
        if not remaining:
            return
    raise Conflict("Tasks with the same key come and go too fast; try again.")


def _without_open_duplicates(
    rows: list[Row],
    indexes: list[int],
    tasks: dict[int, tuple[Row, bool]],
    task_type: Row | None,
) -> list[int]:
    """Leaves out, without a lock, what an unfinished task keeps from being made. MySQL only.

    This decides nothing, it spares locks: InnoDB locks the entry that refuses a
    row and the gap before it, which the end of that very task has to change. Where
    many ask for a task over and over, the worker that has it would lose one
    deadlock after the other and never get to report it.
    """
    if dialect() is SQLITE:
        return indexes
    # What is kept for ever is refused by an index that the end of a task leaves alone.
    active = [index for index in indexes if rows[index]["dedupe"] == "active"]
    if len(_without_duplicates(rows, active, tasks)) < len(active) and task_type is not None:
        _require_unchanged(task_type)
    return [index for index in indexes if index not in tasks]


def _require_unchanged(task_type: Row) -> None:
    values = (task_type["id"], task_type["updated_at"])
    if fetch_one("SELECT id FROM task_types WHERE id = ? AND updated_at = ?", values) is None:
        raise TypeHasChanged


def _without_duplicates(
    rows: list[Row], indexes: list[int], tasks: dict[int, tuple[Row, bool]]
) -> list[int]:
    """The indexes whose key is free; for the others puts the holder into `tasks`."""
    holders = _find_holders([rows[index] for index in indexes])
    for index in indexes:
        holder = holders.get(rows[index]["dedupe_key"])
        if holder and rows[index]["holds_key_while_open"]:
            tasks[index] = (holder, True)
    return [index for index in indexes if index not in tasks]


def _insert_tasks(rows: list[Row], task_type: Row | None) -> list[int]:
    """Inserts rows with one statement; returns their ids in order.

    With `task_type` the one row is only inserted while the type is just that.

    The ids of one multi-row INSERT are consecutive: on SQLite because there is
    one writer, on InnoDB in every innodb_autoinc_lock_mode, because the number
    of rows is known beforehand ("simple inserts" in MySQL's manual, chapter
    AUTO_INCREMENT Handling in InnoDB). Galera's step between ids is asked for.
    """
    one = placeholders(list(rows[0]))
    values = [value for row in rows for value in row.values()]
    if task_type is not None:
        source = f"SELECT {one} FROM task_types WHERE id = ? AND updated_at = ?"
        values += [task_type["id"], task_type["updated_at"]]
    else:
        source = f"VALUES {', '.join([f'({one})'] * len(rows))}"
    cursor = execute(f"INSERT INTO tasks ({', '.join(rows[0])}) {source}", values)
    if cursor.rowcount != len(rows):
        raise TypeHasChanged
    if dialect() is SQLITE:
        last = cursor.lastrowid
        return list(range(last - len(rows) + 1, last + 1))
    step = 1
    if len(rows) > 1:
        row = fetch_one("SELECT @@auto_increment_increment AS step")
        step = row["step"] if row else 1
    first = cursor.lastrowid
    return list(range(first, first + step * len(rows), step))


def _find_holders(rows: list[Row]) -> dict[str, Row]:
    """The task that holds each key now; an unfinished one before a finished one.

    Of several without their params, and with as many results as an answer has room for.
    """
    columns = LIGHT_COLUMNS if len(rows) > 1 else COLUMNS
    holders: dict[str, Row] = {}
    for column, index in (
        ("holds_key_forever", "tasks_key_forever"),
        ("holds_key_while_open", "tasks_key_while_open"),
    ):
        keys = [row["dedupe_key"] for row in rows if row[column]]
        if keys:
            # MySQL would search for both by one of the indexes: by the key alone, which any number
            # of tasks may have that hold it no more.
            found = fetch_packed(
                columns,
                f"FROM tasks {dialect().use_unique.format(index)} "
                f"WHERE {column} = 1 AND dedupe_key IN ({placeholders(keys)})",
                keys,
            )
            holders |= {holder["dedupe_key"]: holder for holder in found}
    if len(rows) > 1:
        _add_results(list(holders.values()))
    return holders


def _add_results(tasks: list[Row]) -> None:
    ids = [task["id"] for task in tasks]
    ids = ids[: count_that_fits(sizes_of(ids, ["result"]))]
    if not ids:
        return
    found = fetch_all(f"SELECT id, result FROM tasks WHERE id IN ({placeholders(ids)})", ids)
    results = {row["id"]: row["result"] for row in found}
    for task in tasks:
        if task["id"] in results:
            task["result"] = results[task["id"]]
