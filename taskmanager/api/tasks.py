"""/api/tasks: creating, listing, reading, cancelling and retrying tasks."""

from collections import Counter
from typing import Any

from flask import Blueprint, Response, g

from taskmanager.api import request_schemas, serializers
from taskmanager.api.auth import requires
from taskmanager.api.errors import error_json
from taskmanager.api.requests import TASK, Values, task_defaults
from taskmanager.api.responses import success
from taskmanager.api.serializers import (
    GRAPH_EDGE,
    GRAPH_TASK,
    LOG_ENTRY,
    SMALL_TASK,
    TASK_WITHOUT_PARAMS,
    attempt_error_json,
    task_json,
)
from taskmanager.api.task_bodies import read_tasks, refuse_wrong, traced
from taskmanager.api.task_filters import task_filter_of
from taskmanager.api.waiting_calls import Look, wait_until
from taskmanager.errors import InvalidRequest, TaskManagerError
from taskmanager.queue import change, history, operate, read, waiting
from taskmanager.queue.answer_size import LARGE_COLUMNS, MAX_ANSWER_TEXT
from taskmanager.queue.create import Outcome, create_task, create_tasks
from taskmanager.queue.flow import dependencies
from taskmanager.queue.flow import graph as task_graph
from taskmanager.wakeups import topics

blueprint = Blueprint("tasks", __name__, url_prefix="/tasks")


@blueprint.post("")
@requires("tasks:create", body=request_schemas.CREATE_TASK)
def create(body: Values) -> Response:
    """POST /api/tasks: creates a task, or returns the one that exists.

    `type`, `params`; optionally `priority` (higher first), `max_attempts`,
    `delay_seconds` or `available_at`, `dedupe`, `dedupe_key`, `parent_task_id`,
    `traceparent` (else the header of that name, if that is valid).

    201 created; 200 `deduplicated`; 400 a field or the params are wrong, or the
    type is not active; 403; 404 no such type; 429 `queue_full`.
    """
    [task] = dependencies.renumbered([traced(body)])
    if isinstance(task, TaskManagerError):
        raise task
    outcome = create_task(task, defaults=task_defaults(), caller=g.caller, now=g.now)
    data = {
        **task_json(outcome.task or {}),
        "deduplicated": outcome.deduplicated,
        "on_duplicate": outcome.on_duplicate,
    }
    g.task_ids = [data["id"]]  # for the log
    if outcome.deduplicated:
        return success(data, "Task already exists (deduplicated)")
    return success(data, "Task created successfully", 201)


@blueprint.post("/batch")
@requires("tasks:create", body=request_schemas.CREATE_TASKS)
def create_batch(body: Values) -> Response:
    """POST /api/tasks/batch: `tasks`, 1 to 1,000 bodies of POST /api/tasks, in one transaction.

    201 if any task was created, else 200: `results` in order, each with its
    `outcome` (`created`, `deduplicated`, `error`) and its task or its error.
    With `atomic`, one bad item creates nothing and answers 400, and a queue without
    room for all answers 429. Existing tasks come with their results, as far as those
    fit into one answer.
    """
    atomic = body.get("atomic", False)
    read = read_tasks(body["tasks"])
    good = [item for item in read if not isinstance(item, TaskManagerError)]
    outcomes = [
        Outcome(error=item if isinstance(item, TaskManagerError) else None) for item in read
    ]
    if len(good) == len(outcomes) or not atomic:
        made = create_tasks(
            good, atomic=atomic, defaults=task_defaults(), caller=g.caller, now=g.now
        )
        following = iter(made)
        outcomes = [one if one.error else next(following) for one in outcomes]
    if atomic:
        refuse_wrong([one.error for one in outcomes])
    results = _batch_results(outcomes)
    became = Counter(result["outcome"] for result in results)
    created, deduplicated, failed = (became[it] for it in ("created", "deduplicated", "error"))
    return success(
        {"results": results, "created": created, "deduplicated": deduplicated, "failed": failed},
        f"{created} created, {deduplicated} deduplicated, {failed} failed",
        201 if created else 200,
    )


def _batch_results(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """One result per outcome; existing tasks with their results while there is room."""
    results: list[dict[str, Any]] = []
    room = MAX_ANSWER_TEXT
    for outcome in outcomes:
        if outcome.error is not None:
            results.append({"outcome": "error", "error": error_json(outcome.error)})
            continue
        task = outcome.task or {}
        size = len(task.get("result") or "")
        fits = outcome.deduplicated and "result" in task and size <= room
        room -= size if fits else 0
        results.append(
            {
                "outcome": "deduplicated" if outcome.deduplicated else "created",
                "on_duplicate": outcome.on_duplicate,
                "task": task_json(task, TASK_WITHOUT_PARAMS if fits else SMALL_TASK),
            }
        )
    return results


@blueprint.get("")
@requires("tasks:read", query=request_schemas.LIST_TASKS)
def list_all(query: Values) -> Response:
    """GET /api/tasks: a page of tasks, newest first.

    Filters `status` (several with commas), `type` (exact, or a pattern with %),
    `worker_id`, `parent_task_id`, `dedupe_key`, `priority_min`, `priority_max`,
    `attempts_min`, `error_code`, `error` (a part of the message), `params.PATH`,
    and `_after` or `_before` of `created`, `finished` and `available`; `limit`
    (50, at most 100) with `offset` (at most 10,000) or `cursor`; `sort_by`,
    `sort_order`; `include=params,result`, where large values end a page early;
    `with_total`. What no index has is searched for in a bounded number of tasks:
    `scanned` counts them, and without `is_complete` the next page goes on. 200; 400.
    """
    include = tuple(dict.fromkeys(query["include"]))
    page = read.list_tasks(
        task_filter=task_filter_of(query),
        sort_by=query["sort_by"] or "created_at",
        descending=(query["sort_order"] or "desc").lower() == "desc",
        limit=query["limit"],
        offset=query["offset"],
        cursor=query["cursor"],
        with_total=query["with_total"],
        caller=g.caller,
        include=include,
    )
    fields = serializers.TASK.without(*set(LARGE_COLUMNS) - set(include))
    data = {
        "tasks": [task_json(row, fields) for row in page.tasks],
        "count": len(page.tasks),
        "limit": query["limit"],
        "offset": query["offset"],
        "next_cursor": page.next_cursor,
    }
    if page.total is not None:
        data["total"] = page.total
        data["total_is_exact"] = page.total_is_exact
    if page.scanned is not None:
        data |= {"scanned": page.scanned, "is_complete": page.is_complete}
    return success(data)


@blueprint.get(TASK)
@requires("tasks:read", query=request_schemas.GET_TASK)
def get(task_id: int, query: Values) -> Response:
    """GET /api/tasks/{id}: the full task.

    With `attempt_errors` (how the latest 100 failed attempts ended), `more_attempt_errors` and,
    while it waits, `waiting_because`. With `wait_seconds` (0 to 20), waits until it is finished.
    200; 403; 404.
    """

    def look() -> Look[dict[str, Any]]:
        task = read.get_task(task_id=task_id, caller=g.caller)
        is_finished = task["status"] in read.FINISHED_STATUSES
        return Look(task, waits_for=None if is_finished else (topics.finished(task_id),))

    task = wait_until(look, seconds=query["wait_seconds"], line=("task", task_id))
    errors, more = history.list_attempt_errors(task_id=task_id)
    return success(
        {
            **task_json(task),
            "attempt_errors": [attempt_error_json(error) for error in errors],
            "more_attempt_errors": more,
            "waiting_because": waiting.explain(task, caller=g.caller, now=g.now),
        }
    )


@blueprint.patch(TASK)
@requires("tasks:manage", body=request_schemas.CHANGE_TASK)
def change_one(task_id: int, body: Values) -> Response:
    """PATCH /api/tasks/{id}: changes a task that waits.

    `params`, `priority`, `max_attempts`, `available_at` or `delay_seconds`, `tags`.

    200; 400; 403; 404; 409 `task_not_waiting`, and `duplicate_task` with the `task_id` of the
    other task that has these params.
    """
    if not body:
        raise InvalidRequest("Send at least one field that is to change.")
    task = change.change_task(task_id=task_id, request=body, caller=g.caller, now=g.now)
    return success(task_json(task), "Task changed")


@blueprint.get(f"{TASK}/logs")
@requires("tasks:read", query=request_schemas.LOGS_PAGE)
def logs(task_id: int, query: Values) -> Response:
    """GET /api/tasks/{id}/logs: a page of its history, oldest first; `limit` (at most 1,000).

    `cursor` from `next_cursor`, which is null on the last page. Long messages end a page early.
    200; 400; 403; 404.
    """
    read.get_task(task_id=task_id, caller=g.caller)
    rows, last_id = history.list_logs(task_id=task_id, **query)
    return success(
        {
            "logs": [LOG_ENTRY.of(row) for row in rows],
            "count": len(rows),
            "next_cursor": None if last_id is None else str(last_id),
        }
    )


@blueprint.get(f"{TASK}/graph")
@requires("tasks:read", query=request_schemas.NO_PARAMETERS)
def graph(task_id: int) -> Response:
    """GET /api/tasks/{id}/graph: what it depends on and what depends on it, directly or not.

    `tasks` and the `edges` between them, at most 200 and 1,000; without `is_complete` there are
    more. 200; 403; 404.
    """
    read.get_task(task_id=task_id, caller=g.caller)
    tasks, edges, is_complete = task_graph.graph_of(task_id=task_id, caller=g.caller)
    return success(
        {
            "tasks": [GRAPH_TASK.of(row) for row in tasks],
            "edges": [GRAPH_EDGE.of(row) for row in edges],
            "is_complete": is_complete,
        }
    )


@blueprint.post(f"{TASK}/cancel")
@requires("tasks:manage", body=request_schemas.CANCEL_TASK)
def cancel(task_id: int, body: Values) -> Response:
    """POST /api/tasks/{id}/cancel: ends an unfinished task; `reason` goes into its history.

    200, also where it was cancelled before; 403; 404; 409 `task_finished`.
    """
    task = operate.cancel_task(
        task_id=task_id, reason=body.get("reason"), caller=g.caller, now=g.now
    )
    return success(task_json(task, TASK_WITHOUT_PARAMS), "Task cancelled")


@blueprint.post(f"{TASK}/retry")
@requires("tasks:manage", body=request_schemas.NOTHING)
def retry(task_id: int) -> Response:
    """POST /api/tasks/{id}/retry: makes a failed or cancelled task pending, with new attempts.

    200; 403; 404; 409 `task_not_retryable`, `dependency_failed`, `duplicate_task`.
    """
    task = operate.retry_task(task_id=task_id, caller=g.caller, now=g.now)
    return success(task_json(task, TASK_WITHOUT_PARAMS), "Task will be tried again")
