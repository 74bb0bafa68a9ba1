"""Operating on tasks from outside: cancelling a task, or retrying one that has ended."""

from collections.abc import Sequence

import peewee

from taskmanager.access import audit
from taskmanager.access.caller import Caller
from taskmanager.clock import format_time
from taskmanager.db.errors import is_duplicate
from taskmanager.db.statements import Row, update
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import Conflict, TaskFinished
from taskmanager.queue import dedupe, endings, history
from taskmanager.queue.flow import failed_dependencies
from taskmanager.queue.holder import NO_PROGRESS, finished, lock_tasks, waiting_again
from taskmanager.queue.read import FINISHED_STATUSES, get_task, require_task


@write_transaction
def cancel_task(*, task_id: int, reason: str | None, caller: Caller, now: int) -> Row:
    """Ends an unfinished task for good; cancelling a cancelled one changes nothing.

    Transition: blocked, scheduled, pending or claimed → cancelled. The worker that holds
    it is told at its next heartbeat, progress report or completion.
    Commits together: the transition, its history row, the delivery to a webhook and
    the audit event.
    Raises NotFound, TaskFinished.
    A crash leaves the task as it was.
    """
    task = require_task(lock_tasks([task_id], caller).get(task_id), task_id)
    if task["status"] == "cancelled":
        return task
    if task["status"] in FINISHED_STATUSES:
        raise TaskFinished(
            f"Task {task_id} is already {task['status']}; only an unfinished task can be "
            "cancelled.",
            details={"status": task["status"]},
        )
    return _intervene(task, "cancelled", cancellation(task, now), reason, caller, now)


@write_transaction
def retry_task(*, task_id: int, caller: Caller, now: int) -> Row:
    """Makes a failed or cancelled task pending again and resets its attempts.

    Transition: failed or cancelled → pending, or blocked while it waits for another task.
    Commits together: the transition, its history row and the audit event.
    Raises NotFound, and Conflict where the task is in another state, was pruned, depends on a
    task that did not complete, or an unfinished task with the same dedupe key exists.
    A crash leaves the task as it was.
    """
    task = require_task(lock_tasks([task_id], caller).get(task_id), task_id)
    if task["status"] not in ("failed", "cancelled"):
        raise Conflict(
            f"Task {task_id} is {task['status']}; only a failed or cancelled task can be retried.",
            code="task_not_retryable",
            details={"status": task["status"]},
        )
    if task["pruned_at"] is not None:
        raise Conflict(
            f"Task {task_id} was pruned at {format_time(task['pruned_at'])}: its params are gone, "
            "so it cannot be retried. It only keeps others with the same dedupe key from being "
            f"created, until {format_time(task['dedupe_until'])}.",
            code="task_not_retryable",
            details={"status": task["status"]},
        )
    try:
        retried = _intervene(task, "retried", new_attempts(task, now), None, caller, now)
    except peewee.IntegrityError as error:
        if not is_duplicate(error):
            raise
        raise Conflict(
            f"Task {task_id} cannot be retried: an unfinished task with the same dedupe key "
            "exists.",
            code="duplicate_task",
        ) from None
    if task["on_dependency_failed"] is None:
        return retried
    found = get_task(task_id=task_id, caller=caller)
    if found["status"] == "cancelled":
        raise failed_dependencies.refusal(task_id, caller)
    return found


def cancellation(task: Row, now: int) -> Row:
    """The columns of an unfinished task that is cancelled."""
    return finished("cancelled", now)


def new_attempts(task: Row, now: int) -> Row:
    """The columns of a failed or cancelled task that is tried again."""
    return {
        **waiting_again(0, now),
        **dedupe.keys_of_retried(task, now),
        **NO_PROGRESS,
        "attempts": 0,
        "worker_id": None,
        "claimed_at": None,
        "completed_at": None,
        "expires_at": None,
    }


def _intervene(
    task: Row, event: str, changes: Row, reason: str | None, caller: Caller, now: int
) -> Row:
    guard = (task["id"], task["status"])
    if not update("tasks", changes, "id = ? AND status = ?", guard, hint="{by_id}"):
        raise Conflict(f"Task {task['id']} has changed meanwhile; nothing was done.")
    record_intervention([task], event, changes, reason, caller, now)
    message = f"task {task['id']} ({task['type']}) {event} by {caller.name}"
    audit.record(event=f"task_{event}", message=message, caller=caller, now=now)
    return {**task, **changes}


def record_intervention(
    tasks: Sequence[Row], event: str, changes: Row, reason: str | None, caller: Caller, now: int
) -> None:
    """Stores in the history of tasks what somebody did to them from outside, and follows it.

    `tasks` are rows as they were before, `changes` the columns that were changed, with `status`.
    """
    status = changes["status"]
    # Without the claim token, so that it still tells how its attempt ended.
    rows = [{**task, "claim_token": None} for task in tasks]
    history.record(rows, event, status=status, message=reason, caller=caller, now=now)
    endings.record([{**task, **changes} for task in tasks], now=now)
    if event == "retried":
        endings.record_retries(tasks, now=now)
