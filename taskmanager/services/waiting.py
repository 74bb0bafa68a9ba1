"""Why a task is not running, in words and as a code."""

from taskmanager.clock import format_time
from taskmanager.database import Row, fetch_one

EXPLAINED_STATUSES = ("scheduled", "pending")


def explain(task: Row, *, now: int) -> dict[str, str] | None:
    """`{code, message}` for a task that waits to be claimed; None for any other."""
    if task["status"] not in EXPLAINED_STATUSES:
        return None
    task_type = fetch_one("SELECT is_paused FROM task_types WHERE id = ?", (task["task_type_id"],))
    if task_type is not None and task_type["is_paused"]:
        return {
            "code": "type_paused",
            "message": f"Task type '{task['type']}' is paused: nothing of it is handed out.",
        }
    if task["available_at"] > now:
        why = "its last attempt failed" if task["attempts"] else "it was asked to wait"
        return {
            "code": "delayed",
            "message": f"Not before {format_time(task['available_at'])}, because {why}.",
        }
    seen = fetch_one("SELECT MAX(last_seen_at) AS seen_at FROM workers")
    taken = fetch_one(
        "SELECT MAX(claimed_at) AS taken_at FROM tasks "
        "WHERE task_type_id = ? AND status = 'claimed'",
        (task["task_type_id"],),
    )
    if taken is not None and taken["taken_at"] is not None:
        return {
            "code": "queued",
            "message": "Workers are busy with other tasks of this type; it waits for its turn.",
        }
    if seen is None or seen["seen_at"] is None:
        return {"code": "no_worker", "message": "No worker has ever claimed a task here."}
    return {
        "code": "no_worker",
        "message": f"No worker holds a task of type '{task['type']}'. The last sign of life of "
        f"any worker was at {format_time(seen['seen_at'])}.",
    }
