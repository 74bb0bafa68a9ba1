"""The methods of the Python client: one for each call, with the fields and answers of the API."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from taskmanager.api import request_schemas
from taskmanager.api.openapi.document import build_document
from taskmanager.api.requests import QueryParameters, RequestBody
from taskmanager.clients import PYTHON
from tests.clients.test_calls import CALLS

sys.path.insert(0, str(PYTHON))

from taskmanager_client import ApiError, Client, answers, fields, models
from taskmanager_client.testing import Queue

WORKER = {"worker_id"}
# The fields of each call. Those that are arguments of the method by themselves are named last.
CALLS_FIELDS: dict[str, tuple[RequestBody | QueryParameters, set[str]]] = {
    "TaskOptions": (request_schemas.CREATE_TASK, {"type", "params"}),
    "NewTask": (request_schemas.CREATE_TASK, set()),
    "TaskChanges": (request_schemas.CHANGE_TASK, set()),
    "BatchOptions": (request_schemas.CREATE_BATCH, {"tasks"}),
    "TaskFilters": (request_schemas.TASK_FILTER, set()),
    "TaskList": (request_schemas.LIST_TASKS, {"cursor", "offset", "with_total"}),
    "EventFilters": (request_schemas.LIST_EVENTS, {"after"}),
    "ManyTasks": (request_schemas.CHANGE_MANY, set()),
    "ManyChanges": (request_schemas.UPDATE_MANY, set()),
    "Claim": (request_schemas.CLAIM, WORKER),
    "Outcome": (request_schemas.COMPLETE_TASK, WORKER),
    "TypeDefaults": (request_schemas.REGISTER_TASK_TYPE, {"name", "version", "param_schema"}),
    "TypeChanges": (request_schemas.CHANGE_TASK_TYPE, set()),
    "ScheduleOptions": (request_schemas.CREATE_SCHEDULE, {"name", "type", "params"}),
    "ScheduleChanges": (request_schemas.CHANGE_SCHEDULE, set()),
    "KeyOptions": (request_schemas.CREATE_KEY, {"name"}),
    "WebhookChanges": (request_schemas.CHANGE_WEBHOOK, set()),
    "KeyChanges": (request_schemas.CHANGE_KEY, set()),
}
# What older clients of the API call a field that has another name too.
OTHER_NAMES = {"type_id", "task_type_id", "claimed_by"}
OBJECTS = {
    models.Task: ("TaskWithReason", {"deduplicated", "on_duplicate"}, {"more_attempt_errors"}),
    models.LogEntry: ("LogEntry", set(), set()),
    models.Event: ("Event", set(), set()),
    models.TaskType: ("TaskTypeInList", {"param_schema"}, set()),
    models.Schedule: ("ScheduleWithRuns", set(), set()),
    models.WorkerState: ("Worker", set(), {"worker_id"}),
    models.Key: ("Key", set(), set()),
}
ANSWERS = {
    "Lease": "Lease",
    "WorkerHeartbeat": "WorkerHeartbeat",
    "CompletionResult": "CompletionResult",
    "ManyChanged": "BulkChange",
    "ErrorGroup": "FailureGroup",
    "Health": "Health",
    "Statistics": "Statistics",
    "Quantiles": "Quantiles",
    "Batch": "Batch",
    "BatchWithTasks": "BatchWithTasks",
    "BatchChanged": "BatchChange",
    "Webhook": "Webhook",
    "NewWebhook": "NewWebhook",
    "Delivery": "Delivery",
    "Alert": "Alert",
    "AuditEvent": "AuditEvent",
    "ClientFile": "ClientFile",
}


def named(kind: Any) -> set[str]:
    return set(kind.__annotations__)


@pytest.fixture
def components(app: Flask) -> Any:
    with app.app_context():
        return build_document(app)["components"]["schemas"]


@pytest.mark.parametrize("name", CALLS_FIELDS)
def test_each_field_of_a_call_has_a_type(name: str) -> None:
    call, arguments = CALLS_FIELDS[name]
    taken = call.fields if isinstance(call, QueryParameters) else call.schema["properties"]
    expected = {"params" if field == "params.PATH" else field for field in taken} - arguments
    assert named(getattr(fields, name)) == expected


def test_the_parts_of_bodies_have_the_fields_of_the_api() -> None:
    item = request_schemas.COMPLETE_TASKS.schema["properties"]["completions"]["items"]
    assert named(fields.Completion) == set(item["properties"])
    item = request_schemas.WORKER_HEARTBEAT.schema["properties"]["tasks"]["items"]
    assert named(fields.HeldTaskId) == set(item["properties"])
    assert named(fields.RetryPolicy) == set(request_schemas.RETRY["properties"])


@pytest.mark.parametrize("kind", OBJECTS)
def test_each_field_of_an_object_has_a_type(kind: Any, components: Any) -> None:
    component, more, left_out = OBJECTS[kind]
    found = {field.name for field in dataclasses.fields(kind)} - more
    assert found == set(components[component]["properties"]) - OTHER_NAMES - left_out


@pytest.mark.parametrize("name", ANSWERS)
def test_each_field_of_an_answer_has_a_type(name: str, components: Any) -> None:
    assert named(getattr(answers, name)) == set(components[ANSWERS[name]]["properties"])


@pytest.mark.slow
def test_a_type_checker_accepts_and_refuses_what_it_should() -> None:
    file = Path(__file__).parent / "drivers" / "types.py"
    command = [sys.executable, "-m", "mypy", "--strict", "--python-version", "3.10", file]
    done = subprocess.run(
        command, env={**os.environ, "MYPYPATH": str(PYTHON)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_a_method_for_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    made = set()
    with Queue() as queue:
        send_on = queue.client.transport.send

        def send(method: str, path: str, content: bytes | None, timeout: float) -> Any:
            template = re.sub(r"/(\d+|w)(?=/|$)", "/{id}", path.partition("?")[0])
            template = re.sub(r"(?<=/deliveries)/{id}", "/{delivery}", template)
            made.add((method, re.sub(r"(?<=/task-types)/job", "/{name}", template)))
            return send_on(method, path, content, timeout)

        monkeypatch.setattr(queue.client.transport, "send", send)
        make_each_call(queue.client)
    left_out = {("GET", f"/{path}") for path in ("openapi.json", "docs", "clients/{file}")}
    assert made == set(CALLS) - left_out


def make_each_call(tm: Client) -> None:
    assert tm.register("job", "1", {"type": "object"}, max_attempts=2).max_attempts == 2
    assert tm.change_type("job", lease_seconds=60).lease_seconds == 60
    assert [one.name for one in tm.types()] == [tm.type("job").name]
    assert tm.validate("job", params={})["valid"]
    assert tm.validate("job", param_schema={"type": "object"})["checked"] == 0

    task = tm.create("job", {"n": 1, "user": {"id": 5}}, priority=1)
    [made] = tm.create_many([{"type": "job", "params": {"n": 2}, "dedupe": "none"}])
    assert not isinstance(made, ApiError)
    found = list(tm.tasks(type="job", params={"user.id": 5}, status=["pending", "failed"]))
    assert [one.id for one in found] == [task.id]

    assert tm.change(task.id, priority=2).priority == 2

    first, second = tm.claim("w", type="job", limit=2)
    assert (first["id"], second["id"]) == (task.id, made.id)
    token, other = first["claim_token"], second["claim_token"]
    assert tm.progress(task.id, "w", 10, "begun", claim_token=token)["progress"] == 10
    assert tm.heartbeat(task.id, "w", claim_token=token, lease_seconds=90)["lease_seconds"] == 90
    beat = tm.heartbeat_worker("w", tasks=[{"id": task.id, "claim_token": token}])
    assert beat["renewed"] == [task.id]
    assert tm.release(task.id, "w", claim_token=token).status == "pending"
    report: fields.Completion = {"id": made.id, "claim_token": other, "success": True}
    assert tm.complete_many("w", [report])[0]["outcome"] == "completed"
    [first] = tm.claim("w")
    failed = tm.complete(
        task.id,
        "w",
        claim_token=first["claim_token"],
        success=False,
        error="no answer within 30 s",
        is_retryable=False,
    )
    assert failed.status == "failed"
    [attempt] = tm.get(task.id).attempt_errors or []
    assert attempt["error_message"] == "no answer within 30 s"
    [group] = tm.errors(type="job")
    assert (group["message"], group["count"]) == ("no answer within # s", 1)
    assert tm.retry(task.id).status == "pending"
    assert tm.cancel(task.id, "no longer needed").status == "cancelled"
    assert [entry.event for entry in tm.logs(task.id)][-1] == "cancelled"
    assert [one["id"] for one in tm.graph(task.id)["tasks"]] == [task.id]
    page = tm.events("0.0", status=["cancelled"])
    assert [(event.task_id, event.type) for event in page["events"]] == [(task.id, "job")]
    assert tm.events(page["next_cursor"])["events"] == []
    assert tm.retry_many(filter={"params": {"user.id": 5}}, dry_run=True)["matched"] == 1
    assert tm.retry_many(ids=[task.id])["changed"] == 1
    assert tm.update_many(filter={"status": "pending"}, priority=9)["changed"] == 1
    [_] = tm.claim("w")
    assert tm.release_many(ids=[task.id])["changed"] == 1
    assert tm.cancel_many(ids=[task.id], reason="enough")["changed"] == 1
    assert tm.delete_many(ids=[task.id])["changed"] == 1

    schedule = tm.create_schedule("daily", "job", {"n": 3}, cron="0 6 * * *", tags=["daily"])
    assert schedule.next_runs
    assert (schedule.tags, schedule.notify) == (["daily"], None)
    assert tm.change_schedule(schedule.id, is_active=False).is_active is False
    assert [one.id for one in tm.schedules()] == [tm.schedule(schedule.id).id]
    assert tm.run_schedule(schedule.id).type == "job"
    tm.delete_schedule(schedule.id)

    batch = tm.create_batch(name="two", on_finished={"type": "job", "params": {"n": 9}})
    batch = tm.add_to_batch(batch["id"], [{"type": "job", "params": {"n": n}} for n in (7, 8)])
    assert tm.close_batch(batch["id"])["status"] == "running"
    assert tm.cancel_batch(batch["id"], "enough")["changed"] == 2
    assert tm.retry_batch(batch["id"])["changed"] == 2
    assert [one["id"] for one in tm.batches()] == [tm.batch(batch["id"])["id"]]

    assert [one.id for one in tm.workers()] == [tm.worker("w").id]
    assert tm.shut_down_worker("w") == []
    assert tm.health()["status"] == "healthy"
    assert tm.stats()["total"] >= 2
    assert "taskmanager_tasks{" in tm.metrics()
    assert "TaskManager.php" in [file["name"] for file in tm.clients()]

    assert tm.alerts() == []
    hook = tm.create_webhook("billing", "https://example.org/hooks")
    assert hook["secret"].startswith("whsec_")
    assert tm.cancel(tm.create("job", {"n": 4}, notify="billing").id).notify == "billing"
    [delivery] = tm.deliveries(hook["id"])
    assert tm.resend_delivery(hook["id"], delivery["id"])["event"] == "task.cancelled"
    assert tm.rotate_webhook(hook["id"], overlap_seconds=60)["secret"] != hook["secret"]
    assert tm.change_webhook(hook["id"], is_active=False)["is_active"] is False
    assert [one["id"] for one in tm.webhooks()] == [tm.webhook(hook["id"])["id"]]
    tm.delete_webhook(hook["id"])

    key = tm.create_key("worker", role="worker")
    assert key["secret"].startswith("tm_")
    assert tm.change_key(key["key"].id, rate_limit="5/minute").rate_limit == "5/minute"
    renewed = tm.rotate_key(key["key"].id, overlap_seconds=60)
    listed = tm.keys()
    assert renewed["key"].id in [one.id for one in listed]
    assert tm.key(renewed["key"].id).revoked_at is None
    assert tm.revoke_key(renewed["key"].id).revoked_at is not None
    assert "key_revoked" in [event["event"] for event in tm.audit()]
    assert {"ok", "problem", "warning"} >= {finding["level"] for finding in tm.doctor()}
    assert tm.maintain()["pruned"] == 0
