"""Running schedules: a due schedule creates its task, exactly once.

Nothing here waits for a due time. Maintenance asks whether a schedule is due,
in each of the three ways in which it runs.
"""

import json
import time

from taskmanager.access.caller import OPERATOR, Caller
from taskmanager.clock import format_time
from taskmanager.db.models import Schedule
from taskmanager.db.queries import rows_of
from taskmanager.db.statements import Row
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import InvalidRequest, PayloadUnreadable, QueueFull
from taskmanager.payloads.sealing import with_opened, with_sealed
from taskmanager.queue import create, task_types
from taskmanager.queue.flow import backlog
from taskmanager.queue.schedules import definitions, due_times
from taskmanager.queue.task_types import TaskDefaults

DUE_READ_AT_ONCE = 100
# A time that is too late by less is no mistake: the clocks of two machines differ by seconds, and
# a run of maintenance keeps the time at which it began for 50 s.
TOLERANCE_MS = 60_000


def run_due_schedules(*, now: int, defaults: TaskDefaults, deadline: float) -> int:
    """Runs every due schedule, the longest overdue first; returns the number of tasks created.

    Each run is a transaction. Stops at `deadline`, in seconds of
    time.monotonic(), after at least one run.
    """
    made = 0
    next_due = Schedule.select().order_by(Schedule.next_run_at).limit(DUE_READ_AT_ONCE)
    while True:
        due = rows_of(next_due.where(Schedule.next_run_at <= now))
        for row in due:
            made += _run(task_types.with_type_name(row), defaults, now)
            if time.monotonic() > deadline:
                return made
        if len(due) < DUE_READ_AT_ONCE:
            return made


def _run(schedule: Row, defaults: TaskDefaults, now: int) -> bool:
    """One run, for the latest due time up to `now`; earlier ones that were missed are skipped.

    A run that cannot create its task is stored as failed, or as `queue_full`. A schedule
    whose next due time cannot be computed any more becomes inactive.
    """
    due_at, next_run_at = schedule["next_run_at"], None
    task = problem = None
    try:
        timing = definitions.timing_of(schedule)
        due_at, next_run_at = due_times.latest_and_next(timing, due_at, now)
        request = _task_request(with_opened(schedule, "schedules"), due_at)
        task = create.prepare_task(request, defaults=defaults, caller=OPERATOR, now=now)
    except (InvalidRequest, PayloadUnreadable) as error:
        problem = error.message
    times = {"due_at": due_at, "next_run_at": next_run_at}
    try:
        return _store_run(schedule, task, **times, problem=problem)
    except QueueFull as full:
        return _store_run(schedule, None, **times, problem=full.message, outcome=full.code)


def _task_request(schedule: Row, due_at: int | None) -> Row:
    """The task as a body of POST /api/tasks. Without a due time it is a run by hand.

    The dedupe key is the second guard against creating the task twice. If runs
    may not overlap, all of them share one key, held while a task is unfinished.
    """
    dedupe, key = "none", f"schedule:{schedule['id']}"
    if schedule["overlap"] == "skip":
        dedupe = "active"
    elif due_at is not None:
        dedupe, key = "forever", f"{key}:{format_time(due_at)}"
    same = {name: schedule[name] for name in ("type", *definitions.OF_ITS_TASKS)}
    params, tags = json.loads(schedule["params"]), json.loads(schedule["tags"] or "[]")
    return {**same, "params": params, "tags": tags, "dedupe": dedupe, "dedupe_key": key}


@write_transaction
def _store_run(
    schedule: Row,
    task: Row | None,
    *,
    due_at: int,
    next_run_at: int | None,
    problem: str | None,
    outcome: str = "failed",
) -> bool:
    """Advances the schedule and creates its task; returns whether a task was created.

    Transition: nothing → pending, for the task.
    Commits together: the next due time, the task and its first history row.
    Raises DatabaseUnavailable, QueueFull.
    A crash leaves the schedule due. If another process has advanced it, or a
    caller has changed it since it was read, nothing is done.
    """
    this_one = Schedule.id == schedule["id"]
    ran: Row = {"last_run_at": due_at, "last_outcome": outcome, "last_error": problem}
    if problem is not None:
        ran = _sealed_or_silent(schedule, ran)
    advance = Schedule.update(
        next_run_at=next_run_at,
        is_active=next_run_at is not None,
        **ran,
    ).where(
        this_one,
        Schedule.next_run_at == schedule["next_run_at"],
        Schedule.updated_at == schedule["updated_at"],
        Schedule.payload_key == schedule["payload_key"],  # it may have got another key meanwhile
    )
    if not advance.execute() or task is None:
        return False
    [(stored, existed)] = backlog.store_within_limits(
        [task],
        caller=OPERATOR,
        message=f"schedule '{schedule['name']}' was due {format_time(due_at)}",
        metadata={"schedule_id": schedule["id"], "due_at": format_time(due_at)},
    )
    outcome = "skipped" if existed else "created"
    Schedule.update(last_outcome=outcome, last_task_id=stored["id"]).where(this_one).execute()
    return not existed


def _sealed_or_silent(schedule: Row, ran: Row) -> Row:
    """`ran` as it is stored; without the error where the key of the schedule is missing."""
    try:
        return with_sealed(ran, of=schedule, table="schedules")
    except PayloadUnreadable:
        return {**ran, "last_error": None}


def reanchor_schedules(*, now: int) -> None:
    """Corrects the due times that were computed while the clock was ahead of `now`.

    Such a schedule is next due at its first due time after `now`, unless that was the
    last one that it acted upon; then at the one that follows. Runs nothing.
    """
    for schedule, first in schedules_ahead(now=now):
        _reanchor(schedule, first)


def schedules_ahead(*, now: int) -> list[tuple[Row, int]]:
    """The schedules that have missed their first due time after `now`, each with that time.

    Its next due time was computed when it last ran or was last changed, so only those
    that did so in the future can have a wrong one.
    """
    was_ahead = (Schedule.last_run_at > now) | (Schedule.updated_at > now)
    rows = rows_of(Schedule.select().where(Schedule.next_run_at > now, was_ahead))
    found = []
    for schedule in rows:
        try:
            first = _first_due(schedule, now)
        except InvalidRequest:  # this host does not know its time zone; its next run will say so
            continue
        if schedule["next_run_at"] > first + TOLERANCE_MS:
            found.append((schedule, first))
    return found


def _first_due(schedule: Row, now: int) -> int:
    timing = definitions.timing_of(schedule)
    first = due_times.first_before(timing, schedule["next_run_at"], now)
    if first == schedule["last_run_at"]:
        return due_times.first_after(timing, first)
    return first


@write_transaction
def _reanchor(schedule: Row, first: int) -> None:
    """Nothing is done if another process has run or changed the schedule since it was read."""
    Schedule.update(next_run_at=first).where(
        Schedule.id == schedule["id"],
        Schedule.next_run_at == schedule["next_run_at"],
        Schedule.updated_at == schedule["updated_at"],
    ).execute()


def run_schedule_now(
    *, schedule_id: int, defaults: TaskDefaults, caller: Caller, now: int
) -> create.Outcome:
    """Creates the schedule's task now, active or not; its due times do not change.

    If runs may not overlap and the last task is unfinished, that one is returned.
    Raises what `create_task` raises.
    """
    schedule = definitions.find_schedule(schedule_id, caller)
    request = _task_request(schedule, None)
    task = create.prepare_task(request, defaults=defaults, caller=caller, now=now)
    [(stored, existed)] = backlog.store_in_transaction(
        [task],
        caller=caller,
        message=f"schedule '{schedule['name']}' was run by hand",
        metadata={"schedule_id": schedule_id},
    )
    return create.Outcome(task=task_types.with_type(stored), deduplicated=existed)
