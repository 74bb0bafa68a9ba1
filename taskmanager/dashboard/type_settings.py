"""/dashboard/types/{name}/settings: the limits and defaults that a type has for its tasks."""

import json
from collections.abc import Mapping
from typing import Any

from taskmanager.api import request_schemas
from taskmanager.dashboard.form_fields import Field, filled, read_fields
from taskmanager.db.statements import Row
from taskmanager.queue import dedupe

_POLICIES = tuple(f'"{policy}"' for policy in dedupe.POLICIES)
# By the names of PATCH /api/task-types/{name}, but `retry`, which has no field of its own. What
# follows a dot is a part of the value.
FIELDS = (
    Field(
        "concurrency",
        "number",
        "Held at once",
        "How many of its tasks are held at most; of each key if the limit is per key.",
    ),
    Field("start_rate", "text", "Start rate", "How many start in a time, such as 100/minute."),
    Field("fair", "flag", "Fair", "Groups of tasks take turns."),
    Field(
        "max_open.type", "number", "Open at most", "How many may be unfinished; more are refused."
    ),
    Field("max_open.group", "number", "Open per group", "The same for each of its groups."),
    Field("max_run_seconds", "number", "Longest run in seconds", "Then its attempt is ended."),
    Field(
        "lease_seconds",
        "number",
        "Lease in seconds",
        "How long a task is held without a heartbeat.",
    ),
    Field("max_attempts", "number", "Attempts", "How often a task is tried."),
    Field("priority", "number", "Priority", "Higher comes first."),
    Field("dedupe", "choice", "De-duplication", choices=_POLICIES),
    Field(
        "dedupe_days", "number", "De-duplication in days", "How long a finished task holds its key."
    ),
    Field("retention_days", "number", "Kept for days", "After its end; 0 keeps it for ever."),
    Field("notify", "text", "Notify", "The webhook that hears of the end of each task."),
    Field("is_encrypted", "flag", "Encrypted", "What new tasks carry is encrypted."),
)


def fields_of(task_type: Row) -> list[Field]:
    """The fields with what the type has."""
    return filled(FIELDS, lambda name: stored_value(task_type, name))


def stored_value(task_type: Row, name: str) -> Any:
    """What a field shows of the type: the limit alone of `concurrency`; None where none is set."""
    name, _, part = name.partition(".")
    value = task_type[name]
    if value is None:
        return None
    if part:
        return json.loads(value).get(part)
    if name == "concurrency":
        return json.loads(value)["limit"]
    return bool(value) if name in ("is_encrypted", "fair") else value


def read_changes(fields: list[Field], task_type: Row) -> dict[str, Any]:
    """The request that the form stands for: what differs from the type; an empty field is null.

    Raises InvalidRequest, said beside the fields.
    """
    values = read_fields(fields)
    changes: dict[str, Any] = {}
    for one in fields:
        value = values.get(one.name)
        if value == stored_value(task_type, one.name):
            continue
        name, _, part = one.name.partition(".")
        if name == "concurrency" and value is not None:
            value = {**json.loads(task_type["concurrency"] or "{}"), "limit": value}
        if part:
            value = _whole(name, values)
        changes[name] = value
    return request_schemas.CHANGE_TASK_TYPE.check(changes)


def _whole(name: str, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The value whose parts are in `name.part`; None where all of them are."""
    parts = {
        path.removeprefix(f"{name}."): value
        for path, value in values.items()
        if path.startswith(f"{name}.") and value is not None
    }
    return parts or None
