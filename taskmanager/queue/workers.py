"""The registry of workers: when each was last seen, and how its tasks ended.

Workers do not register. The first claim or heartbeat of a worker creates its row.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import peewee

from taskmanager.access.caller import Caller
from taskmanager.db.connection import cache
from taskmanager.db.models import Worker
from taskmanager.db.queries import first_row, rows_of
from taskmanager.db.statements import (
    MAX_ROWS,
    Row,
    execute,
    fetch_all,
    fetch_one,
    fetch_value,
    insert,
    parts_of,
)
from taskmanager.db.transactions import after_commit, write_transaction
from taskmanager.errors import InvalidRequest, NotAllowed, NotFound
from taskmanager.queue import task_types
from taskmanager.queue.answer_size import require_small
from taskmanager.queue.read import STATUSES
from taskmanager.queue.task_types import Page

# The shortest time between two writes of a worker's `last_seen_at`.
SEEN_RESOLUTION_MS = 10_000
MAX_METADATA_LENGTH = 16_384
STALE_AFTER_HEARTBEATS = 3
INACTIVE_AFTER_HEARTBEATS = 20
# So that a figure does not read millions of rows.
WORKERS_COUNTED = 10_000
HELD_TASKS_COUNTED = 10_000

# The types of the newest task that a worker holds or last held, one for each status.
_NEWEST_TYPES = ", ".join(
    "(SELECT task_type_id FROM {tasks} {index tasks_by_worker} WHERE worker_id = {workers}.id "
    f"AND status = '{status}' ORDER BY id DESC LIMIT 1) AS {status}"
    for status in STATUSES
)


def record_sign_of_life(
    worker_id: str, *, now: int, completed: int = 0, failed: int = 0, always: bool = False
) -> None:
    """Part of the transaction of a claim, renewal or completion: stores that the worker was seen.

    Not written again within SEEN_RESOLUTION_MS, unless `always`: writing the row
    makes two calls of one worker wait for each other.
    """
    seen_at = cache().workers_seen_at
    is_recent = abs(now - seen_at.get(worker_id, 0)) < SEEN_RESOLUTION_MS and not always
    if is_recent:
        if completed or failed:
            execute(COUNT_REPORTS, (completed, failed, worker_id))
        return
    if not execute(SEEN, (now, now, completed, failed, worker_id)).rowcount:
        new = {"id": worker_id, "tasks_completed": completed, "tasks_failed": failed}
        try:
            insert("workers", {**new, "first_seen_at": now, "last_seen_at": now})
        except peewee.IntegrityError:  # another process has just created it
            execute(SEEN, (now, now, completed, failed, worker_id))
    after_commit(lambda: seen_at.__setitem__(worker_id, now))


_COUNTS = (
    "shut_down_at = NULL, "
    "tasks_completed = tasks_completed + ?, tasks_failed = tasks_failed + ? WHERE id = ?"
)
# Does not change the index on last_seen_at.
COUNT_REPORTS = f"UPDATE {{workers}} SET {_COUNTS}"
# A time in the future stays: it shows clock_jumps that the clock was set back.
SEEN = (
    "UPDATE {workers} SET last_seen_at = CASE WHEN last_seen_at > ? THEN last_seen_at ELSE ? END, "
    + _COUNTS
)


def save_metadata(
    *, worker_id: str, metadata: Mapping[str, Any] | None, caller: Caller, now: int
) -> None:
    """Stores that the worker was seen and, if given, its metadata.

    Raises ValidationFailed if the metadata is too large, and NotAllowed if the worker holds
    tasks of types that the caller may not touch.
    """
    text = None if metadata is None else json.dumps(metadata, ensure_ascii=False)
    if text is not None:
        require_small("metadata", text, MAX_METADATA_LENGTH)
        if holds_others(worker_id, caller=caller):
            raise NotAllowed(
                f"Worker '{worker_id}' holds tasks of types that this key may not touch, so the "
                "key may not set its metadata. Leave out metadata, or use another worker_id for "
                "each key.",
                code="task_type_not_allowed",
            )
    _save_metadata(worker_id, text, now)


@write_transaction
def _save_metadata(worker_id: str, text: str | None, now: int) -> None:
    record_sign_of_life(worker_id, now=now, always=True)
    if text is not None:
        Worker.update(metadata=text).where(Worker.id == worker_id).execute()


def holds_others(worker_id: str, *, caller: Caller) -> bool:
    """Whether the worker holds a task of a type that the caller may not touch."""
    if caller.task_types is None:
        return False
    types = fetch_all(
        "SELECT DISTINCT task_type_id FROM {tasks} {index tasks_by_worker} "
        "WHERE worker_id = ? AND status = 'claimed'",
        (worker_id,),
    )
    return len(task_types.allowed_rows(types, caller)) < len(types)


@write_transaction
def mark_shut_down(worker_id: str, *, now: int) -> None:
    """The worker is inactive until it is seen again."""
    record_sign_of_life(worker_id, now=now, always=True)
    Worker.update(shut_down_at=now).where(Worker.id == worker_id).execute()
    after_commit(lambda: cache().workers_seen_at.pop(worker_id, None))


def get_worker(*, worker_id: str, heartbeat_seconds: int, caller: Caller, now: int) -> Row:
    """One worker with its `status` and `tasks_held`.

    Raises NotFound, also if the caller may not see the worker.
    """
    row = first_row(Worker.select().where(Worker.id == worker_id))
    if row is None or not _may_be_seen(worker_id, caller):
        raise NotFound(
            f"No worker '{worker_id}' has been seen. A worker is known from its first claim or "
            "heartbeat.",
            code="worker_not_found",
        )
    return _with_figures(row, heartbeat_seconds, caller, now)


def list_workers(
    *, limit: int, offset: int, cursor: str | None, heartbeat_seconds: int, caller: Caller, now: int
) -> Page:
    """Workers that the caller may see with the same figures, the one seen last first.

    A caller that is limited to task types sees those of the last WORKERS_COUNTED that hold tasks
    of its types, or whose newest task of some status is of its types. `total` counts up to
    WORKERS_COUNTED. `cursor` names the worker after which the page begins, and when that was seen.
    Raises InvalidRequest for one that no page has returned.
    """
    after = None if cursor is None else _position(cursor)
    workers = Worker.select().order_by(Worker.last_seen_at.desc(), Worker.id)
    if caller.task_types is None:
        total = Worker.select(Worker.id).limit(WORKERS_COUNTED + 1).count()
        if after is not None:
            seen_at, worker_id = after
            at_once = (Worker.last_seen_at == seen_at) & (Worker.id > worker_id)
            workers = workers.where((Worker.last_seen_at < seen_at) | at_once)
        workers = workers.offset(offset)
    else:
        visible = _visible_positions(caller)
        total = len(visible)
        if after is not None:
            visible = [it for it in visible if (-it[0], it[1]) > (-after[0], after[1])]
        ids = [worker_id for _, worker_id in visible[offset : offset + limit + 1]]
        workers = workers.where(Worker.id.in_(ids))
    found = rows_of(workers.limit(limit + 1))
    rows = [_with_figures(row, heartbeat_seconds, caller, now) for row in found[:limit]]
    next_cursor = None
    if len(found) > limit:
        next_cursor = f"{rows[-1]['last_seen_at']}.{rows[-1]['id']}"
    return Page(rows, next_cursor, min(total, WORKERS_COUNTED), total <= WORKERS_COUNTED)


def _position(cursor: str) -> tuple[int, str]:
    """When the worker that a cursor names was seen, and its id."""
    seen_at, _, worker_id = cursor.partition(".")
    if not re.fullmatch("[0-9]{1,18}", seen_at):
        raise InvalidRequest("cursor is not one that this list gave out: send next_cursor.")
    return int(seen_at), worker_id


def _may_be_seen(worker_id: str, caller: Caller) -> bool:
    if caller.task_types is None:
        return True
    types = fetch_one(f"SELECT {_NEWEST_TYPES} FROM {{workers}} WHERE id = ?", (worker_id,))
    newest_is = types is not None and _is_any_allowed(types, caller)
    return newest_is or _count_held(worker_id, caller) > 0


def _is_any_allowed(types: Row, caller: Caller) -> bool:
    """Whether the caller may touch one of the types in a row of _NEWEST_TYPES."""
    known = [{"task_type_id": types[status]} for status in STATUSES if types[status] is not None]
    return bool(task_types.allowed_rows(known, caller))


def _visible_positions(caller: Caller) -> list[tuple[int, str]]:
    """When the workers were last seen that a limited caller may see, and their ids, in order.

    Only of the WORKERS_COUNTED that were seen last, since no index has their types.
    """
    holding = _ids_holding(caller)
    rows = fetch_all(
        f"SELECT id, last_seen_at, {_NEWEST_TYPES} FROM {{workers}} "
        "ORDER BY last_seen_at DESC, id LIMIT ?",
        (WORKERS_COUNTED,),
    )
    return [
        (row["last_seen_at"], row["id"])
        for row in rows
        if row["id"] in holding or _is_any_allowed(row, caller)
    ]


def _ids_holding(caller: Caller) -> set[str]:
    """The workers that hold tasks of the caller's types, of the first HELD_TASKS_COUNTED."""
    types = [row["id"] for row in task_types.find_task_types(caller=caller)]
    ids: set[str] = set()
    for some in parts_of(types, MAX_ROWS):
        rows = fetch_all(
            "SELECT DISTINCT worker_id FROM (SELECT worker_id FROM {tasks} "
            "WHERE task_type_id IN ? AND status = 'claimed' LIMIT ?) AS held",
            (some, HELD_TASKS_COUNTED),
        )
        ids |= {row["worker_id"] for row in rows}
    return ids


def _with_figures(row: Row, heartbeat_seconds: int, caller: Caller, now: int) -> Row:
    """The worker with its status and counts.

    How many tasks it has completed and failed is known only for all types together, so a caller
    that is limited to types does not learn it.
    """
    stale_before, inactive_before = _thresholds(heartbeat_seconds, now)
    if row["shut_down_at"] or row["last_seen_at"] < inactive_before:
        status = "inactive"
    elif row["last_seen_at"] < stale_before:
        status = "stale"
    else:
        status = "active"
    figures: Row = {"status": status, "tasks_held": _count_held(row["id"], caller)}
    if caller.task_types is not None:
        figures |= {"tasks_completed": None, "tasks_failed": None}
    return {**row, **figures}


_HELD = "FROM {tasks} {index tasks_by_worker} WHERE worker_id = ? AND status = 'claimed' LIMIT ?"


def _count_held(worker_id: str, caller: Caller) -> int:
    """How many tasks of the caller's types it holds, of the first HELD_TASKS_COUNTED."""
    values = (worker_id, HELD_TASKS_COUNTED)
    if caller.task_types is None:
        return int(fetch_value(f"SELECT COUNT(*) FROM (SELECT id {_HELD}) AS held", values))
    groups = fetch_all(
        f"SELECT task_type_id, COUNT(*) AS tasks FROM (SELECT task_type_id {_HELD}) AS held "
        "GROUP BY task_type_id",
        values,
    )
    return sum(group["tasks"] for group in task_types.allowed_rows(groups, caller))


def _thresholds(heartbeat_seconds: int, now: int) -> tuple[int, int]:
    """A worker last seen before the first is stale, before the second inactive."""
    heartbeat_ms = heartbeat_seconds * 1000
    return (
        now - max(STALE_AFTER_HEARTBEATS * heartbeat_ms, heartbeat_ms + SEEN_RESOLUTION_MS),
        now - INACTIVE_AFTER_HEARTBEATS * heartbeat_ms,
    )


def count_workers(*, heartbeat_seconds: int, now: int) -> dict[str, int]:
    """How many of the WORKERS_COUNTED that were seen last are `active`, `stale` and `inactive`."""
    stale_before, inactive_before = _thresholds(heartbeat_seconds, now)
    groups = fetch_all(
        "SELECT status, COUNT(*) AS workers FROM (SELECT CASE "
        "WHEN shut_down_at IS NOT NULL OR last_seen_at < ? THEN 'inactive' "
        "WHEN last_seen_at < ? THEN 'stale' ELSE 'active' END AS status "
        "FROM {workers} ORDER BY last_seen_at DESC LIMIT ?) AS seen_last GROUP BY status",
        (inactive_before, stale_before, WORKERS_COUNTED),
    )
    counts = {"active": 0, "stale": 0, "inactive": 0}
    return counts | {row["status"]: row["workers"] for row in groups}
