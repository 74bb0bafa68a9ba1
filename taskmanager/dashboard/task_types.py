"""/dashboard/types: the task types with their figures, and one type with its schema."""

from typing import Any

from flask import Blueprint, Response, g, request

from taskmanager.api.auth import requires
from taskmanager.api.requests import parse_json
from taskmanager.dashboard import type_settings
from taskmanager.dashboard.answers import lead_to, page
from taskmanager.dashboard.form_fields import last_seen, say_beside, say_changed
from taskmanager.dashboard.overview import type_rows
from taskmanager.errors import ChangedMeanwhile, InvalidRequest
from taskmanager.params.empty_objects import schema_with_objects
from taskmanager.queue import read, task_types
from taskmanager.queue.figures import statistics

blueprint = Blueprint("task_types", __name__)

PAGE_SIZE = 100
HELD_SHOWN = 20
SWITCHES = {
    "pause": ({"is_paused": True}, "is paused: none of its tasks is handed out."),
    "resume": ({"is_paused": False}, "is handed out again."),
    "activate": ({"is_active": True}, "takes new tasks again."),
    "deactivate": ({"is_active": False}, "takes no new tasks."),
}


@blueprint.get("/types")
@requires("task-types:read")
def show_all() -> Response:
    """GET /dashboard/types: every type that the key may use, by name."""
    found = task_types.list_task_types(
        active_only=False,
        limit=PAGE_SIZE,
        offset=0,
        cursor=request.args.get("cursor") or None,
        caller=g.caller,
    )
    figures = _figures()
    return page(
        "types.html",
        page=found,
        figures=figures,
        most=max((row["open_tasks"] for row in found.rows), default=0),
    )


def _figures() -> dict[str, Any]:
    """The rows of the overview by the type's name; none for a key that may not read tasks."""
    if not g.caller.may("tasks:read"):
        return {}
    rows = type_rows(statistics.queue_figures(caller=g.caller, now=g.now), now=g.now)
    return {row["name"]: row for row in rows}


@blueprint.get("/types/<name>")
@requires("task-types:read")
def show(name: str) -> Response:
    """GET /dashboard/types/{name}: one type; `version` shows the schema of an older one."""
    return _page(name)


def _page(name: str, status: int = 200, **more: Any) -> Response:
    g.caller.require_type(name)
    shown = request.args.get("version") or None
    row = task_types.get_task_type(name=name)
    return page(
        "type.html",
        status,
        type=row,
        shown=task_types.get_task_type(name=name, version=shown),
        versions=task_types.list_versions(task_type_id=row["id"]),
        figures=_figures().get(name),
        held=_held(name),
        **{"settings": type_settings.fields_of(row), **more},
    )


def _held(name: str) -> list[Any]:
    """Tasks of the type that workers hold, for a key that may read tasks."""
    if not g.caller.may("tasks:read"):
        return []
    return read.list_tasks(
        task_filter=read.TaskFilter(type_pattern=name, statuses=("claimed",)),
        sort_by="id",
        descending=False,
        limit=HELD_SHOWN,
        offset=0,
        cursor=None,
        with_total=False,
        caller=g.caller,
    ).tasks


@blueprint.post("/types/<name>/check")
@requires("tasks:create")
def check(name: str) -> Response:
    """POST /dashboard/types/{name}/check: which open tasks the schema `param_schema` rejects."""
    draft = request.form.get("param_schema", "")
    try:
        schema = schema_with_objects(parse_json(draft.encode()))
        if not isinstance(schema, dict):
            raise InvalidRequest("A schema is a JSON object.")
        verdict = task_types.open_tasks_rejected_by(name=name, param_schema=schema, caller=g.caller)
    except InvalidRequest as error:
        problem = error.message.replace("The body", "The schema")
        return _page(name, draft=draft, problem=problem)
    return _page(name, draft=draft, verdict=verdict)


@blueprint.post("/types/<name>/<any(pause, resume, activate, deactivate):switch>")
@requires("task-types:write")
def change(name: str, switch: str) -> Response:
    """POST /dashboard/types/{name}/pause, resume, activate or deactivate."""
    changes, said = SWITCHES[switch]
    task_types.change_task_type(name=name, changes=changes, now=g.now, caller=g.caller)
    return lead_to("task_types.show", name=name, said=f"{name} {said}")


@blueprint.post("/types/<name>/settings")
@requires("task-types:write")
def set_up(name: str) -> Response:
    """POST /dashboard/types/{name}/settings: its limits and defaults; an empty field is null."""
    g.caller.require_type(name)
    row = task_types.get_task_type(name=name)
    fields = type_settings.fields_of(row)
    for field in fields:
        field.text = request.form.get(field.name, "").strip()
    try:
        changes = type_settings.read_changes(fields, row)
        task_types.change_task_type(
            name=name, changes=changes, now=g.now, caller=g.caller, updated_at=last_seen()
        )
    except ChangedMeanwhile:
        present = type_settings.fields_of(task_types.get_task_type(name=name))
        problem = say_changed(name, fields, present)
        return _page(name, 409, settings=fields, settings_problem=problem)
    except InvalidRequest as error:
        problem = say_beside({field.name: field for field in fields}, error)
        return _page(name, 400, settings=fields, settings_problem=problem)
    return lead_to(
        "task_types.show", name=name, said=f"The limits and defaults of {name} are saved."
    )
