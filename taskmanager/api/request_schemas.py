"""The body and the query parameters of each call as JSON Schemas.

The OpenAPI document shows the same ones.
"""

from typing import Any

from taskmanager.access import keys
from taskmanager.access.key_changes import MAX_OVERLAP_SECONDS
from taskmanager.api import serializers
from taskmanager.api.json_schema import (
    FLAG,
    OBJECT,
    TEXT,
    TIME,
    Schema,
    integer,
    list_of,
    one_of,
    or_null,
    record,
)
from taskmanager.api.requests import MAX_INTEGER, PARAMS_PATH, QueryParameters, RequestBody
from taskmanager.notify import endpoints
from taskmanager.queue import claim_sql, dedupe, read, retry
from taskmanager.queue.answer_size import LARGE_COLUMNS
from taskmanager.queue.columns import MAX_DELAY_SECONDS
from taskmanager.queue.flow import backlog, limits
from taskmanager.queue.schedules import definitions


def _text(low: int, high: int, **more: str) -> Schema:
    """`low` to `high` characters. A `pattern` comes with a `description` that puts it in words."""
    return {"type": "string", "minLength": low, "maxLength": high, **more}


def _number(low: float, high: float) -> Schema:
    return {"type": "number", "minimum": low, "maximum": high}


ID = integer(1, MAX_INTEGER)
ANYTHING: Schema = {}
# Python's $ also matches before a newline at the end.
_END = r"$(?!\n)"
# Printable, and no space at either end, which some databases would not tell apart.
_AT_AN_END, _INSIDE = r"[^\x00-\x20\x7f-\x9f]", r"[^\x00-\x1f\x7f-\x9f]"
_PRINTABLE = f"^{_AT_AN_END}({_INSIDE}*{_AT_AN_END})?" + _END
_IN_WORDS = "printable characters without a space at either end"
NAME = _text(1, 255, pattern=_PRINTABLE, description=_IN_WORDS)
VERSION = {**NAME, "maxLength": 50}
TYPE_NAME = _text(
    1, 255, pattern=r"^[A-Za-z0-9._-]+" + _END, description="letters, digits, '.', '_' and '-'"
)
TYPE_PATTERN = _text(
    1,
    255,
    pattern=r"^[A-Za-z0-9._%-]+" + _END,
    description="letters, digits, '.', '_', '-', and '%' for any characters",
)
TAG = {**NAME, "maxLength": 50}
TAGS = {**list_of(TAG), "maxItems": 10}
# W3C Trace Context: version, trace id, parent id and flags. Neither id is all zeros.
TRACEPARENT = _text(
    55,
    55,
    pattern="^(?!ff|..-0{32}|.{36}0{16})[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}" + _END,
    description="a traceparent of W3C Trace Context, such as "
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)
DEPENDS_ON: Schema = {
    "type": "array",
    "maxItems": 1_000,
    "items": {
        "anyOf": [ID, record(index=integer(0, 999))],
        "description": 'the id of a task, or {"index": n} of an earlier one in the request',
    },
}
TOKEN = or_null(_text(1, 64))
PRIORITY = integer(-1_000_000, 1_000_000)
ATTEMPTS = integer(1, 100)
LEASE_SECONDS = integer(1, 86_400)
DELAY_SECONDS = _number(0, MAX_DELAY_SECONDS)
WAIT_SECONDS = integer(0, 20)
MAX_RUN_SECONDS = integer(1, 30 * 86_400)
DEDUPE = one_of(*dedupe.POLICIES)
DEDUPE_DAYS = integer(1, 36_500)
RETENTION_DAYS = integer(0, 36_500)
# 100/minute; 100 is a minute's, 0 is no limit.
RATE_LIMIT: Schema = {"type": ["string", "integer"], "minimum": 0, "maxLength": 50}
SCOPES = list_of(one_of(*keys.SCOPES), most=len(keys.SCOPES))
MESSAGE = or_null({"type": "string", "maxLength": 10_000})
RETRY = record(
    "base_seconds",
    "max_seconds",
    "jitter",
    strategy=one_of(*retry.STRATEGIES),
    base_seconds=_number(0, 86_400),
    max_seconds=_number(0, 604_800),
    jitter=FLAG,
)

CONCURRENCY = record("per", limit=integer(1, limits.MAX_CONCURRENCY), per=one_of("type", "key"))
_OPEN_TASKS = integer(1, backlog.MOST)
MAX_OPEN = {
    **record("type", "group", type=_OPEN_TASKS, group=_OPEN_TASKS),
    "minProperties": 1,
}
LANE_KEY = _text(1, 255)

_TYPE_DEFAULTS: dict[str, Any] = {
    "priority": or_null(PRIORITY),
    "max_attempts": or_null(ATTEMPTS),
    "lease_seconds": or_null(LEASE_SECONDS),
    "retry": or_null(RETRY),
    "dedupe": or_null(DEDUPE),
    "dedupe_days": or_null(DEDUPE_DAYS),
    "retention_days": or_null(RETENTION_DAYS),
    "notify": or_null(NAME),
    "max_run_seconds": or_null(MAX_RUN_SECONDS),
    "is_encrypted": or_null(FLAG),
    "concurrency": or_null(CONCURRENCY),
    "start_rate": or_null(_text(1, 50)),
    "fair": or_null(FLAG),
    "max_open": or_null(MAX_OPEN),
}

REGISTER_TASK_TYPE = RequestBody(
    required=("name", "version", "param_schema"),
    name=TYPE_NAME,
    version=VERSION,
    param_schema=OBJECT,
    **_TYPE_DEFAULTS,
)
CHANGE_TASK_TYPE = RequestBody(keeps_null=True, is_active=FLAG, is_paused=FLAG, **_TYPE_DEFAULTS)
VALIDATE = RequestBody(params=OBJECT, param_schema=OBJECT)

CREATE_TASK = RequestBody(
    required=("type", "params"),
    type=TYPE_NAME,
    params=OBJECT,
    priority=PRIORITY,
    max_attempts=ATTEMPTS,
    delay_seconds=DELAY_SECONDS,
    available_at=TIME,
    dedupe=DEDUPE,
    dedupe_key=_text(1, 255),
    dedupe_seconds=integer(1, 31_622_400),
    on_duplicate=one_of(*dedupe.ON_DUPLICATE),
    parent_task_id=or_null(ID),
    tags=TAGS,
    traceparent=or_null(TRACEPARENT),
    notify=NAME,
    expires_at=TIME,
    expires_in_seconds=DELAY_SECONDS,
    max_run_seconds=MAX_RUN_SECONDS,
    depends_on=DEPENDS_ON,
    on_dependency_failed=one_of("cancel", "run"),
    concurrency_key=LANE_KEY,
    group_key=LANE_KEY,
)
CHANGE_TASK = RequestBody(
    keeps_null=True,
    params=OBJECT,
    priority=PRIORITY,
    max_attempts=ATTEMPTS,
    delay_seconds=DELAY_SECONDS,
    available_at=TIME,
    tags=TAGS,
)
CREATE_TASKS = RequestBody(
    required=("tasks",),
    # Each task is checked by itself, so that a bad one does not spoil the others.
    tasks=list_of(OBJECT, most=1_000),
    atomic=FLAG,
)
_TASKS_OF_BATCH = {**list_of(OBJECT), "maxItems": 1_000}
CREATE_BATCH = RequestBody(
    name=NAME,
    tasks=_TASKS_OF_BATCH,
    is_open=FLAG,
    on_finished=OBJECT,
    on_completed=OBJECT,
    on_failed=OBJECT,
    metadata=OBJECT,
    parent_batch_id=or_null(ID),
)
ADD_TO_BATCH = RequestBody(required=("tasks",), tasks=_TASKS_OF_BATCH)
CLAIM = RequestBody(
    required=("worker_id",),
    worker_id=NAME,
    task_type_id=ID,
    task_type_ids=list_of(ID, most=100),
    type=TYPE_NAME,
    task_types=list_of(TYPE_NAME, most=100),
    type_pattern=TYPE_PATTERN,
    sort_by=one_of(*claim_sql.SORT_COLUMNS),
    sort_order=one_of("ASC", "DESC", "asc", "desc"),
    limit=integer(1, 100),
    lease_seconds=LEASE_SECONDS,
    request_id=NAME,
    wait_seconds=WAIT_SECONDS,
    fields=list_of(one_of(*serializers.TASK.names, *serializers.CLAIM), most=100),
)
_COMPLETION: dict[str, Any] = {
    "success": FLAG,
    "result": ANYTHING,
    "error": MESSAGE,
    "error_message": MESSAGE,
    "error_code": or_null({"type": "string", "maxLength": 100}),
    "is_retryable": FLAG,
    "retry_after_seconds": or_null(DELAY_SECONDS),
    "claim_token": TOKEN,
}
COMPLETE_TASK = RequestBody(required=("worker_id", "success"), worker_id=NAME, **_COMPLETION)
COMPLETE_TASKS = RequestBody(
    required=("worker_id", "completions"),
    worker_id=NAME,
    completions=list_of(
        record(*(_COMPLETION.keys() - {"success"}), id=ID, **_COMPLETION), most=1_000
    ),
    with_tasks=FLAG,
)
REPORT_PROGRESS = RequestBody(
    required=("worker_id", "progress"),
    worker_id=NAME,
    progress=integer(0, 100),
    message=MESSAGE,
    claim_token=TOKEN,
)
TASK_HEARTBEAT = RequestBody(
    required=("worker_id",), worker_id=NAME, claim_token=TOKEN, lease_seconds=LEASE_SECONDS
)
RELEASE_TASK = RequestBody(
    required=("worker_id",), worker_id=NAME, claim_token=TOKEN, delay_seconds=DELAY_SECONDS
)
CANCEL_TASK = RequestBody(reason=MESSAGE)
NOTHING = RequestBody()
WORKER_ID = RequestBody(worker_id=NAME)  # where it is part of the address
WORKER_HEARTBEAT = RequestBody(
    required=("worker_id",),
    worker_id=NAME,
    metadata=OBJECT,
    tasks={**list_of(record("claim_token", id=ID, claim_token=TOKEN)), "maxItems": 1_000},
)
_SCHEDULE: dict[str, Any] = {
    "name": NAME,
    "params": OBJECT,
    "cron": {"type": "string", "maxLength": 100},
    "timezone": {"type": "string", "maxLength": 64},
    "interval_seconds": integer(1, definitions.MAX_INTERVAL_SECONDS),
    "priority": or_null(PRIORITY),
    "max_attempts": or_null(ATTEMPTS),
    "tags": TAGS,
    "notify": or_null(NAME),
    "concurrency_key": or_null(LANE_KEY),
    "group_key": or_null(LANE_KEY),
    "overlap": one_of(*definitions.OVERLAPS),
    "is_active": FLAG,
}
CREATE_SCHEDULE = RequestBody(required=("name", "type", "params"), type=TYPE_NAME, **_SCHEDULE)
CHANGE_SCHEDULE = RequestBody(keeps_null=True, **_SCHEDULE)
CREATE_KEY = RequestBody(
    required=("name",),
    name=NAME,
    role=one_of(*keys.ROLES),
    scopes=SCOPES,
    task_types=list_of(TYPE_PATTERN, most=100),
    rate_limit=RATE_LIMIT,
    expires_at=TIME,
)
CHANGE_KEY = RequestBody(
    keeps_null=True,
    name=NAME,
    scopes=SCOPES,
    task_types=or_null(list_of(TYPE_PATTERN, most=100)),
    rate_limit=or_null(RATE_LIMIT),
    expires_at=or_null(TIME),
)
_WEBHOOK_URL = _text(1, endpoints.MAX_URL_LENGTH)
CREATE_WEBHOOK = RequestBody(required=("name", "url"), name=NAME, url=_WEBHOOK_URL, is_active=FLAG)
CHANGE_WEBHOOK = RequestBody(keeps_null=True, url=_WEBHOOK_URL, is_active=FLAG)
ROTATE_WEBHOOK = RequestBody(overlap_seconds=integer(0, endpoints.MAX_OVERLAP_SECONDS))
ROTATE_KEY = RequestBody(overlap_seconds=integer(0, MAX_OVERLAP_SECONDS))

_LIMIT = {**integer(1, 100), "default": 50}
_ANY_PRIORITY = integer(-(2**31), 2**31 - 1)
_PAGE = {"limit": _LIMIT, "offset": {**integer(0, read.MAX_OFFSET), "default": 0}}

NO_PARAMETERS = QueryParameters()
GET_TASK = QueryParameters(wait_seconds={**WAIT_SECONDS, "default": 0})
PAGE = QueryParameters(**_PAGE, cursor=TEXT)
AUDIT_PAGE = QueryParameters(limit=_LIMIT, cursor=integer(1, MAX_INTEGER))
LOGS_PAGE = QueryParameters(
    limit={**integer(1, 1_000), "default": 1_000}, cursor=integer(1, MAX_INTEGER)
)
FORCE = QueryParameters(force=FLAG)
OF_VERSION = QueryParameters(version=TEXT)
# All of them without a limit: a worker that polls its types must not lose some without a sign.
LIST_TASK_TYPES = QueryParameters(
    active_only=FLAG, limit=integer(1, 100), offset=_PAGE["offset"], cursor=TEXT
)
TASK_FILTERS: dict[str, Schema] = {
    "status": list_of(one_of(*read.STATUSES), most=len(read.STATUSES)),
    "type": TEXT,
    "worker_id": TEXT,
    "parent_task_id": ID,
    "batch_id": ID,
    "dedupe_key": TEXT,
    "priority_min": _ANY_PRIORITY,
    "priority_max": _ANY_PRIORITY,
    "attempts_min": integer(0, 2**31 - 1),
    "created_after": TIME,
    "created_before": TIME,
    "finished_after": TIME,
    "finished_before": TIME,
    "available_after": TIME,
    "available_before": TIME,
    "error_code": TEXT,
    "error": TEXT,
    "tag": TEXT,
    PARAMS_PATH: TEXT,
}
LIST_TASKS = QueryParameters(
    **TASK_FILTERS,
    **_PAGE,
    cursor=TEXT,
    sort_by=one_of(*read.SORT_COLUMNS),
    sort_order=one_of("asc", "desc", "ASC", "DESC"),
    include=list_of(one_of(*LARGE_COLUMNS)),
    with_total=FLAG,
)
LIST_EVENTS = QueryParameters(
    after=TEXT,
    limit={**integer(1, 1_000), "default": 100},
    type=TEXT,
    status=TASK_FILTERS["status"],
    tag=TEXT,
    wait_seconds={**WAIT_SECONDS, "default": 0},
)
LIST_ERRORS = QueryParameters(**TASK_FILTERS, cursor=TEXT)
TASK_FILTER = QueryParameters(**TASK_FILTERS)

CHANGED_AT_ONCE = 1_000  # unless a call says otherwise
_MOST_CHANGED = 10_000
_FILTER: Schema = {
    "type": "object",
    "description": "The filters of GET /api/tasks, params.PATH among them.",
    "properties": {
        **{name: schema for name, schema in TASK_FILTERS.items() if name != PARAMS_PATH},
        "status": {"type": ["string", "array"], "items": one_of(*read.STATUSES)},
    },
}
_CHANGE_MANY: dict[str, Any] = {
    "ids": list_of(ID, most=_MOST_CHANGED),
    "filter": _FILTER,
    "limit": integer(1, _MOST_CHANGED),
    "cursor": TEXT,
    "dry_run": FLAG,
}
CHANGE_MANY = RequestBody(**_CHANGE_MANY)
CANCEL_MANY = RequestBody(**_CHANGE_MANY, reason=MESSAGE)
UPDATE_MANY = RequestBody(
    **_CHANGE_MANY, priority=PRIORITY, delay_seconds=DELAY_SECONDS, available_at=TIME
)
