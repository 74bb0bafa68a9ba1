"""Batches: tasks that belong together, and what is created when the last of them has ended.

Owns the tables batches and batch_members. A task that belongs to a batch has a row of
batch_members, which is open until the task ends. The transaction that ends it closes the row, after
it has locked the batch: of two that end at once, the second one sees that no row is open. It alone
finishes the batch. The figures of a batch do not decide that. They remain when its tasks are
pruned.

A batch may lie in another one, which waits for it, and which is good only if all in it were.
Whoever finishes or reopens a batch says so in the row of the outer one, which looks for none of
those in it when it finishes: they may be pruned by then, and no index has them.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from taskmanager.access.caller import OPERATOR, Caller
from taskmanager.db.connection import takes
from taskmanager.db.statements import (
    Row,
    execute,
    fetch_all,
    fetch_one,
    insert,
    insert_many,
    parts_of,
    update,
)
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import Conflict, NotFound, TooLarge
from taskmanager.payloads.callbacks import opened_params, payload_key_of
from taskmanager.queue import outbox, store
from taskmanager.queue.columns import params_text, when_available
from taskmanager.queue.flow import backlog, dependencies, lanes
from taskmanager.queue.read import FINISHED_STATUSES

# In the params of a callback, this object stands for the id of the batch.
ITS_ID = {"$batch": "id"}

PARENTS_AT_ONCE = 1_000  # in one statement


@write_transaction
def create_batch(
    fields: Row, tasks: Sequence[Row], *, is_open: bool, caller: Caller, now: int
) -> tuple[Row, list[store.Stored]]:
    """Creates a batch with these tasks; one that is not open takes no more.

    `fields` has `name`, `metadata`, `parent_batch_id` and the callbacks as they are stored, `tasks`
    are rows for `store_tasks`. A task that exists already does not become a member.

    Transition: nothing → open, running or finished.
    Commits together: the batch, its tasks, and what follows from its end if none was new.
    Raises NotFound and Conflict for a parent that takes nothing more, TooLarge, QueueFull.
    A crash leaves nothing, or the whole batch.
    """
    parent_id = fields["parent_batch_id"]
    if parent_id is not None:
        _lock_open(parent_id, caller)
        _count(parent_id, {"open_batches": 1}, now)
    if not all(takes(text) for text in fields.values() if isinstance(text, str)):
        raise TooLarge
    times = {"created_at": now, "updated_at": now}
    counts = dict.fromkeys(("tasks", *FINISHED_STATUSES, "open_batches", "failed_batches"), 0)
    batch_id = insert("batches", {**fields, **counts, **times, "api_key_id": caller.key_id})
    stored = _add(batch_id, tasks, caller, now)
    if not is_open:
        _close(batch_id, now)
    return get_batch(batch_id=batch_id, caller=caller), stored


@write_transaction
def add_tasks(
    batch_id: int, tasks: Sequence[Row], *, caller: Caller, now: int
) -> tuple[Row, list[store.Stored]]:
    """Creates tasks in an open batch.

    Transition: none of the batch.
    Commits together: the tasks and their membership.
    Raises NotFound, QueueFull, and Conflict where the batch takes no more tasks.
    A crash leaves none of them, or all.
    """
    _lock_open(batch_id, caller)
    stored = _add(batch_id, tasks, caller, now)
    return get_batch(batch_id=batch_id, caller=caller), stored


@write_transaction
def close_batch(batch_id: int, *, caller: Caller, now: int) -> Row:
    """Lets a batch take no more tasks; closing it again changes nothing.

    Transition: open → running, or → finished where all its tasks have ended.
    Commits together: the transition and what follows from its end.
    Raises NotFound.
    A crash leaves it open.
    """
    if _lock(batch_id, caller)["closed_at"] is None:
        _close(batch_id, now)
    return get_batch(batch_id=batch_id, caller=caller)


def get_batch(*, batch_id: int, caller: Caller) -> Row:
    """One batch. Raises NotFound.

    A key that is limited to task types knows the batches that it has created.
    """
    row = fetch_one("SELECT * FROM {batches} WHERE id = ?", (batch_id,))
    return _require(row, batch_id, caller)


def unfinished_within(batch_ids: Sequence[int], *, caller: Caller) -> list[Row]:
    """The unfinished batches that the caller may see and that lie directly in one of these.

    Each has `id`, `closed_at` and `open_batches`. Reads all unfinished batches, by an index: ask
    only where `open_batches` says that there are some.
    """
    conditions = ["finished_at IS NULL", "parent_batch_id IN ?"]
    values: list[int | None] = []
    if caller.task_types is not None:
        conditions.append("api_key_id = ?")
        values.append(caller.key_id)
    return [
        row
        for some in parts_of(batch_ids, PARENTS_AT_ONCE)
        for row in fetch_all(
            "SELECT id, closed_at, open_batches FROM {batches} "
            f"WHERE {' AND '.join(conditions)} ORDER BY id",
            (list(some), *values),
        )
    ]


def list_batches(*, limit: int, before_id: int | None, caller: Caller) -> list[Row]:
    """Batches that the caller may see, newest first; with `before_id`, older ones."""
    conditions = ["1 = 1"]
    values: list[int | None] = []
    if before_id is not None:
        conditions.append("id < ?")
        values.append(before_id)
    if caller.task_types is not None:
        conditions.append("api_key_id = ?")
        values.append(caller.key_id)
    return fetch_all(
        f"SELECT * FROM {{batches}} WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?",
        (*values, limit),
    )


def status_of(batch: Row) -> str:
    """`open` (takes more tasks), `running` or `finished`."""
    if batch["finished_at"] is not None:
        return "finished"
    return "open" if batch["closed_at"] is None else "running"


def progress_of(batch: Row) -> int:
    """How many of its tasks have ended, in percent, rounded down; without tasks 100 at its end."""
    if not batch["tasks"]:
        return 0 if batch["finished_at"] is None else 100
    ended = sum(batch[status] for status in FINISHED_STATUSES)
    return int(100 * ended // batch["tasks"])


def record_ends(tasks: Iterable[Row], *, now: int) -> None:
    """Follows what the end of these tasks means for their batches. Part of the transaction.

    `tasks` are rows as they are after the transition. Runs no statement where none has a batch.
    """
    ended = _by_batch(task for task in tasks if task["status"] in FINISHED_STATUSES)
    for batch_id, members in ended:
        counts = Counter(task["status"] for task in members)
        _count(batch_id, counts, now)
        ids = [task["id"] for task in members]
        update("batch_members", {"is_open": 0}, "task_id IN ?", (ids,))
        _finish_if_over(batch_id, now)


def record_retries(tasks: Iterable[Row], *, now: int) -> None:
    """The same for tasks that have ended and are tried again, as they were before."""
    for batch_id, members in _by_batch(tasks):
        counts = Counter(task["status"] for task in members)
        _count(batch_id, {status: -count for status, count in counts.items()}, now)
        _reopen(batch_id, now)
        update("batch_members", {"is_open": 1}, "task_id IN ?", ([task["id"] for task in members],))


@write_transaction
def finish_stalled_slice(*, now: int, rows: int) -> int:
    """Finishes up to `rows` closed batches none of whose tasks is left; returns how many.

    There is none, unless somebody has removed tasks by hand.

    Transition: running → finished.
    Commits together: the slice, and what follows from the ends.
    Raises DatabaseUnavailable.
    A crash leaves the slice as it was.
    """
    stalled = fetch_all(
        "SELECT id FROM {batches} WHERE finished_at IS NULL AND closed_at > 0 "
        "AND open_batches = 0 "
        "AND NOT EXISTS (SELECT 1 FROM {batch_members} "
        "WHERE batch_id = {batches}.id AND is_open = 1) "
        "ORDER BY id LIMIT ?",
        (rows,),
    )
    for row in stalled:
        _finish_if_over(row["id"], now)
    return len(stalled)


@write_transaction
def prune_slice(*, before: int, rows: int) -> int:
    """Deletes up to `rows` batches that were finished before a time; returns how many."""
    old = fetch_all(
        "SELECT id FROM {batches} WHERE finished_at < ? ORDER BY finished_at LIMIT ?",
        (before, rows),
    )
    if ids := [row["id"] for row in old]:
        execute("DELETE FROM {batches} WHERE id IN ? AND finished_at < ?", (ids, before))
    return len(old)


def _by_batch(tasks: Iterable[Row]) -> list[tuple[int, list[Row]]]:
    """In one order for everybody: two transactions that want the same rows cannot deadlock."""
    found: dict[int, list[Row]] = defaultdict(list)
    for task in tasks:
        if task["batch_id"] is not None:
            found[task["batch_id"]].append(task)
    return sorted(found.items())


def _require(row: Row | None, batch_id: int, caller: Caller) -> Row:
    if row is None or (caller.task_types is not None and row["api_key_id"] != caller.key_id):
        raise NotFound(f"There is no batch {batch_id}.", code="batch_not_found")
    return row


def _lock(batch_id: int, caller: Caller) -> Row:
    row = fetch_one("SELECT * FROM {batches} WHERE id = ? {lock_rows}", (batch_id,))
    return _require(row, batch_id, caller)


def _lock_open(batch_id: int, caller: Caller) -> None:
    batch = _lock(batch_id, caller)
    if batch["closed_at"] is not None:
        raise Conflict(
            f"Batch {batch_id} is {status_of(batch)} and takes no more tasks.",
            code="batch_closed",
            details={"status": status_of(batch)},
        )


def _add(batch_id: int, tasks: Sequence[Row], caller: Caller, now: int) -> list[store.Stored]:
    if not tasks:
        return []
    rows = [{**task, "batch_id": batch_id} for task in tasks]
    about = {"batch_id": batch_id}
    stored = backlog.store_within_limits(rows, caller=caller, metadata=about)
    new = [task["id"] for task, existed in stored if not existed]
    member = {"batch_id": batch_id, "is_open": 1}
    insert_many("batch_members", [{"task_id": task_id, **member} for task_id in new])
    _count(batch_id, {"tasks": len(new)}, now)
    stored, ended = dependencies.connect(rows, stored, now=now)
    outbox.record(ended, now=now)
    record_ends(ended, now=now)
    return stored


def _close(batch_id: int, now: int) -> None:
    update("batches", {"closed_at": now, "updated_at": now}, "id = ?", (batch_id,))
    _finish_if_over(batch_id, now)


def _count(batch_id: int, counts: Mapping[str, int], now: int) -> None:
    """Adds to the figures of a batch, and locks it."""
    more = "".join(f"{name} = {name} + ?, " for name in counts)
    execute(
        f"UPDATE {{batches}} SET {more}updated_at = ? WHERE id = ?",
        (*counts.values(), now, batch_id),
    )


def _finish_if_over(batch_id: int, now: int) -> None:
    """Finishes a batch if it is closed and nothing in it is left to wait for.

    Reads with locks, because a transaction may keep the snapshot of its first look.
    """
    batch = fetch_one("SELECT * FROM {batches} WHERE id = ? {lock_rows}", (batch_id,))
    if batch is None or batch["finished_at"] is not None or batch["closed_at"] is None:
        return
    left = fetch_one(
        "SELECT task_id FROM {batch_members} WHERE batch_id = ? AND is_open = 1 "
        "LIMIT 1 {lock_rows}",
        (batch_id,),
    )
    if left is not None or batch["open_batches"]:
        return
    is_good = batch["completed"] == batch["tasks"] and batch["failed_batches"] == 0
    made = {
        f"{callback}_task_id": _create_callback(batch, callback, now)
        for callback in ("on_finished", "on_completed" if is_good else "on_failed")
        # Of a batch that was finished before, a callback is never created again.
        if batch[callback] is not None and batch[f"{callback}_task_id"] is None
    }
    update("batches", {**made, "finished_at": now}, "id = ?", (batch_id,))
    if batch["parent_batch_id"] is not None:
        ended = {"open_batches": -1, "failed_batches": 0 if is_good else 1}
        _count(batch["parent_batch_id"], ended, now)
        _finish_if_over(batch["parent_batch_id"], now)


def _reopen(batch_id: int, now: int) -> None:
    """Lets a finished batch, and those that it lies in, wait again.

    None of them was good: only what has not completed is tried again.
    """
    batch = fetch_one("SELECT * FROM {batches} WHERE id = ? {lock_rows}", (batch_id,))
    if batch is None or batch["finished_at"] is None:
        return
    update("batches", {"finished_at": None, "updated_at": now}, "id = ?", (batch_id,))
    if batch["parent_batch_id"] is not None:
        _reopen(batch["parent_batch_id"], now)
        _count(batch["parent_batch_id"], {"open_batches": 1, "failed_batches": -1}, now)


def _create_callback(batch: Row, callback: str, now: int) -> int:
    row = json.loads(batch[callback])
    later = now - row["created_at"]
    row |= {"created_at": now, "updated_at": now}
    row |= when_available(row["available_at"] + later, now)
    if row["expires_at"] is not None:
        row["expires_at"] += later
    params = with_id(json.loads(opened_params(row)), batch["id"])
    row |= {"params": params_text(params), "payload_key": payload_key_of(row)}
    [(task, _)] = store.store_tasks(
        [row],
        caller=OPERATOR,
        message=f"{callback} of batch {batch['id']}",
        metadata={"batch_id": batch["id"]},
    )
    lanes.place([task])
    return int(task["id"])


def with_id(value: Any, batch_id: int) -> Any:
    """`value` with the batch's id in place of each ITS_ID."""
    if value == ITS_ID:
        return batch_id
    if isinstance(value, dict):
        return {name: with_id(each, batch_id) for name, each in value.items()}
    if isinstance(value, list):
        return [with_id(each, batch_id) for each in value]
    return value
