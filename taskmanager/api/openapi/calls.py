"""What the OpenAPI document says about each call in addition to its docstring, path and scope.

There is one entry per endpoint. `build_document()` fails if one is missing or superfluous.
"""

from typing import Any, NamedTuple

from taskmanager.api import request_schemas as given
from taskmanager.api.json_schema import FLAG, TEXT, Schema, like, list_of, one_of, or_null, record
from taskmanager.api.openapi.schemas import CURSOR, page_of, ref
from taskmanager.api.prometheus import CONTENT_TYPE as PROMETHEUS
from taskmanager.api.requests import RequestBody
from taskmanager.api.serializers import COUNT, GRAPH_EDGE, GRAPH_TASK, NUMBER, TIME
from taskmanager.payloads.callbacks import CALLBACKS


class Call(NamedTuple):
    """One call.

    `answer` is the schema of `data` if the call succeeds. `example` is an example of the request
    body, or of the page; if a call with a body has none, the example is an empty object. `page` is
    the content type of an answer without an envelope. `body` is set where the document shows more
    than the view checks.
    """

    answer: Schema
    example: Any = None
    page: str | None = None
    body: RequestBody | None = None


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
CLAIMED = [
    shape
    for kind in ("ClaimedTask", "PartOfClaimedTask")
    for shape in (ref(kind), page_of("tasks", kind))
]
TOTAL_IS_EXACT = like(FLAG, True)
MORE = {"total": COUNT, "total_is_exact": TOTAL_IS_EXACT, "next_cursor": CURSOR}

# The call accepts any objects and reports errors for each one. This is what they should be.
_BATCH = RequestBody(
    required=("tasks",),
    tasks={**given.CREATE_TASKS.fields["tasks"], "items": given.CREATE_TASK.schema},
    atomic=FLAG,
)

_TASKS = {**given.CREATE_BATCH.fields["tasks"], "items": given.CREATE_TASK.schema}
_WITH_TASKS = RequestBody(
    **{
        **given.CREATE_BATCH.fields,
        "tasks": _TASKS,
        **dict.fromkeys(CALLBACKS, given.CREATE_TASK.schema),
    }
)
_MORE_TASKS = RequestBody(required=("tasks",), tasks=_TASKS)

CALLS: dict[str, Call] = {
    "task_types.register": Call(
        ref("RegisteredTaskType"),
        {
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
    "task_types.list_all": Call(page_of("task_types", "TaskTypeInList", **MORE)),
    "task_types.get": Call(ref("TaskTypeWithSchema")),
    "task_types.change": Call(ref("TaskTypeWithSchema"), {"is_paused": True}),
    "task_types.validate": Call(ref("Verdict"), {"params": NEW_TASK["params"]}),
    "tasks.create": Call(ref("CreatedTask"), NEW_TASK),
    "tasks.create_batch": Call(
        record(results=list_of(ref("TaskResult")), created=COUNT, deduplicated=COUNT, failed=COUNT),
        {"tasks": [NEW_TASK], "atomic": True},
        body=_BATCH,
    ),
    "tasks.list_all": Call(
        record(
            "total",
            "scanned",
            "is_complete",
            "total_is_exact",
            tasks=list_of(ref("Task")),
            count=COUNT,
            limit=like(COUNT, 50),
            offset=like(COUNT, 0),
            next_cursor=CURSOR,
            total=COUNT,
            scanned=COUNT,
            is_complete=like(FLAG, True),
            total_is_exact=TOTAL_IS_EXACT,
        )
    ),
    "tasks.get": Call(ref("TaskWithReason")),
    "tasks.logs": Call(page_of("logs", "LogEntry", next_cursor=CURSOR)),
    "tasks.graph": Call(
        record(
            tasks=list_of(GRAPH_TASK.schema()),
            edges=list_of(GRAPH_EDGE.schema()),
            is_complete=like(FLAG, True),
        )
    ),
    "tasks.change_one": Call(ref("Task"), {"priority": 5}),
    "tasks.cancel": Call(ref("Task"), {"reason": "no longer needed"}),
    "tasks.retry": Call(ref("Task")),
    "events.list_all": Call(
        page_of(
            "events",
            "Event",
            next_cursor=like(TEXT, "0.4711"),
            scanned=COUNT,
            is_complete=like(FLAG, True),
        )
    ),
    "bulk.list_errors": Call(
        page_of(
            "groups",
            "FailureGroup",
            scanned=COUNT,
            next_cursor=CURSOR,
            is_complete=like(FLAG, True),
        )
    ),
    "bulk.retry": Call(ref("BulkChange"), {"filter": {"type": TYPE, "error_code": "timeout"}}),
    "bulk.cancel": Call(ref("BulkChange"), {"filter": {"type": TYPE}, "reason": "not needed"}),
    "bulk.release": Call(ref("BulkChange"), {"filter": {"worker_id": "worker-1"}}),
    "bulk.delete": Call(ref("BulkChange"), {"ids": [1, 2, 3]}),
    "bulk.update": Call(ref("BulkChange"), {"filter": {"type": TYPE}, "priority": 5}),
    "batches.create": Call(
        ref("BatchWithTasks"),
        {
            "name": "invoices of May",
            "tasks": [NEW_TASK],
            "on_completed": {"type": "report", "params": {"batch": {"$batch": "id"}}},
        },
        body=_WITH_TASKS,
    ),
    "batches.add": Call(ref("BatchWithTasks"), {"tasks": [NEW_TASK]}, body=_MORE_TASKS),
    "batches.close": Call(ref("Batch")),
    "batches.list_all": Call(page_of("batches", "Batch", next_cursor=CURSOR)),
    "batches.get": Call(ref("Batch")),
    "batches.cancel": Call(ref("BatchChange"), {"reason": "no longer needed"}),
    "batches.retry": Call(ref("BatchChange")),
    "claims.claim": Call(
        {"anyOf": CLAIMED},
        {**WORKER, "type_pattern": "PrismQ.%", "lease_seconds": 300},
    ),
    "claims.complete": Call(
        ref("CompletedTask"), {**WORKER, **TOKEN, "success": True, "result": {"title": "Example"}}
    ),
    "claims.complete_batch": Call(
        record(results=list_of(ref("CompletionResult")), count=COUNT, failed=COUNT),
        {**WORKER, "completions": [{"id": 1, **TOKEN, "success": False, "error": "timed out"}]},
    ),
    "claims.progress": Call(
        ref("Lease"), {**WORKER, **TOKEN, "progress": 50, "message": "half done"}
    ),
    "claims.heartbeat": Call(ref("Lease"), {**WORKER, **TOKEN}),
    "claims.release": Call(ref("Task"), {**WORKER, **TOKEN, "delay_seconds": 60}),
    "schedules.create": Call(ref("ScheduleWithRuns"), NEW_SCHEDULE),
    "schedules.list_all": Call(page_of("schedules", "Schedule", **MORE)),
    "schedules.get": Call(ref("ScheduleWithRuns")),
    "schedules.change": Call(ref("ScheduleWithRuns"), {"is_active": False}),
    "schedules.delete": Call(ref("Schedule")),
    "schedules.run": Call(ref("CreatedTask")),
    "workers.heartbeat": Call(ref("WorkerHeartbeat"), {**WORKER, "tasks": [{"id": 1, **TOKEN}]}),
    "workers.list_all": Call(page_of("workers", "Worker", **MORE)),
    "workers.get": Call(ref("Worker")),
    "workers.shutdown": Call(
        record(worker_id=TEXT, status=one_of("inactive", "active"), released=list_of(NUMBER))
    ),
    "service.health": Call(ref("Health")),
    "service.stats": Call(ref("Statistics")),
    "service.show_metrics": Call({}, example=METRICS, page=PROMETHEUS),
    "keys.create": Call(
        ref("NewKey"), {"name": "scraper", "role": "worker", "task_types": ["PrismQ.%"]}
    ),
    "keys.list_all": Call(page_of("keys", "Key")),
    "keys.get": Call(ref("Key")),
    "keys.change": Call(ref("Key"), {"rate_limit": "100/minute"}),
    "keys.rotate": Call(ref("RotatedKey"), {"overlap_seconds": 3_600}),
    "keys.revoke": Call(ref("Key")),
    "webhooks.create": Call(
        ref("NewWebhook"), {"name": "billing", "url": "https://example.org/hooks"}
    ),
    "webhooks.list_all": Call(page_of("webhooks", "Webhook")),
    "webhooks.get": Call(ref("Webhook")),
    "webhooks.change": Call(ref("Webhook"), {"is_active": True}),
    "webhooks.delete": Call(ref("Webhook")),
    "webhooks.rotate": Call(ref("NewWebhook"), {"overlap_seconds": 3_600}),
    "webhooks.deliveries": Call(page_of("deliveries", "Delivery", next_cursor=CURSOR)),
    "webhooks.resend": Call(ref("Delivery")),
    "alerts.list_all": Call(
        page_of(
            "alerts",
            "Alert",
            looked_at=or_null(TIME),
            channels=list_of(ref("AlertChannel")),
        )
    ),
    "audit.list_all": Call(page_of("events", "AuditEvent", next_cursor=CURSOR)),
    "maintenance.run": Call(
        record(created=COUNT, requeued=COUNT, started=COUNT, expired=COUNT, pruned=COUNT)
    ),
    "doctor.examine_host": Call(ref("Diagnosis")),
    "clients.list_all": Call(page_of("clients", "ClientFile", version=like(TEXT, "1.0.0"))),
    "clients.get": Call({}, page="text/plain"),
    "documentation.document": Call({}, page="application/json"),
    "documentation.page": Call({}, page="text/html"),
}
