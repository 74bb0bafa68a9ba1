"""/api/tasks: making tasks, reading them, and everything a worker says about one."""

from typing import Any

from flask import Blueprint, Response, current_app, g

from taskmanager.api import request_schemas
from taskmanager.api.auth import requires
from taskmanager.api.errors import status_of
from taskmanager.api.requests import MAX_INTEGER, QueryParameters, read_time
from taskmanager.api.responses import success
from taskmanager.api.serializers import claimed_task_json, log_json, task_json
from taskmanager.clock import format_time, utc_now
from taskmanager.config import Settings
from taskmanager.exceptions import InvalidRequest, TaskManagerError, ValidationFailed
from taskmanager.services import (
    claiming,
    completion,
    history,
    interventions,
    leases,
    task_queries,
    tasks,
    waiting,
)
from taskmanager.services.claim_orders import claim_order

blueprint = Blueprint("tasks", __name__, url_prefix="/tasks")

TASK = f"/<int(max={MAX_INTEGER}):task_id>"


def _settings() -> Settings:
    settings: Settings = current_app.extensions["taskmanager"]
    return settings


def _defaults() -> tasks.TaskDefaults:
    return tasks.TaskDefaults.of(_settings())


def _with_time(body: dict[str, Any]) -> dict[str, Any]:
    if body.get("available_at") is not None:
        body["available_at"] = read_time("available_at", body["available_at"])
    return body


@blueprint.post("")
@requires("tasks:create")
def create() -> Response:
    """POST /api/tasks: makes a task, or answers with the one that exists.

    `type`, `params`; optionally `priority` (higher first), `max_attempts`,
    `delay_seconds` or `available_at`, `dedupe`, `dedupe_key`, `parent_task_id`.

    201 made; 200 `deduplicated`; 400 a field or the params are wrong, or the
    type is not active; 403; 404 no such type.
    """
    body = _with_time(request_schemas.CREATE_TASK.read())
    outcome = tasks.create_task(body, defaults=_defaults(), caller=g.caller, now=utc_now())
    data = {**task_json(outcome.task or {}), "deduplicated": outcome.deduplicated}
    if outcome.deduplicated:
        return success(data, "Task already exists (deduplicated)")
    return success(data, "Task created successfully", 201)


@blueprint.post("/batch")
@requires("tasks:create")
def create_batch() -> Response:
    """POST /api/tasks/batch: `tasks`, 1 to 1,000 bodies of POST /api/tasks, in one transaction.

    201 where something was made, else 200: `results` in order, each with its
    `outcome` (`created`, `deduplicated`, `error`) and its task or its reason.
    With `atomic` 400 and nothing made where one is bad.
    """
    body = request_schemas.CREATE_TASKS.read()
    checked: list[dict[str, Any] | TaskManagerError] = []
    for item in body["tasks"]:
        try:
            checked.append(_with_time(request_schemas.CREATE_TASK.check(item)))
        except TaskManagerError as error:
            checked.append(error)
    atomic = body.get("atomic", False)
    good = [item for item in checked if isinstance(item, dict)]
    outcomes = []
    if len(good) == len(checked) or not atomic:
        outcomes = tasks.create_tasks(
            good, atomic=atomic, defaults=_defaults(), caller=g.caller, now=utc_now()
        )
    made = iter(outcomes)
    every = [
        next(made, tasks.Outcome()) if isinstance(item, dict) else tasks.Outcome(error=item)
        for item in checked
    ]
    bad = [(index, one.error) for index, one in enumerate(every) if one.error is not None]
    if atomic and bad:
        raise ValidationFailed(
            f"{len(bad)} of {len(every)} tasks are wrong, so none was made; "
            f"the first is tasks[{bad[0][0]}]: {bad[0][1].message}",
            details=[
                {"path": f"tasks[{index}]", "message": error.message, "keyword": error.code}
                for index, error in bad
            ],
        )
    results = [_batch_result(outcome) for outcome in every]
    counts = {
        "created": sum(result["outcome"] == "created" for result in results),
        "deduplicated": sum(result["outcome"] == "deduplicated" for result in results),
        "failed": sum(result["outcome"] == "error" for result in results),
    }
    return success(
        {"results": results, **counts},
        "{created} created, {deduplicated} deduplicated, {failed} failed".format(**counts),
        201 if counts["created"] else 200,
    )


def _batch_result(outcome: tasks.Outcome) -> dict[str, Any]:
    if outcome.error is not None or outcome.task is None:
        return {"outcome": "error", "error": _error_json(outcome.error)}
    return {
        "outcome": "deduplicated" if outcome.deduplicated else "created",
        "task": task_json(outcome.task, params=False, result=outcome.deduplicated),
    }


def _error_json(error: TaskManagerError | None) -> dict[str, Any]:
    if error is None:
        raise AssertionError("an outcome has a task or an error")
    content = {"message": error.message, "code": error.code, "status": status_of(error)}
    return content if error.details is None else {**content, "details": error.details}


@blueprint.get("")
@requires("tasks:read")
def list_all() -> Response:
    """GET /api/tasks: a page of tasks, the newest first.

    Filters `status`, `type` (exact, or a pattern with %), `worker_id`,
    `priority_min`, `priority_max`, `created_after`, `created_before`; `limit`
    (50, at most 100) with `offset` (at most 10,000) or `cursor`; `sort_by`,
    `sort_order`; `include=params,result`; `with_total`. 200; 400.
    """
    query = QueryParameters(
        *("status", "type", "worker_id", "priority_min", "priority_max", "created_after"),
        *("created_before", "limit", "offset", "cursor", "sort_by", "sort_order", "include"),
        "with_total",
    )
    limit = query.integer("limit", 1, 100, 50) or 50
    offset = query.integer("offset", 0, task_queries.MAX_OFFSET, 0) or 0
    cursor = query.text("cursor")
    if cursor is not None and offset:
        raise InvalidRequest("Send cursor or offset, not both.")
    include = query.names("include", ("params", "result"))
    order = query.text("sort_order", ("asc", "desc", "ASC", "DESC")) or "desc"
    page = task_queries.list_tasks(
        task_filter=task_queries.TaskFilter(
            status=query.text("status", task_queries.STATUSES),
            type_pattern=query.text("type"),
            worker_id=query.text("worker_id"),
            priority_min=query.integer("priority_min", -(2**31), 2**31 - 1),
            priority_max=query.integer("priority_max", -(2**31), 2**31 - 1),
            created_after=query.time("created_after"),
            created_before=query.time("created_before"),
        ),
        sort_by=query.text("sort_by", task_queries.SORT_COLUMNS) or "created_at",
        descending=order.lower() == "desc",
        limit=limit,
        offset=offset,
        cursor=cursor,
        with_total=query.flag("with_total"),
        caller=g.caller,
    )
    data = {
        "tasks": [
            task_json(row, params="params" in include, result="result" in include)
            for row in page.tasks
        ],
        "count": len(page.tasks),
        "limit": limit,
        "offset": offset,
        "next_cursor": page.next_cursor,
    }
    if page.total is not None:
        data["total"] = page.total
    return success(data)


@blueprint.get(TASK)
@requires("tasks:read")
def get(task_id: int) -> Response:
    """GET /api/tasks/{id}: the task, whole, and `waiting_because` while it waits. 200; 403; 404."""
    QueryParameters()
    now = utc_now()
    task = task_queries.get_task(task_id=task_id, caller=g.caller)
    return success({**task_json(task), "waiting_because": waiting.explain(task, now=now)})


@blueprint.get(f"{TASK}/logs")
@requires("tasks:read")
def logs(task_id: int) -> Response:
    """GET /api/tasks/{id}/logs: its history, oldest first. 200; 403; 404."""
    QueryParameters()
    task_queries.get_task(task_id=task_id, caller=g.caller)
    rows = history.list_logs(task_id=task_id)
    return success({"logs": [log_json(row) for row in rows], "count": len(rows)})


@blueprint.post("/claim")
@requires("tasks:claim")
def claim() -> Response:
    """POST /api/tasks/claim: takes the next task, or with `limit` (1 to 100) several.

    `worker_id`; filters `task_type_id`, `task_type_ids`, `type`, `task_types`,
    `type_pattern`, of which all must hold; `sort_by`, `sort_order`;
    `lease_seconds` (1 to 86,400); `request_id`, with which a call whose answer
    was lost can be repeated.

    200; 400; 404 `no_task_available` with `details.poll_after_seconds`.
    """
    body = request_schemas.CLAIM.read()
    claimed = claiming.claim_tasks(
        claiming.ClaimRequest(
            worker_id=body["worker_id"],
            order=claim_order(body.get("sort_by"), body.get("sort_order")),
            type_ids=_both(body.get("task_type_id"), body.get("task_type_ids")),
            type_names=_both(body.get("type"), body.get("task_types")),
            type_pattern=body.get("type_pattern"),
            limit=body.get("limit", 1),
            lease_seconds=body.get("lease_seconds"),
            request_id=body.get("request_id"),
        ),
        defaults=_defaults(),
        caller=g.caller,
        now=utc_now(),
    )
    if "limit" not in body:
        return success(claimed_task_json(claimed[0]), "Task claimed successfully")
    found = [claimed_task_json(row) for row in claimed]
    return success({"tasks": found, "count": len(found)}, f"{len(found)} tasks claimed")


def _both(one: Any, several: list[Any] | None) -> list[Any] | None:
    """The values allowed by two filters that must both hold; None where neither is given."""
    if one is None:
        return several
    return [one] if several is None or one in several else []


@blueprint.post(f"{TASK}/complete")
@requires("tasks:complete")
def complete(task_id: int) -> Response:
    """POST /api/tasks/{id}/complete: reports success or failure of the attempt.

    `worker_id`, `success`; `result`, or `error`, `error_code`, `is_retryable`,
    `retry_after_seconds`; `claim_token`.

    200 with `will_retry` and `replayed`; 400; 403 `claimed_by_other`; 404; 409
    `claim_lost`, `task_not_claimed`, `task_finished`, `task_cancelled`.
    """
    body = request_schemas.COMPLETE_TASK.read()
    outcome = completion.complete_task(
        _completion(task_id, body), worker_id=body["worker_id"], caller=g.caller, now=utc_now()
    )
    return success(_completed_json(outcome), _completion_message(outcome))


@blueprint.post("/complete")
@requires("tasks:complete")
def complete_batch() -> Response:
    """POST /api/tasks/complete: `worker_id` and 1 to 1,000 `completions`, each with its `id`.

    200: `results` in order, each with its `outcome` (the task's status, or
    `error`), as POST /api/tasks/{id}/complete would have answered; 400.
    """
    body = request_schemas.COMPLETE_TASKS.read()
    outcomes = completion.complete_tasks(
        [_completion(int(item["id"]), item) for item in body["completions"]],
        worker_id=body["worker_id"],
        caller=g.caller,
        now=utc_now(),
    )
    results = []
    for item, outcome in zip(body["completions"], outcomes, strict=True):
        if outcome.error is not None:
            results.append(
                {"id": item["id"], "outcome": "error", "error": _error_json(outcome.error)}
            )
        else:
            task = _completed_json(outcome)
            results.append({"id": item["id"], "outcome": task["status"], "task": task})
    failed = sum(result["outcome"] == "error" for result in results)
    return success(
        {"results": results, "count": len(results) - failed, "failed": failed},
        f"{len(results) - failed} reported, {failed} refused",
    )


def _completion(task_id: int, body: dict[str, Any]) -> completion.Completion:
    return completion.Completion(
        task_id=task_id,
        claim_token=body.get("claim_token"),
        success=body["success"],
        result=body.get("result"),
        error_message=body.get("error") or body.get("error_message"),
        error_code=body.get("error_code"),
        is_retryable=body.get("is_retryable", True),
        retry_after_seconds=body.get("retry_after_seconds"),
    )


def _completed_json(outcome: completion.CompletionOutcome) -> dict[str, Any]:
    return {
        **task_json(outcome.task or {}, params=False),
        "will_retry": outcome.will_retry,
        "replayed": outcome.replayed,
    }


def _completion_message(outcome: completion.CompletionOutcome) -> str:
    status = (outcome.task or {})["status"]
    if outcome.will_retry:
        return "Task failed and will be tried again"
    return {"completed": "Task completed successfully"}.get(status, "Task failed for good")


@blueprint.post(f"{TASK}/progress")
@requires("tasks:claim")
def progress(task_id: int) -> Response:
    """POST /api/tasks/{id}/progress: `worker_id`, `progress` 0 to 100, `message`, `claim_token`.

    Renews the lease. 200 with `cancelled`; 400; 403; 404; 409.
    """
    body = request_schemas.REPORT_PROGRESS.read()
    task, cancelled = leases.report_progress(
        task_id=task_id,
        holder=_holder(body),
        progress=body["progress"],
        message=body.get("message"),
        caller=g.caller,
        now=utc_now(),
    )
    return _lease_answer(task, cancelled, "Progress stored")


@blueprint.post(f"{TASK}/heartbeat")
@requires("tasks:claim")
def heartbeat(task_id: int) -> Response:
    """POST /api/tasks/{id}/heartbeat: `worker_id`, `claim_token`, `lease_seconds` (1 to 86,400).

    Renews the lease. 200 with `lease_expires_at` and `cancelled`; 400; 403; 404; 409.
    """
    body = request_schemas.TASK_HEARTBEAT.read()
    task, cancelled = leases.send_heartbeat(
        task_id=task_id,
        holder=_holder(body),
        lease_seconds=body.get("lease_seconds"),
        caller=g.caller,
        now=utc_now(),
    )
    return _lease_answer(task, cancelled, "Lease renewed")


def _holder(body: dict[str, Any]) -> leases.Holder:
    return leases.Holder(worker_id=body["worker_id"], claim_token=body.get("claim_token"))


def _lease_answer(task: dict[str, Any], cancelled: bool, message: str) -> Response:
    return success(
        {
            "id": task["id"],
            "status": task["status"],
            "progress": task["progress"],
            "progress_message": task["progress_message"],
            "lease_expires_at": format_time(task["lease_expires_at"]),
            "cancelled": cancelled,
            "next_heartbeat_in": _settings().heartbeat_seconds,
        },
        "Task has been cancelled: stop working on it" if cancelled else message,
    )


@blueprint.post(f"{TASK}/release")
@requires("tasks:claim")
def release(task_id: int) -> Response:
    """POST /api/tasks/{id}/release: `worker_id`, `claim_token`, `delay_seconds`.

    Hands the task back unprocessed; the attempt is not counted. 200; 400; 403; 404; 409.
    """
    body = request_schemas.RELEASE_TASK.read()
    task = leases.release_task(
        task_id=task_id,
        holder=_holder(body),
        delay_seconds=body.get("delay_seconds", 0),
        caller=g.caller,
        now=utc_now(),
    )
    return success(task_json(task, params=False), "Task released")


@blueprint.post(f"{TASK}/cancel")
@requires("tasks:manage")
def cancel(task_id: int) -> Response:
    """POST /api/tasks/{id}/cancel: ends an unfinished task; `reason` goes into its history.

    200, also where it was cancelled before; 403; 404; 409 `task_finished`.
    """
    body = request_schemas.CANCEL_TASK.read()
    task = interventions.cancel_task(
        task_id=task_id, reason=body.get("reason"), caller=g.caller, now=utc_now()
    )
    return success(task_json(task, params=False), "Task cancelled")


@blueprint.post(f"{TASK}/retry")
@requires("tasks:manage")
def retry(task_id: int) -> Response:
    """POST /api/tasks/{id}/retry: takes a failed or cancelled task back, attempts counted anew.

    200; 403; 404; 409 `task_not_retryable`, `duplicate_task`.
    """
    request_schemas.NOTHING.read()
    task = interventions.retry_task(task_id=task_id, caller=g.caller, now=utc_now())
    return success(task_json(task, params=False), "Task will be tried again")
