"""JSON Schemas of the answers, with examples, for the OpenAPI document."""

from typing import Any

from taskmanager.api import serializers
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
from taskmanager.api.serializers import COUNT, KEY, NUMBER, SCHEDULE, TASK_TYPE, TIME, TYPE
from taskmanager.queue.read import FINISHED_STATUSES, STATUSES

CURSOR = or_null(TEXT)
ON_DUPLICATE = like(or_null(one_of("replaced", "postponed", "kept")), None)


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def page_of(name: str, items: str, **more: Schema) -> Schema:
    return record(**{name: list_of(ref(items))}, count=COUNT, **more)


def task(**more: Schema) -> Schema:
    """A task, with the fields that a call adds. Some answers leave out `params` or `result`."""
    return serializers.TASK.schema("params", "result", **more)


def batch(**more: Schema) -> Schema:
    """A batch, with the fields that a call adds."""
    return serializers.BATCH.schema(
        status=one_of("open", "running", "finished"),
        tasks=COUNT,
        counts=record(**dict.fromkeys(FINISHED_STATUSES, COUNT), unfinished=COUNT),
        progress=COUNT,
        **more,
    )


def _by_type(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values, "examples": [{}]}


PARAM_SCHEMA = like(OBJECT, {"type": "object"})
DETAILS = like({"type": ["array", "object"]}, [])
PROBLEM = record(
    path=like(TEXT, "params.url"), message=like(TEXT, "is required"), keyword=like(TEXT, "required")
)
SECRET = like(TEXT, "tm_… (shown this once)")
BULK_CHANGE: dict[str, Schema] = {
    "matched": COUNT,
    "changed": COUNT,
    "skipped": {
        "type": "object",
        "additionalProperties": COUNT,
        "examples": [{"task_finished": 1}],
    },
    "next_cursor": CURSOR,
    "is_complete": like(FLAG, True),
}
BY_STATUS = record(**dict.fromkeys(STATUSES, COUNT))
FINISHED = record(**dict.fromkeys(FINISHED_STATUSES, COUNT))
QUANTILES = record(p50=serializers.RATE, p95=serializers.RATE, count=COUNT)
ITEM_ERROR = record(
    "details",
    message=like(TEXT, "There is no task type 'x'."),
    code=like(TEXT, "task_type_not_found"),
    status=like(NUMBER, 404),
    details=DETAILS,
)

COMPONENTS: dict[str, Schema] = {
    "Error": record(
        "details",
        success={"const": False},
        error=like(TEXT, "Task not found: there is no task 1."),
        message=like(TEXT, "Task not found: there is no task 1."),
        code=like(TEXT, "task_not_found"),
        details=DETAILS,
        timestamp=like(NUMBER, 1_769_860_800),
    ),
    "Problem": PROBLEM,
    "Task": task(),
    "TaskWithReason": task(
        attempt_errors=list_of(serializers.ATTEMPT_ERROR.schema()),
        more_attempt_errors=like(FLAG, False),
        waiting_because={
            **record(code=like(TEXT, "queued"), message=TEXT),
            "type": ["object", "null"],
        },
    ),
    "CreatedTask": task(deduplicated=like(FLAG, False), on_duplicate=ON_DUPLICATE),
    "ClaimedTask": task(**serializers.CLAIM),
    "PartOfClaimedTask": serializers.TASK.schema(
        *set(serializers.TASK.names) - {"id"}, **serializers.CLAIM
    ),
    "CompletedTask": task(will_retry=like(FLAG, False), replayed=like(FLAG, False)),
    "TaskResult": record(
        "task",
        "error",
        "on_duplicate",
        outcome=one_of("created", "deduplicated", "error"),
        on_duplicate=ON_DUPLICATE,
        task=ref("Task"),
        error=ITEM_ERROR,
    ),
    "CompletionResult": record(
        "task",
        "error",
        id=NUMBER,
        outcome=one_of(*STATUSES, "error"),
        task=ref("CompletedTask"),
        error=ITEM_ERROR,
    ),
    "Lease": serializers.LEASE.schema(),
    "LogEntry": serializers.LOG_ENTRY.schema(),
    "Event": serializers.EVENT.schema(),
    "FailureGroup": serializers.FAILURE_GROUP.schema(),
    "BulkChange": record(**BULK_CHANGE),
    "Batch": batch(),
    "BatchWithTasks": batch(
        results=list_of(record(outcome=one_of("created", "deduplicated"), task=ref("Task")))
    ),
    "BatchChange": batch(**BULK_CHANGE),
    "TaskType": TASK_TYPE.schema(),
    "TaskTypeInList": TASK_TYPE.schema(open_tasks=COUNT),
    "TaskTypeWithSchema": TASK_TYPE.schema(param_schema=PARAM_SCHEMA),
    "RegisteredTaskType": TASK_TYPE.schema(
        param_schema=PARAM_SCHEMA, created=like(FLAG, True), updated=like(FLAG, False)
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
    "Worker": serializers.WORKER.schema(done_per_minute=serializers.DONE_PER_MINUTE),
    "WorkerHeartbeat": record(
        lease_seconds=like(or_null(NUMBER), 300),
        next_heartbeat_in=serializers.SECONDS,
        renewed=list_of(NUMBER),
        lost=like(list_of(NUMBER), []),
        cancelled=like(list_of(NUMBER), []),
    ),
    "Schedule": SCHEDULE.schema(),
    "ScheduleWithRuns": SCHEDULE.schema(next_runs=list_of(TIME)),
    "Key": KEY.schema(),
    "NewKey": KEY.schema(key=SECRET),
    "RotatedKey": KEY.schema(key=SECRET, replaces=ref("Key")),
    "Webhook": serializers.WEBHOOK.schema(),
    "NewWebhook": serializers.WEBHOOK.schema(secret=like(TEXT, "whsec_… (shown this once)")),
    "Delivery": serializers.DELIVERY.schema(),
    "Alert": serializers.ALERT.schema(),
    "AlertChannel": serializers.ALERT_CHANNEL.schema(),
    "AuditEvent": serializers.AUDIT_EVENT.schema(),
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
    "ClientFile": record(
        name=like(TEXT, "TaskManager.php"),
        language=one_of("python", "php", "javascript"),
        size=COUNT,
        sha256=like(TEXT, "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"),
        url=like(TEXT, "https://example.org/api/clients/TaskManager.php"),
        install=like(TEXT, "curl -O https://example.org/api/clients/TaskManager.php"),
    ),
    "Health": record(
        status=one_of("healthy", "unhealthy"),
        database=one_of("connected", "disconnected"),
        maintenance=or_null(one_of("running", "silent")),
        rate_limits=one_of("shared", "per_process"),
        version=like(TEXT, "1.0.0"),
        uptime_seconds=COUNT,
        timestamp=TIME,
    ),
    "Quantiles": QUANTILES,
    "Statistics": record(
        by_status=BY_STATUS,
        by_type=_by_type(BY_STATUS),
        total=COUNT,
        oldest_pending_seconds={"type": ["number", "null"], "examples": [1.5]},
        finished=record(minute=FINISHED, hour=FINISHED, day=FINISHED),
        counted_at=TIME,
        wait_seconds=_by_type(ref("Quantiles")),
        run_seconds=_by_type(ref("Quantiles")),
        drains_at=_by_type(or_null(TIME)),
        failed_attempts=list_of(
            record(type=TYPE, error_code=like(or_null(TEXT), "timeout"), hour=COUNT, day=COUNT)
        ),
        measured_until=or_null(TIME),
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
