"""The body of each call as a JSON Schema; the OpenAPI document shows the same ones."""

from typing import Any

from taskmanager.access import keys
from taskmanager.access.key_changes import MAX_OVERLAP_SECONDS
from taskmanager.api.requests import MAX_INTEGER, RequestBody
from taskmanager.queue import claim_sql, dedupe, retry
from taskmanager.queue.create import MAX_DELAY_SECONDS
from taskmanager.queue.schedules import definitions

Schema = dict[str, Any]


def _or_null(schema: Schema) -> Schema:
    kind = schema["type"]
    nullable = {**schema, "type": [*([kind] if isinstance(kind, str) else kind), "null"]}
    if "enum" in schema:
        nullable["enum"] = [*schema["enum"], None]
    return nullable


def _list_of(items: Schema, most: int) -> Schema:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}


ID: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_INTEGER}
FLAG: Schema = {"type": "boolean"}
ANYTHING: Schema = {}
OBJECT: Schema = {"type": "object"}
# Python's $ also matches before a newline at the end.
_END = r"$(?!\n)"
# Printable, and no space at either end, which some databases would not tell apart.
_AT_AN_END, _INSIDE = r"[^\x00-\x20\x7f-\x9f]", r"[^\x00-\x1f\x7f-\x9f]"
_PRINTABLE = f"^{_AT_AN_END}({_INSIDE}*{_AT_AN_END})?" + _END
_IN_WORDS = "printable characters without a space at either end"
NAME: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": 255,
    "pattern": _PRINTABLE,
    "description": _IN_WORDS,
}
TYPE_NAME: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": 255,
    "pattern": r"^[A-Za-z0-9._-]+" + _END,
    "description": "letters, digits, '.', '_' and '-'",
}
TYPE_PATTERN: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": 255,
    "pattern": r"^[A-Za-z0-9._%-]+" + _END,
    "description": "letters, digits, '.', '_', '-', and '%' for any characters",
}
VERSION: Schema = {**NAME, "maxLength": 50}
TOKEN: Schema = {"type": "string", "minLength": 1, "maxLength": 64}
PRIORITY: Schema = {"type": "integer", "minimum": -1_000_000, "maximum": 1_000_000}
ATTEMPTS: Schema = {"type": "integer", "minimum": 1, "maximum": 100}
LEASE_SECONDS: Schema = {"type": "integer", "minimum": 1, "maximum": 86_400}
DELAY_SECONDS: Schema = {"type": "number", "minimum": 0, "maximum": MAX_DELAY_SECONDS}
TIME: Schema = {"type": "string", "format": "date-time"}
DEDUPE: Schema = {"type": "string", "enum": list(dedupe.POLICIES)}
# 100/minute; 100 is a minute's, 0 is no limit.
RATE_LIMIT: Schema = {"type": ["string", "integer"], "minimum": 0, "maxLength": 50}
SCOPES: Schema = _list_of({"type": "string", "enum": list(keys.SCOPES)}, len(keys.SCOPES))
MESSAGE: Schema = {"type": "string", "maxLength": 10_000}
RETRY: Schema = {
    "type": "object",
    "properties": {
        "strategy": {"type": "string", "enum": list(retry.STRATEGIES)},
        "base_seconds": {"type": "number", "minimum": 0, "maximum": 86_400},
        "max_seconds": {"type": "number", "minimum": 0, "maximum": 604_800},
        "jitter": FLAG,
    },
    "required": ["strategy"],
    "additionalProperties": False,
}

_TYPE_DEFAULTS: dict[str, Any] = {
    "priority": _or_null(PRIORITY),
    "max_attempts": _or_null(ATTEMPTS),
    "lease_seconds": _or_null(LEASE_SECONDS),
    "retry": _or_null(RETRY),
    "dedupe": _or_null(DEDUPE),
}

REGISTER_TASK_TYPE = RequestBody(
    required=("name", "version", "param_schema"),
    name=TYPE_NAME,
    version=VERSION,
    param_schema=OBJECT,
    **_TYPE_DEFAULTS,
)
CHANGE_TASK_TYPE = RequestBody(is_active=FLAG, is_paused=FLAG, **_TYPE_DEFAULTS)
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
    dedupe_key={"type": "string", "minLength": 1, "maxLength": 255},
    parent_task_id=_or_null(ID),
)
CREATE_TASKS = RequestBody(
    required=("tasks",),
    # Each task is checked by itself, so that a bad one does not spoil the others.
    tasks=_list_of(OBJECT, 1_000),
    atomic=FLAG,
)
CLAIM = RequestBody(
    required=("worker_id",),
    worker_id=NAME,
    task_type_id=ID,
    task_type_ids=_list_of(ID, 100),
    type=TYPE_NAME,
    task_types=_list_of(TYPE_NAME, 100),
    type_pattern=TYPE_PATTERN,
    sort_by={"type": "string", "enum": list(claim_sql.SORT_COLUMNS)},
    sort_order={"type": "string", "enum": ["ASC", "DESC", "asc", "desc"]},
    limit={"type": "integer", "minimum": 1, "maximum": 100},
    lease_seconds=LEASE_SECONDS,
    request_id=NAME,
)
_COMPLETION: dict[str, Any] = {
    "success": FLAG,
    "result": ANYTHING,
    "error": _or_null(MESSAGE),
    "error_message": _or_null(MESSAGE),
    "error_code": _or_null({"type": "string", "maxLength": 100}),
    "is_retryable": FLAG,
    "retry_after_seconds": _or_null(DELAY_SECONDS),
    "claim_token": _or_null(TOKEN),
}
COMPLETE_TASK = RequestBody(required=("worker_id", "success"), worker_id=NAME, **_COMPLETION)
COMPLETE_TASKS = RequestBody(
    required=("worker_id", "completions"),
    worker_id=NAME,
    completions=_list_of(
        {
            "type": "object",
            "properties": {"id": ID, **_COMPLETION},
            "required": ["id", "success"],
            "additionalProperties": False,
        },
        1_000,
    ),
)
REPORT_PROGRESS = RequestBody(
    required=("worker_id", "progress"),
    worker_id=NAME,
    progress={"type": "integer", "minimum": 0, "maximum": 100},
    message=_or_null(MESSAGE),
    claim_token=_or_null(TOKEN),
)
TASK_HEARTBEAT = RequestBody(
    required=("worker_id",),
    worker_id=NAME,
    claim_token=_or_null(TOKEN),
    lease_seconds=LEASE_SECONDS,
)
RELEASE_TASK = RequestBody(
    required=("worker_id",),
    worker_id=NAME,
    claim_token=_or_null(TOKEN),
    delay_seconds=DELAY_SECONDS,
)
CANCEL_TASK = RequestBody(reason=_or_null(MESSAGE))
NOTHING = RequestBody()
WORKER_ID = RequestBody(worker_id=NAME)  # where it is part of the address
WORKER_HEARTBEAT = RequestBody(
    required=("worker_id",),
    worker_id=NAME,
    metadata=OBJECT,
    tasks={
        "type": "array",
        "maxItems": 1_000,
        "items": {
            "type": "object",
            "properties": {"id": ID, "claim_token": _or_null(TOKEN)},
            "required": ["id"],
            "additionalProperties": False,
        },
    },
)
_SCHEDULE: dict[str, Any] = {
    "name": NAME,
    "params": OBJECT,
    "cron": {"type": "string", "maxLength": 100},
    "timezone": {"type": "string", "maxLength": 64},
    "interval_seconds": {
        "type": "integer",
        "minimum": 1,
        "maximum": definitions.MAX_INTERVAL_SECONDS,
    },
    "priority": _or_null(PRIORITY),
    "max_attempts": _or_null(ATTEMPTS),
    "overlap": {"type": "string", "enum": list(definitions.OVERLAPS)},
    "is_active": FLAG,
}
CREATE_SCHEDULE = RequestBody(required=("name", "type", "params"), type=TYPE_NAME, **_SCHEDULE)
CHANGE_SCHEDULE = RequestBody(**_SCHEDULE)
CREATE_KEY = RequestBody(
    required=("name",),
    name=NAME,
    role={"type": "string", "enum": list(keys.ROLES)},
    scopes=SCOPES,
    task_types=_list_of(TYPE_PATTERN, 100),
    rate_limit=RATE_LIMIT,
    expires_at=TIME,
)
CHANGE_KEY = RequestBody(
    name=NAME,
    scopes=SCOPES,
    task_types=_or_null(_list_of(TYPE_PATTERN, 100)),
    rate_limit=_or_null(RATE_LIMIT),
    expires_at=_or_null(TIME),
)
ROTATE_KEY = RequestBody(
    overlap_seconds={"type": "integer", "minimum": 0, "maximum": MAX_OVERLAP_SECONDS},
)
