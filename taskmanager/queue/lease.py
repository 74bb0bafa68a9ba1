"""Leases: renewing the time that a worker holds tasks for, reporting progress, handing tasks back.

Who may do so is decided in holder.py.
"""

import math
from collections.abc import Collection, Iterable, Sequence

from taskmanager.access.caller import Caller
from taskmanager.db.statements import Row, fetch_all
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import TaskManagerError
from taskmanager.queue import history, workers
from taskmanager.queue.holder import (
    NO_PROGRESS,
    Holder,
    lock_tasks,
    require_holder,
    update_held,
    waiting_again,
)


def next_heartbeat_in(tasks: Iterable[Row], *, heartbeat_seconds: int, now: int) -> float:
    """Seconds until their worker's next heartbeat: a third of what is left of the shortest lease.

    At most `heartbeat_seconds`. A worker that obeys may so miss one and still hold its tasks.
    Rounded down: to whole seconds, or below one second to hundredths.
    """
    ends = [task["lease_expires_at"] for task in tasks if task["lease_expires_at"] is not None]
    if not ends:
        return heartbeat_seconds
    third: float = (min(ends) - now) / 3000
    return min(heartbeat_seconds, math.floor(third) or math.floor(third * 100) / 100)


def _renew(
    tasks: Collection[Row],
    *,
    lease_seconds: int | None = None,
    progress: Row | None = None,
    caller: Caller,
    now: int,
) -> list[Row]:
    """Renews the leases. A requeued task that nobody else took is claimed again."""
    updates = []
    for task in tasks:
        seconds = lease_seconds or task["lease_seconds"]
        lease = {"lease_seconds": seconds, "lease_expires_at": now + seconds * 1000}
        changes = {"status": "claimed", **lease, "updated_at": now, **(progress or {})}
        updates.append((task, changes))
    renewed = update_held(updates)
    restored = [task for task in tasks if task["status"] != "claimed"]
    history.record(restored, "lease_restored", status="claimed", caller=caller, now=now)
    return renewed


@write_transaction
def renew_lease(
    *,
    task_id: int,
    holder: Holder,
    lease_seconds: int | None = None,
    progress: Row | None = None,
    caller: Caller,
    now: int,
) -> Row:
    """Renews the lease of one task; one that has been cancelled meanwhile is returned as it is.

    `progress` has the columns that say how far the task is, where the worker reports it.

    Transition: none, or pending → claimed where the lease had run out unnoticed by others.
    Commits together: the lease, the progress and the worker's sign of life.
    Raises NotFound, NotAllowed, TaskFinished, ClaimLost, TaskNotClaimed.
    A crash leaves the old lease.
    """
    task = lock_tasks([task_id], caller).get(task_id)
    if task is not None and task["status"] == "cancelled":
        return task
    held = [require_holder(task, task_id, holder)]
    [task] = _renew(held, lease_seconds=lease_seconds, progress=progress, caller=caller, now=now)
    workers.record_sign_of_life(holder.worker_id, now=now)
    return task


@write_transaction
def release_task(
    *, task_id: int, holder: Holder, delay_seconds: float, caller: Caller, now: int
) -> Row:
    """Hands a task back unprocessed; the attempt is not counted.

    Transition: claimed → pending, or → scheduled with a delay.
    Commits together: the transition and its history row.
    Raises NotFound, NotAllowed, TaskFinished, ClaimLost, TaskNotClaimed.
    A crash leaves it claimed.
    """
    task = require_holder(lock_tasks([task_id], caller).get(task_id), task_id, holder)
    workers.record_sign_of_life(holder.worker_id, now=now)
    [released] = _release([task], delay_seconds, caller, now)
    return released


def _release(tasks: Sequence[Row], delay_seconds: float, caller: Caller, now: int) -> list[Row]:
    changes = {**waiting_again(delay_seconds, now), **NO_PROGRESS}
    released = update_held(
        [(task, {**changes, "attempts": max(0, task["attempts"] - 1)}) for task in tasks]
    )
    history.record(tasks, "released", status=changes["status"], caller=caller, now=now)
    return released


def _held_ids(worker_id: str) -> list[int]:
    rows = fetch_all(
        "SELECT id FROM {tasks} {index tasks_by_worker} "
        "WHERE worker_id = ? AND status = 'claimed' ORDER BY id",
        (worker_id,),
    )
    return [row["id"] for row in rows]


@write_transaction
def renew_leases(
    *, worker_id: str, claims: Sequence[tuple[int, str | None]] | None, caller: Caller, now: int
) -> tuple[list[tuple[int, str]], list[Row]]:
    """Renews the leases of the named claims, or of all that the worker holds where none are named.

    Returns per task `renewed`, `cancelled` or `lost`, and the renewed tasks. Raises
    nothing for a single claim that is gone.
    """
    ids = _held_ids(worker_id) if claims is None else [task_id for task_id, _ in claims]
    tasks = lock_tasks(ids, caller)
    outcomes = []
    renewed: dict[int, Row] = {}
    for task_id, claim_token in claims if claims is not None else [(each, None) for each in tasks]:
        task = tasks.get(task_id)
        if task and task["status"] == "cancelled":
            outcomes.append((task_id, "cancelled"))
            continue
        try:
            renewed[task_id] = require_holder(task, task_id, Holder(worker_id, claim_token))
            outcomes.append((task_id, "renewed"))
        except TaskManagerError:
            outcomes.append((task_id, "lost"))
    tasks_renewed = _renew(renewed.values(), caller=caller, now=now)
    workers.record_sign_of_life(worker_id, now=now)
    return outcomes, tasks_renewed


@write_transaction
def shut_down_worker(*, worker_id: str, caller: Caller, now: int) -> list[int]:
    """Hands back what the worker holds and marks it inactive; returns the tasks' ids.

    Tasks of types that the caller may not touch stay claimed.

    Transition: claimed → pending, the attempts not counted.
    Commits together: all of it.
    Raises DatabaseUnavailable.
    A crash leaves the tasks claimed until their leases expire.
    """
    held = [
        task
        for task in lock_tasks(_held_ids(worker_id), caller).values()
        if task["status"] == "claimed" and task["worker_id"] == worker_id
    ]
    _release(held, 0, caller, now)
    workers.mark_shut_down(worker_id, now=now)
    return [task["id"] for task in held]
