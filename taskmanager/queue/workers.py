"""The registry of workers: when each was last seen, and how its tasks ended.

Workers do not register. The first claim or heartbeat of a worker creates its row.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import peewee

from taskmanager.db.connection import cache
from taskmanager.db.models import Worker
from taskmanager.db.queries import first_row, rows_of
from taskmanager.db.statements import Row, execute, fetch_all, fetch_value, insert
from taskmanager.db.transactions import after_commit, write_transaction
from taskmanager.errors import InvalidRequest, NotFound
from taskmanager.queue.answer_size import require_small
from taskmanager.queue.task_types import Page

# The shortest time between two writes of a worker's `last_seen_at`.
SEEN_RESOLUTION_MS = 10_000
MAX_METADATA_LENGTH = 16_384
STALE_AFTER_HEARTBEATS = 3
INACTIVE_AFTER_HEARTBEATS = 20
WORKERS_COUNTED = 10_000  # so that a figure does not read millions of rows


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
    if not execute(SEEN, (now, completed, failed, worker_id)).rowcount:
        new = {"id": worker_id, "tasks_completed": completed, "tasks_failed": failed}
        try:
            insert("workers", {**new, "first_seen_at": now, "last_seen_at": now})
        except peewee.IntegrityError:  # another process has just created it
            execute(SEEN, (now, completed, failed, worker_id))
    after_commit(lambda: seen_at.__setitem__(worker_id, now))


_COUNTS = (
    "shut_down_at = NULL, "
    "tasks_completed = tasks_completed + ?, tasks_failed = tasks_failed + ? WHERE id = ?"
)
# Does not change the index on last_seen_at.
COUNT_REPORTS = f"UPDATE {{workers}} SET {_COUNTS}"
SEEN = f"UPDATE {{workers}} SET last_seen_at = ?, {_COUNTS}"


def save_metadata(*, worker_id: str, metadata: Mapping[str, Any] | None, now: int) -> None:
    """Stores that the worker was seen and, if given, its metadata.

    Raises ValidationFailed if the metadata is too large.
    """
    text = None if metadata is None else json.dumps(metadata, ensure_ascii=False)
    if text is not None:
        require_small("metadata", text, MAX_METADATA_LENGTH)
    _save_metadata(worker_id, text, now)


@write_transaction
def _save_metadata(worker_id: str, text: str | None, now: int) -> None:
    record_sign_of_life(worker_id, now=now, always=True)
    if text is not None:
        Worker.update(metadata=text).where(Worker.id == worker_id).execute()


def mark_shut_down(worker_id: str, *, now: int) -> None:
    """Part of the shutdown's transaction: the worker is inactive until it is seen again."""
    record_sign_of_life(worker_id, now=now, always=True)
    Worker.update(shut_down_at=now).where(Worker.id == worker_id).execute()
    after_commit(lambda: cache().workers_seen_at.pop(worker_id, None))


def get_worker(*, worker_id: str, heartbeat_seconds: int, now: int) -> Row:
    """One worker with its `status` and `tasks_held`. Raises NotFound."""
    row = first_row(Worker.select().where(Worker.id == worker_id))
    if row is None:
        raise NotFound(
            f"No worker '{worker_id}' has been seen. A worker is known from its first claim or "
            "heartbeat.",
            code="worker_not_found",
        )
    return _with_figures(row, heartbeat_seconds, now)


def list_workers(
    *, limit: int, offset: int, cursor: str | None, heartbeat_seconds: int, now: int
) -> Page:
    """Workers with the same figures, the one seen last first.

    `cursor` names the worker after which the page begins, and when that was seen.
    Raises InvalidRequest for one that no page has returned.
    """
    workers = Worker.select().order_by(Worker.last_seen_at.desc(), Worker.id)
    if cursor is not None:
        seen_at, _, worker_id = cursor.partition(".")
        if not re.fullmatch("[0-9]{1,18}", seen_at):
            raise InvalidRequest("cursor is not one that this list gave out: send next_cursor.")
        at_once = (Worker.last_seen_at == int(seen_at)) & (Worker.id > worker_id)
        workers = workers.where((Worker.last_seen_at < int(seen_at)) | at_once)
    found = rows_of(workers.limit(limit + 1).offset(offset))
    rows = [_with_figures(row, heartbeat_seconds, now) for row in found[:limit]]
    more = len(found) > limit
    after = f"{rows[-1]['last_seen_at']}.{rows[-1]['id']}" if more else None
    return Page(rows, after, Worker.select().count())


def _with_figures(row: Row, heartbeat_seconds: int, now: int) -> Row:
    held = fetch_value(
        "SELECT COUNT(*) AS held FROM {tasks} {index tasks_by_worker} "
        "WHERE worker_id = ? AND status = 'claimed'",
        (row["id"],),
    )
    stale_before, inactive_before = _thresholds(heartbeat_seconds, now)
    if row["shut_down_at"] or row["last_seen_at"] < inactive_before:
        status = "inactive"
    elif row["last_seen_at"] < stale_before:
        status = "stale"
    else:
        status = "active"
    return {**row, "status": status, "tasks_held": held}


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
