"""/dashboard/tasks/new: creating a task with a form made from its type's schema.

A schema whose properties are plain gets one field for each; any other gets one field for all
params as JSON. What the queue refuses is said beside the field that it is about.
"""

from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, g, request

from taskmanager.api import request_schemas
from taskmanager.api.auth import requires
from taskmanager.api.errors import status_of
from taskmanager.api.requests import decode_json, parse_json, task_defaults
from taskmanager.dashboard.answers import lead_to, page
from taskmanager.dashboard.form_fields import ParamsForm, fields_of, tags_of
from taskmanager.db.statements import Row
from taskmanager.errors import InvalidRequest, QueueFull
from taskmanager.queue import create, dedupe, read, task_types

blueprint = Blueprint("creation", __name__)


@dataclass
class Form(ParamsForm):
    """What the page shows."""

    priority: str = ""
    delay_seconds: str = ""
    dedupe: str = ""
    tags: str = ""  # with commas or spaces between them

    def read(self) -> dict[str, Any]:
        """The request that the form stands for. Raises InvalidRequest, said beside the fields."""
        body: dict[str, Any] = {"type": self.type["name"], "params": self.read_params()}
        for name in ("priority", "delay_seconds"):
            if text := getattr(self, name).strip():
                try:
                    body[name] = parse_json(text.encode())
                except InvalidRequest:
                    raise InvalidRequest(f"{name} must be a number.") from None
        if self.dedupe:
            body["dedupe"] = self.dedupe
        if tags := self.tags.replace(",", " ").split():
            body["tags"] = tags
        return request_schemas.CREATE_TASK.check(body)


@blueprint.get("/tasks/new")
@requires("tasks:create")
def show() -> Response:
    """GET /dashboard/tasks/new: the choice of a type; with `type` its form; `like` fills it."""
    like = request.args.get("like", "")
    if like.isdecimal() and len(like) <= 18 and g.caller.may("tasks:read"):
        task = read.get_task(task_id=int(like), caller=g.caller)
        return _page(_form_like(task))
    name = request.args.get("type")
    if not name:
        types = task_types.find_task_types(caller=g.caller, columns="id, name, is_active")
        return page("choose_type.html", types=[row for row in types if row["is_active"]])
    return _page(_form_of(name, is_json="json" in request.args))


def _form_of(name: str, *, is_json: bool = False) -> Form:
    g.caller.require_type(name)
    row = task_types.get_task_type(name=name)
    fields = fields_of(decode_json(row["param_schema"]))
    return Form(row, fields, is_json or not fields)


def _form_like(task: Row) -> Form:
    """The form with the params of a task, field by field where every one of them has a field."""
    form = _form_of(task["type"], is_json="json" in request.args)
    form.fill(decode_json(task["params"]))
    form.priority = str(task["priority"]) if task["priority"] else ""
    form.tags = tags_of(task)
    form.dedupe = "none"  # the very same params would find the task that they came from
    return form


def _page(form: Form, status: int = 200) -> Response:
    return page("create.html", form=form, policies=dedupe.POLICIES, status=status)


@blueprint.post("/tasks/new")
@requires("tasks:create")
def add() -> Response:
    """POST /dashboard/tasks/new: creates the task, or shows the form again with what is wrong."""
    sent = request.form
    form = _form_of(sent.get("type", ""))
    form.take(sent)
    for name in ("priority", "delay_seconds", "dedupe", "tags"):
        setattr(form, name, sent.get(name, ""))
    try:
        outcome = create.create_task(
            form.read(), defaults=task_defaults(), caller=g.caller, now=g.now
        )
    except (InvalidRequest, QueueFull) as error:
        form.say(error)
        return _page(form, status_of(error))
    task = outcome.task or {}
    said = (
        "There was such a task already, so none was created. This is it."
        if outcome.deduplicated
        else "The task is created."
    )
    if not g.caller.may("tasks:read"):
        return lead_to("creation.show")
    return lead_to("task.show", task_id=task["id"], said=said)
