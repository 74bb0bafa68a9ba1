"""Operating on tasks from outside: cancelling a task, or retrying one that has ended."""

import peewee

from taskmanager.access import audit
from taskmanager.access.caller import Caller
from taskmanager.db.errors import is_duplicate
from taskmanager.db.statements import Row, update
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import Conflict, TaskFinished
from taskmanager.queue import dedupe, history
from taskmanager.queue.holder import NOT_CLAIMED, lock_tasks
from taskmanager.queue.read import FINISHED_STATUSES, task_not_found


@write_transaction
def cancel_task(*, task_id: int, reason: str | None, caller: Caller, now: int) -> Row:
    """Ends an unfinished task for good; cancelling a cancelled one changes nothing.

    Transition: scheduled, pending or claimed → cancelled. The worker that holds
    it is told at its next heartbeat, progress report or completion.
    Commits together: the transition, its history row and the audit event.
    Raises NotFound, TaskFinished.
    A crash leaves the task as it was.
    """
    task = _locked(task_id, caller)
    if task["status"] == "cancelled":
        return task
    if task["status"] in FINISHED_STATUSES:
        raise TaskFinished(
            f"Task {task_id} is already {task['status']}; only an unfinished task can be "
            "cancelled.",
            details={"status": task["status"]},
        )
    return _intervene(
        task,
        "cancelled",
        {
            **NOT_CLAIMED,
            **dedupe.KEYS_WHEN_FINISHED,
            "status": "cancelled",
            "completed_at": now,
            "updated_at": now,
        },
        reason,
        caller,
        now,
    )


@write_transaction
def retry_task(*, task_id: int, caller: Caller, now: int) -> Row:
    """Makes a failed or cancelled task pending again and resets its attempts.

    Transition: failed or cancelled → pending.
    Commits together: the transition, its history row and the audit event.
    Raises NotFound, and Conflict where the task is in another state or an
    unfinished task with the same dedupe key exists.
    A crash leaves the task as it was.
    """
    task = _locked(task_id, caller)
    if task["status"] not in ("failed", "cancelled"):
        raise Conflict(
            f"Task {task_id} is {task['status']}; only a failed or cancelled task can be retried.",
            code="task_not_retryable",
            details={"status": task["status"]},
        )
    try:
        return _intervene(
            task,
            "retried",
            {
                **NOT_CLAIMED,
                **dedupe.held_keys(task["dedupe"]),
                "status": "pending",
                "attempts": 0,
                "worker_id": None,
                "claimed_at": None,
                "progress": None,
                "progress_message": None,
                "completed_at": None,
                "available_at": now,
                "updated_at": now,
            },
            None,
            caller,
            now,
        )
    except peewee.IntegrityError as error:
        if not is_duplicate(error):
            raise
        raise Conflict(
            f"Task {task_id} cannot be retried: an unfinished task with the same dedupe key "
            "exists.",
            code="duplicate_task",
        ) from None


def _locked(task_id: int, caller: Caller) -> Row:
    task = lock_tasks([task_id], caller).get(task_id)
    if task is None:
        raise task_not_found(task_id)
    return task


def _intervene(
    task: Row, event: str, changes: Row, reason: str | None, caller: Caller, now: int
) -> Row:
    guard = (task["id"], task["status"])
    if not update("tasks", changes, "id = ? AND status = ?", guard, hint="{by_id}"):
        raise Conflict(f"Task {task['id']} has changed meanwhile; nothing was done.")
    history.record(
        [
            history.event_row(
                task_id=task["id"],
                event=event,
                status=changes["status"],
                attempt=task["attempts"],
                worker_id=task["worker_id"],
                api_key_id=caller.key_id,
                message=reason,
                now=now,
            )
        ]
    )
    audit.record(
        event=f"task_{event}",
        message=f"task {task['id']} ({task['type']}) {event} by {caller.name}",
        caller=caller,
        now=now,
    )
    return {**task, **changes}
