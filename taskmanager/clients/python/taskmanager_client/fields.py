"""The fields that calls take, for type checkers. docs/api.md explains each of them.

At run time all of these are plain dicts. Times are ISO 8601 texts in UTC, durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:  # a type checker brings its own; nothing is installed for it
    from typing_extensions import Literal, Required

Json = Any


class RetryPolicy(TypedDict, total=False):
    """When a failed attempt is followed by the next one."""

    strategy: Required[Literal["immediate", "fixed", "exponential"]]
    base_seconds: float
    max_seconds: float
    jitter: bool


class TaskOptions(TypedDict, total=False):
    """What may be said of a new task beside its type and params."""

    priority: int
    max_attempts: int
    delay_seconds: float
    available_at: str
    dedupe: Literal["forever", "active", "none"]
    dedupe_key: str
    dedupe_seconds: int
    on_duplicate: Literal["keep", "replace", "postpone"]
    parent_task_id: int | None
    tags: Sequence[str]
    traceparent: str | None
    notify: str
    expires_at: str
    expires_in_seconds: float
    max_run_seconds: int
    depends_on: Sequence[int | Mapping[str, int]]
    on_dependency_failed: Literal["cancel", "run"]
    concurrency_key: str
    group_key: str


class TaskChanges(TypedDict, total=False):
    """What `change` sets."""

    params: Mapping[str, Json]
    priority: int
    max_attempts: int
    delay_seconds: float
    available_at: str
    tags: Sequence[str]


class NewTask(TaskOptions, total=False):
    """A task of `create_many`."""

    type: Required[str]
    params: Required[Mapping[str, Json]]


class BatchOptions(TypedDict, total=False):
    """What may be said of a new batch beside its tasks.

    The tasks `on_finished`, `on_completed` and `on_failed` are created when the batch has ended.
    """

    name: str
    is_open: bool
    on_finished: NewTask
    on_completed: NewTask
    on_failed: NewTask
    metadata: Mapping[str, Json]
    parent_batch_id: int | None


class TaskFilters(TypedDict, total=False):
    """Which tasks. `params` asks for values within the params: {"user.id": 5}."""

    status: str | Sequence[str]
    type: str
    worker_id: str
    parent_task_id: int
    batch_id: int
    dedupe_key: str
    priority_min: int
    priority_max: int
    attempts_min: int
    created_after: str
    created_before: str
    finished_after: str
    finished_before: str
    available_after: str
    available_before: str
    error_code: str
    error: str
    tag: str
    params: Mapping[str, Json]


class TaskList(TaskFilters, total=False):
    """Which tasks, and how they are listed."""

    limit: int
    sort_by: Literal["created_at", "priority", "id"]
    sort_order: Literal["asc", "desc"]
    include: Sequence[Literal["params", "result"]]


class EventFilters(TypedDict, total=False):
    """Which events, and how many at most."""

    type: str
    status: str | Sequence[str]
    tag: str
    limit: int
    wait_seconds: int


class ManyTasks(TypedDict, total=False):
    """Which tasks a call changes: those of `ids`, or those that match `filter`."""

    ids: Sequence[int]
    filter: TaskFilters
    limit: int
    cursor: str | None
    dry_run: bool


class ManyChanges(ManyTasks, total=False):
    """What `update_many` sets."""

    priority: int
    delay_seconds: float
    available_at: str


class Claim(TypedDict, total=False):
    """What is to be claimed. Without a filter any task that the key may work on."""

    task_type_id: int
    task_type_ids: Sequence[int]
    type: str
    task_types: Sequence[str]
    type_pattern: str
    sort_by: Literal["priority", "created_at", "id", "attempts"]
    sort_order: Literal["ASC", "DESC"]
    limit: int
    lease_seconds: int
    request_id: str
    wait_seconds: int
    fields: Sequence[str]


class Outcome(TypedDict, total=False):
    """How an attempt ended."""

    success: Required[bool]
    result: Json
    error: str | None
    error_message: str | None
    error_code: str | None
    is_retryable: bool
    retry_after_seconds: float | None
    claim_token: str | None


class Completion(Outcome, total=False):
    """How the attempt at one of several tasks ended."""

    id: Required[int]


class HeldTaskId(TypedDict, total=False):
    """A task that a worker holds."""

    id: Required[int]
    claim_token: str | None


class Concurrency(TypedDict, total=False):
    """How many tasks of a type, or of each concurrency_key of it, may be held at once."""

    limit: Required[int]
    per: Literal["type", "key"]


class MaxOpen(TypedDict, total=False):
    """How many tasks of a type, and of each group_key of it, may be unfinished."""

    type: int
    group: int


class TypeDefaults(TypedDict, total=False):
    """What tasks of a type get that do not say otherwise; None: what the settings say."""

    priority: int | None
    max_attempts: int | None
    lease_seconds: int | None
    retry: RetryPolicy | None
    dedupe: Literal["forever", "active", "none"] | None
    dedupe_days: int | None
    retention_days: int | None
    notify: str | None
    max_run_seconds: int | None
    is_encrypted: bool | None
    concurrency: Concurrency | None
    start_rate: str | None
    fair: bool | None
    max_open: MaxOpen | None


class TypeChanges(TypeDefaults, total=False):
    """What `change_type` sets."""

    is_active: bool
    is_paused: bool


class ScheduleOptions(TypedDict, total=False):
    """What may be said of a new schedule. It has `cron` or `interval_seconds`."""

    cron: str
    timezone: str
    interval_seconds: int
    priority: int | None
    max_attempts: int | None
    tags: Sequence[str]
    notify: str | None
    concurrency_key: str | None
    group_key: str | None
    overlap: Literal["allow", "skip"]
    is_active: bool


class ScheduleChanges(ScheduleOptions, total=False):
    """What `change_schedule` sets."""

    name: str
    params: Mapping[str, Json]


class KeyOptions(TypedDict, total=False):
    """What may be said of a new key. It has a `role` or `scopes`."""

    role: str
    scopes: Sequence[str]
    task_types: Sequence[str]
    rate_limit: str | int
    expires_at: str


class KeyChanges(TypedDict, total=False):
    """What `change_key` sets."""

    name: str
    scopes: Sequence[str]
    task_types: Sequence[str] | None
    rate_limit: str | int | None
    expires_at: str | None


class WebhookChanges(TypedDict, total=False):
    """What `change_webhook` sets."""

    url: str
    is_active: bool
