"""/api/workers: heartbeats, the list of workers, and shutdown."""

from flask import Blueprint, Response, g
from werkzeug.routing import PathConverter

from taskmanager.api import request_schemas
from taskmanager.api.auth import requires
from taskmanager.api.requests import Values, settings
from taskmanager.api.responses import success
from taskmanager.api.serializers import page_json, worker_json
from taskmanager.db.connection import wakeups
from taskmanager.queue import lease, workers
from taskmanager.queue.figures import rates
from taskmanager.wakeups import topics


class WorkerId(PathConverter):
    """A worker's id in an address, which may begin with a slash."""

    regex = ".+?"
    part_isolating = False


blueprint = Blueprint("workers", __name__, url_prefix="/workers")


@blueprint.post("/heartbeat")
@requires("tasks:claim", ends_or_keeps_lease=True, body=request_schemas.WORKER_HEARTBEAT)
def heartbeat(body: Values) -> Response:
    """POST /api/workers/heartbeat: `worker_id`, `metadata`, `tasks` (1,000 {id, claim_token}).

    Renews the leases of the tasks named; without `tasks`, of all that the worker
    holds. 200 with `lease_seconds` (the shortest renewed), `next_heartbeat_in` and
    which tasks were `renewed`, `lost` or `cancelled`; 400; 403 with `metadata` where the
    worker holds tasks that the key may not touch.
    """
    worker_id, claims = body["worker_id"], None
    if "tasks" in body:
        claims = [(int(claim["id"]), claim.get("claim_token")) for claim in body["tasks"]]
    workers.save_metadata(
        worker_id=worker_id, metadata=body.get("metadata"), caller=g.caller, now=g.now
    )
    outcomes, tasks = lease.renew_leases(
        worker_id=worker_id, claims=claims, caller=g.caller, now=g.now
    )
    data: dict[str, object] = {
        "lease_seconds": min((task["lease_seconds"] for task in tasks), default=None),
        "next_heartbeat_in": lease.next_heartbeat_in(
            tasks, heartbeat_seconds=settings().heartbeat_seconds, now=g.now
        ),
    }
    for outcome in ("renewed", "lost", "cancelled"):
        data[outcome] = [task_id for task_id, became in outcomes if became == outcome]
    return success(data, "Heartbeat received")


@blueprint.get("")
@requires("workers:read", query=request_schemas.PAGE)
def list_all(query: Values) -> Response:
    """GET /api/workers: a page of workers, last seen first; `limit` (50, at most 100).

    `offset`, or `cursor` from `next_cursor`. 200 with the `total` of all pages; 400.
    A key that is limited to task types sees the workers that hold tasks of its types, or whose
    newest tasks are of its types.
    """
    page = workers.list_workers(
        **query, heartbeat_seconds=settings().heartbeat_seconds, caller=g.caller, now=g.now
    )
    page = page._replace(rows=rates.with_rates(page.rows, caller=g.caller, now=g.now))
    return success(page_json("workers", page, worker_json))


@blueprint.get("/<worker:worker_id>")
@requires("workers:read", query=request_schemas.NO_PARAMETERS)
def get(worker_id: str) -> Response:
    """GET /api/workers/{id}: one worker. 200; 404."""
    row = workers.get_worker(
        worker_id=_checked(worker_id),
        heartbeat_seconds=settings().heartbeat_seconds,
        caller=g.caller,
        now=g.now,
    )
    [row] = rates.with_rates([row], caller=g.caller, now=g.now)
    return success(worker_json(row))


@blueprint.post("/<worker:worker_id>/shutdown")
@requires("tasks:claim", ends_or_keeps_lease=True, body=request_schemas.NOTHING)
def shutdown(worker_id: str) -> Response:
    """POST /api/workers/{id}/shutdown: releases all that the worker holds and marks it inactive.

    A worker that also holds tasks that the key may not touch keeps those and stays active.
    200 with its `status` and the ids `released`; 400; 403.
    """
    wakeups().announce(lambda: [topics.shutdown_of(worker_id)])  # it waits for no task any more
    is_inactive, released = lease.shut_down_worker(
        worker_id=_checked(worker_id), caller=g.caller, now=g.now
    )
    status = "inactive" if is_inactive else "active"
    return success({"worker_id": worker_id, "status": status, "released": released})


def _checked(worker_id: str) -> str:
    """The id, if a claim would accept it. Raises ValidationFailed."""
    request_schemas.WORKER_ID.check({"worker_id": worker_id})
    return worker_id
