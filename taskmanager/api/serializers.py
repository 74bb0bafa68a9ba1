"""The objects of the API: the fields of each, and how they are made from the rows of the database.

The OpenAPI document takes the fields from here too.
"""

from collections.abc import Callable
from typing import Any

from taskmanager import alert_rules
from taskmanager.access import keys
from taskmanager.api.json_schema import (
    FLAG,
    OBJECT,
    TEXT,
    Schema,
    like,
    list_of,
    one_of,
    or_null,
    record,
)
from taskmanager.api.json_schema import TIME as ANY_TIME
from taskmanager.api.requests import decode_json
from taskmanager.clock import format_time
from taskmanager.db.statements import Row
from taskmanager.queue import dedupe, task_types
from taskmanager.queue.answer_size import LARGE_COLUMNS
from taskmanager.queue.read import STATUSES, WITH_WORKER_STATUSES
from taskmanager.queue.schedules import definitions

NUMBER = like({"type": "integer"}, 1)
COUNT = like({"type": "integer", "minimum": 0}, 1)
SECONDS = like({"type": "number"}, 30)
RATE = like({"type": "number"}, 1.5)
TIME = like(ANY_TIME, "2026-01-31T12:00:00.000Z")
PARAMS = like(OBJECT, {"url": "https://example.org/"})
METADATA = like(OBJECT, {"host": "worker-1.example.org"})
TYPE = like(TEXT, "PrismQ.Script.Generate")
WORKER_ID = like(TEXT, "worker-1")
LANE_KEY = like(or_null(TEXT), "customer-7")


class Fields:
    """The fields of one kind of object, by name. Each has the value of the column of that name.

    Its schema determines how the value is converted: times are stored as
    milliseconds, flags as 0 or 1, objects and lists as JSON.
    """

    def __init__(self, **schemas: Schema) -> None:
        self._schemas = schemas
        self.names = tuple(schemas)
        self._conversions = [(name, _conversion(schema)) for name, schema in schemas.items()]

    def without(self, *names: str) -> "Fields":
        """The other fields."""
        return Fields(**{name: one for name, one in self._schemas.items() if name not in names})

    def of(self, row: Row) -> dict[str, Any]:
        """The object for `row`."""
        return {
            name: row[name] if convert is None else convert(row[name])
            for name, convert in self._conversions
        }

    def schema(self, *optional: str, **more: Schema) -> Schema:
        """The schema of the object, with the fields `more` that a call adds."""
        return record(*optional, **self._schemas, **more)


def _conversion(schema: Schema) -> Callable[[Any], Any] | None:
    if schema.get("format") == "date-time":
        return format_time
    if schema is LANE_KEY:
        return _lane_key
    kind = schema.get("type", "object")  # without a type it can be anything
    if not isinstance(kind, str):
        kind = kind[0]
    if kind == "boolean":
        return bool
    if schema.get("type") == "array":
        return _parsed_list
    return _parsed if kind in ("object", "array") else None


def _lane_key(text: str | None) -> str | None:
    return text or None  # of a task that came without one it may be empty: see queue/flow/lanes.py


def _parsed(text: str | None) -> Any:
    return decode_json(text) if text else None


def _parsed_list(text: str | None) -> Any:
    return decode_json(text) if text else []


TASK = Fields(
    id=NUMBER,
    type=TYPE,
    task_type_id=NUMBER,
    type_id=NUMBER,
    type_version=like(TEXT, "1.0"),
    status=one_of(*STATUSES),
    params=PARAMS,
    result={"examples": [{"title": "Example"}]},
    error_message=or_null(TEXT),
    error_code=or_null(TEXT),
    priority=NUMBER,
    progress=or_null(NUMBER),
    progress_message=or_null(TEXT),
    attempts=COUNT,
    max_attempts=like(COUNT, 3),
    dedupe=one_of(*dedupe.POLICIES),
    dedupe_key=like(TEXT, "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"),
    parent_task_id=or_null(NUMBER),
    batch_id=like(or_null(NUMBER), None),
    concurrency_key=LANE_KEY,
    group_key=LANE_KEY,
    tags=like(list_of(TEXT), []),
    traceparent=like(or_null(TEXT), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    notify=like(or_null(TEXT), "billing"),
    worker_id=or_null(WORKER_ID),
    claimed_by=or_null(WORKER_ID),
    claimed_at=or_null(TIME),
    lease_expires_at=or_null(TIME),
    max_run_seconds=like(or_null(COUNT), None),
    available_at=TIME,
    expires_at=like(or_null(TIME), None),
    on_dependency_failed=like(or_null(one_of("cancel", "run")), None),
    completed_at=or_null(TIME),
    pruned_at=like(or_null(TIME), None),
    dedupe_until=like(or_null(TIME), None),
    created_at=TIME,
    updated_at=TIME,
)
TASK_WITHOUT_PARAMS = TASK.without("params")
SMALL_TASK = TASK.without(*LARGE_COLUMNS)
GRAPH_TASK = Fields(
    id=NUMBER, type=TYPE, status=one_of(*STATUSES), error_code=like(or_null(TEXT), None)
)
GRAPH_EDGE = Fields(
    task_id=NUMBER, depends_on_id=NUMBER, position=like(COUNT, 0), is_open=like(FLAG, True)
)
# What a claim adds to the task, by name.
CLAIM = {
    "claim_token": like(TEXT, "fJ0f3m6v1pY2n8sX5wQ7Zg.1"),
    "lease_seconds": like(NUMBER, 300),
    "next_heartbeat_in": SECONDS,
}
LEASE = Fields(
    id=NUMBER,
    status=one_of(*STATUSES),
    progress=or_null(NUMBER),
    progress_message=or_null(TEXT),
    lease_expires_at=or_null(TIME),
    cancelled=like(FLAG, False),
    lease_seconds=like(or_null(NUMBER), 300),
    next_heartbeat_in=SECONDS,
)
ATTEMPT_ERROR = Fields(
    attempt=NUMBER,
    worker_id=or_null(TEXT),
    error_message=or_null(TEXT),
    error_code=or_null(TEXT),
    failed_at=TIME,
)
_LOG_ENTRY: dict[str, Schema] = {
    "id": NUMBER,
    "task_id": NUMBER,
    "event": like(TEXT, "created"),
    "status": or_null(one_of(*STATUSES)),
    "attempt": or_null(COUNT),
    "worker_id": or_null(TEXT),
    "api_key_id": or_null(NUMBER),
    "message": or_null(TEXT),
    "metadata": or_null(METADATA),
    "created_at": TIME,
}
LOG_ENTRY = Fields(**_LOG_ENTRY)
EVENT = Fields(**_LOG_ENTRY, type=TYPE, task_type_id=NUMBER)
TASK_TYPE = Fields(
    id=NUMBER,
    name=TYPE,
    version=like(TEXT, "1.0"),
    is_active=like(FLAG, True),
    is_paused=like(FLAG, False),
    priority=or_null(NUMBER),
    max_attempts=like(or_null(COUNT), 3),
    lease_seconds=like(or_null(COUNT), 300),
    retry=like(or_null(OBJECT), {"strategy": "exponential"}),
    dedupe=or_null(one_of(*dedupe.POLICIES)),
    dedupe_days=like(or_null(COUNT), None),
    retention_days=like(or_null(COUNT), None),
    notify=like(or_null(TEXT), None),
    max_run_seconds=like(or_null(COUNT), None),
    is_encrypted=like(FLAG, False),
    concurrency=like(or_null(OBJECT), None),
    start_rate=like(or_null(TEXT), None),
    fair=like(FLAG, False),
    max_open=like(or_null(OBJECT), None),
    created_at=TIME,
    updated_at=TIME,
)
BATCH = Fields(
    id=NUMBER,
    name=like(or_null(TEXT), "invoices of May"),
    metadata=like(or_null(METADATA), None),
    parent_batch_id=like(or_null(NUMBER), None),
    on_finished_task_id=like(or_null(NUMBER), None),
    on_completed_task_id=like(or_null(NUMBER), None),
    on_failed_task_id=like(or_null(NUMBER), None),
    closed_at=or_null(TIME),
    finished_at=or_null(TIME),
    created_at=TIME,
    updated_at=TIME,
)
WORKER = Fields(
    id=WORKER_ID,
    worker_id=WORKER_ID,
    status=one_of("active", "stale", "inactive"),
    first_seen_at=TIME,
    last_seen_at=TIME,
    tasks_held=COUNT,
    tasks_completed=or_null(COUNT),
    tasks_failed=or_null(COUNT),
    metadata=or_null(METADATA),
)
DONE_PER_MINUTE = or_null(record(ten_minutes=RATE, hour=RATE))
SCHEDULE = Fields(
    id=NUMBER,
    name=like(TEXT, "nightly report"),
    type=like(TEXT, "report"),
    task_type_id=NUMBER,
    params=PARAMS,
    priority=or_null(NUMBER),
    max_attempts=or_null(COUNT),
    tags=like(list_of(TEXT), []),
    notify=like(or_null(TEXT), None),
    concurrency_key=LANE_KEY,
    group_key=LANE_KEY,
    overlap=one_of(*definitions.OVERLAPS),
    cron=like(or_null(TEXT), "0 3 * * *"),
    timezone=like(TEXT, "Europe/Prague"),
    interval_seconds=like(or_null(COUNT), None),
    is_active=like(FLAG, True),
    next_run_at=or_null(TIME),
    last_run_at=or_null(TIME),
    last_outcome=like(or_null(TEXT), "created"),
    last_task_id=or_null(NUMBER),
    last_error=like(or_null(TEXT), None),
    created_at=TIME,
    updated_at=TIME,
)
FAILURE_GROUP = Fields(
    type=TYPE,
    error_code=like(or_null(TEXT), "timeout"),
    message=like(or_null(TEXT), "no answer within # s"),
    count=COUNT,
    first_at=TIME,
    last_at=TIME,
    example_task_id=NUMBER,
    example_message=like(or_null(TEXT), "no answer within 30 s"),
)
# Never the key itself, never its hash.
KEY = Fields(
    id=NUMBER,
    name=like(TEXT, "scraper"),
    prefix=like(TEXT, "tm_AbCdEfGh"),
    scopes=list_of(one_of(*keys.SCOPES)),
    task_types=like(or_null(list_of(TEXT)), ["PrismQ.%"]),
    rate_limit=like(or_null(TEXT), "100/minute"),
    expires_at=or_null(TIME),
    revoked_at=like(or_null(TIME), None),
    last_used_at=or_null(TIME),
    created_at=TIME,
)
# Never a secret.
WEBHOOK = Fields(
    id=NUMBER,
    name=like(TEXT, "billing"),
    url=like(TEXT, "https://example.org/hooks"),
    is_active=like(FLAG, True),
    failing_since=like(or_null(TIME), None),
    disabled_at=like(or_null(TIME), None),
    disabled_reason=like(or_null(TEXT), None),
    old_secret_until=like(or_null(TIME), None),
    created_at=TIME,
    updated_at=TIME,
)
DELIVERY = Fields(
    id=NUMBER,
    webhook_id=NUMBER,
    message_id=like(TEXT, "msg_9f86d081884c7d659a2feaa0c55ad015"),
    task_id=NUMBER,
    event=like(TEXT, "task.completed"),
    status=one_of("pending", "delivered", "failed"),
    attempts=COUNT,
    next_attempt_at=TIME,
    give_up_at=TIME,
    response_status=like(or_null(NUMBER), 200),
    error=like(or_null(TEXT), None),
    finished_at=or_null(TIME),
    created_at=TIME,
)
ALERT = Fields(
    id=NUMBER,
    rule=one_of(*alert_rules.RULES),
    subject=like(TEXT, "mail.send"),
    message=like(TEXT, "has tasks waiting, the oldest for 20 min, and nobody works on it."),
    remedy=like(TEXT, "Start a worker for this type, or see why its workers have stopped."),
    began_at=TIME,
    last_seen_at=TIME,
    ended_at=like(or_null(TIME), None),
    notified_at=or_null(TIME),
)
ALERT_CHANNEL = Fields(
    name=one_of("email", "webhook"),
    last_sent_at=or_null(TIME),
    error=like(or_null(TEXT), None),
)
AUDIT_EVENT = Fields(
    id=NUMBER,
    event=like(TEXT, "key_created"),
    api_key_id=or_null(NUMBER),
    address=like(or_null(TEXT), "203.0.113.7"),
    request_id=or_null(TEXT),
    message=like(TEXT, "key 2 (scraper) made by admin"),
    created_at=TIME,
)


def task_json(row: Row, fields: Fields = TASK) -> dict[str, Any]:
    """The task object, with these of its fields."""
    held = row["status"] in WITH_WORKER_STATUSES
    worker_id = row["worker_id"] if held else None
    shown = {
        **row,
        "type_id": row["task_type_id"],
        "worker_id": worker_id,
        "claimed_by": worker_id,
        "claimed_at": row["claimed_at"] if held else None,
    }
    return fields.of(shown)


def claimed_task_json(row: Row, fields: Fields = TASK) -> dict[str, Any]:
    """The task object for the worker that claimed it: with the claim token."""
    return {**task_json(row, fields), "claim_token": row["claim_token"]}


def attempt_error_json(log: Row) -> dict[str, Any]:
    """How one attempt failed, from its row in the history."""
    metadata = _parsed(log["metadata"]) or {}
    is_expired = log["event"] == "lease_expired"
    code = "lease_expired" if is_expired else metadata.get("error_code")
    return ATTEMPT_ERROR.of(
        {**log, "error_message": log["message"], "error_code": code, "failed_at": log["created_at"]}
    )


def task_type_json(row: Row) -> dict[str, Any]:
    """A task type; with `param_schema` and `open_tasks` where the row has them."""
    task_type = TASK_TYPE.of(row)
    if "param_schema" in row:
        task_type["param_schema"] = _parsed(row["param_schema"])
    if "open_tasks" in row:
        task_type["open_tasks"] = row["open_tasks"]
    return task_type


def worker_json(row: Row) -> dict[str, Any]:
    worker = WORKER.of({**row, "worker_id": row["id"]})
    return {**worker, "done_per_minute": row["done_per_minute"]}


def schedule_json(row: Row) -> dict[str, Any]:
    """A schedule; with `next_runs` where the row has them."""
    schedule = SCHEDULE.of(row)
    if "next_runs" in row:
        schedule["next_runs"] = [format_time(due_at) for due_at in row["next_runs"]]
    return schedule


def statistics_json(figures: dict[str, Any]) -> dict[str, Any]:
    """The statistics with their times as text."""
    times = {name: format_time(figures[name]) for name in ("counted_at", "measured_until")}
    drains_at = {name: format_time(moment) for name, moment in figures["drains_at"].items()}
    return {**figures, **times, "drains_at": drains_at}


def page_json(name: str, page: task_types.Page, row_json: Callable[[Row], Any]) -> dict[str, Any]:
    """A part of a list: its objects under `name`, and whether there are more."""
    return {
        name: [row_json(row) for row in page.rows],
        "count": len(page.rows),
        "total": page.total,
        "total_is_exact": page.total_is_exact,
        "next_cursor": page.next_cursor,
    }
