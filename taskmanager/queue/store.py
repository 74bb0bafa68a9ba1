"""Storing new tasks: each is inserted once, or the task that holds its dedupe key stands for it.

Knows nothing of requests, types or schemas: it is given whole rows of the table. What is in them
beside the columns is left to others: `depends_on` to flow/dependencies.py, `max_open` to
flow/backlog.py.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import peewee

from taskmanager.access.caller import Caller
from taskmanager.db.connection import dialect, is_clustered, keeps_snapshot
from taskmanager.db.dialect import SQLITE
from taskmanager.db.errors import is_duplicate, is_missing_reference
from taskmanager.db.statements import (
    MAX_VALUES,
    Row,
    fetch_all,
    fetch_value,
    insert_many,
    parts_of,
    update,
)
from taskmanager.db.transactions import SnapshotTooOld
from taskmanager.errors import Conflict
from taskmanager.payloads.sealing import IS_OPENED, with_sealed
from taskmanager.queue import dedupe, history
from taskmanager.queue.answer_size import COLUMNS, LIGHT_COLUMNS, count_that_fits, sizes_of
from taskmanager.queue.flow import lanes

ROWS_PER_INSERT = 30 if MAX_VALUES < 1_000 else 500
MAX_DUPLICATE_ROUNDS = 10
BESIDE = ("depends_on", "max_open")

Stored = tuple[Row, bool]

# What the event of a new task takes from it: no attempt as yet.
OF_EVENT = ("id", "task_type_id", "status", "payload_key")


def store_tasks(
    rows: list[Row],
    *,
    caller: Caller,
    message: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> list[Stored]:
    """For each row the task that stands for it now, and whether it existed before.

    Part of the caller's transaction. `message` and `metadata` say in the
    history of the tasks inserted where they come from.
    """
    first_of_key: dict[str, int] = {}
    firsts = [  # for each row the first that would hold the same key
        first_of_key.setdefault(row["dedupe_key"], index) if row["holds_key_while_open"] else index
        for index, row in enumerate(rows)
    ]
    tasks: dict[int, Stored] = {}
    for some in parts_of(sorted(set(firsts)), ROWS_PER_INSERT):
        tasks |= _insert_or_find({index: rows[index] for index in some})
    made = [task for task, existed in tasks.values() if not existed]
    history.record(
        [{name: task[name] for name in OF_EVENT} for task in made],
        "created",
        message=message,
        metadata=metadata,
        caller=caller,
        now=rows[0]["created_at"],
    )
    return [
        tasks[index] if first == index else (tasks[first][0], True)
        for index, first in enumerate(firsts)
    ]


def _insert_or_find(rows: dict[int, Row]) -> dict[int, Stored]:
    """Inserts rows; where the unique index refuses, finds who holds the keys. By the same indexes.

    The index decides, never a look before the insert: after its refusal the
    holders are read and left out. A holder may let go of its key between the
    refusal and the read, hence the rounds.
    """
    now = next(iter(rows.values()))["created_at"]
    found = _holders(_open_duplicates(rows), now)
    for _ in range(MAX_DUPLICATE_ROUNDS):
        free = {index: row for index, row in rows.items() if index not in found}
        if not free:
            return found
        try:
            ids = _insert_tasks([_without_sealed(row) for row in free.values()])
            _store_sealed(zip(ids, free.values(), strict=True))
        except peewee.IntegrityError as error:
            if is_missing_reference(error):  # nothing ever removes a type
                raise Conflict("The parent task has just been removed; try again.") from None
            if not is_duplicate(error):
                raise
            # The holder may be newer than what this transaction sees. And a node of Galera would
            # send the rows before the refused one to the others, although they are undone here.
            if keeps_snapshot() or _is_sent_in_part(free):
                raise SnapshotTooOld from None
            found |= _holders(_duplicates(free), now)
        else:
            made = list(zip(ids, free.values(), strict=True))
            insert_tags(made)
            _insert_deadlines(made)
            lanes.record([{**row, "id": task_id} for task_id, row in made])
            for (index, row), task_id in zip(free.items(), ids, strict=True):
                new = {**dict.fromkeys(COLUMNS), **row, "id": task_id, IS_OPENED: True}
                found[index] = (new, False)
            return found
    raise Conflict("Tasks with the same key come and go too fast; try again.")


def _without_sealed(row: Row) -> Row:
    """The columns to insert: without the params if they are to be encrypted."""
    columns = dict(row)
    for name in BESIDE:
        columns.pop(name, None)
    if row["payload_key"] is not None:
        columns["params"] = ""
    return columns


def _store_sealed(tasks: Iterable[tuple[int, Row]]) -> None:
    """Stores the params of those that are encrypted, for their ids."""
    for task_id, row in tasks:
        if row["payload_key"] is not None:
            texts = with_sealed({"params": row["params"]}, of={**row, "id": task_id})
            update("tasks", texts, "id = ?", (task_id,), hint="{by_id}")


def insert_tags(tasks: Iterable[tuple[int, Row]]) -> None:
    """Makes new tasks known by their tags."""
    tags = [
        {"tag": tag, "task_id": task_id}
        for task_id, row in tasks
        if row["tags"]
        for tag in json.loads(row["tags"])
    ]
    insert_many("task_tags", tags)


def _insert_deadlines(tasks: Iterable[tuple[int, Row]]) -> None:
    deadlines = [
        {"task_id": task_id, "expires_at": row["expires_at"]}
        for task_id, row in tasks
        if row["expires_at"] is not None
    ]
    insert_many("task_deadlines", deadlines)


def _holders(found: dict[int, Stored], now: int) -> dict[int, Stored]:
    """Those found that go on holding their keys; the others let go of them now."""
    if not found:
        return found
    old = sorted({task["id"] for task, _ in found.values() if dedupe.window_is_over(task, now)})
    if old:
        update("tasks", dedupe.NO_KEYS, "id IN ?", (old,), hint="{by_id}")
    return {index: stored for index, stored in found.items() if stored[0]["id"] not in old}


def _open_duplicates(rows: dict[int, Row]) -> dict[int, Stored]:
    """Tasks that exist already of those kept unique while unfinished. MySQL only; takes no lock.

    This decides nothing, it spares locks: InnoDB locks the entry that refuses a
    row and the gap before it, which the end of that very task has to change. Where
    producers ask for a task over and over, the worker that has it would lose one
    deadlock after the other and never get to report it. What is kept for ever is
    refused by an index that the end of a task leaves alone. Where a refusal ends the
    transaction, the holders are found here only, by the run after it.
    """
    if dialect() is SQLITE:
        return {}
    if keeps_snapshot() or _is_sent_in_part(rows):
        return _duplicates(rows)
    return _duplicates({i: row for i, row in rows.items() if row["dedupe"] == "active"})


def _is_sent_in_part(rows: dict[int, Row]) -> bool:
    """Whether a transaction must not go on after the statement that inserts these was refused."""
    return len(rows) > 1 and is_clustered()


def _duplicates(rows: dict[int, Row]) -> dict[int, Stored]:
    """The tasks that hold the keys of these rows now; a row whose key is free is left out.

    An unfinished task before a finished one. Of several without their params, and
    with as many results as an answer has room for.
    """
    columns = ", ".join(LIGHT_COLUMNS if len(rows) > 1 else COLUMNS)
    holders: dict[str, Row] = {}
    for how in ("key_forever", "key_while_open"):
        if keys := [row["dedupe_key"] for row in rows.values() if row[f"holds_{how}"]]:
            # MySQL would search by the key alone, which any number of tasks may have that no
            # longer hold it.
            found = fetch_all(
                f"SELECT {columns} FROM {{tasks}} {{unique tasks_{how}}} "
                f"WHERE holds_{how} = 1 AND dedupe_key IN ?",
                (keys,),
            )
            holders |= {holder["dedupe_key"]: holder for holder in found}
    if len(rows) > 1:
        _add_results({holder["id"]: holder for holder in holders.values()})
    return {
        index: (holders[row["dedupe_key"]], True)
        for index, row in rows.items()
        if row["holds_key_while_open"] and row["dedupe_key"] in holders
    }


def _add_results(tasks: dict[int, Row]) -> None:
    ids = list(tasks)
    ids = ids[: count_that_fits(sizes_of(ids, ["result"]))]
    if ids:
        for row in fetch_all("SELECT id, result FROM {tasks} WHERE id IN ?", (ids,)):
            tasks[row["id"]]["result"] = row["result"]


def _insert_tasks(rows: list[Row]) -> list[int]:
    """Inserts rows, with one statement if the server takes it; returns their ids in order.

    The ids of one multi-row INSERT are consecutive: on SQLite because there is
    one writer, on InnoDB in every innodb_autoinc_lock_mode, because the number
    of rows is known beforehand ("simple inserts" in MySQL's manual, chapter
    AUTO_INCREMENT Handling in InnoDB). Galera's step between ids is asked for.
    """
    inserted = insert_many("tasks", rows)
    if dialect() is SQLITE:
        [(last, count)] = inserted
        return list(range(last - count + 1, last + 1))
    step = fetch_value("SELECT @@auto_increment_increment AS step") if len(rows) > 1 else 1
    return [
        task_id for first, count in inserted for task_id in range(first, first + step * count, step)
    ]
