"""What a schedule does when it is due: it makes its task, once, whoever notices first.

Nothing here waits or wakes up: maintenance asks on its three roads whether a
schedule is due.
"""

import json
import time

from taskmanager.access.caller import OPERATOR, Caller
from taskmanager.clock import format_time
from taskmanager.db.statements import Row, execute, fetch_all
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import InvalidRequest
from taskmanager.queue import create
from taskmanager.queue.schedules import due_times, manage
from taskmanager.queue.store import store_tasks
from taskmanager.queue.task_types import TaskDefaults

DUE_READ_AT_ONCE = 100


def run_due_schedules(*, now: int, defaults: TaskDefaults, deadline: float) -> int:
    """Runs every schedule that is due, the longest overdue first; returns how many tasks it made.

    Each is a transaction of its own. Stops at `deadline`, in seconds of
    time.monotonic(), after one at the least.
    """
    made = 0
    while True:
        due = fetch_all(
            "SELECT * FROM {schedules} WHERE next_run_at <= ? ORDER BY next_run_at LIMIT ?",
            (now, DUE_READ_AT_ONCE),
        )
        for row in due:
            made += _run(manage.with_type(row), defaults, now)
            if time.monotonic() > deadline:
                return made
        if len(due) < DUE_READ_AT_ONCE:
            return made


def _run(schedule: Row, defaults: TaskDefaults, now: int) -> bool:
    """One run for the latest due time that has come, however many were missed before it.

    A run that cannot make its task is noted as failed and the next one awaited.
    A schedule whose next due time cannot be told any more becomes inactive.
    """
    due_at: int = schedule["next_run_at"]
    next_run_at: int | None = None
    task: Row | None = None
    problem: str | None = None
    try:
        due_at, next_run_at = due_times.latest_and_next(manage.timing_of(schedule), due_at, now)
        task = create.prepare_task(
            _task_request(schedule, due_at), defaults=defaults, caller=OPERATOR, now=now
        )
    except InvalidRequest as error:
        problem = error.message
    return _store_run(schedule, task, due_at=due_at, next_run_at=next_run_at, problem=problem)


def _task_request(schedule: Row, due_at: int | None) -> Row:
    """What POST /api/tasks would be sent. Without a due time it is a run by hand.

    The task's key is the second guard against making it twice. Where runs may
    not overlap, the key is the schedule's own, held while a task is unfinished.
    """
    if schedule["overlap"] == "skip":
        dedupe, key = "active", f"schedule:{schedule['id']}"
    elif due_at is not None:
        dedupe, key = "forever", f"schedule:{schedule['id']}:{format_time(due_at)}"
    else:
        dedupe, key = "none", f"schedule:{schedule['id']}"
    return {
        "type": schedule["type"],
        "params": json.loads(schedule["params"]),
        "priority": schedule["priority"],
        "max_attempts": schedule["max_attempts"],
        "dedupe": dedupe,
        "dedupe_key": key,
    }


@write_transaction
def _store_run(
    schedule: Row, task: Row | None, *, due_at: int, next_run_at: int | None, problem: str | None
) -> bool:
    """Advances the schedule and makes its task; returns whether a task was made.

    Transition: nothing → pending, for the task.
    Commits together: the next due time, the task and its first history row.
    Raises DatabaseUnavailable.
    Dying in the middle leaves the schedule due. Where another process has
    advanced it, or a caller has changed it since it was read, nothing is done.
    """
    advanced = execute(
        "UPDATE {schedules} SET next_run_at = ?, is_active = ?, last_run_at = ?, "
        "last_outcome = 'failed', last_error = ? "
        "WHERE id = ? AND next_run_at = ? AND updated_at = ?",
        (
            next_run_at,
            int(next_run_at is not None),
            due_at,
            problem,
            *(schedule[column] for column in ("id", "next_run_at", "updated_at")),
        ),
    ).rowcount
    if not advanced or task is None:
        return False
    message = f"schedule '{schedule['name']}' was due {format_time(due_at)}"
    stored, existed = store_tasks(
        [task],
        caller=OPERATOR,
        message=message,
        metadata={"schedule_id": schedule["id"], "due_at": format_time(due_at)},
    )[0]
    execute(
        "UPDATE {schedules} SET last_outcome = ?, last_task_id = ? WHERE id = ?",
        ("skipped" if existed else "created", stored["id"], schedule["id"]),
    )
    return not existed


def run_schedule_now(
    *, schedule_id: int, defaults: TaskDefaults, caller: Caller, now: int
) -> create.Outcome:
    """Makes the schedule's task by hand, active or not; its due times stay as they are.

    Where runs may not overlap and one is unfinished, that one is the answer.
    Raises what `create_task` raises.
    """
    schedule = manage.find_schedule(schedule_id, caller)
    task = create.prepare_task(
        _task_request(schedule, None), defaults=defaults, caller=caller, now=now
    )
    stored, existed = _store_by_hand(schedule, task, caller)
    return create.Outcome(task={**stored, "type": schedule["type"]}, deduplicated=existed)


@write_transaction
def _store_by_hand(schedule: Row, task: Row, caller: Caller) -> tuple[Row, bool]:
    return store_tasks(
        [task],
        caller=caller,
        message=f"schedule '{schedule['name']}' was run by hand",
        metadata={"schedule_id": schedule["id"]},
    )[0]
