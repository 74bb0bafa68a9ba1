"""Who holds a task: locking tasks, checking who may report on one, writing what changes.

A claim token names one attempt of one task. With a token only that attempt can
be touched; without one the worker's name must match, which cannot tell two
processes of the same name apart.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from taskmanager.access.caller import Caller
from taskmanager.clock import format_time
from taskmanager.db.statements import (
    MAX_ROWS,
    Row,
    execute,
    fetch_all,
    fetch_one,
    fetch_value,
    parts_of,
)
from taskmanager.errors import ClaimLost, NotAllowed, TaskFinished, TaskManagerError, TaskNotClaimed
from taskmanager.payloads.sealing import with_legible, with_sealed
from taskmanager.queue import dedupe, task_types
from taskmanager.queue.answer_size import LIGHT_COLUMNS, count_that_fits
from taskmanager.queue.read import FINISHED_STATUSES, require_task

# What one statement changes: tasks, each of which looks up its own values, and characters of
# their results and errors. Servers take packets of 1 MB and more.
MAX_TOGETHER = 50
MAX_TEXT_TOGETHER = 65_536

# What a task loses when its attempt is over.
NOT_CLAIMED: Row = {"claim_token": None, "claim_request_id": None, "lease_expires_at": None}
NO_PROGRESS: Row = {"progress": None, "progress_message": None}
_LIGHT = ", ".join(LIGHT_COLUMNS)

Update = tuple[Row, Row]  # a task of lock_tasks(), and the columns that change


class Holder(NamedTuple):
    """Who reports on a task: a worker's name and, better, the claim token of its attempt."""

    worker_id: str
    claim_token: str | None = None


def finished(status: str, now: int) -> Row:
    """The columns of a task that ends with this status."""
    ends_at = {"completed_at": now, "updated_at": now}
    return {**NOT_CLAIMED, **dedupe.KEYS_WHEN_FINISHED, "status": status, **ends_at}


def waiting_again(delay_seconds: float, now: int) -> Row:
    """The columns of a task that may be claimed again, after the delay."""
    available_at = now + round(delay_seconds * 1000)
    status = "scheduled" if available_at > now else "pending"
    return {**NOT_CLAIMED, "status": status, "available_at": available_at, "updated_at": now}


def put_back(task: Row, delay_seconds: float, now: int) -> Row:
    """The columns of a task whose attempt ends without being counted."""
    uncounted = {"attempts": max(0, task["attempts"] - 1)}
    return {**waiting_again(delay_seconds, now), **NO_PROGRESS, **uncounted}


def lock_tasks(task_ids: Sequence[int], caller: Caller) -> dict[int, Row]:
    """Rows by id, locked for this transaction, with type names and without params and results.

    An id that does not exist is left out, and so is a task of a type that the
    caller may not touch: to the caller it does not exist either.
    """
    # One order for everybody: two transactions that want the same rows cannot deadlock.
    ids = sorted(set(task_ids))
    rows: list[Row] = []
    for some in parts_of(ids, MAX_ROWS):
        rows += fetch_all(
            f"SELECT {_LIGHT} FROM {{tasks}} WHERE id IN ? ORDER BY id {{lock_rows}}", (some,)
        )
    # Only a completed task has a result, which a repeated report alone reads: see complete.py.
    return {
        row["id"]: {**with_legible(row), "result": None}
        for row in task_types.allowed_as_stored(rows, caller)
    }


def require_holder(
    task: Row | None, task_id: int, holder: Holder, *, reports_end: bool = False
) -> Row:
    """The task, where `holder` may still report on it.

    It may while the task is claimed with this token, also after the lease has
    expired, and after the task was requeued for that, until another attempt begins.
    After the task failed because its last lease expired, it may with `reports_end`:
    to report how that attempt ended. The token alone proves that it is its own.
    Raises NotFound, NotAllowed, TaskFinished, ClaimLost, TaskNotClaimed.
    """
    task = require_task(task, task_id)
    status = task["status"]
    # Of finished tasks only one that failed for its lease has a token.
    is_late = reports_end and task["claim_token"] is not None
    if status in FINISHED_STATUSES and not (is_late and holder.claim_token == task["claim_token"]):
        raise TaskFinished(
            f"Task {task_id} is already {status} (since {format_time(task['completed_at'])}) "
            "and stays so; nothing was changed.",
            code="task_cancelled" if status == "cancelled" else None,
            details={"status": status},
        )
    if holder.claim_token is not None and holder.claim_token != task["claim_token"]:
        raise _token_refused(task, holder.claim_token)
    if task["claim_token"] is None:
        raise TaskNotClaimed(
            f"Task {task_id} is {status}: nobody holds it. Claim it first.",
            details={"status": status},
        )
    if task["worker_id"] != holder.worker_id:
        raise NotAllowed(
            f"Task {task_id} is held by another worker than '{holder.worker_id}'.",
            code="claimed_by_other",
        )
    return task


# How an attempt came to its end, by the last event that names its token.
_ENDS = {
    "lease_expired": "has lost its lease",
    "released": "was handed back",
    "retry_scheduled": "was reported as failed",
    "failed": "was reported as failed",
}


def _token_refused(task: Row, claim_token: str) -> TaskManagerError:
    """The error that says what became of the attempt that the token named."""
    last = fetch_one(
        "SELECT event, attempt FROM {task_logs} WHERE task_id = ? AND claim_token = ? "
        "ORDER BY id DESC LIMIT 1",
        (task["id"], claim_token),
    )
    if last is None:
        return ClaimLost(
            f"The claim token was never given out for task {task['id']}, or so long ago that the "
            "task's history no longer has it.",
            details={"status": task["status"]},
        )
    # A cancellation names no token.
    attempt = f"Attempt {last['attempt']} of task {task['id']} " + _ENDS.get(
        last["event"], "ended when the task was cancelled"
    )
    latest_token = fetch_value(
        "SELECT claim_token FROM {task_logs} WHERE task_id = ? AND event = 'claimed' "
        "ORDER BY id DESC LIMIT 1",
        (task["id"],),
    )
    if latest_token != claim_token:
        return ClaimLost(
            f"{attempt} and another attempt has begun; nothing was changed. Stop working on it.",
            details={"status": task["status"], "attempts": task["attempts"]},
        )
    return TaskNotClaimed(
        f"{attempt}; the task is {task['status']} and nobody holds it now. Claim it again.",
        details={"status": task["status"]},
    )


def update_held(updates: Sequence[Update]) -> list[Row]:
    """Writes its changes to each of these tasks of `lock_tasks`; returns them as they are then.

    Nobody else can have changed them since: that is what the lock is for.
    """
    stored = [(task, with_sealed(changes, of=task)) for task, changes in updates]
    for some in [stored] if len(stored) == 1 else _batches(stored):
        _update_together(some)
    return [{**task, **changes} for task, changes in updates]


def _batches(updates: Sequence[Update]) -> Iterator[Sequence[Update]]:
    """Updates of the same columns together, as many as one statement may hold."""
    by_columns: dict[tuple[str, ...], list[Update]] = {}
    for task, changes in updates:
        by_columns.setdefault(tuple(changes), []).append((task, changes))
    for alike in by_columns.values():
        while alike:
            sizes = (
                sum(len(value) for value in changes.values() if isinstance(value, str))
                for _, changes in alike[:MAX_TOGETHER]
            )
            count = count_that_fits(sizes, MAX_TEXT_TOGETHER)
            yield alike[:count]
            del alike[:count]


def _update_together(updates: Sequence[Update]) -> None:
    """One UPDATE. A value that differs between the tasks is found by the task's id."""
    (_, first), *others = updates
    ids = [task["id"] for task, _ in updates]
    assignments, values = [], []
    for column, value in first.items():
        if others and any(changes[column] != value for _, changes in others):
            assignments.append(f"{column} = CASE id {'WHEN ? THEN ? ' * len(ids)}END")
            for task, changes in updates:
                values += [task["id"], changes[column]]
        else:
            assignments.append(f"{column} = ?")
            values.append(value)
    statuses = sorted({task["status"] for task, _ in updates})
    matched = execute(
        f"UPDATE {{tasks}} {{by_id}} SET {', '.join(assignments)} "
        "WHERE id IN ? AND status IN ? AND claim_token IN ?",
        (*values, ids, statuses, [task["claim_token"] for task, _ in updates]),
    ).rowcount
    if matched != len(ids):
        raise AssertionError(f"{matched} of {len(ids)} locked tasks were still held")
