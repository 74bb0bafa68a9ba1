"""The registry of workers: who has been seen when, and what became of their tasks.

A worker needs no registration: its first sign of life makes its row.
"""

import json
from collections.abc import Mapping
from typing import Any

import peewee

from taskmanager.db.connection import database, dialect
from taskmanager.db.statements import Row, execute, execute_later, fetch_all, fetch_one, insert
from taskmanager.db.transactions import after_commit, write_transaction
from taskmanager.errors import NotFound
from taskmanager.queue.answer_size import require_small

# `last_seen_at` of a worker that claims and reports without pause is not written more often.
SEEN_RESOLUTION_MS = 10_000
MARKS_KEPT = 1_000
MAX_METADATA_LENGTH = 16_384
STALE_AFTER_HEARTBEATS = 3
INACTIVE_AFTER_HEARTBEATS = 20
WORKERS_COUNTED = 10_000  # a figure must not read millions of rows


def record_sign_of_life(
    worker_id: str, *, now: int, completed: int = 0, failed: int = 0, always: bool = False
) -> None:
    """Part of the transaction of a claim, renewal or completion: the worker was seen.

    That it was seen is not written again within SEEN_RESOLUTION_MS,
    unless `always`, which is how two calls of one worker are made to take turns.
    """
    marks: dict[str, int] = database.obj.cache.setdefault("workers_seen", {})
    recent = abs(now - marks.get(worker_id, 0)) < SEEN_RESOLUTION_MS
    if recent and not completed and not failed and not always:
        return
    figures = (
        "shut_down_at = NULL, "
        "tasks_completed = tasks_completed + ?, tasks_failed = tasks_failed + ? WHERE id = ?"
    )
    values = (completed, failed, worker_id)
    if recent and not always:
        # Its row was there a moment ago, and nobody has to look.
        execute_later(f"UPDATE workers SET {figures}", values)
        return
    if not execute(f"UPDATE workers SET last_seen_at = ?, {figures}", (now, *values)).rowcount:
        try:
            insert("workers", _new_worker(worker_id, now, completed, failed))
        except peewee.IntegrityError:  # another process has just made it
            record_sign_of_life(
                worker_id, now=now, completed=completed, failed=failed, always=always
            )
    after_commit(lambda: _mark(marks, worker_id, now))


def _mark(marks: dict[str, int], worker_id: str, now: int) -> None:
    if len(marks) >= MARKS_KEPT:
        marks.clear()
    marks[worker_id] = now


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
        execute("UPDATE workers SET metadata = ? WHERE id = ?", (text, worker_id))


def mark_shut_down(worker_id: str, *, now: int) -> None:
    """Part of the shutdown's transaction: the worker is inactive until it is seen again."""
    record_sign_of_life(worker_id, now=now, always=True)
    execute("UPDATE workers SET shut_down_at = ? WHERE id = ?", (now, worker_id))
    after_commit(lambda: database.obj.cache.get("workers_seen", {}).pop(worker_id, None))


def get_worker(*, worker_id: str, heartbeat_seconds: int, now: int) -> Row:
    """One worker with its `status` and `tasks_held`. Raises NotFound."""
    row = fetch_one("SELECT * FROM workers WHERE id = ?", (worker_id,))
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
        "SELECT * FROM workers ORDER BY last_seen_at DESC, id LIMIT ? OFFSET ?", (limit, offset)
    )
    return [_with_figures(row, heartbeat_seconds, now) for row in rows]


def _with_figures(row: Row, heartbeat_seconds: int, now: int) -> Row:
    held = fetch_one(
        "SELECT COUNT(*) AS held FROM tasks "
        f"{dialect().use_index.format('tasks_by_worker')} "
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
        "FROM workers ORDER BY workers.last_seen_at DESC LIMIT ?) AS seen_last",
        (*_limits(heartbeat_seconds, now), WORKERS_COUNTED),
    ).fetchall()
    return {
        "active": active,
        "stale": active_or_stale - active,
        "inactive": seen - active_or_stale,
    }
