"""The lease that a worker holds on an attempt: who may report, renewing it, handing it back.

A claim token names one attempt of one task. With a token only that attempt can
be touched; without one the worker's name must match, which cannot tell two
processes of the same name apart.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from taskmanager.access.caller import Caller
from taskmanager.clock import format_time
from taskmanager.db.statements import MAX_ROWS, Row, execute, fetch_all, fetch_one
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import ClaimLost, NotAllowed, TaskFinished, TaskManagerError, TaskNotClaimed
from taskmanager.queue import history, task_types, workers
from taskmanager.queue.answer_size import LIGHT_COLUMNS, count_that_fits
from taskmanager.queue.read import FINISHED_STATUSES, task_not_found

# What one statement changes: tasks, each of which looks up its own values, and characters of
# their results and errors. Servers take packets of 1 MB and more.
MAX_TOGETHER = 50
MAX_TEXT_TOGETHER = 65_536

# What a task loses when its attempt is over.
NOT_CLAIMED: Row = {"claim_token": None, "claim_request_id": None, "lease_expires_at": None}
_LIGHT = ", ".join(LIGHT_COLUMNS)


class Holder(NamedTuple):
    """Who reports on a task: a worker's name and, better, the claim token of its attempt."""

    worker_id: str
    claim_token: str | None = None


def lock_tasks(task_ids: Sequence[int], caller: Caller) -> dict[int, Row]:
    """Rows by id, locked for this transaction, with type names and without params and results.

    An id that does not exist is left out, and so is a task of a type that the
    caller may not touch: to the caller it does not exist either.
    """
    # One order for everybody: two transactions that want the same rows cannot deadlock.
    ids = sorted(set(task_ids))
    rows: list[Row] = []
    for start in range(0, len(ids), MAX_ROWS):
        some = ids[start : start + MAX_ROWS]
        rows += fetch_all(
            f"SELECT {_LIGHT} FROM {{tasks}} WHERE id IN ? ORDER BY id {{lock_rows}}", (some,)
        )
    # Only a completed task has a result, which a repeated report alone reads: see complete.py.
    named = (
        {**row, "result": None, "type": task_types.name_of(row["task_type_id"])} for row in rows
    )
    return {row["id"]: row for row in named if caller.may_touch(row["type"])}


def require_holder(task: Row | None, task_id: int, holder: Holder) -> Row:
    """The task, where `holder` may still report on it.

    That is while it is claimed with this token, also past the lease's end, and
    after it was taken back for lack of signs of life, until another attempt begins.
    Raises NotFound, NotAllowed, TaskFinished, ClaimLost, TaskNotClaimed.
    """
    if task is None:
        raise task_not_found(task_id)
    status = task["status"]
    if status in FINISHED_STATUSES:
        raise TaskFinished(
            f"Task {task_id} is already {status} (since {format_time(task['completed_at'])}) "
            "and stays so; nothing was changed.",
            code="task_cancelled" if status == "cancelled" else None,
            details={"status": status},
        )
    if holder.claim_token is not None and task["claim_token"] == holder.claim_token:
        if task["worker_id"] != holder.worker_id:
            raise NotAllowed(
                f"Task {task_id} is held by another worker than '{holder.worker_id}'.",
                code="claimed_by_other",
            )
        return task
    if holder.claim_token is not None:
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
    "released": "was given back",
    "retry_scheduled": "was reported as failed",
    "failed": "was reported as failed",
}


def _token_refused(task: Row, claim_token: str) -> TaskManagerError:
    """Says what became of the attempt that the token named."""
    last = fetch_one(
        "SELECT event, attempt FROM {task_logs} WHERE task_id = ? AND claim_token = ? "
        "ORDER BY id DESC LIMIT 1",
        (task["id"], claim_token),
    )
    if last is None:
        return ClaimLost(
            f"The claim token was never given out for task {task['id']}.",
            details={"status": task["status"]},
        )
    # A cancellation names no token.
    attempt = f"Attempt {last['attempt']} of task {task['id']} " + _ENDS.get(
        last["event"], "ended when the task was cancelled"
    )
    latest = fetch_one(
        "SELECT claim_token FROM {task_logs} WHERE task_id = ? AND event = 'claimed' "
        "ORDER BY id DESC LIMIT 1",
        (task["id"],),
    )
    if latest is not None and latest["claim_token"] != claim_token:
        return ClaimLost(
            f"{attempt} and another attempt has begun; nothing was changed. Stop working on it.",
            details={"status": task["status"], "attempts": task["attempts"]},
        )
    return TaskNotClaimed(
        f"{attempt}; the task is {task['status']} and nobody holds it now. Claim it again.",
        details={"status": task["status"]},
    )


def update_held(updates: Sequence[tuple[Row, Row]]) -> list[Row]:
    """Writes its changes to each of these tasks of `lock_tasks`; returns them as they are then.

    Nobody else can have changed them since: that is what the lock is for.
    """
    for some in [updates] if len(updates) == 1 else _those_for_one_statement(updates):
        _update_together(some)
    return [{**task, **changes} for task, changes in updates]


def _those_for_one_statement(
    updates: Sequence[tuple[Row, Row]],
) -> Iterator[Sequence[tuple[Row, Row]]]:
    by_columns: dict[tuple[str, ...], list[tuple[Row, Row]]] = {}
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


def _update_together(updates: Sequence[tuple[Row, Row]]) -> None:
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


def _renewed(task: Row, lease_seconds: int | None, now: int) -> Row:
    """The columns of a renewed lease. A requeued task that nobody else took is claimed again."""
    seconds = lease_seconds or task["lease_seconds"]
    return {
        "status": "claimed",
        "lease_seconds": seconds,
        "lease_expires_at": now + seconds * 1000,
        "updated_at": now,
    }


def _renew(updates: Sequence[tuple[Row, Row]], caller: Caller, now: int) -> list[Row]:
    renewed = update_held(updates)
    restored = [task for task, _ in updates if task["status"] != "claimed"]
    history.record_each(restored, event="lease_restored", status="claimed", caller=caller, now=now)
    return renewed


@write_transaction
def send_heartbeat(
    *, task_id: int, holder: Holder, lease_seconds: int | None, caller: Caller, now: int
) -> tuple[Row, bool]:
    """Renews the lease of one task; returns it and whether it has been cancelled meanwhile.

    Transition: none, or pending → claimed where the lease had run out unnoticed by others.
    Commits together: the lease and the worker's sign of life.
    Raises NotFound, NotAllowed, TaskFinished, ClaimLost, TaskNotClaimed.
    A crash leaves the old lease.
    """
    found = lock_tasks([task_id], caller).get(task_id)
    if found is not None and found["status"] == "cancelled":
        return found, True
    task = require_holder(found, task_id, holder)
    [task] = _renew([(task, _renewed(task, lease_seconds, now))], caller, now)
    workers.record_sign_of_life(holder.worker_id, now=now)
    return task, False


@write_transaction
def report_progress(
    *,
    task_id: int,
    holder: Holder,
    progress: int,
    message: str | None,
    caller: Caller,
    now: int,
) -> tuple[Row, bool]:
    """Stores how far a task is, 0 to 100, and renews its lease; otherwise as `send_heartbeat`."""
    found = lock_tasks([task_id], caller).get(task_id)
    if found is not None and found["status"] == "cancelled":
        return found, True
    task = require_holder(found, task_id, holder)
    changes = {
        **_renewed(task, None, now),
        "progress": progress,
        "progress_message": message,
    }
    [task] = _renew([(task, changes)], caller, now)
    workers.record_sign_of_life(holder.worker_id, now=now)
    return task, False


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
    available_at = now + round(delay_seconds * 1000)
    changes = {
        **NOT_CLAIMED,
        "status": "scheduled" if available_at > now else "pending",
        "available_at": available_at,
        "progress": None,
        "progress_message": None,
        "updated_at": now,
    }
    released = update_held(
        [(task, {**changes, "attempts": max(0, task["attempts"] - 1)}) for task in tasks]
    )
    history.record_each(tasks, event="released", status=changes["status"], caller=caller, now=now)
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
    *,
    worker_id: str,
    claims: Sequence[tuple[int, str | None]] | None,
    caller: Caller,
    now: int,
) -> list[tuple[int, str]]:
    """Renews the leases of the named claims, or of all that the worker holds where none are named.

    Returns per task `renewed`, `cancelled` or `lost`. Raises nothing for a
    single claim that is gone.
    """
    ids = _held_ids(worker_id) if claims is None else [task_id for task_id, _ in claims]
    tasks = lock_tasks(ids, caller)
    named = [(task_id, None) for task_id in tasks] if claims is None else claims
    outcomes = []
    updates: dict[int, tuple[Row, Row]] = {}
    for task_id, claim_token in named:
        task = tasks.get(task_id)
        if task and task["status"] == "cancelled":
            outcomes.append((task_id, "cancelled"))
            continue
        try:
            held = require_holder(
                task, task_id, Holder(worker_id=worker_id, claim_token=claim_token)
            )
            updates[task_id] = held, _renewed(held, None, now)
            outcomes.append((task_id, "renewed"))
        except TaskManagerError:
            outcomes.append((task_id, "lost"))
    _renew(list(updates.values()), caller, now)
    workers.record_sign_of_life(worker_id, now=now)
    return outcomes


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
