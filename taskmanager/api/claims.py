"""/api/tasks/…: the calls of a worker: claim, heartbeat, progress, complete and release."""

from typing import Any

from flask import Blueprint, Response, g

from taskmanager.api import request_schemas, serializers
from taskmanager.api.auth import requires
from taskmanager.api.errors import error_json
from taskmanager.api.requests import TASK, Values, settings, task_defaults
from taskmanager.api.responses import success
from taskmanager.api.serializers import LEASE, TASK_WITHOUT_PARAMS, task_json
from taskmanager.api.waiting_calls import Look, wait_until
from taskmanager.db.statements import Row
from taskmanager.errors import NoTaskAvailable
from taskmanager.queue import lease
from taskmanager.queue.claim import ClaimRequest, claim_tasks
from taskmanager.queue.claim_sql import claim_order
from taskmanager.queue.complete import Completion, CompletionOutcome, complete_task, complete_tasks
from taskmanager.queue.holder import Holder
from taskmanager.wakeups import topics

blueprint = Blueprint("claims", __name__, url_prefix="/tasks")

_TYPE_FILTERS = ("task_type_id", "task_type_ids", "type", "task_types", "type_pattern")


@blueprint.post("/claim")
@requires("tasks:claim", body=request_schemas.CLAIM)
def claim(body: Values) -> Response:
    """POST /api/tasks/claim: claims the next task, or several with `limit` (1 to 100).

    `worker_id`; filters `task_type_id`, `task_type_ids`, `type`, `task_types`,
    `type_pattern` (all that are given must match); `sort_by`, `sort_order`;
    `lease_seconds` (1 to 86,400); `request_id`, which makes the call safe to
    repeat after a lost answer; `wait_seconds` (0 to 20), to wait for a task;
    `fields`, the names of those fields of a task that the answer is to have.

    200; 400; 401 where the key was revoked meanwhile; 404 `no_task_available` with
    `details.poll_after_seconds`.
    """
    asked = ClaimRequest(
        worker_id=body["worker_id"],
        order=claim_order(body.get("sort_by"), body.get("sort_order")),
        type_ids=_both(body.get("task_type_id"), body.get("task_type_ids")),
        type_names=_both(body.get("type"), body.get("task_types")),
        type_pattern=body.get("type_pattern"),
        limit=body.get("limit", 1),
        lease_seconds=body.get("lease_seconds"),
        request_id=body.get("request_id"),
    )
    claimed = _claim_or_wait(asked, body) if body.get("wait_seconds") else _claim(asked)
    g.task_ids = [task["id"] for task in claimed]  # for the log
    fields = serializers.TASK
    if "fields" in body:
        fields = fields.without(*set(fields.names) - {"id", *body["fields"]})
    heartbeat_seconds = settings().heartbeat_seconds
    found = [
        _claimed_json(row, fields, heartbeat_seconds=heartbeat_seconds, now=g.now)
        for row in claimed
    ]
    if "limit" not in body:
        return success(found[0], "Task claimed successfully")
    return success({"tasks": found, "count": len(found)}, f"{len(found)} tasks claimed")


def _claim(asked: ClaimRequest) -> list[Row]:
    return claim_tasks(asked, defaults=task_defaults(), caller=g.caller, now=g.now)


def _claim_or_wait(asked: ClaimRequest, body: Values) -> list[Row]:
    """The tasks as soon as there are some; raises NoTaskAvailable after `wait_seconds`."""

    def look() -> Look[list[Row] | NoTaskAvailable]:
        try:
            return Look(_claim(asked))
        except NoTaskAvailable as nothing:
            return Look(nothing, waits_for=nothing.topics)

    filters = [repr(body.get(name)) for name in _TYPE_FILTERS]
    found = wait_until(
        look,
        seconds=body["wait_seconds"],
        line=("claim", g.caller.task_types, *filters),
        unless=topics.shutdown_of(asked.worker_id),
    )
    if isinstance(found, NoTaskAvailable):
        raise found
    return found


def _claimed_json(
    row: Row, fields: serializers.Fields, *, heartbeat_seconds: int, now: int
) -> dict[str, Any]:
    claimed = serializers.claimed_task_json(row, fields)
    return {**claimed, **_durations(row, heartbeat_seconds=heartbeat_seconds, now=now)}


def _durations(task: dict[str, Any], *, heartbeat_seconds: int, now: int) -> dict[str, Any]:
    """In seconds, because the worker's clock may differ from the server's."""
    return {
        "lease_seconds": task["lease_seconds"],
        "next_heartbeat_in": lease.next_heartbeat_in(
            [task], heartbeat_seconds=heartbeat_seconds, now=now
        ),
    }


def _both(one: Any, several: list[Any] | None) -> list[Any] | None:
    """The values that two filters both allow; None where neither is given."""
    if one is None:
        return several
    return [one] if several is None or one in several else []


@blueprint.post(f"{TASK}/complete")
@requires("tasks:complete", ends_or_keeps_lease=True, body=request_schemas.COMPLETE_TASK)
def complete(task_id: int, body: Values) -> Response:
    """POST /api/tasks/{id}/complete: reports success or failure of the attempt.

    `worker_id`, `success`; `result`, or `error`, `error_code`, `is_retryable`,
    `retry_after_seconds`; `claim_token`.

    200 with `will_retry` and `replayed`; 400; 403 `claimed_by_other`; 404; 409
    `claim_lost`, `task_not_claimed`, `task_finished`, `task_cancelled`.
    """
    outcome = complete_task(
        _completion(task_id, body), worker_id=body["worker_id"], caller=g.caller, now=g.now
    )
    return success(_completed_json(outcome), _completion_message(outcome))


@blueprint.post("/complete")
@requires("tasks:complete", ends_or_keeps_lease=True, body=request_schemas.COMPLETE_TASKS)
def complete_batch(body: Values) -> Response:
    """POST /api/tasks/complete: `worker_id` and 1 to 1,000 `completions`, each with its `id`.

    200: `results` in order, each with its `outcome` (the task's status, or
    `error`) and what POST /api/tasks/{id}/complete would answer, but no task where
    `with_tasks` is false; 400.
    """
    outcomes = complete_tasks(
        [_completion(int(item["id"]), item) for item in body["completions"]],
        worker_id=body["worker_id"],
        caller=g.caller,
        now=g.now,
    )
    results = [
        {"id": item["id"], **_result_json(outcome, with_task=body.get("with_tasks", True))}
        for item, outcome in zip(body["completions"], outcomes, strict=True)
    ]
    failed = sum(result["outcome"] == "error" for result in results)
    reported = len(results) - failed
    return success(
        {"results": results, "count": reported, "failed": failed},
        f"{reported} reported, {failed} refused",
    )


def _result_json(outcome: CompletionOutcome, *, with_task: bool) -> dict[str, Any]:
    if outcome.error is not None:
        return {"outcome": "error", "error": error_json(outcome.error)}
    if not with_task:
        return {"outcome": (outcome.task or {})["status"]}
    task = _completed_json(outcome)
    return {"outcome": task["status"], "task": task}


def _completion(task_id: int, body: Values) -> Completion:
    return Completion(
        task_id=task_id,
        claim_token=body.get("claim_token"),
        success=body["success"],
        result=body.get("result"),
        error_message=body.get("error") or body.get("error_message"),
        error_code=body.get("error_code"),
        is_retryable=body.get("is_retryable", True),
        retry_after_seconds=body.get("retry_after_seconds"),
    )


def _completed_json(outcome: CompletionOutcome) -> dict[str, Any]:
    return {
        **task_json(outcome.task or {}, TASK_WITHOUT_PARAMS),
        "will_retry": outcome.will_retry,
        "replayed": outcome.replayed,
    }


def _completion_message(outcome: CompletionOutcome) -> str:
    status = (outcome.task or {})["status"]
    if outcome.will_retry:
        return "Task failed and will be tried again"
    return "Task completed successfully" if status == "completed" else "Task failed for good"


@blueprint.post(f"{TASK}/progress")
@requires("tasks:claim", ends_or_keeps_lease=True, body=request_schemas.REPORT_PROGRESS)
def progress(task_id: int, body: Values) -> Response:
    """POST /api/tasks/{id}/progress: `worker_id`, `progress` 0 to 100, `message`, `claim_token`.

    Renews the lease. 200 with `cancelled`; 400; 403; 404; 409.
    """
    task = lease.renew_lease(
        task_id=task_id,
        holder=_holder(body),
        progress={"progress": body["progress"], "progress_message": body.get("message")},
        caller=g.caller,
        now=g.now,
    )
    return _lease_answer(task, "Progress stored")


@blueprint.post(f"{TASK}/heartbeat")
@requires("tasks:claim", ends_or_keeps_lease=True, body=request_schemas.TASK_HEARTBEAT)
def heartbeat(task_id: int, body: Values) -> Response:
    """POST /api/tasks/{id}/heartbeat: `worker_id`, `claim_token`, `lease_seconds` (1 to 86,400).

    Renews the lease. 200 with `lease_expires_at`, `lease_seconds`, `next_heartbeat_in`
    and `cancelled`; 400; 403; 404; 409.
    """
    task = lease.renew_lease(
        task_id=task_id,
        holder=_holder(body),
        lease_seconds=body.get("lease_seconds"),
        caller=g.caller,
        now=g.now,
    )
    return _lease_answer(task, "Lease renewed")


def _holder(body: Values) -> Holder:
    return Holder(worker_id=body["worker_id"], claim_token=body.get("claim_token"))


def _lease_answer(task: dict[str, Any], message: str) -> Response:
    cancelled = task["status"] == "cancelled"
    heartbeat_seconds = settings().heartbeat_seconds
    durations = _durations(task, heartbeat_seconds=heartbeat_seconds, now=g.now)
    more = {"cancelled": cancelled, **durations}
    return success(
        LEASE.of({**task, **more}),
        "Task has been cancelled: stop working on it" if cancelled else message,
    )


@blueprint.post(f"{TASK}/release")
@requires("tasks:claim", ends_or_keeps_lease=True, body=request_schemas.RELEASE_TASK)
def release(task_id: int, body: Values) -> Response:
    """POST /api/tasks/{id}/release: `worker_id`, `claim_token`, `delay_seconds`.

    Hands the task back unprocessed; the attempt is not counted. 200; 400; 403; 404; 409.
    """
    task = lease.release_task(
        task_id=task_id,
        holder=_holder(body),
        delay_seconds=body.get("delay_seconds", 0),
        caller=g.caller,
        now=g.now,
    )
    return success(task_json(task, TASK_WITHOUT_PARAMS), "Task released")
