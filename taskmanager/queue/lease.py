"""Leases: renewing the time that a worker holds tasks for, reporting progress, handing tasks back.

Who may do so is decided in holder.py.
"""

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from taskmanager.access.caller import Caller
from taskmanager.db.statements import Row, fetch_all
from taskmanager.db.transactions import rest_since, write_transaction
from taskmanager.errors import ClaimLost, TaskManagerError
from taskmanager.queue import history, workers
from taskmanager.queue.flow import deadlines, lanes, limits
from taskmanager.queue.holder import (
    Holder,
    lock_tasks,
    put_back,
    require_holder,
    update_held,
)

# What a worker that names no tasks holds is renewed and released in transactions of this many.
# One takes some 10 ms on two cores, and several times that on a slow host.
SLICE_TASKS = 250


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


def _require_renewable(
    task: Row | None, task_id: int, holder: Holder, places: limits.Places, now: int
) -> Row:
    """The task, where the holder may go on working on it. Raises what require_holder() raises."""
    held = require_holder(task, task_id, holder)
    if limits.is_expired(held, now):
        places.require(held)
    if deadlines.has_run_out(held, now):
        raise ClaimLost(
            f"The attempt has run for longer than the {held['max_run_seconds']} seconds of "
            "max_run_seconds; nothing was changed. Stop working on it.",
            details={"status": held["status"], "attempts": held["attempts"]},
        )
    if held["status"] != "claimed":
        lanes.restore(held)
    return held


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
        # Else max_run_seconds would not end an attempt that began before the clock was set back.
        claimed_at = min(task["claimed_at"], now)
        end = deadlines.lease_end(task, lease_seconds=seconds, claimed_at=claimed_at, now=now)
        lease = {"lease_seconds": seconds, "claimed_at": claimed_at, "lease_expires_at": end}
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
    held = [_require_renewable(task, task_id, holder, limits.Places(now), now)]
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
    released = update_held([(task, put_back(task, delay_seconds, now)) for task in tasks])
    lanes.record(released)
    if released:
        status = released[0]["status"]
        history.record(tasks, "released", status=status, caller=caller, now=now)
    return released


def _held_ids(worker_id: str, after: int) -> list[int]:
    """The first SLICE_TASKS of the tasks that the worker holds, of those with higher ids."""
    rows = fetch_all(
        "SELECT id FROM {tasks} {index tasks_by_worker} "
        "WHERE worker_id = ? AND status = 'claimed' AND id > ? ORDER BY id LIMIT ?",
        (worker_id, after, SLICE_TASKS),
    )
    return [row["id"] for row in rows]


def _in_slices(run_slice: Callable[[int], list[int]]) -> None:
    """Runs slices, each after the last id of the one before, until one is not full.

    After each it rests as long as the slice took, so that waiting writers get their turn.
    """
    last_id = 0
    while True:
        started = time.monotonic()
        ids = run_slice(last_id)
        if len(ids) < SLICE_TASKS:
            return
        last_id = ids[-1]
        rest_since(started)


Renewals = tuple[list[tuple[int, str]], list[Row]]


def renew_leases(
    *, worker_id: str, claims: Sequence[tuple[int, str | None]] | None, caller: Caller, now: int
) -> Renewals:
    """Renews the leases of the named claims, or of all that the worker holds where none are named.

    Returns per task `renewed`, `cancelled` or `lost`, and the renewed tasks. Raises
    nothing for a single claim that is gone.

    Transition: none, or pending → claimed where a lease had run out unnoticed by others.
    Commits together: the named claims, or SLICE_TASKS of all that the worker holds.
    Raises DatabaseUnavailable.
    A crash leaves the old leases of the slices that are still to come.
    """
    if claims is not None:
        return _renew_named(worker_id, claims, caller, now)
    outcomes: list[tuple[int, str]] = []
    renewed: list[Row] = []

    def renew_slice(after: int) -> list[int]:
        ids, (some_outcomes, some_renewed) = _renew_slice(worker_id, after, caller, now)
        outcomes.extend(some_outcomes)
        renewed.extend(some_renewed)
        return ids

    _in_slices(renew_slice)
    return outcomes, renewed


@write_transaction
def _renew_slice(
    worker_id: str, after: int, caller: Caller, now: int
) -> tuple[list[int], Renewals]:
    ids = _held_ids(worker_id, after)
    tasks = lock_tasks(ids, caller)
    return ids, _renew_locked(worker_id, [(each, None) for each in tasks], tasks, caller, now)


@write_transaction
def _renew_named(
    worker_id: str, claims: Sequence[tuple[int, str | None]], caller: Caller, now: int
) -> Renewals:
    tasks = lock_tasks([task_id for task_id, _ in claims], caller)
    return _renew_locked(worker_id, claims, tasks, caller, now)


def _renew_locked(
    worker_id: str,
    claims: Iterable[tuple[int, str | None]],
    tasks: Mapping[int, Row],
    caller: Caller,
    now: int,
) -> Renewals:
    outcomes = []
    renewed: dict[int, Row] = {}
    places = limits.Places(now)
    for task_id, claim_token in claims:
        task = tasks.get(task_id)
        if task and task["status"] == "cancelled":
            outcomes.append((task_id, "cancelled"))
            continue
        try:
            holder = Holder(worker_id, claim_token)
            renewed[task_id] = _require_renewable(task, task_id, holder, places, now)
            outcomes.append((task_id, "renewed"))
        except TaskManagerError:
            outcomes.append((task_id, "lost"))
    tasks_renewed = _renew(renewed.values(), caller=caller, now=now)
    workers.record_sign_of_life(worker_id, now=now)
    return outcomes, tasks_renewed


def shut_down_worker(*, worker_id: str, caller: Caller, now: int) -> tuple[bool, list[int]]:
    """Hands back what the worker holds; returns whether it is inactive then, and the tasks' ids.

    Tasks of types that the caller may not touch stay claimed, and a worker that holds such tasks
    stays as it is.

    Transition: claimed → pending, the attempts not counted.
    Commits together: SLICE_TASKS tasks each, and at last that the worker is inactive.
    Raises DatabaseUnavailable.
    A crash leaves the tasks of the slices that are still to come claimed until their leases
    expire, or until the call is sent again.
    """
    released: list[int] = []

    def release_slice(after: int) -> list[int]:
        ids, some = _release_slice(worker_id, after, caller, now)
        released.extend(some)
        return ids

    _in_slices(release_slice)
    if workers.holds_others(worker_id, caller=caller):
        return False, released
    workers.mark_shut_down(worker_id, now=now)
    return True, released


@write_transaction
def _release_slice(
    worker_id: str, after: int, caller: Caller, now: int
) -> tuple[list[int], list[int]]:
    ids = _held_ids(worker_id, after)
    held = [
        task
        for task in lock_tasks(ids, caller).values()
        if task["status"] == "claimed" and task["worker_id"] == worker_id
    ]
    _release(held, 0, caller, now)
    return ids, [task["id"] for task in held]
