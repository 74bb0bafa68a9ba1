"""/api/health and /api/stats: is it there, and what is in it."""

import time

from flask import Blueprint, Response, g

from taskmanager import __version__, schema
from taskmanager.api.auth import PUBLIC, requires
from taskmanager.api.rate_limits import counts_are_shared
from taskmanager.api.requests import QueryParameters
from taskmanager.api.responses import failure, success
from taskmanager.clock import format_time, utc_now
from taskmanager.services import statistics

blueprint = Blueprint("service", __name__)

_STARTED = time.monotonic()


@blueprint.get("/health")
@requires(PUBLIC)
def health() -> Response:
    """GET /api/health: whether the service can do its work. 200; 503 where the database cannot.

    `rate_limits` is `shared`, or `per_process` while requests cannot be counted
    for all processes together.
    """
    connected = schema.is_ready()
    data = {
        "status": "healthy" if connected else "unhealthy",
        "database": "connected" if connected else "disconnected",
        "rate_limits": "shared" if counts_are_shared() else "per_process",
        "version": __version__,
        "uptime_seconds": int(time.monotonic() - _STARTED),
        "timestamp": format_time(utc_now()),
    }
    if connected:
        return success(data, "Service is healthy")
    response = failure(
        "The database does not answer.", code="database_unavailable", status=503, details=data
    )
    response.headers["Retry-After"] = "2"
    return response


@blueprint.get("/stats")
@requires("tasks:read")
def stats() -> Response:
    """GET /api/stats: counts by status and type, the oldest pending age, throughput. 200."""
    QueryParameters()
    return success(statistics.queue_statistics(caller=g.caller, now=utc_now()))
