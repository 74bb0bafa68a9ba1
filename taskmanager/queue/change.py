"""Changing a task while it waits: what it asks for, how urgent it is, when it may run."""

import json
from collections.abc import Mapping
from typing import Any

import peewee

from taskmanager.access import audit
from taskmanager.access.caller import Caller
from taskmanager.db.connection import takes
from taskmanager.db.errors import is_duplicate
from taskmanager.db.queries import require_unchanged
from taskmanager.db.statements import Row, execute, fetch_all, fetch_value, update
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import Conflict, InvalidRequest, TooLarge
from taskmanager.payloads import keys_in_use
from taskmanager.payloads.sealing import with_opened, with_sealed
from taskmanager.queue import dedupe, history, store, task_types
from taskmanager.queue.columns import available_from, params_text, tags_text, when_available
from taskmanager.queue.flow import dependencies, lanes, placeholders
from taskmanager.queue.holder import lock_tasks
from taskmanager.queue.read import WAITING_STATUSES, get_task, require_task


def change_task(
    *,
    task_id: int,
    request: Mapping[str, Any],
    caller: Caller,
    now: int,
    updated_at: int | None = None,
) -> Row:
    """Changes the fields that `request` names, as `_change_task` says."""
    if "params" in request:
        keys_in_use.note_key()
    return _change_task(task_id, request, caller, now, updated_at)


@write_transaction
def _change_task(
    task_id: int, request: Mapping[str, Any], caller: Caller, now: int, updated_at: int | None
) -> Row:
    """Changes the fields that `request` names: those of `PATCH /api/tasks/{id}`.

    Params are checked against the type's current schema. A task whose dedupe key came from its
    params gets the key of the new ones. `updated_at`: see db/queries.require_unchanged.

    Transition: none, or scheduled ↔ pending where its time changes.
    Commits together: the fields, the tags, the history row and the audit event.
    Raises NotFound, InvalidRequest, ValidationFailed, TooLarge, ChangedMeanwhile, and Conflict
    where the task does not wait or another task has the new dedupe key.
    A crash leaves the task as it was.
    """
    task = _change(task_id, request, caller, now, updated_at)
    message = f"task {task_id} ({task['type']}) updated by {caller.name}: {_names(request)}"
    audit.record(event="task_updated", message=message, caller=caller, now=now)
    return task


@write_transaction
def change_existing(*, task_id: int, request: Mapping[str, Any], caller: Caller, now: int) -> Row:
    """The same for a request to create a task that exists already, which is not audited."""
    return _change(task_id, request, caller, now)


def _change(
    task_id: int,
    request: Mapping[str, Any],
    caller: Caller,
    now: int,
    updated_at: int | None = None,
) -> Row:
    task = require_task(lock_tasks([task_id], caller).get(task_id), task_id)
    if task["status"] not in WAITING_STATUSES:
        raise Conflict(
            f"Task {task_id} is {task['status']}; only a task that waits can be changed.",
            code="task_not_waiting",
            details={"status": task["status"]},
        )
    require_unchanged("tasks", task_id, updated_at)
    changes = _columns(task, request, now)
    try:
        update("tasks", changes, "id = ?", (task_id,), hint="{by_id}")
    except peewee.IntegrityError as error:
        if not is_duplicate(error):
            raise
        raise _duplicate(task_id, changes["dedupe_key"]) from None
    lanes.record([{**task, **changes}])
    if "params" in request and task["status"] == "blocked":
        dependencies.expect_results(task_id)
    if "tags" in changes:
        execute("DELETE FROM {task_tags} WHERE task_id = ?", (task_id,))
        store.insert_tags([(task_id, changes)])
    history.record(
        [{**task, **changes}], "updated", message=_names(request), caller=caller, now=now
    )
    return get_task(task_id=task_id, caller=caller)


def _names(request: Mapping[str, Any]) -> str:
    return ", ".join(sorted(request))


def _columns(task: Row, request: Mapping[str, Any], now: int) -> Row:
    columns: Row = {"updated_at": now}
    if "priority" in request:
        columns |= {"priority": request["priority"], "claim_rank": -request["priority"]}
    if "max_attempts" in request:
        if request["max_attempts"] <= task["attempts"]:
            raise InvalidRequest(
                f"The task has used {task['attempts']} attempts already, so max_attempts must be "
                "higher."
            )
        columns["max_attempts"] = request["max_attempts"]
    if "available_at" in request or "delay_seconds" in request:
        columns |= when_available(max(now, available_from(request, now)), now, of=task)
    if "tags" in request:
        columns["tags"] = tags_text(request["tags"])
    if "params" in request:
        columns |= _with_params(task, request["params"])
    return columns


def _with_params(task: Row, params: Mapping[str, Any]) -> Row:
    name = task["type"]
    task_type = task_types.get_task_type(name=name)
    named = dependencies.count_of(task["id"]) if task["status"] == "blocked" else 0
    placeholders.check_params(task_type, params, dependencies=named)
    columns = with_sealed({"params": params_text(params)}, of=task)
    if not takes(columns["params"]):
        raise TooLarge
    columns["type_version"] = task_type["version"]
    [old] = fetch_all("SELECT id, params, payload_key FROM {tasks} WHERE id = ?", (task["id"],))
    old_params = json.loads(with_opened(old)["params"])
    old_key = dedupe.dedupe_key(type_name=name, params=old_params)
    if task["dedupe_key"] in dedupe.stored_keys(old_key):
        key = dedupe.dedupe_key(type_name=name, params=params)
        columns["dedupe_key"] = dedupe.stored_key(key, task_type)
    return columns


def _duplicate(task_id: int, dedupe_key: str) -> Conflict:
    other = fetch_value(
        "SELECT id FROM {tasks} WHERE dedupe_key = ? AND id <> ? "
        "AND (holds_key_forever = 1 OR holds_key_while_open = 1) LIMIT 1",
        (dedupe_key, task_id),
    )
    return Conflict(
        f"Task {other} has these params already, so nothing was changed.",
        code="duplicate_task",
        details={"task_id": other},
    )
