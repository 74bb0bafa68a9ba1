"""What the OpenAPI document says about each call in addition to its docstring, path and scope.

There is one entry per endpoint. `build_document()` fails if one is missing or superfluous.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from taskmanager.api import request_schemas as bodies
from taskmanager.api.json_schema import (
    FLAG,
    TEXT,
    TIME,
    Schema,
    integer,
    like,
    list_of,
    one_of,
    record,
)
from taskmanager.api.openapi.schemas import CURSOR, page_of, ref
from taskmanager.api.prometheus import CONTENT_TYPE as PROMETHEUS
from taskmanager.api.requests import MAX_INTEGER, RequestBody
from taskmanager.api.serializers import COUNT, NUMBER
from taskmanager.queue.read import MAX_OFFSET, SORT_COLUMNS, STATUSES


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call.

    `answer` is the schema of `data` if the call succeeds. `page` is the content type of an answer
    without an envelope. `example` is an example of the request body, or of the page; if a call with
    a body has none, the example is an empty object.
    """

    answer: Schema = field(default_factory=dict)
    body: RequestBody | None = None
    example: Any = None
    query: Mapping[str, Schema] = field(default_factory=dict)
    page: str | None = None


LIMIT = {**integer(1, 100), "default": 50}
OFFSET = {**integer(0, MAX_OFFSET), "default": 0}
PAGE = {"limit": LIMIT, "offset": OFFSET}
PRIORITY = integer(-(2**31), 2**31 - 1)
FORCE = {"force": FLAG}
WORKER = {"worker_id": "worker-1"}
TOKEN = {"claim_token": "fJ0f3m6v1pY2n8sX5wQ7Zg.1"}
TYPE = "PrismQ.Script.Generate"
METRICS = f"""# HELP taskmanager_tasks Tasks by type and status, of every type that has tasks.
# TYPE taskmanager_tasks gauge
taskmanager_tasks{{type="{TYPE}",status="pending"}} 3
"""
NEW_TASK = {"type": TYPE, "params": {"url": "https://example.org/"}, "priority": 5}
NEW_SCHEDULE = {
    "name": "nightly report",
    "type": "report",
    "params": {},
    "cron": "0 3 * * *",
    "timezone": "Europe/Prague",
}
TASKS = page_of("tasks", "ClaimedTask")

# The call accepts any objects and reports errors for each one. This is what they should be.
_BATCH = RequestBody(
    required=("tasks",),
    tasks={**bodies.CREATE_TASKS.schema["properties"]["tasks"], "items": bodies.CREATE_TASK.schema},
    atomic=FLAG,
)

CALLS: dict[str, Call] = {
    "task_types.register": Call(
        answer=ref("RegisteredTaskType"),
        body=bodies.REGISTER_TASK_TYPE,
        example={
            "name": TYPE,
            "version": "1.0",
            "param_schema": {
                "type": "object",
                "properties": {"url": {"type": "string"}},
                "required": ["url"],
            },
            "retry": {"strategy": "exponential", "base_seconds": 30},
        },
    ),
    "task_types.list_all": Call(
        answer=page_of("task_types", "TaskTypeInList"), query={"active_only": FLAG, **PAGE}
    ),
    "task_types.get": Call(answer=ref("TaskTypeWithSchema"), query={"version": TEXT}),
    "task_types.change": Call(
        answer=ref("TaskTypeWithSchema"), body=bodies.CHANGE_TASK_TYPE, example={"is_paused": True}
    ),
    "task_types.validate": Call(
        answer=ref("Verdict"), body=bodies.VALIDATE, example={"params": NEW_TASK["params"]}
    ),
    "tasks.create": Call(answer=ref("CreatedTask"), body=bodies.CREATE_TASK, example=NEW_TASK),
    "tasks.create_batch": Call(
        answer=record(
            results=list_of(ref("TaskResult")), created=COUNT, deduplicated=COUNT, failed=COUNT
        ),
        body=_BATCH,
        example={"tasks": [NEW_TASK], "atomic": True},
    ),
    "tasks.list_all": Call(
        answer=record(
            "total",
            tasks=list_of(ref("Task")),
            count=COUNT,
            limit=like(COUNT, 50),
            offset=like(COUNT, 0),
            next_cursor=CURSOR,
            total=COUNT,
        ),
        query={
            "status": one_of(*STATUSES),
            "type": TEXT,
            "worker_id": TEXT,
            "priority_min": PRIORITY,
            "priority_max": PRIORITY,
            "created_after": TIME,
            "created_before": TIME,
            **PAGE,
            "cursor": TEXT,
            "sort_by": one_of(*SORT_COLUMNS),
            "sort_order": one_of("desc", "asc", "DESC", "ASC"),
            "include": list_of(one_of("params", "result")),
            "with_total": FLAG,
        },
    ),
    "tasks.get": Call(answer=ref("TaskWithReason")),
    "tasks.logs": Call(answer=page_of("logs", "LogEntry")),
    "tasks.cancel": Call(
        answer=ref("Task"), body=bodies.CANCEL_TASK, example={"reason": "no longer needed"}
    ),
    "tasks.retry": Call(answer=ref("Task"), body=bodies.NOTHING),
    "claims.claim": Call(
        answer={"anyOf": [ref("ClaimedTask"), TASKS]},
        body=bodies.CLAIM,
        example={**WORKER, "type_pattern": "PrismQ.%", "lease_seconds": 300},
    ),
    "claims.complete": Call(
        answer=ref("CompletedTask"),
        body=bodies.COMPLETE_TASK,
        example={**WORKER, **TOKEN, "success": True, "result": {"title": "Example"}},
    ),
    "claims.complete_batch": Call(
        answer=record(results=list_of(ref("CompletionResult")), count=COUNT, failed=COUNT),
        body=bodies.COMPLETE_TASKS,
        example={
            **WORKER,
            "completions": [{"id": 1, **TOKEN, "success": False, "error": "timed out"}],
        },
    ),
    "claims.progress": Call(
        answer=ref("Lease"),
        body=bodies.REPORT_PROGRESS,
        example={**WORKER, **TOKEN, "progress": 50, "message": "half done"},
    ),
    "claims.heartbeat": Call(
        answer=ref("Lease"), body=bodies.TASK_HEARTBEAT, example={**WORKER, **TOKEN}
    ),
    "claims.release": Call(
        answer=ref("Task"),
        body=bodies.RELEASE_TASK,
        example={**WORKER, **TOKEN, "delay_seconds": 60},
    ),
    "schedules.create": Call(
        answer=ref("ScheduleWithRuns"), body=bodies.CREATE_SCHEDULE, example=NEW_SCHEDULE
    ),
    "schedules.list_all": Call(answer=page_of("schedules", "Schedule"), query=PAGE),
    "schedules.get": Call(answer=ref("ScheduleWithRuns")),
    "schedules.change": Call(
        answer=ref("ScheduleWithRuns"), body=bodies.CHANGE_SCHEDULE, example={"is_active": False}
    ),
    "schedules.delete": Call(answer=ref("Schedule")),
    "schedules.run": Call(answer=ref("CreatedTask"), body=bodies.NOTHING),
    "workers.heartbeat": Call(
        answer=ref("WorkerHeartbeat"),
        body=bodies.WORKER_HEARTBEAT,
        example={**WORKER, "tasks": [{"id": 1, **TOKEN}]},
    ),
    "workers.list_all": Call(answer=page_of("workers", "Worker"), query=PAGE),
    "workers.get": Call(answer=ref("Worker")),
    "workers.shutdown": Call(
        answer=record(worker_id=TEXT, status=one_of("inactive"), released=list_of(NUMBER)),
        body=bodies.NOTHING,
    ),
    "service.health": Call(answer=ref("Health")),
    "service.stats": Call(answer=ref("Statistics")),
    "service.show_metrics": Call(page=PROMETHEUS, example=METRICS),
    "keys.create": Call(
        answer=ref("NewKey"),
        body=bodies.CREATE_KEY,
        example={"name": "scraper", "role": "worker", "task_types": ["PrismQ.%"]},
    ),
    "keys.list_all": Call(answer=page_of("keys", "Key")),
    "keys.get": Call(answer=ref("Key")),
    "keys.change": Call(
        answer=ref("Key"), body=bodies.CHANGE_KEY, example={"rate_limit": "100/minute"}, query=FORCE
    ),
    "keys.rotate": Call(
        answer=ref("RotatedKey"), body=bodies.ROTATE_KEY, example={"overlap_seconds": 3_600}
    ),
    "keys.revoke": Call(answer=ref("Key"), query=FORCE),
    "audit.list_all": Call(
        answer=page_of("events", "AuditEvent", next_cursor=CURSOR),
        query={"limit": LIMIT, "cursor": integer(1, MAX_INTEGER)},
    ),
    "maintenance.run": Call(
        answer=record(created=COUNT, requeued=COUNT, started=COUNT, pruned=COUNT),
        body=bodies.NOTHING,
    ),
    "doctor.examine_host": Call(answer=ref("Diagnosis")),
    "documentation.document": Call(page="application/json"),
    "documentation.page": Call(page="text/html"),
}
