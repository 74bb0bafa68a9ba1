"""/dashboard/tasks/{id}/change: a form for what can be changed of a task that waits."""

import json
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, g, request

from taskmanager.api import request_schemas
from taskmanager.api.auth import requires
from taskmanager.api.requests import TASK, decode_json
from taskmanager.dashboard.answers import lead_to, page
from taskmanager.dashboard.form_fields import Field, ParamsForm, as_lines, fields_of, read_fields
from taskmanager.db.statements import Row
from taskmanager.errors import Conflict, InvalidRequest
from taskmanager.queue import change, read, task_types

SHOWN_CHARACTERS = 200  # of what a field holds by now

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
    sent = request.form
    form = form_of(task, is_json="params" in sent)
    form.is_json, form.params = "params" in sent, sent.get("params", "{}")
    for field in form.fields:
        field.text = sent.get(f"param.{field.name}", "")
    for field in form.others:
        field.text = sent.get(field.name, "").strip()
    try:
        changes = read_changes(form, task)
        if changes:
            change.change_task(
                task_id=task_id,
                request=changes,
                caller=g.caller,
                now=g.now,
                # Of the page: what it shows may have been filled in or changed by now.
                updated_at=sent.get("updated_at", -1, type=int),
            )
    except InvalidRequest as error:
        form.say(error)
        return _page(task, form, 400)
    except Conflict as error:
        if error.code == "task_changed":
            return _page_of_changed(task_id, form)
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
        Field("tags", "text", "Tags", "Up to ten, with commas between them.", text=_tags_of(task)),
        Field("delay_seconds", "number", "Delay in seconds", "From now on; 0: it may run at once."),
        Field(
            "available_at",
            "text",
            "Available at",
            f"Instead of a delay. Now it is {at:%Y-%m-%dT%H:%M:%SZ}.",
        ),
    ]
    return form


def _tags_of(task: Row) -> str:
    return ", ".join(json.loads(task["tags"] or "[]"))


def read_changes(form: ParamsForm, task: Row) -> dict[str, Any]:
    """The request that the form stands for: what differs from the task.

    Raises InvalidRequest, said beside the fields.
    """
    changes = read_fields(form.others)
    text = next(field.text for field in form.others if field.name == "tags")
    changes["tags"] = [tag.strip() for tag in text.split(",") if tag.strip()]
    changes["params"] = form.read_params()
    if text == _tags_of(task):  # a tag may hold a comma itself
        del changes["tags"]
    for name in ("priority", "max_attempts"):
        if changes.get(name) == task[name]:
            del changes[name]
    if _as_text(changes["params"]) == _as_text(decode_json(task["params"])):
        del changes["params"]
    return request_schemas.CHANGE_TASK.check(changes)


def _as_text(value: Any) -> str:
    """Equal for equal JSON alone: to Python, 1 is the same as true."""
    return json.dumps(value, sort_keys=True)


def _page_of_changed(task_id: int, form: ParamsForm) -> Response:
    """The form with what was typed, and beside it what the task has by now."""
    task = read.get_task(task_id=task_id, caller=g.caller)
    present = form_of(task, is_json=form.is_json)
    if present.is_json and not form.is_json:  # the fields have no room for all params any more
        form.is_json, form.params = True, as_lines(form.read_params())
    for mine, its in zip(
        (*form.fields, *form.others), (*present.fields, *present.others), strict=True
    ):
        if mine.name not in ("delay_seconds", "available_at") and mine.text != its.text:
            shown = its.text[:SHOWN_CHARACTERS] + "…" * (len(its.text) > SHOWN_CHARACTERS)
            mine.refuse(f"is now: {shown}" if shown else "is empty now")
    form.problem = (
        f"Task #{task_id} has changed since this page was opened, so it was left as it is. What "
        "you typed is still here. Compare it with what the task has now, and send it again."
    )
    return _page(task, form, 409, present_params=present.params if form.is_json else "")


def _page(task: Row, form: ParamsForm, status: int = 200, *, present_params: str = "") -> Response:
    return page("change_task.html", status, task=task, form=form, present_params=present_params)
