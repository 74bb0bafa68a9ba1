"""JSON Schemas of the answers, with examples, for the OpenAPI document."""

from typing import Any

from taskmanager.access import keys
from taskmanager.queue import dedupe
from taskmanager.queue.read import FINISHED_STATUSES, STATUSES
from taskmanager.queue.schedules import definitions

Schema = dict[str, Any]

NUMBER: Schema = {"type": "integer", "examples": [1]}
COUNT: Schema = {"type": "integer", "minimum": 0, "examples": [1]}
TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
TIME: Schema = {"type": "string", "format": "date-time", "examples": ["2026-01-31T12:00:00.000Z"]}
PARAMS: Schema = {"type": "object", "examples": [{"url": "https://example.org/"}]}
METADATA: Schema = {"type": "object", "examples": [{"host": "worker-1.example.org"}]}
CURSOR: Schema = {"type": ["string", "null"]}


def like(schema: Schema, *examples: Any) -> Schema:
    return {**schema, "examples": list(examples)}


def or_null(schema: Schema) -> Schema:
    nullable = {**schema, "type": [schema["type"], "null"]}
    if "enum" in schema:
        nullable["enum"] = [*schema["enum"], None]
    return nullable


def one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def record(*optional: str, **fields: Schema) -> Schema:
    """An object with exactly these fields; those named in `optional` may be missing."""
    return {
        "type": "object",
        "properties": fields,
        "required": [name for name in fields if name not in optional],
        "additionalProperties": False,
    }


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def page_of(name: str, items: str, **more: Schema) -> Schema:
    return record(**{name: list_of(ref(items))}, count=COUNT, **more)


def task(**more: Schema) -> Schema:
    """A task, with the fields that a call adds. Some answers leave out `params` or `result`."""
    return record(
        "params",
        "result",
        id=NUMBER,
        type=like(TEXT, "PrismQ.Script.Generate"),
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
        worker_id=like(or_null(TEXT), "worker-1"),
        claimed_by=like(or_null(TEXT), "worker-1"),
        claimed_at=or_null(TIME),
        lease_expires_at=or_null(TIME),
        available_at=TIME,
        completed_at=or_null(TIME),
        created_at=TIME,
        updated_at=TIME,
        **more,
    )


def task_type(**more: Schema) -> Schema:
    return record(
        id=NUMBER,
        name=like(TEXT, "PrismQ.Script.Generate"),
        version=like(TEXT, "1.0"),
        is_active=like(FLAG, True),
        is_paused=like(FLAG, False),
        priority=or_null(NUMBER),
        max_attempts=like(or_null(COUNT), 3),
        lease_seconds=like(or_null(COUNT), 300),
        retry=like(or_null({"type": "object"}), {"strategy": "exponential"}),
        dedupe=or_null(one_of(*dedupe.POLICIES)),
        created_at=TIME,
        updated_at=TIME,
        **more,
    )


def schedule(**more: Schema) -> Schema:
    return record(
        id=NUMBER,
        name=like(TEXT, "nightly report"),
        type=like(TEXT, "report"),
        task_type_id=NUMBER,
        params=PARAMS,
        priority=or_null(NUMBER),
        max_attempts=or_null(COUNT),
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
        **more,
    )


def key(**more: Schema) -> Schema:
    return record(
        id=NUMBER,
        name=like(TEXT, "scraper"),
        prefix=like(TEXT, "tm_AbCdEfGh"),
        scopes=list_of(one_of(*keys.SCOPES)),
        task_types=like({"type": ["array", "null"], "items": TEXT}, ["PrismQ.%"]),
        rate_limit=like(or_null(TEXT), "100/minute"),
        expires_at=or_null(TIME),
        revoked_at=like(or_null(TIME), None),
        last_used_at=or_null(TIME),
        created_at=TIME,
        **more,
    )


PROBLEM = record(
    path=like(TEXT, "params.url"), message=like(TEXT, "is required"), keyword=like(TEXT, "required")
)
_SECRET = like(TEXT, "tm_… (shown this once)")
_BY_STATUS = record(**dict.fromkeys(STATUSES, COUNT))
_FINISHED = record(**dict.fromkeys(FINISHED_STATUSES, COUNT))
_ITEM_ERROR = record(
    "details",
    message=like(TEXT, "There is no task type 'x'."),
    code=like(TEXT, "task_type_not_found"),
    status=like(NUMBER, 404),
    details={"type": ["array", "object"], "examples": [[]]},
)

COMPONENTS: dict[str, Schema] = {
    "Error": record(
        "details",
        success={"const": False},
        error=like(TEXT, "Task not found: there is no task 1."),
        message=like(TEXT, "Task not found: there is no task 1."),
        code=like(TEXT, "task_not_found"),
        details={"type": ["array", "object"], "examples": [[]]},
        timestamp=like(NUMBER, 1_769_860_800),
    ),
    "Problem": PROBLEM,
    "Task": task(),
    "TaskWithReason": task(
        attempt_errors=list_of(
            record(
                attempt=NUMBER,
                worker_id=or_null(TEXT),
                error_message=or_null(TEXT),
                error_code=or_null(TEXT),
                failed_at=TIME,
            )
        ),
        waiting_because={
            **record(code=like(TEXT, "queued"), message=TEXT),
            "type": ["object", "null"],
        },
    ),
    "CreatedTask": task(deduplicated=like(FLAG, False)),
    "ClaimedTask": task(claim_token=like(TEXT, "fJ0f3m6v1pY2n8sX5wQ7Zg.1")),
    "CompletedTask": task(will_retry=like(FLAG, False), replayed=like(FLAG, False)),
    "TaskResult": record(
        "task",
        "error",
        outcome=one_of("created", "deduplicated", "error"),
        task=ref("Task"),
        error=_ITEM_ERROR,
    ),
    "CompletionResult": record(
        "task",
        "error",
        id=NUMBER,
        outcome=one_of(*STATUSES, "error"),
        task=ref("CompletedTask"),
        error=_ITEM_ERROR,
    ),
    "Lease": record(
        id=NUMBER,
        status=one_of(*STATUSES),
        progress=or_null(NUMBER),
        progress_message=or_null(TEXT),
        lease_expires_at=or_null(TIME),
        cancelled=like(FLAG, False),
        next_heartbeat_in=like(NUMBER, 30),
    ),
    "LogEntry": record(
        id=NUMBER,
        task_id=NUMBER,
        event=like(TEXT, "created"),
        status=or_null(one_of(*STATUSES)),
        attempt=or_null(COUNT),
        worker_id=or_null(TEXT),
        api_key_id=or_null(NUMBER),
        message=or_null(TEXT),
        metadata=or_null(METADATA),
        created_at=TIME,
    ),
    "TaskType": task_type(),
    "TaskTypeInList": task_type(open_tasks=COUNT),
    "TaskTypeWithSchema": task_type(param_schema=like({"type": "object"}, {"type": "object"})),
    "RegisteredTaskType": task_type(
        param_schema=like({"type": "object"}, {"type": "object"}),
        created=like(FLAG, True),
        updated=like(FLAG, False),
    ),
    "Verdict": {
        "anyOf": [
            record(
                valid=like(FLAG, True), errors=list_of(ref("Problem")), warnings=list_of(PROBLEM)
            ),
            record(
                checked=COUNT,
                rejected=COUNT,
                examples=list_of(record(id=NUMBER, errors=list_of(ref("Problem")))),
            ),
        ]
    },
    "Worker": record(
        id=like(TEXT, "worker-1"),
        worker_id=like(TEXT, "worker-1"),
        status=one_of("active", "stale", "inactive"),
        first_seen_at=TIME,
        last_seen_at=TIME,
        tasks_held=COUNT,
        tasks_completed=COUNT,
        tasks_failed=COUNT,
        metadata=or_null(METADATA),
    ),
    "WorkerHeartbeat": record(
        next_heartbeat_in=like(NUMBER, 30),
        renewed=list_of(NUMBER),
        lost=like(list_of(NUMBER), []),
        cancelled=like(list_of(NUMBER), []),
    ),
    "Schedule": schedule(),
    "ScheduleWithRuns": schedule(next_runs=list_of(TIME)),
    "Key": key(),
    "NewKey": key(key=_SECRET),
    "RotatedKey": key(key=_SECRET, replaces=ref("Key")),
    "AuditEvent": record(
        id=NUMBER,
        event=like(TEXT, "key_created"),
        api_key_id=or_null(NUMBER),
        address=like(or_null(TEXT), "203.0.113.7"),
        request_id=or_null(TEXT),
        message=like(TEXT, "key 2 (scraper) made by admin"),
        created_at=TIME,
    ),
    "Diagnosis": record(
        version=like(TEXT, "1.0.0"),
        findings=list_of(
            record(
                group=like(TEXT, "settings"),
                code=like(TEXT, "env_file"),
                level=one_of("warning", "ok", "problem"),
                found=like(TEXT, "`.env` may be read by other users (mode 0644)."),
                remedy=like(or_null(TEXT), "chmod 600 .env"),
            )
        ),
        count=like(COUNT, 1),
        problems=like(COUNT, 0),
        warnings=like(COUNT, 1),
    ),
    "Health": record(
        status=one_of("healthy", "unhealthy"),
        database=one_of("connected", "disconnected"),
        rate_limits=one_of("shared", "per_process"),
        version=like(TEXT, "1.0.0"),
        uptime_seconds=COUNT,
        timestamp=TIME,
    ),
    "Statistics": record(
        by_status=_BY_STATUS,
        by_type={"type": "object", "additionalProperties": _BY_STATUS, "examples": [{}]},
        total=COUNT,
        oldest_pending_seconds={"type": ["number", "null"], "examples": [1.5]},
        finished=record(minute=_FINISHED, hour=_FINISHED, day=_FINISHED),
        counted_at=TIME,
    ),
}


def example_of(schema: Schema) -> Any:
    """A value that matches `schema`: its own example, or one composed from its parts' examples."""
    if "$ref" in schema:
        return example_of(COMPONENTS[schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return example_of(schema["anyOf"][0])
    if "const" in schema:
        return schema["const"]
    for given in ("examples", "enum"):
        if given in schema:
            return schema[given][0]
    if "properties" in schema:
        return {
            name: example_of(field)
            for name, field in schema["properties"].items()
            if name in schema["required"] or name in ("params", "task")
        }
    if schema["type"] == "array":
        return [example_of(schema["items"])]
    return None if "null" in schema["type"] else {"string": "…", "boolean": True}[schema["type"]]
