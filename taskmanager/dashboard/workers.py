"""/dashboard/workers: who works, on what and since when."""

from typing import Any

from flask import Blueprint, Response, g, request

from taskmanager.api.auth import requires
from taskmanager.api.requests import settings
from taskmanager.dashboard.answers import page
from taskmanager.db.statements import Row
from taskmanager.queue import read, workers
from taskmanager.queue.figures.rates import with_rates

blueprint = Blueprint("workers", __name__)

PAGE_SIZE = 50
HELD_SHOWN = 3
TASKS_SHOWN = 50


@blueprint.get("/workers")
@requires("workers:read")
def show_all() -> Response:
    """GET /dashboard/workers: a page of workers, the one seen last first."""
    found = workers.list_workers(
        limit=PAGE_SIZE,
        offset=0,
        cursor=request.args.get("cursor") or None,
        heartbeat_seconds=settings().heartbeat_seconds,
        caller=g.caller,
        now=g.now,
    )
    held = {row["id"]: _tasks(row, HELD_SHOWN) for row in found.rows if row["tasks_held"]}
    rows = with_rates(found.rows, caller=g.caller, now=g.now)
    is_first = "cursor" not in request.args
    return page("workers.html", page=found, rows=rows, held=held, is_first=is_first)


@blueprint.get("/workers/<worker:worker_id>")
@requires("workers:read")
def show(worker_id: str) -> Response:
    """GET /dashboard/workers/{id}: one worker, what it holds and what it says of itself."""
    row = workers.get_worker(
        worker_id=worker_id,
        heartbeat_seconds=settings().heartbeat_seconds,
        caller=g.caller,
        now=g.now,
    )
    held = _tasks(row, TASKS_SHOWN) if row["tasks_held"] else []
    row = with_rates([row], caller=g.caller, now=g.now)[0]
    return page("worker.html", worker=row, held=held)


def _tasks(worker: Row, limit: int) -> list[Any]:
    """The tasks that a worker holds, as far as the caller may read tasks."""
    if not g.caller.may("tasks:read"):
        return []
    return read.list_tasks(
        task_filter=read.TaskFilter(statuses=("claimed",), worker_id=worker["id"]),
        sort_by="id",
        descending=False,
        limit=limit,
        offset=0,
        cursor=None,
        with_total=False,
        caller=g.caller,
    ).tasks
