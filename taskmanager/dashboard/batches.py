"""/dashboard/batches: how far the tasks that belong together are, and what follows from them."""

import json
from typing import Any

from flask import Blueprint, Response, g, request

from taskmanager.api.auth import requires
from taskmanager.api.batches import PATH
from taskmanager.dashboard.answers import lead_to, page
from taskmanager.dashboard.tasks import CHANGED_AT_ONCE, done_sentence, skipped_sentences
from taskmanager.dashboard.wording import count_of
from taskmanager.db.statements import Row
from taskmanager.payloads.callbacks import CALLBACKS
from taskmanager.queue import bulk
from taskmanager.queue.flow import batches
from taskmanager.queue.read import FINISHED_STATUSES
from taskmanager.queue.task_types import OPEN_STATUSES, with_type_name

blueprint = Blueprint("batches", __name__)

PAGE_SIZE = 50
UNFINISHED = ",".join(OPEN_STATUSES)
ACTIONS = {"cancel": bulk.CANCEL, "retry": bulk.RETRY}
# Callback → when its task is created, to go on "It creates a task …".
WHEN = {
    "on_finished": "when all have ended",
    "on_completed": "when all have ended and were completed",
    "on_failed": "when all have ended and one was not completed",
}


@blueprint.get("/batches")
@requires("tasks:read")
def show_all() -> Response:
    """GET /dashboard/batches: a page of batches, the newest first; `cursor` goes on."""
    cursor = request.args.get("cursor", "")
    before_id = int(cursor) if cursor.isdecimal() and len(cursor) <= 18 else None
    rows = batches.list_batches(limit=PAGE_SIZE + 1, before_id=before_id, caller=g.caller)
    return page(
        "batches.html",
        batches=[shown(row) for row in rows[:PAGE_SIZE]],
        has_more=len(rows) > PAGE_SIZE,
        is_first=before_id is None,
    )


def shown(row: Row) -> dict[str, Any]:
    """The batch with its status, its progress in percent, and how many have not ended in it."""
    ended = sum(row[status] for status in FINISHED_STATUSES)
    return {
        **row,
        "status": batches.status_of(row),
        "progress": batches.progress_of(row),
        "ended": ended,
        "unfinished": row["tasks"] - ended,
    }


@blueprint.get(f"/batches{PATH}")
@requires("tasks:read")
def show(batch_id: int) -> Response:
    """GET /dashboard/batches/{id}: one batch."""
    row = batches.get_batch(batch_id=batch_id, caller=g.caller)
    batch = shown(row)
    return page(
        "batch.html",
        batch=batch,
        sentence=outlook(batch),
        callbacks=_callbacks(row),
        unfinished_statuses=UNFINISHED,
    )


def outlook(batch: dict[str, Any]) -> str:
    """What the batch waits for, in words."""
    if batch["status"] == "finished":
        return "All of it has ended."
    left = []
    if batch["unfinished"]:
        left.append(count_of(batch["unfinished"], "task"))
    if inner := batch["open_batches"]:
        left.append(f"{inner:,} {'batch' if inner == 1 else 'batches'} in it")
    have = "has" if batch["unfinished"] + inner == 1 else "have"
    waits = f"{' and '.join(left)} {have} not ended yet." if left else ""
    if batch["status"] == "open":
        return f"It takes more tasks until it is closed. {waits}"
    return waits or "All of it has ended; maintenance will finish it."


def _callbacks(row: Row) -> list[dict[str, Any]]:
    """The tasks that the batch creates or has created: `name`, `when`, `type`, `task_id`."""
    return [
        {
            "name": name,
            "when": WHEN[name],
            "type": with_type_name(json.loads(row[name]))["type"],
            "task_id": row[f"{name}_task_id"],
        }
        for name in CALLBACKS
        if row[name] is not None
    ]


@blueprint.post(f"/batches{PATH}/close")
@requires("tasks:create")
def close(batch_id: int) -> Response:
    """POST /dashboard/batches/{id}/close: it takes no more tasks, and can finish."""
    batches.close_batch(batch_id, caller=g.caller, now=g.now)
    return lead_to("batches.show", batch_id=batch_id, said=f"Batch {batch_id} is closed.")


@blueprint.post(f"/batches{PATH}/<any(cancel, retry):action>")
@requires("tasks:manage")
def change(batch_id: int, action: str) -> Response:
    """POST /dashboard/batches/{id}/cancel or retry: asks, and with `confirmed` does it.

    Cancelling also closes the batch, so that it finishes, and does both to those in it.
    """
    is_confirmed = bool(request.form.get("confirmed"))
    outcome = bulk.change_batch(
        ACTIONS[action],
        batch_id=batch_id,
        limit=CHANGED_AT_ONCE,
        dry_run=not is_confirmed,
        reason=None,
        caller=g.caller,
        now=g.now,
    )
    if is_confirmed:
        said = done_sentence(action, outcome)
        return lead_to("batches.show", batch_id=batch_id, said=said)
    return page(
        "confirm_batch.html",
        batch=shown(batches.get_batch(batch_id=batch_id, caller=g.caller)),
        action=action,
        outcome=outcome,
        skipped=skipped_sentences(outcome),
    )
