"""Task types: named, versioned JSON Schemas with defaults for their tasks.

A type is found by its name and is never renamed or deleted. Every version
registered is kept; the latest registered one is current.
"""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import peewee

from taskmanager.access import audit
from taskmanager.access.caller import Caller, matches
from taskmanager.config import Settings
from taskmanager.db.connection import cache
from taskmanager.db.statements import (
    Row,
    execute,
    fetch_all,
    fetch_one,
    insert,
    update,
)
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import InvalidRequest, NotFound
from taskmanager.params import validation
from taskmanager.params.work import MAX_WORK

# What a type may set for its tasks; None leaves it to the settings.
DEFAULTS = ("priority", "max_attempts", "lease_seconds", "retry", "dedupe")
SWITCHES = ("is_active", "is_paused")
OPEN_STATUSES = ("scheduled", "pending", "claimed")
MAX_SCHEMA_BYTES = 65_536
OPEN_TASKS_COUNTED = 10_000  # a list must not count millions of rows
OPEN_TASKS_VALIDATED = 10_000
OPEN_TASKS_READ_AT_ONCE = 10  # each may hold a megabyte
REJECTED_TASKS_SHOWN = 5
_SELECT = (
    "SELECT task_types.*, task_type_versions.param_schema FROM task_types "
    "JOIN task_type_versions ON task_type_versions.task_type_id = task_types.id "
    "AND task_type_versions.version = task_types.version "
)
SELECT_BY_NAME = _SELECT + "WHERE task_types.name = ?"


class TaskDefaults(NamedTuple):
    """What the settings give a task where neither request nor type does."""

    max_attempts: int
    lease_seconds: int

    @classmethod
    def of(cls, settings: Settings) -> "TaskDefaults":
        return cls(max_attempts=settings.max_attempts, lease_seconds=settings.lease_seconds)


def register_task_type(
    *,
    name: str,
    version: str,
    param_schema: Mapping[str, Any],
    defaults: Mapping[str, Any],
    now: int,
    caller: Caller,
) -> tuple[Row, str]:
    """Makes the type, or brings it up to date; returns its row and what happened.

    What happened is `created`, `updated` or `unchanged`. `defaults` holds those
    of DEFAULTS that were sent; one that was not keeps its value.

    Raises ValidationFailed for a schema that cannot be used.
    """
    caller.require_type(name)
    schema_text = json.dumps(param_schema, ensure_ascii=False, separators=(",", ":"))
    if len(schema_text.encode()) > MAX_SCHEMA_BYTES:
        raise InvalidRequest(
            f"param_schema is {len(schema_text.encode())} bytes as JSON; the limit is "
            f"{MAX_SCHEMA_BYTES}."
        )
    validation.check_schema(param_schema)
    found = fetch_one(SELECT_BY_NAME, (name,))
    columns = _columns(defaults)
    if found and _is_same(found, {"version": version, "param_schema": schema_text, **columns}):
        return found, "unchanged"
    outcome = _store(name, version, schema_text, columns, now, caller)
    return get_task_type(name=name), outcome


@write_transaction
def _store(
    name: str, version: str, schema_text: str, columns: Row, now: int, caller: Caller
) -> str:
    try:
        type_id = insert(
            "task_types",
            {"name": name, "version": version, "created_at": now, "updated_at": now, **columns},
        )
        outcome = "created"
    except peewee.IntegrityError:
        row = fetch_one(
            "SELECT id FROM {task_types} WHERE name = ? {lock_rows}",
            (name,),
        )
        if row is None:  # never deleted, so only a different constraint gets here
            raise
        type_id = row["id"]
        _update(type_id, {"version": version, **columns}, now)
        outcome = "updated"
    changed = execute(
        "UPDATE task_type_versions SET param_schema = ?, updated_at = ? "
        "WHERE task_type_id = ? AND version = ?",
        (schema_text, now, type_id, version),
    ).rowcount
    if not changed:
        insert(
            "task_type_versions",
            {
                "task_type_id": type_id,
                "version": version,
                "param_schema": schema_text,
                "created_at": now,
                "updated_at": now,
            },
        )
    audit.record(
        event=f"task_type_{outcome}",
        message=f"{name}: version {version} registered by {caller.name}",
        caller=caller,
        now=now,
    )
    return outcome


def _update(type_id: int, columns: Row, now: int) -> None:
    update("task_types", {**columns, "updated_at": now}, "id = ?", (type_id,))


def _columns(fields: Mapping[str, Any]) -> Row:
    columns = dict(fields)
    if columns.get("retry") is not None:
        columns["retry"] = json.dumps(columns["retry"])
    for switch in SWITCHES:
        if switch in columns:
            columns[switch] = int(columns[switch])
    return columns


def _is_same(row: Row, columns: Row) -> bool:
    return all(row[column] == value for column, value in columns.items())


def change_task_type(*, name: str, changes: Mapping[str, Any], now: int, caller: Caller) -> Row:
    """Changes switches and defaults of a type; returns its row. Raises NotFound."""
    caller.require_type(name)
    row = get_task_type(name=name)
    columns = _columns(changes)
    if not _is_same(row, columns):
        _change(row, columns, now, caller)
    return get_task_type(name=name)


@write_transaction
def _change(row: Row, columns: Row, now: int, caller: Caller) -> None:
    _update(row["id"], columns, now)
    changed = {column: value for column, value in columns.items() if row[column] != value}
    audit.record(
        event="task_type_changed",
        caller=caller,
        message=f"{row['name']}: " + ", ".join(f"{key} = {val}" for key, val in changed.items()),
        now=now,
    )


def get_task_type(*, name: str, version: str | None = None) -> Row:
    """A type's row with its `param_schema` text: the current version's, or an older one's.

    Raises NotFound.
    """
    row = fetch_one(SELECT_BY_NAME, (name,))
    if row is None:
        raise not_registered(name)
    if version is None or version == row["version"]:
        return row
    older = fetch_one(
        "SELECT version, param_schema FROM task_type_versions "
        "WHERE task_type_id = ? AND version = ?",
        (row["id"], version),
    )
    if older is None:
        raise NotFound(
            f"Task type '{name}' has no version '{version}'; the current one is "
            f"'{row['version']}'.",
            code="task_type_version_not_found",
        )
    return {**row, **older}


def not_registered(name: str) -> NotFound:
    """The error for a name that no type has."""
    return NotFound(
        f"Task type '{name}' is not registered. "
        "Register it first with POST /api/task-types/register.",
        code="task_type_not_found",
    )


def list_task_types(*, active_only: bool, limit: int, offset: int, caller: Caller) -> list[Row]:
    """Types that the caller may touch, by name, each with `open_tasks`, counted up to a bound."""
    rows = [
        row
        for row in fetch_all("SELECT * FROM task_types ORDER BY name")
        if caller.may_touch(row["name"]) and (row["is_active"] or not active_only)
    ][offset : offset + limit]
    for row in rows:
        row["open_tasks"] = _count_open_tasks(row["id"])
    return rows


def _count_open_tasks(type_id: int) -> int:
    count = 0
    for status in OPEN_STATUSES:
        row = fetch_one(
            "SELECT COUNT(*) AS counted FROM "
            "(SELECT id FROM tasks WHERE task_type_id = ? AND status = ? LIMIT ?) AS some",
            (type_id, status, OPEN_TASKS_COUNTED - count),
        )
        count += row["counted"] if row else 0
    return count


def name_of(type_id: int) -> str:
    """The name of a type that exists. Names never change, so they are remembered."""
    names = cache().task_type_names
    if type_id not in names:
        row = fetch_one("SELECT name FROM task_types WHERE id = ?", (type_id,))
        if row is None:
            raise NotFound(f"There is no task type with id {type_id}.", code="task_type_not_found")
        names[type_id] = row["name"]
    return names[type_id]


def find_task_types(
    *,
    ids: Sequence[int] | None,
    names: Sequence[str] | None,
    pattern: str | None,
    caller: Caller,
    columns: Mapping[str, str] = MappingProxyType({}),
) -> list[Row]:
    """Types that fit every filter given and that the caller may touch; without filters, all.

    `columns`: what to tell of each type besides `id` and `name`, as name → SQL expression.
    """
    conditions: list[str] = ["1 = 1"]
    values: list[Any] = []
    if ids == [] or names == []:  # MySQL does not take `IN ()`
        return []
    if ids is not None:
        conditions.append("id IN ?")
        values.append(list(ids))
    if names is not None:
        conditions.append("name IN ?")
        values.append(list(names))
    selected = ["id", "name", *(f"{sql} AS {name}" for name, sql in columns.items())]
    rows = fetch_all(
        f"SELECT {', '.join(selected)} FROM {{task_types}} WHERE {' AND '.join(conditions)}",
        values,
    )
    return [
        row
        for row in sorted(rows, key=lambda row: int(row["id"]))
        if (pattern is None or matches(pattern, row["name"])) and caller.may_touch(row["name"])
    ]


def open_tasks_rejected_by(*, name: str, param_schema: Mapping[str, Any], caller: Caller) -> Row:
    """How a new schema would meet the unfinished tasks, before it is registered.

    Returns `{checked, rejected, examples}`: at most OPEN_TASKS_VALIDATED are
    looked at, fewer where the schema is costly to check, and a few of the
    rejected are named with their problems.
    """
    caller.require_type(name)
    row = get_task_type(name=name)
    validation.check_schema(param_schema)
    schema_text = json.dumps(param_schema)
    budget = validation.WorkBudget()
    checked, rejected = 0, 0
    examples: list[Row] = []
    for status in OPEN_STATUSES:
        last_id = 0
        while checked < OPEN_TASKS_VALIDATED:
            tasks = fetch_all(
                "SELECT id, params FROM tasks WHERE task_type_id = ? AND status = ? AND id > ? "
                "ORDER BY id LIMIT ?",
                (row["id"], status, last_id, OPEN_TASKS_READ_AT_ONCE),
            )
            for task in tasks:
                if budget.left < MAX_WORK:
                    return {"checked": checked, "rejected": rejected, "examples": examples}
                problems = validation.param_problems(
                    schema_text, json.loads(task["params"]), budget=budget
                )
                checked += 1
                if problems and len(examples) < REJECTED_TASKS_SHOWN:
                    examples.append({"id": task["id"], "errors": problems})
                rejected += bool(problems)
            if len(tasks) < OPEN_TASKS_READ_AT_ONCE:
                break
            last_id = tasks[-1]["id"]
    return {"checked": checked, "rejected": rejected, "examples": examples}
