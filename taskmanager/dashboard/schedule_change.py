"""/dashboard/schedules/{id}/change: a form for when a schedule runs and what its tasks are."""

from typing import Any

from flask import Blueprint, Response, g, request

from taskmanager.api import request_schemas
from taskmanager.api.auth import requires
from taskmanager.api.requests import decode_json
from taskmanager.api.schedules import SCHEDULE
from taskmanager.dashboard.answers import lead_to, page
from taskmanager.dashboard.form_fields import (
    Field,
    ParamsForm,
    fields_of,
    filled,
    last_seen,
    read_fields,
    read_tags,
    tags_of,
)
from taskmanager.db.statements import Row
from taskmanager.errors import ChangedMeanwhile, Conflict, InvalidRequest
from taskmanager.queue import task_types
from taskmanager.queue.schedules import definitions

blueprint = Blueprint("schedule_change", __name__)

TIMING = ("cron", "timezone", "interval_seconds")
_OVERLAPS = tuple(f'"{overlap}"' for overlap in definitions.OVERLAPS)
FIELDS = (
    Field("name", "text", "Name"),
    Field("cron", "text", "Cron", "Minute, hour, day of month, month, day of week: 0 3 * * *."),
    Field("timezone", "text", "Time zone", "Of the cron expression, such as Europe/Prague."),
    Field("interval_seconds", "number", "Seconds between runs", "Instead of a cron expression."),
    Field(
        "overlap",
        "choice",
        "Overlap",
        "skip: no run while the last task is unfinished.",
        choices=_OVERLAPS,
    ),
    Field("priority", "number", "Priority", "Higher comes first. Empty: that of the type."),
    Field("max_attempts", "number", "Attempts", "Empty: those of the type."),
    Field("tags", "text", "Tags", "Up to ten, with commas between them."),
    Field("notify", "text", "Notify", "The webhook that hears of the end of each task."),
    Field("concurrency_key", "text", "Concurrency key"),
    Field("group_key", "text", "Group key"),
)


@blueprint.get(f"/schedules{SCHEDULE}/change")
@requires("task-types:write")
def show(schedule_id: int) -> Response:
    """GET /dashboard/schedules/{id}/change: the form; with `json` the params are one text."""
    row = definitions.find_schedule(schedule_id, g.caller)
    return _page(row, form_of(row, is_json="json" in request.args))


@blueprint.post(f"/schedules{SCHEDULE}/change")
@requires("task-types:write")
def save(schedule_id: int) -> Response:
    """POST /dashboard/schedules/{id}/change: changes it, or shows what is wrong in the form."""
    row = definitions.find_schedule(schedule_id, g.caller)
    form = form_of(row)
    form.take(request.form)
    try:
        if changes := read_changes(form, row):
            definitions.change_schedule(
                schedule_id=schedule_id,
                changes=changes,
                caller=g.caller,
                now=g.now,
                updated_at=last_seen(),
            )
    except InvalidRequest as error:
        form.say(error)
        return _page(row, form, 400)
    except ChangedMeanwhile:
        row = definitions.find_schedule(schedule_id, g.caller)
        form.say_changed(row["name"], form_of(row, is_json=form.is_json))
        return _page(row, form, 409)
    except Conflict as error:
        form.problem = error.message
        return _page(row, form, 409)
    said = f"{row['name']} {'is changed' if changes else 'was not changed'}."
    return lead_to("schedules.show", said=said)


def form_of(row: Row, *, is_json: bool = False) -> ParamsForm:
    """The form with what the schedule has."""
    task_type = task_types.get_task_type(name=row["type"])
    fields = fields_of(decode_json(task_type["param_schema"]))
    form = ParamsForm(task_type, fields, is_json or not fields)
    form.fill(decode_json(row["params"]))
    form.others = filled(FIELDS, lambda name: stored_value(row, name))
    return form


def stored_value(row: Row, name: str) -> Any:
    """What a field shows of the schedule; None where none is set."""
    if name == "tags":
        return tags_of(row)
    if name == "timezone" and row["cron"] is None:
        return None
    return row[name]


def read_changes(form: ParamsForm, row: Row) -> dict[str, Any]:
    """The request that the form stands for: what differs from the schedule.

    Raises InvalidRequest, said beside the fields.
    """
    values = read_fields(form.others)
    params = form.changed_params(decode_json(row["params"]))
    changes = {
        one.name: values.get(one.name)
        for one in form.others
        if values.get(one.name) != (stored_value(row, one.name) or None)
    }
    if "tags" in changes:
        changes["tags"] = read_tags(changes["tags"] or "")
    if changes.keys() & set(TIMING):
        changes = {name: value for name, value in changes.items() if name not in TIMING}
        changes |= _timing(values)
    return request_schemas.CHANGE_SCHEDULE.check({**changes, **params})


def _timing(values: dict[str, Any]) -> dict[str, Any]:
    """All of it, so that what is left of the other kind is refused and not kept."""
    timing = {name: values[name] for name in TIMING if name in values}
    if "cron" in timing:
        timing.setdefault("timezone", definitions.DEFAULT_TIMEZONE)
    elif "interval_seconds" not in timing:
        raise InvalidRequest("A schedule needs a cron expression or seconds between its runs.")
    return timing


def _page(row: Row, form: ParamsForm, status: int = 200) -> Response:
    return page("change_schedule.html", status, schedule=row, form=form)
