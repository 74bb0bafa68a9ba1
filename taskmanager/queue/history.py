"""One row for every transition of a task.

Always written in the transaction of what it records, so the two cannot disagree.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from taskmanager.access.caller import Caller
from taskmanager.db.statements import Row, fetch_all, insert_many


def event_row(
    task: Row,
    event: str,
    *,
    now: int,
    caller: Caller | None = None,
    status: str | None = None,
    message: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Row:
    """A row for `record_rows`, with the attempt, worker and claim token where `task` has them.

    `status` is that of the task after the event, unless `task` has it already.
    """
    return {
        "task_id": task["id"],
        "event": event,
        "status": status or task["status"],
        "attempt": task.get("attempts"),
        "worker_id": task.get("worker_id"),
        "api_key_id": caller.key_id if caller else None,
        "claim_token": task.get("claim_token"),
        "message": message,
        "metadata": json.dumps(metadata, ensure_ascii=False) if metadata else None,
        "created_at": now,
    }


def record(tasks: Iterable[Row], event: str, **details: Any) -> None:
    """Stores the same event for each task; `details` are those that `event_row` takes."""
    insert_many("task_logs", [event_row(task, event, **details) for task in tasks])


def record_rows(rows: Sequence[Row]) -> None:
    """Stores rows made by `event_row`, in order."""
    insert_many("task_logs", rows)


def list_logs(*, task_id: int) -> list[Row]:
    """A task's history, oldest first."""
    return fetch_all("SELECT * FROM {task_logs} WHERE task_id = ? ORDER BY id", (task_id,))


def list_attempt_errors(*, task_id: int) -> list[Row]:
    """How each failed attempt of a task ended, oldest first: reported, or lease expired."""
    return fetch_all(
        "SELECT * FROM {task_logs} WHERE task_id = ? "
        "AND event IN ('retry_scheduled', 'failed', 'lease_expired') ORDER BY id",
        (task_id,),
    )
