"""Handing out tasks: each to one worker, the most urgent and oldest first.

Owns the decision of what a worker may take. How the next tasks are found and
locked is in claim_sql.py.
"""

import logging
import math
import secrets
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from taskmanager.access.caller import Caller
from taskmanager.db.statements import Row, execute, fetch_all
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import NoTaskAvailable, PayloadUnreadable
from taskmanager.payloads.sealing import with_opened
from taskmanager.queue import history, maintenance, task_types, workers
from taskmanager.queue.answer_size import MAX_ANSWER_TEXT
from taskmanager.queue.claim_sql import (
    OF_ITS_END,
    ClaimOrder,
    find_heads,
    lock_chosen,
    lock_next,
)
from taskmanager.queue.flow import deadlines, lanes, limits
from taskmanager.queue.task_types import TaskDefaults
from taskmanager.wakeups import topics

log = logging.getLogger(__name__)

MAX_ROUNDS = 20  # of looking again, while other workers take first what was found
POLL_SECONDS_EMPTY = 5
POLL_SECONDS_PAUSED = 15


class ClaimRequest(NamedTuple):
    """What a worker asks for. Of several filters all must hold; None filters nothing."""

    worker_id: str
    order: ClaimOrder
    type_ids: Sequence[int] | None = None
    type_names: Sequence[str] | None = None
    type_pattern: str | None = None
    limit: int = 1
    lease_seconds: int | None = None
    request_id: str | None = None


def claim_tasks(
    request: ClaimRequest, *, defaults: TaskDefaults, caller: Caller, now: int
) -> list[Row]:
    """Claims up to `request.limit` tasks, or fewer if their params are too large for one answer.

    Each row has its own `claim_token`.

    Transition: pending → claimed.
    Commits together: the claim, the counted attempt and the history row.
    Raises NoTaskAvailable, with a hint when to ask again, having written nothing;
    PayloadUnreadable if none of the tasks can be decrypted. If only some cannot, they are
    left out, and stay claimed until their lease expires.
    A crash after the commit leaves the tasks claimed until their lease expires, or
    until the worker sends the same request_id and gets them again.
    """
    if request.request_id and (repeated := _given_before(request, caller, now)):
        return _readable(repeated)
    maintenance.run_slice_if_due(defaults=defaults, now=now)
    for rounds_left in reversed(range(MAX_ROUNDS)):
        types = _claimable_types(request, caller, defaults, now)
        if any(task_type["some_task_id"] for task_type in types):
            if tasks := _take(request, types, caller, now):
                return _readable(tasks)
        # The last round runs no maintenance: no round would follow to claim what becomes due.
        elif not rounds_left or not maintenance.run_slice(defaults=defaults, now=now):
            break
    # The same request, sent twice at once, may have been given the last tasks meanwhile.
    if request.request_id and (repeated := _given_before(request, caller, now)):
        return _readable(repeated)
    raise _nothing_available(request, types, now)


def _readable(tasks: list[Row]) -> list[Row]:
    """The tasks with their texts opened, without those that cannot be decrypted."""
    found, problem = [], None
    for task in tasks:
        try:
            found.append(with_opened(task))
        except PayloadUnreadable as error:
            log.error("task %s is claimed in vain: %s", task["id"], error.message)
            problem = error
    if problem and not found:
        raise problem
    return found


@write_transaction
def _take(request: ClaimRequest, types: Sequence[Row], caller: Caller, now: int) -> list[Row]:
    if request.request_id:
        # Both of two parallel calls write the worker's row first, so one of them waits until the
        # other has committed. In a Galera cluster the later COMMIT is refused instead, and its
        # transaction runs again.
        workers.record_sign_of_life(request.worker_id, now=now, always=True)
        if repeated := _given_before(request, caller, now):
            return repeated
    tasks: list[Row] = []
    room = MAX_ANSWER_TEXT
    for task_type, wanted in _count_per_type(types, request):
        count = min(wanted, request.limit - len(tasks))
        if count < 1 or room <= 0:
            break
        take = _take_by_rules if task_type["has_rules"] else _take_next
        taken = take(request, task_type, count, room, now)
        tasks += taken
        room -= sum(len(task["params"]) for task in taken)
    if tasks:
        history.record(tasks, "claimed", caller=caller, now=now)
        workers.record_sign_of_life(request.worker_id, now=now)
    if len(types) > 1:
        tasks.sort(key=request.order.place, reverse=request.order.backwards)
    return tasks


def _take_next(request: ClaimRequest, task_type: Row, count: int, room: int, now: int) -> list[Row]:
    """Claims the next tasks of a type, in the order of the request."""
    locked = lock_next(request.order, task_type["id"], count=count, room=room, now=now)
    return _hold(locked, task_type, request, now)


def _take_by_rules(
    request: ClaimRequest, task_type: Row, count: int, room: int, now: int
) -> list[Row]:
    """Claims the next tasks of a type, as its limits and the keys of its tasks allow."""
    is_limited = limits.is_limited(task_type)
    if is_limited:
        count = min(count, limits.room_of(task_type["id"], now=now, lock=True).tasks)
    if count < 1:
        return []
    take = _take_from_lanes if lanes.kind_of(task_type) else _take_next
    taken = take(request, task_type, count, room, now)
    if is_limited:
        limits.record_starts(task_type["id"], len(taken))
    return taken


def _take_from_lanes(
    request: ClaimRequest, task_type: Row, count: int, room: int, now: int
) -> list[Row]:
    """Claims the next tasks of a type whose tasks take turns by their keys."""
    tasks: list[Row] = []
    while len(tasks) < count and room > 0:
        ids = lanes.take_next(task_type, count=count - len(tasks))
        locked = lock_chosen(ids, room=room) if ids else []
        if not locked:
            break
        tasks += _hold(locked, task_type, request, now)
        room -= sum(len(task["params"]) for task in locked)
    return tasks


def _hold(locked: list[Row], task_type: Row, request: ClaimRequest, now: int) -> list[Row]:
    """Makes locked tasks the worker's, but cancels those that are past their deadline.

    Each gets a token of its own for this attempt.
    """
    if any(task["expires_at"] is not None for task in locked):
        locked = deadlines.without_late(locked, now)
    if not locked:
        return []
    lease_seconds = request.lease_seconds or task_type["lease_seconds"]
    nonce = secrets.token_urlsafe(16)
    held = {
        "status": "claimed",
        "worker_id": request.worker_id,
        "claim_request_id": request.request_id,
        "lease_seconds": lease_seconds,
        "claimed_at": now,
        "progress": None,
        "progress_message": None,
        "updated_at": now,
    }
    ids = [task["id"] for task in locked]
    lease_end = now + lease_seconds * 1000
    lease = (lease_seconds, now, lease_end)
    if execute(HOLD, (*held.values(), *lease, f"{nonce}.", ids)).rowcount != len(ids):
        raise AssertionError("a locked task was not pending any more")
    tasks = [
        {
            **OF_ITS_END,
            **task,
            **held,
            "lease_expires_at": lease_end
            if task["max_run_seconds"] is None
            else deadlines.lease_end(task, lease_seconds=lease_seconds, claimed_at=now, now=now),
            "expires_at": None,
            "attempts": task["attempts"] + 1,
            "claim_token": f"{nonce}.{task['id']}",
            "type": task_type["name"],
        }
        for task in locked
    ]
    if any(task[key] is not None for task in tasks for key in lanes.KEYS.values()):
        lanes.record(tasks)
    return tasks


HOLD = (
    "UPDATE {tasks} {by_id} SET status = ?, worker_id = ?, claim_request_id = ?, "
    "lease_seconds = ?, claimed_at = ?, progress = ?, progress_message = ?, updated_at = ?, "
    # As deadlines.lease_end() has it.
    "lease_expires_at = CASE WHEN max_run_seconds < ? THEN ? + max_run_seconds * 1000 ELSE ? END, "
    "expires_at = NULL, attempts = attempts + 1, claim_token = ? || id "
    "WHERE status = 'pending' AND id IN ?"
)


def _claimable_types(
    request: ClaimRequest, caller: Caller, defaults: TaskDefaults, now: int
) -> list[Row]:
    """The types that the request and the caller's key allow and that are not paused.

    Each with the id of some pending task, None where there is none or its rules allow
    none, and with the seconds of a lease. `has_rules` if limits or lanes decide what is next.
    """
    found = task_types.find_task_types(
        ids=request.type_ids,
        names=request.type_names,
        pattern=request.type_pattern,
        caller=caller,
        is_running=True,
        columns="id, name, lease_seconds, concurrency, start_rate, fair, "
        "(concurrency IS NOT NULL OR start_rate IS NOT NULL OR fair IS NOT NULL) AS has_rules, "
        f"({request.order.any_id_of_type}) AS some_task_id",
    )
    return [
        {
            **(_within_rules(row, now) if row["has_rules"] else row),
            "lease_seconds": row["lease_seconds"] or defaults.lease_seconds,
        }
        for row in found
    ]


def _within_rules(task_type: Row, now: int) -> Row:
    """The type; as one without pending tasks, with `next_at`, where none may be claimed now."""
    if not task_type["some_task_id"]:
        return task_type
    if limits.is_limited(task_type):
        room = limits.room_of(task_type["id"], now=now)
        if room.tasks < 1:
            return {**task_type, "some_task_id": None, "next_at": room.next_at}
    if lanes.kind_of(task_type) and not lanes.is_any_ready(task_type):
        return {**task_type, "some_task_id": None}
    return task_type


def _count_per_type(types: Sequence[Row], request: ClaimRequest) -> list[tuple[Row, int]]:
    """Splits the limit over the types: how many of the first tasks of all belong to each.

    Another worker may take some of them first (MySQL); then the next of the
    same type are taken instead.
    """
    by_id = {task_type["id"]: task_type for task_type in types if task_type["some_task_id"]}
    if len(by_id) == 1:
        return [(task_type, request.limit) for task_type in by_id.values()]
    by_key = [each for each, row in by_id.items() if lanes.kind_of(row) == lanes.CONCURRENCY]
    others = [type_id for type_id in by_id if type_id not in by_key]
    heads = find_heads(others, order=request.order, count=request.limit)
    for type_id in by_key:
        heads += _heads_by_key(type_id, request)
    heads.sort(key=lambda head: (head["rank_value"], head["id"]), reverse=request.order.backwards)
    counts = Counter(head["task_type_id"] for head in heads[: request.limit])
    left = request.limit - counts.total()
    for type_id in by_key:  # of which more may run than one of each key
        counts[type_id] += left
    return [(by_id[type_id], count) for type_id, count in counts.items()]


def _heads_by_key(type_id: int, request: ClaimRequest) -> list[Row]:
    """As find_heads() has them. A lane knows the priority of its next task and not its attempts."""
    by_rank = request.order.column == "claim_rank"
    return [
        {**head, "rank_value": head["claim_rank"] if by_rank else head["id"]}
        for head in lanes.find_heads(type_id, count=request.limit)
    ]


def _given_before(request: ClaimRequest, caller: Caller, now: int) -> list[Row]:
    """What the same request was given and still holds, in the order of the request.

    Tasks that the caller's key may not touch are left out: another key may have
    learned the names of worker and request.
    """
    rows = fetch_all(
        "SELECT * FROM {tasks} {index tasks_by_worker} "
        "WHERE worker_id = ? AND status = 'claimed' "
        "AND claim_request_id = ? AND lease_expires_at > ? "
        f"ORDER BY {request.order.order_by}",
        (request.worker_id, request.request_id, now),
    )
    return task_types.allowed_as_stored(rows, caller)


def _nothing_available(request: ClaimRequest, types: Sequence[Row], now: int) -> NoTaskAvailable:
    names = request.type_names or ([request.type_pattern] if request.type_pattern else [])
    what = f" of type {', '.join(names)}" if names else ""
    if not types:
        why = ": no task type that this claim may take from is registered and running"
        seconds = POLL_SECONDS_PAUSED
    else:  # when the next scheduled task is due or a limit lets one start, or after a few seconds
        moments = [maintenance.next_due(now=now).task_at, *(row.get("next_at") for row in types)]
        due_at = min((moment for moment in moments if moment is not None), default=None)
        in_seconds = POLL_SECONDS_EMPTY if due_at is None else math.ceil((due_at - now) / 1000)
        why, seconds = "", max(1, min(POLL_SECONDS_EMPTY, in_seconds))
    message = f"No available tasks{what}{why}."
    return NoTaskAvailable(message, poll_after_seconds=seconds, topics=_topics(types))


def _topics(types: Sequence[Row]) -> list[str]:
    """What may let the same claim find a task. A type that is resumed is not among it."""
    return [
        topic
        for row in types
        for topic in (
            topics.pending_of(row["id"]),
            *([topics.ended_of(row["id"])] if row["has_rules"] else ()),
        )
    ]
