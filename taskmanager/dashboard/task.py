"""/dashboard/tasks/{id}: one task, what will become of it, and what has happened so far."""

import json
from typing import Any

from flask import Blueprint, Response, g, request

from taskmanager.api.auth import requires
from taskmanager.api.requests import TASK
from taskmanager.dashboard.answers import lead_to, page
from taskmanager.dashboard.tasks import shown_changes
from taskmanager.dashboard.wording import ago, count_of
from taskmanager.db.statements import Row
from taskmanager.queue import history, operate, read, waiting
from taskmanager.queue.flow import graph as task_graph

blueprint = Blueprint("task", __name__)

EVENTS_SHOWN = 200
CHILDREN_SHOWN = 20
# Event → what the timeline calls it, and the kind of its mark.
EVENTS = {
    "created": ("Created", ""),
    "blocked": ("Waits for other tasks", ""),
    "unblocked": ("All dependencies have ended", ""),
    "due": ("Due", ""),
    "claimed": ("Claimed", "run"),
    "completed": ("Completed", "done"),
    "failed": ("Failed", "bad"),
    "retry_scheduled": ("Failed, to be tried again", "bad"),
    "lease_expired": ("Lease expired: the worker sent no heartbeat", "bad"),
    "lease_restored": ("Lease restored", "run"),
    "released": ("Released", ""),
    "cancelled": ("Cancelled", ""),
    "retried": ("Retried", ""),
    "updated": ("Changed", ""),
    "history_shortened": ("Older events removed", ""),
}
CANCELLED_BECAUSE = {
    "expired": "No worker claimed it by its deadline, so it was cancelled.",
    "dependency_failed": "A task that it depends on did not complete, so it was cancelled.",
}
# What a copy of a task has besides its type, params and priority.
_COPIED = ("concurrency_key", "group_key", "max_run_seconds", "notify")
# The events that end an attempt.
_ENDS = ("completed", "failed", "retry_scheduled", "lease_expired", "released", "cancelled")


@blueprint.get(f"/tasks{TASK}")
@requires("tasks:read")
def show(task_id: int) -> Response:
    """GET /dashboard/tasks/{id}: the task; `after` goes on in a long history."""
    task = read.get_task(task_id=task_id, caller=g.caller)
    after = request.args.get("after", "")
    cursor = int(after) if after.isdecimal() and len(after) <= 18 else None
    logs, more = history.list_logs(task_id=task_id, limit=EVENTS_SHOWN, cursor=cursor)
    return page(
        "task.html",
        task=task,
        sentence=outlook(task, waiting.explain(task, caller=g.caller, now=g.now)),
        tags=json.loads(task["tags"] or "[]"),
        events=timeline(logs),
        more_events=more,
        dependencies=_named(task_id, "depends_on_id"),
        dependents=_named(task_id, "task_id"),
        children=_children(task_id),
        changes=shown_changes(task["status"]),
        is_waiting=task["status"] in read.WAITING_STATUSES,
        curl=curl_of(task, request.url_root.rstrip("/")),
    )


@blueprint.post(f"/tasks{TASK}/retry")
@requires("tasks:manage")
def retry(task_id: int) -> Response:
    """POST /dashboard/tasks/{id}/retry: gives a failed or cancelled task new attempts."""
    operate.retry_task(task_id=task_id, caller=g.caller, now=g.now)
    return _back_to(task_id, f"Task #{task_id} will be tried again.")


@blueprint.post(f"/tasks{TASK}/cancel")
@requires("tasks:manage")
def cancel(task_id: int) -> Response:
    """POST /dashboard/tasks/{id}/cancel: ends an unfinished task for good."""
    operate.cancel_task(task_id=task_id, reason=None, caller=g.caller, now=g.now)
    return _back_to(task_id, f"Task #{task_id} is cancelled.")


def _back_to(task_id: int, said: str) -> Response:
    return lead_to("task.show", task_id=task_id, said=said)


def outlook(task: Row, reason: waiting.Reason | None) -> str:
    """What happens to the task next, in words."""
    status = task["status"]
    if reason and reason["code"] == "attempts_used":
        attempts = count_of(task["max_attempts"], "attempt")
        return f"It has failed in {attempts}. It stays like this until somebody retries it."
    if reason:
        return reason["message"]
    if status == "claimed":
        until = ago(task["lease_expires_at"])
        return (
            f"{task['worker_id']} works on it, attempt {task['attempts']} of "
            f"{task['max_attempts']}. Without a heartbeat its lease ends {until}."
        )
    if status == "completed":
        return "It is done."
    why = "It failed and was not to be tried again."
    if status == "cancelled":
        why = CANCELLED_BECAUSE.get(task["error_code"], "Somebody has cancelled it.")
    return f"{why} It stays like this until somebody retries it."


def timeline(logs: list[Row]) -> list[dict[str, Any]]:
    """The events as the page shows them, each that ends an attempt with how long that took."""
    began: dict[Any, int] = {}
    events = []
    for log in logs:
        title, mark = EVENTS.get(log["event"], (log["event"].replace("_", " ").capitalize(), ""))
        took = None
        if log["event"] == "claimed":
            began[log["attempt"]] = log["created_at"]
        elif log["event"] in _ENDS and log["attempt"] in began:
            took = log["created_at"] - began.pop(log["attempt"])
        metadata = json.loads(log["metadata"]) if log["metadata"] else {}
        code = metadata.get("error_code") if isinstance(metadata, dict) else None
        events.append({**log, "title": title, "mark": mark, "took": took, "error_code": code})
    return events


def _named(task_id: int, end: str) -> list[Row]:
    """The tasks at the other `end` of the edges of a task."""
    tasks, edges, _ = task_graph.graph_of(task_id=task_id, caller=g.caller)
    start = "task_id" if end == "depends_on_id" else "depends_on_id"
    named = {edge[end] for edge in edges if edge[start] == task_id}
    return [task for task in tasks if task["id"] in named]


def _children(task_id: int) -> read.Page:
    return read.list_tasks(
        task_filter=read.TaskFilter(parent_task_id=task_id),
        sort_by="id",
        descending=True,
        limit=CHILDREN_SHOWN,
        offset=0,
        cursor=None,
        with_total=False,
        caller=g.caller,
    )


def curl_of(task: Row, root: str) -> str:
    """The command that creates the same task again. The key comes from the environment."""
    fields = {name: task[name] for name in _COPIED if task[name]}
    others = "".join(f', "{name}": {json.dumps(value)}' for name, value in fields.items())
    body = (
        f'{{"type": {json.dumps(task["type"])}, "params": {task["params"]}, '
        f'"priority": {task["priority"]}{others}, "dedupe": "none"}}'
    )
    quoted = "'" + body.replace("'", "'\\''") + "'"
    return (
        f'curl {root}/api/tasks -H "X-API-Key: $TASKMANAGER_KEY" \\\n'
        f"  -H 'Content-Type: application/json' \\\n  -d {quoted}"
    )
