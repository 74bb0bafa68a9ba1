"""/api/tasks: changing many tasks with one call, by their ids or by a filter."""

from typing import Any

from flask import Blueprint, Response, g

from taskmanager.api import request_schemas
from taskmanager.api.auth import requires
from taskmanager.api.requests import Values, as_texts
from taskmanager.api.responses import success
from taskmanager.api.serializers import FAILURE_GROUP
from taskmanager.api.task_filters import task_filter_of
from taskmanager.errors import InvalidRequest
from taskmanager.queue import bulk, failures
from taskmanager.queue.columns import available_from

blueprint = Blueprint("bulk", __name__, url_prefix="/tasks")


@blueprint.get("/errors")
@requires("tasks:read", query=request_schemas.LIST_ERRORS)
def list_errors(query: Values) -> Response:
    """GET /api/tasks/errors: failures grouped by type, error code and message.

    The filters of GET /api/tasks; without `status`, of failed tasks. The latest
    1,000 are looked at; `cursor` goes on. `groups` has the largest first, each with
    its `message` (`#` for numbers and ids), `count`, first and last time and an
    example; `scanned` counts the tasks looked at. 200; 400.
    """
    found = failures.group_failures(
        task_filter=task_filter_of(query), cursor=query["cursor"], caller=g.caller
    )
    groups = [FAILURE_GROUP.of(group) for group in found.groups]
    return success({**found._asdict(), "groups": groups, "count": len(groups)})


@blueprint.post("/retry")
@requires("tasks:manage", body=request_schemas.CHANGE_MANY)
def retry(body: Values) -> Response:
    """POST /api/tasks/retry: tries failed and cancelled tasks again, with new attempts.

    `ids`, or a `filter` with the parameters of GET /api/tasks; `limit` (1,000, at
    most 10,000) and `cursor` with a filter; `dry_run` changes nothing. 200 with
    `matched`, `changed`, `skipped` by reason and `next_cursor`; 400.
    """
    return _change(bulk.RETRY, body, "to be tried again")


@blueprint.post("/cancel")
@requires("tasks:manage", body=request_schemas.CANCEL_MANY)
def cancel(body: Values) -> Response:
    """POST /api/tasks/cancel: ends unfinished tasks; `reason` goes into their history.

    Takes and answers what POST /api/tasks/retry does. 200; 400.
    """
    return _change(bulk.CANCEL, body, "cancelled")


@blueprint.post("/release")
@requires("tasks:manage", body=request_schemas.CHANGE_MANY)
def release(body: Values) -> Response:
    """POST /api/tasks/release: takes claimed tasks from their workers, the attempts not counted.

    Takes and answers what POST /api/tasks/retry does. 200; 400.
    """
    return _change(bulk.RELEASE, body, "released")


@blueprint.post("/delete")
@requires("tasks:manage", body=request_schemas.CHANGE_MANY)
def delete(body: Values) -> Response:
    """POST /api/tasks/delete: removes finished tasks with their history.

    Takes and answers what POST /api/tasks/retry does. 200; 400.
    """
    return _change(bulk.DELETE, body, "deleted")


@blueprint.post("/update")
@requires("tasks:manage", body=request_schemas.UPDATE_MANY)
def update(body: Values) -> Response:
    """POST /api/tasks/update: sets `priority`, and `available_at` or `delay_seconds`.

    Of tasks that wait. Takes and answers what POST /api/tasks/retry does. 200; 400.
    """
    at = available_from(body, g.now) if {"available_at", "delay_seconds"} & body.keys() else None
    if at is None and "priority" not in body:
        raise InvalidRequest("Send priority, available_at or delay_seconds: what is to be set.")
    return _change(bulk.updating(body.get("priority"), at), body, "updated")


def _change(action: bulk.Action, body: Values, done: str) -> Response:
    asked: dict[str, Any] = {name: body[name] for name in ("ids", "filter") if name in body}
    if len(asked) != 1:
        raise InvalidRequest("Send either ids or filter: which tasks are meant.")
    if body.get("filter") == {}:
        raise InvalidRequest(
            'filter is empty and would mean every task; if you mean that, send {"type": "%"}.'
        )
    if "ids" in body:
        asked = {"ids": body["ids"][:20]}
        if {"limit", "cursor"} & body.keys():
            raise InvalidRequest("limit and cursor belong to filter; with ids leave them out.")
    outcome = bulk.change_tasks(
        action,
        ids=body.get("ids"),
        task_filter=task_filter_of(
            request_schemas.TASK_FILTER.parse(as_texts(body.get("filter", {})), "filter")
        ),
        limit=body.get("limit", request_schemas.CHANGED_AT_ONCE),
        cursor=body.get("cursor"),
        dry_run=body.get("dry_run", False),
        reason=body.get("reason"),
        asked=asked,
        caller=g.caller,
        now=g.now,
    )
    message = f"{outcome.changed} of {outcome.matched} tasks {done}"
    if body.get("dry_run"):
        message = f"{outcome.changed} of {outcome.matched} tasks would be {done}"
    return success(outcome._asdict(), message)
