"""Why a task is not running, in words and as a code.

Its statements are templates, because every GET of a waiting task runs up to eleven of them. They
name the index whose last entry is the newest task: MySQL would otherwise sort all tasks of the
type.
"""

from taskmanager.access.caller import Caller
from taskmanager.clock import format_time
from taskmanager.db.statements import Row, fetch_one, fetch_value
from taskmanager.queue.flow import graph, lanes, limits
from taskmanager.queue.read import WAITING_STATUSES, WITH_WORKER_STATUSES

Reason = dict[str, str]


def explain(task: Row, *, caller: Caller, now: int) -> Reason | None:
    """`{code, message}` for a task that waits, or that failed because all attempts are used.

    Codes: `dependencies`, `type_paused`, `delayed`, `concurrency`, `start_rate`, `group` (others of
    its group are first), `queued` (a worker holds another task of the type), `no_worker`,
    `attempts_used`. None for any other task.
    """
    if task["status"] == "failed" and task["attempts"] >= task["max_attempts"]:
        return _reason(
            "attempts_used",
            f"All {task['max_attempts']} attempts are used. "
            f"POST /api/tasks/{task['id']}/retry gives it new ones.",
        )
    if task["status"] not in WAITING_STATUSES:
        return None
    if task["status"] == "blocked":
        return _reason("dependencies", graph.words_for(task["id"], caller=caller))
    if fetch_value("SELECT is_paused FROM {task_types} WHERE id = ?", (task["task_type_id"],)):
        return _reason(
            "type_paused", f"Task type '{task['type']}' is paused: nothing of it is handed out."
        )
    if task["available_at"] > now:
        why = "its last attempt failed" if task["attempts"] else "it was asked to wait"
        return _reason("delayed", f"Not before {format_time(task['available_at'])}: {why}.")
    return _waits_for_room(task, now) or _waits_for_its_key(task) or _waits_for_worker(task, now)


def _waits_for_room(task: Row, now: int) -> Reason | None:
    room = limits.room_of(task["task_type_id"], now=now)
    if room.tasks > 0 or room.why is None:
        return None
    if room.why == "concurrency":
        return _reason(
            "concurrency",
            f"As many tasks of type '{task['type']}' are held as may be at once (concurrency).",
        )
    return _reason(
        "start_rate",
        f"As many tasks of type '{task['type']}' have started as may (start_rate); the next one "
        f"may start at {format_time(room.next_at)}.",
    )


def _waits_for_its_key(task: Row) -> Reason | None:
    """Where other tasks with the same key come first."""
    task_type = fetch_one(
        "SELECT concurrency, fair FROM {task_types} WHERE id = ?", (task["task_type_id"],)
    )
    kind = lanes.kind_of(task_type) if task_type else None
    lane = lanes.lane_of(task, kind) if kind else None
    if lane is None:
        return None
    if kind == lanes.CONCURRENCY and not lane["is_ready"]:
        return _reason(
            "concurrency",
            f"As many tasks with the concurrency_key '{lane['name']}' are held as may be at once.",
        )
    if kind == lanes.GROUP and lane["next_task_id"] != task["id"]:
        group = f"group '{lane['name']}'" if lane["name"] else "tasks without a group_key"
        return _reason("group", f"Other tasks of the {group} come first; the groups take turns.")
    return None


def _waits_for_worker(task: Row, now: int) -> Reason:
    if fetch_value(
        "SELECT id FROM {tasks} {index tasks_claim_by_id} "
        "WHERE task_type_id = ? AND status = 'claimed' AND lease_expires_at > ? LIMIT 1",
        (task["task_type_id"], now),
    ):
        return _reason(
            "queued", "Workers are busy with other tasks of this type; it waits for its turn."
        )
    # The newest task of each status shows roughly when a worker last claimed one of this type.
    newest = [
        fetch_value(
            "SELECT claimed_at FROM {tasks} {index tasks_claim_by_id} "
            "WHERE task_type_id = ? AND status = ? ORDER BY id DESC LIMIT 1",
            (task["task_type_id"], status),
        )
        for status in WITH_WORKER_STATUSES
    ]
    taken = max(claimed_at or 0 for claimed_at in [task["claimed_at"], *newest])
    since = f"since {format_time(taken)}" if taken else "so far"
    return _reason(
        "no_worker", f"No worker has taken a task of type '{task['type']}' {since}. Is one running?"
    )


def _reason(code: str, message: str) -> Reason:
    return {"code": code, "message": message}
