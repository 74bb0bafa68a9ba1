"""The answers that are plain dicts, for type checkers. docs/api.md explains each field.

Times are ISO 8601 texts in UTC, durations are seconds. What has many fields is a dataclass of
models.py instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:  # a type checker brings its own; nothing is installed for it
    from typing_extensions import Required

    from taskmanager_client.models import Event, Key

Json = Any


class Lease(TypedDict):
    """A task after a heartbeat or a report of progress. `cancelled`: stop working on it."""

    id: int
    status: str
    progress: int | None
    progress_message: str | None
    lease_expires_at: str | None
    cancelled: bool
    lease_seconds: int | None
    next_heartbeat_in: float


class WorkerHeartbeat(TypedDict):
    """Which leases a heartbeat renewed: ids of tasks. `lease_seconds` is the shortest of them."""

    lease_seconds: int | None
    next_heartbeat_in: float
    renewed: list[int]
    lost: list[int]
    cancelled: list[int]


class CompletionResult(TypedDict, total=False):
    """What became of one report of several. `outcome` is the task's new status, or "error"."""

    id: Required[int]
    outcome: Required[str]
    task: dict[str, Json]
    error: dict[str, Json]


class ManyChanged(TypedDict):
    """How many tasks matched and were changed; `skipped` counts the others by reason.

    `next_cursor` continues where the limit was reached. `is_complete` is false where more tasks
    may match than were looked at.
    """

    matched: int
    changed: int
    skipped: dict[str, int]
    next_cursor: str | None
    is_complete: bool


class ErrorGroup(TypedDict):
    """Failed tasks that have type, error code and message in common, numbers taken out."""

    type: str
    error_code: str | None
    message: str | None
    count: int
    first_at: str
    last_at: str
    example_task_id: int
    example_message: str | None


class EventPage(TypedDict):
    """Events in order. `next_cursor` is the `after` of the next call.

    `is_complete` is false where more can be read at once.
    """

    events: list[Event]
    count: int
    next_cursor: str
    scanned: int
    is_complete: bool


class Verdict(TypedDict, total=False):
    """Of params: `valid`, `errors`, `warnings`. Of a schema: how many open tasks it rejects."""

    valid: bool
    errors: list[dict[str, Json]]
    warnings: list[dict[str, Json]]
    checked: int
    rejected: int
    examples: list[dict[str, Json]]


class Health(TypedDict):
    """Whether the service works: `status` is "healthy" or "unhealthy"."""

    status: str
    database: str
    maintenance: str | None
    rate_limits: str
    version: str
    uptime_seconds: int
    timestamp: str


class Quantiles(TypedDict):
    """Seconds that half, and 95 of 100, did not exceed; of how many."""

    p50: float
    p95: float
    count: int


class FailedAttempts(TypedDict):
    """How many attempts failed with one error code in the last hour and day."""

    type: str
    error_code: str | None
    hour: int
    day: int


class Statistics(TypedDict):
    """Tasks by status and type, what was finished lately, and by type how fast it goes."""

    by_status: dict[str, int]
    by_type: dict[str, dict[str, int]]
    total: int
    oldest_pending_seconds: float | None
    finished: dict[str, dict[str, int]]
    counted_at: str
    wait_seconds: dict[str, Quantiles]
    run_seconds: dict[str, Quantiles]
    drains_at: dict[str, str | None]
    failed_attempts: list[FailedAttempts]
    measured_until: str | None


class NewKey(TypedDict):
    """A key that was just created. `secret` is in no other answer."""

    secret: str
    key: Key


class Batch(TypedDict):
    """Tasks that belong together. `status` is "open", "running" or "finished".

    `counts` says how many have ended, by status, and how many are "unfinished"; `progress` is the
    share of those that have ended, in percent.
    """

    id: int
    name: str | None
    metadata: dict[str, Json] | None
    status: str
    tasks: int
    counts: dict[str, int]
    progress: int
    parent_batch_id: int | None
    on_finished_task_id: int | None
    on_completed_task_id: int | None
    on_failed_task_id: int | None
    closed_at: str | None
    finished_at: str | None
    created_at: str
    updated_at: str


class BatchResult(TypedDict):
    """One task of a batch. `outcome` is "created", or "deduplicated": then it is no member."""

    outcome: str
    task: dict[str, Json]


class BatchWithTasks(Batch):
    """A batch with what became of each task that a call has sent, in order."""

    results: list[BatchResult]


class BatchChanged(Batch, ManyChanged):
    """A batch, and how many of its tasks were changed."""


class Webhook(TypedDict):
    """An endpoint that is notified when tasks end."""

    id: int
    name: str
    url: str
    is_active: bool
    failing_since: str | None
    disabled_at: str | None
    disabled_reason: str | None
    old_secret_until: str | None
    created_at: str
    updated_at: str


class NewWebhook(Webhook):
    """An endpoint with its secret, which is shown once."""

    secret: str


class Delivery(TypedDict):
    """A message to an endpoint. `status` is "pending", "delivered" or "failed"."""

    id: int
    webhook_id: int
    message_id: str
    task_id: int
    event: str
    status: str
    attempts: int
    next_attempt_at: str
    give_up_at: str
    response_status: int | None
    error: str | None
    finished_at: str | None
    created_at: str


class Alert(TypedDict):
    """What was wrong, from when to when; `ended_at` is None while it still is."""

    id: int
    rule: str
    subject: str
    message: str
    remedy: str
    began_at: str
    last_seen_at: str
    ended_at: str | None
    notified_at: str | None


class AuditEvent(TypedDict):
    """What somebody did, or tried to do."""

    id: int
    event: str
    api_key_id: int | None
    address: str | None
    request_id: str | None
    message: str | None
    created_at: str


class Finding(TypedDict):
    """One thing that the doctor looked at. `level` is "ok", "warning" or "problem"."""

    group: str
    code: str
    level: str
    found: str
    remedy: str | None


class MaintenanceDone(TypedDict):
    """How many tasks one run of maintenance created, requeued, started, cancelled and pruned."""

    created: int
    requeued: int
    started: int
    expired: int
    pruned: int


class ClientFile(TypedDict):
    """A client that the server hands out."""

    name: str
    language: str
    size: int
    sha256: str
    url: str
    install: str


class GraphTask(TypedDict):
    """A task of a graph."""

    id: int
    type: str
    status: str
    error_code: str | None


class GraphEdge(TypedDict):
    """That one task depends on another."""

    task_id: int
    depends_on_id: int
    position: int
    is_open: bool


class TaskGraph(TypedDict):
    """What `graph` returns; without `is_complete` there is more."""

    tasks: list[GraphTask]
    edges: list[GraphEdge]
    is_complete: bool
