"""/api/batches: tasks that belong together, and what follows when all of them have ended."""

import json
from collections.abc import Sequence
from typing import Any

from flask import Blueprint, Response, g

from taskmanager.api import request_schemas
from taskmanager.api.auth import requires
from taskmanager.api.requests import MAX_INTEGER, Values, task_defaults
from taskmanager.api.responses import success
from taskmanager.api.serializers import BATCH, SMALL_TASK, task_json
from taskmanager.api.task_bodies import read_tasks, refuse_wrong
from taskmanager.db.statements import Row
from taskmanager.errors import InvalidRequest, TaskManagerError
from taskmanager.payloads.callbacks import CALLBACKS, sealed_params
from taskmanager.queue import bulk
from taskmanager.queue.answer_size import require_small
from taskmanager.queue.columns import params_text
from taskmanager.queue.create import prepare_tasks
from taskmanager.queue.flow import batches
from taskmanager.queue.read import FINISHED_STATUSES
from taskmanager.queue.store import Stored
from taskmanager.queue.task_types import with_type

blueprint = Blueprint("batches", __name__, url_prefix="/batches")

PATH = f"/<int(max={MAX_INTEGER}):batch_id>"
MAX_METADATA_LENGTH = 10_000
CHANGED_AT_ONCE = 10_000


@blueprint.post("")
@requires("tasks:create", body=request_schemas.CREATE_BATCH)
def create(body: Values) -> Response:
    """POST /api/batches: creates a batch with its tasks, in one transaction.

    `tasks` (up to 1,000 bodies of POST /api/tasks), `name`, `metadata`, `parent_batch_id`;
    `on_finished`, `on_completed` and `on_failed` are bodies of tasks that are created when the last
    of the batch and of those in it has ended. `is_open` lets it take more tasks; by default it does
    if it has none.

    201 with the `results` of the tasks in order; 400; 403; 404; 409 `batch_closed` of the parent;
    429 `queue_full`.
    """
    asked = body.get("tasks", [])
    rows = _rows(asked)
    metadata = body.get("metadata")
    fields: Row = {
        "name": body.get("name"),
        "metadata": None if metadata is None else json.dumps(metadata, ensure_ascii=False),
        "parent_batch_id": body.get("parent_batch_id"),
        **{callback: _callback(callback, body) for callback in CALLBACKS},
    }
    require_small("metadata", fields["metadata"] or "", MAX_METADATA_LENGTH)
    batch, stored = batches.create_batch(
        fields, rows, is_open=body.get("is_open", not asked), caller=g.caller, now=g.now
    )
    said = f"Batch created with {_counted(stored)}"
    return success({**batch_json(batch), **_results(stored)}, said, 201)


@blueprint.post(f"{PATH}/tasks")
@requires("tasks:create", body=request_schemas.ADD_TO_BATCH)
def add(batch_id: int, body: Values) -> Response:
    """POST /api/batches/{id}/tasks: creates up to 1,000 tasks in an open batch, all or none.

    201 with the batch and the `results` in order; 400; 403; 404; 409 `batch_closed`; 429
    `queue_full`.
    """
    rows = _rows(body["tasks"])
    batch, stored = batches.add_tasks(batch_id, rows, caller=g.caller, now=g.now)
    return success({**batch_json(batch), **_results(stored)}, f"Added {_counted(stored)}", 201)


@blueprint.post(f"{PATH}/close")
@requires("tasks:create", body=request_schemas.NOTHING)
def close(batch_id: int) -> Response:
    """POST /api/batches/{id}/close: it takes no more tasks, and can finish. 200; 404."""
    batch = batches.close_batch(batch_id, caller=g.caller, now=g.now)
    return success(batch_json(batch), "Batch closed")


@blueprint.get("")
@requires("tasks:read", query=request_schemas.AUDIT_PAGE)
def list_all(query: Values) -> Response:
    """GET /api/batches: the newest first; `limit` (50, at most 100), `cursor`. 200; 400."""
    limit = query["limit"]
    rows = batches.list_batches(limit=limit + 1, before_id=query["cursor"], caller=g.caller)
    shown = rows[:limit]
    more = str(shown[-1]["id"]) if len(rows) > limit else None
    found = [batch_json(row) for row in shown]
    return success({"batches": found, "count": len(found), "next_cursor": more})


@blueprint.get(PATH)
@requires("tasks:read", query=request_schemas.NO_PARAMETERS)
def get(batch_id: int) -> Response:
    """GET /api/batches/{id}: one batch. Its tasks: GET /api/tasks?batch_id=. 200; 404."""
    return success(batch_json(batches.get_batch(batch_id=batch_id, caller=g.caller)))


@blueprint.post(f"{PATH}/cancel")
@requires("tasks:manage", body=request_schemas.CANCEL_TASK)
def cancel(batch_id: int, body: Values) -> Response:
    """POST /api/batches/{id}/cancel: closes it and those in it, and cancels their unfinished tasks.

    Up to 10,000 a call; `reason` goes into their history. 200 with the batch and what
    POST /api/tasks/cancel answers; 404.
    """
    return _change(bulk.CANCEL, batch_id, body.get("reason"), "cancelled")


@blueprint.post(f"{PATH}/retry")
@requires("tasks:manage", body=request_schemas.NOTHING)
def retry(batch_id: int) -> Response:
    """POST /api/batches/{id}/retry: tries its failed and cancelled tasks again.

    Up to 10,000 a call, not those of batches in it. What it has created when it was finished is not
    created again.
    200 with the batch and what POST /api/tasks/retry answers; 404.
    """
    return _change(bulk.RETRY, batch_id, None, "to be tried again")


def batch_json(row: Row) -> dict[str, Any]:
    """The batch object."""
    counts = {status: row[status] for status in FINISHED_STATUSES}
    counts["unfinished"] = row["tasks"] - sum(counts.values())
    return {
        **BATCH.of(row),
        "status": batches.status_of(row),
        "tasks": row["tasks"],
        "counts": counts,
        "progress": batches.progress_of(row),
    }


def _change(action: bulk.Action, batch_id: int, reason: str | None, done: str) -> Response:
    outcome = bulk.change_batch(
        action,
        batch_id=batch_id,
        limit=CHANGED_AT_ONCE,
        dry_run=False,
        reason=reason,
        caller=g.caller,
        now=g.now,
    )
    batch = batches.get_batch(batch_id=batch_id, caller=g.caller)
    return success(
        {**batch_json(batch), **outcome._asdict()},
        f"{outcome.changed} of {outcome.matched} tasks {done}",
    )


def _rows(items: Sequence[Any]) -> list[Row]:
    """The rows of these tasks. Raises ValidationFailed, which names each that is wrong."""
    read = read_tasks(items)
    good = [item for item in read if not isinstance(item, TaskManagerError)]
    prepared = iter(prepare_tasks(good, defaults=task_defaults(), caller=g.caller, now=g.now))
    rows = [item if isinstance(item, TaskManagerError) else next(prepared) for item in read]
    refuse_wrong([row if isinstance(row, TaskManagerError) else None for row in rows])
    return [row for row in rows if not isinstance(row, TaskManagerError)]


def _callback(name: str, body: Values) -> str | None:
    """The row of the task that a callback creates, as JSON, once all of it was checked."""
    if name not in body:
        return None
    asked = request_schemas.CREATE_TASK.check(dict(body[name]))
    if {"dedupe", "dedupe_key", "dedupe_seconds", "on_duplicate"} & asked.keys():
        raise InvalidRequest(f"{name} is always created, once: leave out what de-duplicates.")
    if "depends_on" in asked:
        raise InvalidRequest(f"{name} waits for the batch: leave out depends_on.")
    # The id of the batch is known later; any id will do for the schema.
    shown = {**asked, "params": batches.with_id(asked["params"], 1), "dedupe": "none"}
    [checked] = prepare_tasks([shown], defaults=task_defaults(), caller=g.caller, now=g.now)
    if isinstance(checked, TaskManagerError):
        raise InvalidRequest(
            f"{name}: {checked.message}", code=checked.code, details=checked.details
        )
    row = {**checked, "params": params_text(asked["params"])}
    return json.dumps({**row, "params": sealed_params(row)}, ensure_ascii=False)


def _counted(stored: Sequence[Stored]) -> str:
    existed = sum(existed for _, existed in stored)
    new = f"{len(stored) - existed} new tasks"
    return f"{new}; {existed} existed already and are no members" if existed else new


def _results(stored: Sequence[Stored]) -> dict[str, Any]:
    results = [
        {
            "outcome": "deduplicated" if existed else "created",
            "task": task_json(with_type(task), SMALL_TASK),
        }
        for task, existed in stored
    ]
    return {"results": results}
