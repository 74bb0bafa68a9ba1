"""Deadlines: by when a task must have been claimed, and for how long an attempt may run.

Owns the table task_deadlines: a row for each task that came with `expires_at`, until then. Refuses
to find attempts that are over: maintenance.py finds them among the leases that expire.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from taskmanager.clock import format_time
from taskmanager.db.statements import Row, execute, fetch_all, update
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import InvalidRequest
from taskmanager.payloads.sealing import with_sealed
from taskmanager.queue import endings, history, retry, task_types
from taskmanager.queue.columns import MAX_DELAY_SECONDS
from taskmanager.queue.flow import lanes
from taskmanager.queue.holder import finished, update_held, waiting_again
from taskmanager.queue.read import WAITING_STATUSES

CANCELLED_BY_A_CLAIM = 25  # late tasks that a claim clears out of its way at a time

NEXT = "SELECT expires_at FROM {task_deadlines} ORDER BY expires_at LIMIT 1"
_COLUMNS = (
    "id, task_type_id, status, attempts, worker_id, claim_token, notify, batch_id, expires_at, "
    f"payload_key, dependents, {lanes.COLUMNS}"
)
_EXPIRED: Row = {
    "error_code": "expired",
    "error_message": "No worker claimed the task before its deadline.",
}


def deadline_of(request: Mapping[str, Any], *, available_at: int, now: int) -> int | None:
    """When a requested task expires, in milliseconds; None: never.

    Raises InvalidRequest for a deadline that no worker can meet.
    """
    moment, seconds = request.get("expires_at"), request.get("expires_in_seconds")
    if moment is not None and seconds is not None:
        raise InvalidRequest("Send expires_at or expires_in_seconds, not both.")
    if seconds is not None:
        moment = round(now + seconds * 1000)
    if moment is None:
        return None
    if moment <= available_at:
        raise InvalidRequest(
            f"The task would expire at {format_time(moment)}, but no worker can claim it before "
            f"{format_time(available_at)}."
        )
    if moment > now + MAX_DELAY_SECONDS * 1000:
        raise InvalidRequest("expires_at is more than ten years away.")
    return int(moment)


def is_late(task: Row, now: int) -> bool:
    """Whether nobody may claim the task any more. Its first claim takes the deadline away."""
    return task["expires_at"] is not None and task["expires_at"] <= now


def without_late(locked: list[Row], now: int) -> list[Row]:
    """Of tasks that a claim has locked, those that it may claim. The others are cancelled."""
    if any(is_late(task, now) for task in locked):
        cancel_late(now=now, rows=CANCELLED_BY_A_CLAIM)
    return [task for task in locked if not is_late(task, now)]


@write_transaction
def cancel_late_slice(*, now: int, rows: int) -> int:
    """Cancels up to `rows` tasks that nobody claimed in time; returns how many deadlines are over.

    Transition: blocked, scheduled or pending → cancelled, with `expired`.
    Commits together: the slice's transitions, their history rows and deliveries.
    Raises DatabaseUnavailable.
    A crash leaves the slice as it was.
    """
    return cancel_late(now=now, rows=rows)


def cancel_late(*, now: int, rows: int) -> int:
    """The same as part of a transaction."""
    over = fetch_all(
        "SELECT task_id FROM {task_deadlines} WHERE expires_at <= ? ORDER BY expires_at LIMIT ?",
        (now, rows),
    )
    if not over:
        return 0
    ids = sorted(row["task_id"] for row in over)
    locked = fetch_all(
        f"SELECT {_COLUMNS} FROM {{tasks}} WHERE id IN ? ORDER BY id {{lock_rows}}", (ids,)
    )
    waiting = [task for task in locked if task["status"] in WAITING_STATUSES]
    _cancel([task for task in waiting if is_late(task, now)], now)
    execute("DELETE FROM {task_deadlines} WHERE task_id IN ?", (ids,))
    return len(over)


def _cancel(tasks: Sequence[Row], now: int) -> None:
    if not tasks:
        return
    changes = {**finished("cancelled", now), **_EXPIRED}
    plain = [[task["id"] for task in tasks if task["payload_key"] is None]]
    sealed = [[task["id"]] for task in tasks if task["payload_key"] is not None]
    of = {task["id"]: task for task in tasks}
    for ids in filter(None, plain + sealed):
        stored = with_sealed(changes, of=of[ids[0]])
        if update("tasks", stored, "id IN ?", (ids,), hint="{by_id}") != len(ids):
            raise AssertionError("a locked task was gone")
    message = _EXPIRED["error_message"]
    history.record(tasks, "expired", status="cancelled", message=message, now=now)
    ended = [task_types.with_type_name({**task, "status": "cancelled"}) for task in tasks]
    endings.record(ended, now=now)


def lease_end(task: Row, *, lease_seconds: int, claimed_at: int, now: int) -> int:
    """When a lease of `lease_seconds` from now ends: not after the attempt has to end."""
    end = now + lease_seconds * 1000
    if task["max_run_seconds"] is None:
        return end
    return min(end, claimed_at + int(task["max_run_seconds"]) * 1000)


def has_run_out(task: Row, now: int) -> bool:
    """Whether the present attempt has run for as long as it may."""
    return task["max_run_seconds"] is not None and _run_end(task) <= now


def is_timed_out(task: Row) -> bool:
    """Whether a lease that has expired could not be renewed because the attempt had to end."""
    return task["max_run_seconds"] is not None and _run_end(task) <= task["lease_expires_at"]


def _run_end(task: Row) -> int:
    return int(task["claimed_at"] + task["max_run_seconds"] * 1000)


def end_attempts(tasks: Sequence[Row], *, now: int) -> None:
    """Ends attempts that have run for too long, each as a failure that may be retried.

    Part of a transaction that has locked these claimed tasks.
    """
    policies = task_types.retry_policies({task["task_type_id"] for task in tasks})
    for task in tasks:
        delay = retry.retry_delay(
            policy=policies[task["task_type_id"]],
            attempts=task["attempts"],
            max_attempts=task["max_attempts"],
            is_retryable=True,
            retry_after_seconds=None,
        )
        message = f"The attempt ran for longer than {task['max_run_seconds']} seconds."
        error = {"error_code": "timed_out", "error_message": message}
        changes = finished("failed", now) if delay is None else waiting_again(delay, now)
        [ended] = update_held([(task, {**changes, **error})])
        history.record(
            [task],
            "failed" if delay is None else "retry_scheduled",
            status=changes["status"],
            message=message,
            metadata={
                "error_code": "timed_out",
                "is_retryable": True,
                "available_at": changes.get("available_at"),
            },
            now=now,
        )
        endings.record([task_types.with_type_name(ended)], now=now)
