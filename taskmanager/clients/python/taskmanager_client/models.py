"""The objects of the API as dataclasses. Times are datetimes in UTC.

A field that the server sends and that a class does not name is left out, so that a client works
with a newer server.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """A task. Lists leave out `params` and `result` unless they are asked for.

    `status` is "blocked", "scheduled", "pending", "claimed", "completed", "failed" or "cancelled".
    `deduplicated` is True where `create` found a task that existed already; `on_duplicate` is then
    "replaced", "postponed" or "kept", if the call asked for something to be done to it. `get` and
    `wait` alone fill in `attempt_errors`, the error of each failed attempt, and `waiting_because`,
    a `code` and a `message` for a task that has not been handed out.
    """

    id: int
    type: str
    status: str
    params: dict[str, Any] | None = None
    result: Any = None
    error_code: str | None = None
    error_message: str | None = None
    priority: int = 0
    progress: int | None = None
    progress_message: str | None = None
    attempts: int = 0
    max_attempts: int = 0
    dedupe: str = ""
    dedupe_key: str = ""
    parent_task_id: int | None = None
    batch_id: int | None = None
    concurrency_key: str | None = None
    group_key: str | None = None
    tags: list[str] | None = None
    notify: str | None = None
    traceparent: str | None = None
    worker_id: str | None = None
    type_version: str = ""
    claimed_at: datetime | None = None
    lease_expires_at: datetime | None = None
    max_run_seconds: int | None = None
    available_at: datetime | None = None
    expires_at: datetime | None = None
    on_dependency_failed: str | None = None
    completed_at: datetime | None = None
    pruned_at: datetime | None = None
    dedupe_until: datetime | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    attempt_errors: list[dict[str, Any]] | None = None
    waiting_because: dict[str, str] | None = None
    deduplicated: bool = False
    on_duplicate: str | None = None

    @property
    def is_finished(self) -> bool:
        return self.status in ("completed", "failed", "cancelled")


@dataclass(frozen=True)
class LogEntry:
    """One event in the history of a task."""

    id: int
    task_id: int
    event: str
    status: str | None = None
    attempt: int | None = None
    worker_id: str | None = None
    api_key_id: int | None = None
    message: str | None = None
    metadata: dict[str, Any] | None = None
    created_at: datetime | None = None


@dataclass(frozen=True)
class Event(LogEntry):
    """One event of the feed: it says the type of its task too."""

    type: str = ""


@dataclass(frozen=True)
class TaskType:
    """A task type with the defaults of its tasks; None means that the server's settings decide."""

    id: int
    name: str
    version: str
    is_active: bool = True
    is_paused: bool = False
    priority: int | None = None
    max_attempts: int | None = None
    lease_seconds: int | None = None
    retry: dict[str, Any] | None = None
    dedupe: str | None = None
    dedupe_days: int | None = None
    notify: str | None = None
    max_run_seconds: int | None = None
    is_encrypted: bool = False
    concurrency: dict[str, Any] | None = None
    start_rate: str | None = None
    fair: bool = False
    max_open: dict[str, Any] | None = None
    retention_days: int | None = None
    param_schema: dict[str, Any] | None = None
    open_tasks: int | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True)
class Schedule:
    """A schedule: `cron` with its `timezone`, or `interval_seconds`."""

    id: int
    name: str
    type: str
    params: dict[str, Any] | None = None
    priority: int | None = None
    max_attempts: int | None = None
    tags: list[str] | None = None
    notify: str | None = None
    concurrency_key: str | None = None
    group_key: str | None = None
    overlap: str = ""
    cron: str | None = None
    timezone: str = "UTC"
    interval_seconds: int | None = None
    is_active: bool = True
    next_run_at: datetime | None = None
    last_run_at: datetime | None = None
    last_outcome: str | None = None
    last_task_id: int | None = None
    last_error: str | None = None
    next_runs: list[str] | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True)
class WorkerState:
    """What the server knows of a worker. `status` is "active", "stale" or "inactive".

    `done_per_minute` has the attempts reported a minute in the last `ten_minutes` and `hour`.
    """

    id: str
    status: str
    tasks_held: int = 0
    tasks_completed: int = 0
    tasks_failed: int = 0
    done_per_minute: dict[str, float] | None = None
    metadata: dict[str, Any] | None = None
    first_seen_at: datetime | None = None
    last_seen_at: datetime | None = None


@dataclass(frozen=True)
class Key:
    """An API key without its secret. `task_types` are patterns; None means all types."""

    id: int
    name: str
    prefix: str = ""
    scopes: list[str] | None = None
    task_types: list[str] | None = None
    rate_limit: str | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    created_at: datetime | None = None


def read(kind: type[T], data: Mapping[str, Any]) -> T:
    """An object of a class of this module from the API's JSON."""
    names = (field.name for field in dataclasses.fields(kind))  # type: ignore[arg-type]
    values = {name: data[name] for name in names if name in data}
    for name, value in values.items():
        if name.endswith("_at") and isinstance(value, str):
            moment = datetime.strptime(value, "%Y-%m-%dT%H:%M:%S.%fZ")
            values[name] = moment.replace(tzinfo=timezone.utc)
    return kind(**values)
