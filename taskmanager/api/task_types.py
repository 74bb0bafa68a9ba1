"""/api/task-types: registering, listing, changing and checking task types."""

from flask import Blueprint, Response, g

from taskmanager.api import request_schemas
from taskmanager.api.auth import requires
from taskmanager.api.requests import Values
from taskmanager.api.responses import success
from taskmanager.api.serializers import page_json, task_type_json
from taskmanager.errors import InvalidRequest
from taskmanager.params import validation
from taskmanager.queue import task_types

blueprint = Blueprint("task_types", __name__, url_prefix="/task-types")

_MESSAGES = {
    "created": "Task type registered successfully",
    "updated": "Task type updated successfully",
    "unchanged": "Task type is registered already",
}


@blueprint.post("/register")
@requires("task-types:register", body=request_schemas.REGISTER_TASK_TYPE)
def register(body: Values) -> Response:
    """POST /api/task-types/register: creates or updates a type.

    `name`, `version`, `param_schema` (a JSON Schema of at most 65,536 bytes);
    optionally the defaults of its tasks: `priority`, `max_attempts`,
    `lease_seconds`, `retry`, `dedupe`, `dedupe_days`, `retention_days`,
    `notify`.

    201 `created`; 200 `updated`, or unchanged; 400 a field or the schema is wrong.
    """
    row, outcome = task_types.register_task_type(
        name=body["name"],
        version=body["version"],
        param_schema=body["param_schema"],
        defaults={name: body[name] for name in task_types.DEFAULTS if name in body},
        now=g.now,
        caller=g.caller,
    )
    data = {**task_type_json(row), "created": outcome == "created", "updated": outcome == "updated"}
    return success(data, _MESSAGES[outcome], 201 if outcome == "created" else 200)


@blueprint.get("")
@requires("task-types:read", query=request_schemas.LIST_TASK_TYPES)
def list_all(query: Values) -> Response:
    """GET /api/task-types: every type by name, or with `limit` (1 to 100) a page.

    `active_only`; `offset`, or `cursor` from `next_cursor`. Each with `open_tasks`, the
    number of unfinished tasks up to 10,000. 200 with the `total` of all pages; 400.
    """
    page = task_types.list_task_types(**query, caller=g.caller)
    return success(page_json("task_types", page, task_type_json))


@blueprint.get("/<name>")
@requires("task-types:read", query=request_schemas.OF_VERSION)
def get(name: str, query: Values) -> Response:
    """GET /api/task-types/{name}: one type with its `param_schema`; `version` for an older one.

    200; 403 not a type of this key; 404 no such type or version.
    """
    g.caller.require_type(name)
    return success(task_type_json(task_types.get_task_type(name=name, version=query["version"])))


@blueprint.patch("/<name>")
@requires("task-types:write", body=request_schemas.CHANGE_TASK_TYPE)
def change(name: str, body: Values) -> Response:
    """PATCH /api/task-types/{name}: `is_active`, `is_paused` and the defaults.

    `is_active` false: no new tasks. `is_paused` true: no task is handed out. A
    default set to null falls back to the settings. 200; 400; 403; 404.
    """
    if not body:
        raise InvalidRequest(
            "Nothing to change: send one or more of "
            f"{', '.join((*task_types.SWITCHES, *task_types.DEFAULTS))}."
        )
    row = task_types.change_task_type(name=name, changes=body, now=g.now, caller=g.caller)
    return success(task_type_json(row), "Task type updated successfully")


@blueprint.post("/<name>/validate")
@requires("tasks:create", body=request_schemas.VALIDATE)
def validate(name: str, body: Values) -> Response:
    """POST /api/task-types/{name}/validate: checks params or a schema; stores nothing.

    With `params`: 200 with `valid`, `errors` and `warnings` (properties that
    the schema does not name). With `param_schema`: 200 with the number of
    unfinished tasks that it would reject. 400; 403; 404.
    """
    if len(body) != 1:
        raise InvalidRequest("Send either params or param_schema.")
    if "param_schema" in body:
        return success(
            task_types.open_tasks_rejected_by(
                name=name, param_schema=body["param_schema"], caller=g.caller
            )
        )
    g.caller.require_type(name)
    schema_text = task_types.get_task_type(name=name)["param_schema"]
    errors = validation.param_problems(schema_text, body["params"])
    return success(
        {
            "valid": not errors,
            "errors": errors,
            "warnings": validation.param_warnings(schema_text, body["params"]),
        },
        "The params are valid" if not errors else "The params are not valid",
    )
