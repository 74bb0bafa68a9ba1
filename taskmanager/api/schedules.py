"""/api/schedules: recurring tasks."""

from flask import Blueprint, Response, g

from taskmanager.api import request_schemas
from taskmanager.api.auth import requires
from taskmanager.api.requests import MAX_INTEGER, Values, task_defaults
from taskmanager.api.responses import success
from taskmanager.api.serializers import page_json, schedule_json, task_json
from taskmanager.errors import InvalidRequest
from taskmanager.queue.schedules import definitions, runs

blueprint = Blueprint("schedules", __name__, url_prefix="/schedules")

SCHEDULE = f"/<int(max={MAX_INTEGER}):schedule_id>"


@blueprint.post("")
@requires("task-types:write", body=request_schemas.CREATE_SCHEDULE)
def create(body: Values) -> Response:
    """POST /api/schedules: creates a schedule, which creates a task at each due time.

    `name` (unique), `type`, `params`; either `cron` (five fields), read in
    `timezone` (an IANA name, default UTC), or `interval_seconds` (1 to
    31,622,400, counted from now); optionally `priority`, `max_attempts`, `tags`,
    `notify`, `overlap` (`allow`, or `skip` a run while the last task is unfinished),
    `is_active`.

    201 with `next_runs`; 400 a field, the expression, the zone or the params
    are wrong, or the type is not active; 403; 404 no such type; 409
    `schedule_exists`.
    """
    row = definitions.create_schedule(body, defaults=task_defaults(), caller=g.caller, now=g.now)
    return success(schedule_json(row), "Schedule created successfully", 201)


@blueprint.get("")
@requires("task-types:read", query=request_schemas.PAGE)
def list_all(query: Values) -> Response:
    """GET /api/schedules: a page of schedules by name; `limit` (50, at most 100).

    `offset`, or `cursor` from `next_cursor`. 200 with the `total` of all pages; 400.
    """
    page = definitions.list_schedules(**query, caller=g.caller)
    return success(page_json("schedules", page, schedule_json))


@blueprint.get(SCHEDULE)
@requires("task-types:read", query=request_schemas.NO_PARAMETERS)
def get(schedule_id: int) -> Response:
    """GET /api/schedules/{id}: one schedule with its `next_runs`. 200; 403; 404."""
    return success(
        schedule_json(definitions.get_schedule(schedule_id=schedule_id, caller=g.caller))
    )


@blueprint.patch(SCHEDULE)
@requires("task-types:write", body=request_schemas.CHANGE_SCHEDULE)
def change(schedule_id: int, body: Values) -> Response:
    """PATCH /api/schedules/{id}: the fields of POST /api/schedules but `type`.

    `cron` replaces an interval and the other way round. `is_active` false: no
    runs until it is true again; missed runs are skipped. 200; 400; 403; 404; 409
    `schedule_exists`.
    """
    if not body:
        known = ", ".join(request_schemas.CHANGE_SCHEDULE.fields)
        raise InvalidRequest(f"Nothing to change: send one or more of {known}.")
    row = definitions.change_schedule(
        schedule_id=schedule_id, changes=body, caller=g.caller, now=g.now
    )
    return success(schedule_json(row), "Schedule updated successfully")


@blueprint.delete(SCHEDULE)
@requires("task-types:write")
def delete(schedule_id: int) -> Response:
    """DELETE /api/schedules/{id}: removes it; the tasks that it created stay. 200; 403; 404."""
    row = definitions.delete_schedule(schedule_id=schedule_id, caller=g.caller, now=g.now)
    return success(schedule_json(row), "Schedule deleted")


@blueprint.post(f"{SCHEDULE}/run")
@requires("tasks:create", body=request_schemas.NOTHING)
def run(schedule_id: int) -> Response:
    """POST /api/schedules/{id}/run: creates its task now; its due times do not change.

    201 with the task; 200 `deduplicated` with the unfinished one where `overlap`
    is `skip`; 400; 403; 404.
    """
    outcome = runs.run_schedule_now(
        schedule_id=schedule_id, defaults=task_defaults(), caller=g.caller, now=g.now
    )
    data = {**task_json(outcome.task or {}), "deduplicated": outcome.deduplicated}
    if outcome.deduplicated:
        return success(data, "The last task of this schedule is unfinished")
    return success(data, "Task created successfully", 201)
