"""The outbox of webhooks: who is to be notified that a task has ended. Sends nothing.

A delivery is committed with the transition that it is about, so none is lost and none is about
what never happened. See docs/decisions/0031.
"""

import json
import secrets
from collections.abc import Iterable, Sequence

from taskmanager.clock import format_time
from taskmanager.db.statements import MAX_ROWS, Row, fetch_all, insert_many, parts_of
from taskmanager.errors import InvalidRequest

# How long a delivery is tried.
RETRIED_MS = 3 * 86_400_000
STATUSES = ("completed", "failed", "cancelled")


def record(tasks: Sequence[Row], *, now: int) -> None:
    """Stores a delivery for each of these tasks that has ended and names an active endpoint.

    Part of the caller's transaction. `tasks` are rows with `type`, as they are after the
    transition. Runs no statement where no task names an endpoint.
    """
    ended = [task for task in tasks if task["notify"] and task["status"] in STATUSES]
    if not ended:
        return
    endpoints = {
        row["name"]: row["id"]
        for row in _endpoints({task["notify"] for task in ended})
        if row["is_active"]
    }
    deliveries = [
        {
            "webhook_id": endpoints[task["notify"]],
            "message_id": f"msg_{secrets.token_hex(16)}",
            "task_id": task["id"],
            "event": f"task.{task['status']}",
            "body": _body(task, now),
            "status": "pending",
            "attempts": 0,
            "next_attempt_at": now,
            "give_up_at": now + RETRIED_MS,
            "created_at": now,
        }
        for task in ended
        if task["notify"] in endpoints
    ]
    insert_many("webhook_deliveries", deliveries)


def require_endpoint(name: str | None) -> None:
    """Raises InvalidRequest for a name that no endpoint has."""
    if name is not None and missing_endpoints([name]):
        raise no_such_endpoint(name)


def missing_endpoints(names: Iterable[str]) -> set[str]:
    """Those of the names that no endpoint has."""
    wanted = set(names)
    if not wanted:
        return wanted
    return wanted - {row["name"] for row in _endpoints(wanted)}


def no_such_endpoint(name: str) -> InvalidRequest:
    """The error for a name that no endpoint has."""
    return InvalidRequest(
        f"There is no webhook named '{name}' to notify. Create it first with POST /api/webhooks.",
        code="webhook_not_found",
    )


def _endpoints(names: set[str]) -> list[Row]:
    found: list[Row] = []
    for some in parts_of(sorted(names), MAX_ROWS):
        found += fetch_all(
            "SELECT id, name, is_active FROM {webhooks} WHERE name IN ?", (list(some),)
        )
    return found


def _body(task: Row, now: int) -> str:
    data = {name: task[name] for name in ("id", "type", "status")}
    message = {"type": f"task.{task['status']}", "timestamp": format_time(now), "data": data}
    return json.dumps(message, separators=(",", ":"))
