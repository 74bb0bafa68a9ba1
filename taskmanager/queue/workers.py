"""The registry of workers: who has been seen when, and what became of their tasks.

A worker needs no registration: its first sign of life makes its row.
"""

import json
from collections.abc import Mapping
from typing import Any

import peewee

from taskmanager.db.connection import cache
from taskmanager.db.statements import Row, execute, fetch_all, fetch_one, insert, update
from taskmanager.db.transactions import after_commit, write_transaction
from taskmanager.errors import NotFound
from taskmanager.queue.answer_size import require_small

# `last_seen_at` of a worker that claims and reports without pause is not written more often.
SEEN_RESOLUTION_MS = 10_000
MAX_METADATA_LENGTH = 16_384
STALE_AFTER_HEARTBEATS = 3
INACTIVE_AFTER_HEARTBEATS = 20
WORKERS_COUNTED = 10_000  # a figure must not read millions of rows


def record_sign_of_life(
    worker_id: str, *, now: int, completed: int = 0, failed: int = 0, always: bool = False
) -> None:
    """Part of the transaction of a claim, renewal or completion: the worker was seen.

    Within SEEN_RESOLUTION_MS that is not written again, unless `always`: two calls
    of one worker take turns by writing its row.
    """
    seen_at = cache().workers_seen_at
    is_recent = abs(now - seen_at.get(worker_id, 0)) < SEEN_RESOLUTION_MS and not always
    if is_recent and not completed and not failed:
        return
    if is_recent:
        execute(COUNT_REPORTS, (completed, failed, worker_id))
        return
    if not execute(SEEN, (now, completed, failed, worker_id)).rowcount:
        try:
            insert("workers", _new_worker(worker_id, now, completed, failed))
        except peewee.IntegrityError:  # another process has just created it
            execute(SEEN, (now, completed, failed, worker_id))
    after_commit(lambda: seen_at.__setitem__(worker_id, now))


_COUNTS = (
    "shut_down_at = NULL, "
    "tasks_completed = tasks_completed + ?, tasks_failed = tasks_failed + ? WHERE id = ?"
)
# Leaves the index of last_seen_at alone.
COUNT_REPORTS = f"UPDATE {{workers}} SET {_COUNTS}"
SEEN = f"UPDATE {{workers}} SET last_seen_at = ?, {_COUNTS}"


def _new_worker(worker_id: str, now: int, completed: int, failed: int) -> Row:
    return {
        "id": worker_id,
        "tasks_completed": completed,
        "tasks_failed": failed,
        "first_seen_at": now,
        "last_seen_at": now,
    }


def save_metadata(*, worker_id: str, metadata: Mapping[str, Any] | None, now: int) -> None:
    """Notes a sign of life and, where given, what the worker says of itself.

    Raises ValidationFailed where that is too much.
    """
    text = None if metadata is None else json.dumps(metadata, ensure_ascii=False)
    if text is not None:
        require_small("metadata", text, MAX_METADATA_LENGTH)
    _save_metadata(worker_id, text, now)


@write_transaction
def _save_metadata(worker_id: str, text: str | None, now: int) -> None:
    record_sign_of_life(worker_id, now=now, always=True)
    if text is not None:
        update("workers", {"metadata": text}, "id = ?", (worker_id,))


def mark_shut_down(worker_id: str, *, now: int) -> None:
    """Part of the shutdown's transaction: the worker is inactive until it is seen again."""
    record_sign_of_life(worker_id, now=now, always=True)
    update("workers", {"shut_down_at": now}, "id = ?", (worker_id,))
    after_commit(lambda: _forget_seen(worker_id))


def _forget_seen(worker_id: str) -> None:
    cache().workers_seen_at.pop(worker_id, None)


def get_worker(*, worker_id: str, heartbeat_seconds: int, now: int) -> Row:
    """One worker with its `status` and `tasks_held`. Raises NotFound."""
    row = fetch_one("SELECT * FROM {workers} WHERE id = ?", (worker_id,))
    if row is None:
        raise NotFound(
            f"No worker '{worker_id}' has been seen. A worker is known from its first claim or "
            "heartbeat.",
            code="worker_not_found",
        )
    return _with_figures(row, heartbeat_seconds, now)


def list_workers(*, limit: int, offset: int, heartbeat_seconds: int, now: int) -> list[Row]:
    """Workers, the one seen last first."""
    rows = fetch_all(
        "SELECT * FROM {workers} ORDER BY last_seen_at DESC, id LIMIT ? OFFSET ?", (limit, offset)
    )
    return [_with_figures(row, heartbeat_seconds, now) for row in rows]


def _with_figures(row: Row, heartbeat_seconds: int, now: int) -> Row:
    held = fetch_one(
        "SELECT COUNT(*) AS held FROM {tasks} {index tasks_by_worker} "
        "WHERE worker_id = ? AND status = 'claimed'",
        (row["id"],),
    )
    stale_before, inactive_before = _limits(heartbeat_seconds, now)
    if row["shut_down_at"] or row["last_seen_at"] < inactive_before:
        status = "inactive"
    elif row["last_seen_at"] < stale_before:
        status = "stale"
    else:
        status = "active"
    return {**row, "status": status, "tasks_held": held["held"] if held else 0}


def _limits(heartbeat_seconds: int, now: int) -> tuple[int, int]:
    """Whoever was last seen before the first is stale, before the second inactive."""
    heartbeat_ms = heartbeat_seconds * 1000
    return (
        now - max(STALE_AFTER_HEARTBEATS * heartbeat_ms, heartbeat_ms + SEEN_RESOLUTION_MS),
        now - INACTIVE_AFTER_HEARTBEATS * heartbeat_ms,
    )


def count_workers(*, heartbeat_seconds: int, now: int) -> dict[str, int]:
    """How many of the WORKERS_COUNTED that were seen last are `active`, `stale` and `inactive`."""
    [(seen, active, active_or_stale)] = execute(
        "SELECT COUNT(*), COUNT(CASE WHEN last_seen_at >= ? THEN 1 END), "
        "COUNT(CASE WHEN last_seen_at >= ? THEN 1 END) FROM "
        "(SELECT CASE WHEN shut_down_at IS NULL THEN last_seen_at END AS last_seen_at "
        "FROM {workers} ORDER BY {workers}.last_seen_at DESC LIMIT ?) AS seen_last",
        (*_limits(heartbeat_seconds, now), WORKERS_COUNTED),
    ).fetchall()
    return {
        "active": active,
        "stale": active_or_stale - active,
        "inactive": seen - active_or_stale,
    }
