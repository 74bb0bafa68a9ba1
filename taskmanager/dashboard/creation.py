"""/dashboard/tasks/new: creating a task with a form made from its type's schema.

A schema whose properties are plain gets one field for each; any other gets one field for all
params as JSON. What the queue refuses is said beside the field that it is about.
"""

import json
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, g, request

from taskmanager.api import request_schemas
from taskmanager.api.auth import requires
from taskmanager.api.requests import decode_json, parse_json, task_defaults
from taskmanager.dashboard.answers import lead_to, page
from taskmanager.db.statements import Row
from taskmanager.errors import InvalidRequest, TaskManagerError, ValidationFailed
from taskmanager.queue import create, dedupe, read, task_types

blueprint = Blueprint("creation", __name__)

MAX_FIELDS = 60
LONG_TEXT = 120  # characters; what may be longer gets a field of several lines
_KINDS = {"string": "text", "integer": "number", "number": "number", "boolean": "flag"}


@dataclass
class Field:
    """One field of the form. `text` is what it shows, `problem` what was wrong with it.

    `kind` is `text`, `long`, `number`, `flag`, `choice` or `json`.
    """

    name: str
    kind: str
    help: str = ""
    is_required: bool = False
    choices: tuple[str, ...] = ()  # as JSON
    text: str = ""
    problem: str = ""

    def value(self) -> Any:
        """The value that the text stands for. Raises InvalidRequest."""
        if self.kind in ("text", "long"):
            return self.text.replace("\r\n", "\n")
        try:
            return parse_json(self.text.strip().encode())
        except InvalidRequest as error:
            if self.kind == "number":
                raise InvalidRequest("must be a number") from None
            raise InvalidRequest(error.message.replace("The body", "This")) from None

    def show(self, value: Any) -> None:
        """Fills the field with a value."""
        is_text = self.kind in ("text", "long") and isinstance(value, str)
        self.text = value if is_text else json.dumps(value, ensure_ascii=False)


def fields_of(schema: Any) -> list[Field]:
    """A field for each property of an object's schema; none where it does not name them."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or not 0 < len(properties) <= MAX_FIELDS:
        return []
    required = schema.get("required", [])
    fields = [_field(name, one, name in required) for name, one in properties.items()]
    return sorted(fields, key=lambda field: not field.is_required)


def _field(name: str, schema: Any, is_required: bool) -> Field:
    schema = schema if isinstance(schema, dict) else {}
    found = Field(name, _KINDS.get(str(schema.get("type")), "json"), is_required=is_required)
    found.help = str(schema.get("description") or schema.get("title") or "")
    if isinstance(schema.get("enum"), list):
        found.kind = "choice"
        found.choices = tuple(json.dumps(one, ensure_ascii=False) for one in schema["enum"])
    elif found.kind == "text" and schema.get("maxLength", LONG_TEXT + 1) > LONG_TEXT:
        found.kind = "long" if "maxLength" in schema else "text"
    if "default" in schema:
        found.show(schema["default"])
    return found


@dataclass
class Form:
    """What the page shows: the fields, or with `is_json` the params as one text."""

    type: Row
    fields: list[Field]
    is_json: bool
    params: str = "{}"
    priority: str = ""
    delay_seconds: str = ""
    dedupe: str = ""
    tags: str = ""  # with commas or spaces between them
    problem: str = ""

    def read(self) -> dict[str, Any]:
        """The request that the form stands for. Raises InvalidRequest, said beside the fields."""
        body: dict[str, Any] = {"type": self.type["name"], "params": self._read_params()}
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

    def _read_params(self) -> Any:
        if self.is_json:
            try:
                return parse_json(self.params.encode())
            except InvalidRequest as error:
                raise InvalidRequest(error.message.replace("The body", "The text")) from None
        params = {}
        for field in self.fields:
            if not field.text:
                continue
            try:
                params[field.name] = field.value()
            except InvalidRequest as error:
                field.problem = error.message
        if any(field.problem for field in self.fields):
            raise InvalidRequest("Some fields cannot be used; see beside them.")
        return params

    def say(self, error: TaskManagerError) -> None:
        """Puts what was refused beside the fields that it is about."""
        details: Any = error.details if isinstance(error, ValidationFailed) else None
        by_name = {field.name: field for field in self.fields}
        left = []
        for problem in details or ():
            name = _field_name(problem["path"], problem["message"], by_name)
            if name is None or self.is_json:
                left.append(f"{problem['path']} {problem['message']}")
            elif not by_name[name].problem:
                by_name[name].problem = problem["message"]
        self.problem = "; ".join(left) or ("" if details else error.message)


def _field_name(path: str, message: str, fields: Any) -> str | None:
    """The field that a path such as `params.user.id` begins with."""
    rest = path.removeprefix("params.")
    for name in fields:
        if path != "params" and (rest == name or rest.startswith((f"{name}.", f"{name}["))):
            return str(name)
    return None


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
    params = decode_json(task["params"])
    by_name = {field.name: field for field in form.fields}
    if form.is_json or not params.keys() <= by_name.keys():
        form.is_json, form.params = True, json.dumps(params, ensure_ascii=False, indent=2)
    else:
        for name, field in by_name.items():
            field.text = ""
            if name in params:
                field.show(params[name])
    form.priority = str(task["priority"]) if task["priority"] else ""
    form.tags = ", ".join(json.loads(task["tags"] or "[]"))
    form.dedupe = "none"  # the very same params would find the task that they came from
    return form


def _page(form: Form, status: int = 200) -> Response:
    return page("create.html", form=form, policies=dedupe.POLICIES, status=status)


@blueprint.post("/tasks/new")
@requires("tasks:create")
def add() -> Response:
    """POST /dashboard/tasks/new: creates the task, or shows the form again with what is wrong."""
    sent = request.form
    form = _form_of(sent.get("type", ""), is_json="params" in sent)
    form.params = sent.get("params", "{}")
    for field in form.fields:
        field.text = sent.get(f"param.{field.name}", "")
    for name in ("priority", "delay_seconds", "dedupe", "tags"):
        setattr(form, name, sent.get(name, ""))
    try:
        outcome = create.create_task(
            form.read(), defaults=task_defaults(), caller=g.caller, now=g.now
        )
    except InvalidRequest as error:
        form.say(error)
        return _page(form, 400)
    task = outcome.task or {}
    said = (
        "There was such a task already, so none was created. This is it."
        if outcome.deduplicated
        else "The task is created."
    )
    if not g.caller.may("tasks:read"):
        return lead_to("creation.show")
    return lead_to("task.show", task_id=task["id"], said=said)
