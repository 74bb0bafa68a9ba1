"""What the OpenAPI document says about each call in addition to its docstring, path and scope.

There is one entry per endpoint. `build_document()` fails if one is missing or superfluous.
"""

from dataclasses import dataclass, field
from typing import Any

from taskmanager.api import request_schemas as given
from taskmanager.api.json_schema import FLAG, TEXT, Schema, like, list_of, one_of, record
from taskmanager.api.openapi.schemas import CURSOR, page_of, ref
from taskmanager.api.prometheus import CONTENT_TYPE as PROMETHEUS
from taskmanager.api.requests import QueryParameters, RequestBody
from taskmanager.api.serializers import COUNT, NUMBER


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
    query: QueryParameters = given.NO_PARAMETERS
    page: str | None = None


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
    tasks={**given.CREATE_TASKS.schema["properties"]["tasks"], "items": given.CREATE_TASK.schema},
    atomic=FLAG,
)

CALLS: dict[str, Call] = {
    "task_types.register": Call(
        answer=ref("RegisteredTaskType"),
        body=given.REGISTER_TASK_TYPE,
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
        answer=page_of("task_types", "TaskTypeInList"), query=given.LIST_TASK_TYPES
    ),
    "task_types.get": Call(answer=ref("TaskTypeWithSchema"), query=given.OF_VERSION),
    "task_types.change": Call(
        answer=ref("TaskTypeWithSchema"), body=given.CHANGE_TASK_TYPE, example={"is_paused": True}
    ),
    "task_types.validate": Call(
        answer=ref("Verdict"), body=given.VALIDATE, example={"params": NEW_TASK["params"]}
    ),
    "tasks.create": Call(answer=ref("CreatedTask"), body=given.CREATE_TASK, example=NEW_TASK),
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
        query=given.LIST_TASKS,
    ),
    "tasks.get": Call(answer=ref("TaskWithReason")),
    "tasks.logs": Call(answer=page_of("logs", "LogEntry")),
    "tasks.cancel": Call(
        answer=ref("Task"), body=given.CANCEL_TASK, example={"reason": "no longer needed"}
    ),
    "tasks.retry": Call(answer=ref("Task"), body=given.NOTHING),
    "claims.claim": Call(
        answer={"anyOf": [ref("ClaimedTask"), TASKS]},
        body=given.CLAIM,
        example={**WORKER, "type_pattern": "PrismQ.%", "lease_seconds": 300},
    ),
    "claims.complete": Call(
        answer=ref("CompletedTask"),
        body=given.COMPLETE_TASK,
        example={**WORKER, **TOKEN, "success": True, "result": {"title": "Example"}},
    ),
    "claims.complete_batch": Call(
        answer=record(results=list_of(ref("CompletionResult")), count=COUNT, failed=COUNT),
        body=given.COMPLETE_TASKS,
        example={
            **WORKER,
            "completions": [{"id": 1, **TOKEN, "success": False, "error": "timed out"}],
        },
    ),
    "claims.progress": Call(
        answer=ref("Lease"),
        body=given.REPORT_PROGRESS,
        example={**WORKER, **TOKEN, "progress": 50, "message": "half done"},
    ),
    "claims.heartbeat": Call(
        answer=ref("Lease"), body=given.TASK_HEARTBEAT, example={**WORKER, **TOKEN}
    ),
    "claims.release": Call(
        answer=ref("Task"),
        body=given.RELEASE_TASK,
        example={**WORKER, **TOKEN, "delay_seconds": 60},
    ),
    "schedules.create": Call(
        answer=ref("ScheduleWithRuns"), body=given.CREATE_SCHEDULE, example=NEW_SCHEDULE
    ),
    "schedules.list_all": Call(answer=page_of("schedules", "Schedule"), query=given.PAGE),
    "schedules.get": Call(answer=ref("ScheduleWithRuns")),
    "schedules.change": Call(
        answer=ref("ScheduleWithRuns"), body=given.CHANGE_SCHEDULE, example={"is_active": False}
    ),
    "schedules.delete": Call(answer=ref("Schedule")),
    "schedules.run": Call(answer=ref("CreatedTask"), body=given.NOTHING),
    "workers.heartbeat": Call(
        answer=ref("WorkerHeartbeat"),
        body=given.WORKER_HEARTBEAT,
        example={**WORKER, "tasks": [{"id": 1, **TOKEN}]},
    ),
    "workers.list_all": Call(answer=page_of("workers", "Worker"), query=given.PAGE),
    "workers.get": Call(answer=ref("Worker")),
    "workers.shutdown": Call(
        answer=record(worker_id=TEXT, status=one_of("inactive"), released=list_of(NUMBER)),
        body=given.NOTHING,
    ),
    "service.health": Call(answer=ref("Health")),
    "service.stats": Call(answer=ref("Statistics")),
    "service.show_metrics": Call(page=PROMETHEUS, example=METRICS),
    "keys.create": Call(
        answer=ref("NewKey"),
        body=given.CREATE_KEY,
        example={"name": "scraper", "role": "worker", "task_types": ["PrismQ.%"]},
    ),
    "keys.list_all": Call(answer=page_of("keys", "Key")),
    "keys.get": Call(answer=ref("Key")),
    "keys.change": Call(
        answer=ref("Key"),
        body=given.CHANGE_KEY,
        example={"rate_limit": "100/minute"},
        query=given.FORCE,
    ),
    "keys.rotate": Call(
        answer=ref("RotatedKey"), body=given.ROTATE_KEY, example={"overlap_seconds": 3_600}
    ),
    "keys.revoke": Call(answer=ref("Key"), query=given.FORCE),
    "audit.list_all": Call(
        answer=page_of("events", "AuditEvent", next_cursor=CURSOR), query=given.AUDIT_PAGE
    ),
    "maintenance.run": Call(
        answer=record(created=COUNT, requeued=COUNT, started=COUNT, pruned=COUNT),
        body=given.NOTHING,
    ),
    "doctor.examine_host": Call(answer=ref("Diagnosis")),
    "documentation.document": Call(page="application/json"),
    "documentation.page": Call(page="text/html"),
}
