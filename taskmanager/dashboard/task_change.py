"""/dashboard/tasks/{id}/change: a form for what can be changed of a task that waits."""

from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, g, request

from taskmanager.api import request_schemas
from taskmanager.api.auth import requires
from taskmanager.api.requests import TASK, decode_json
from taskmanager.dashboard.answers import lead_to, page
from taskmanager.dashboard.form_fields import (
    Field,
    ParamsForm,
    fields_of,
    last_seen,
    read_fields,
    read_tags,
    tags_of,
)
from taskmanager.db.statements import Row
from taskmanager.errors import ChangedMeanwhile, Conflict, InvalidRequest
from taskmanager.queue import change, read, task_types

blueprint = Blueprint("task_change", __name__)


@blueprint.get(f"/tasks{TASK}/change")
@requires("tasks:manage")
def show(task_id: int) -> Response:
    """GET /dashboard/tasks/{id}/change: the form; with `json` the params are one text."""
    task = read.get_task(task_id=task_id, caller=g.caller)
    if task["status"] not in read.WAITING_STATUSES:
        said = f"Task #{task_id} does not wait any more, so it cannot be changed."
        return lead_to("task.show", task_id=task_id, said=said)
    return _page(task, form_of(task, is_json="json" in request.args))


@blueprint.post(f"/tasks{TASK}/change")
@requires("tasks:manage")
def save(task_id: int) -> Response:
    """POST /dashboard/tasks/{id}/change: changes it, or shows the form again with what is wrong."""
    task = read.get_task(task_id=task_id, caller=g.caller)
    form = form_of(task)
    form.take(request.form)
    try:
        changes = read_changes(form, task)
        if changes:
            change.change_task(
                task_id=task_id,
                request=changes,
                caller=g.caller,
                now=g.now,
                updated_at=last_seen(),
            )
    except InvalidRequest as error:
        form.say(error)
        return _page(task, form, 400)
    except ChangedMeanwhile:
        task = read.get_task(task_id=task_id, caller=g.caller)
        form.say_changed(f"Task #{task_id}", form_of(task, is_json=form.is_json))
        return _page(task, form, 409)
    except Conflict as error:
        if error.code != "duplicate_task":
            raise
        form.problem = error.message
        return _page(task, form, 409)
    said = f"Task #{task_id} is changed." if changes else "Nothing was changed."
    return lead_to("task.show", task_id=task_id, said=said)


def form_of(task: Row, *, is_json: bool = False) -> ParamsForm:
    """The form with what the task has."""
    task_type = task_types.get_task_type(name=task["type"])
    at = datetime.fromtimestamp(task["available_at"] / 1000, UTC)
    fields = fields_of(decode_json(task_type["param_schema"]))
    form = ParamsForm(task_type, fields, is_json or not fields)
    form.fill(decode_json(task["params"]))
    form.others = [
        Field("priority", "number", "Priority", "Higher comes first.", text=str(task["priority"])),
        Field("max_attempts", "number", "Attempts", text=str(task["max_attempts"])),
        Field("tags", "text", "Tags", "Up to ten, with commas between them.", text=tags_of(task)),
        Field(
            "delay_seconds",
            "number",
            "Delay in seconds",
            "From now on; 0: it may run at once.",
            is_stored=False,
        ),
        Field(
            "available_at",
            "text",
            "Available at",
            f"Instead of a delay. Now it is {at:%Y-%m-%dT%H:%M:%SZ}.",
            is_stored=False,
        ),
    ]
    return form


def read_changes(form: ParamsForm, task: Row) -> dict[str, Any]:
    """The request that the form stands for: what differs from the task.

    Raises InvalidRequest, said beside the fields.
    """
    changes = read_fields(form.others)
    text = next(field.text for field in form.others if field.name == "tags")
    changes |= form.changed_params(decode_json(task["params"]))
    changes["tags"] = read_tags(text)
    if text == tags_of(task):  # a tag may hold a comma itself
        del changes["tags"]
    for name in ("priority", "max_attempts"):
        if changes.get(name) == task[name]:
            del changes[name]
    return request_schemas.CHANGE_TASK.check(changes)


def _page(task: Row, form: ParamsForm, status: int = 200) -> Response:
    return page("change_task.html", status, task=task, form=form)
