"""/api/health, /api/stats and /api/metrics: whether the service works, and its figures."""

import time

from flask import Blueprint, Response, g

from taskmanager import __version__
from taskmanager.alert_rules import RULES
from taskmanager.api import prometheus, request_schemas
from taskmanager.api.auth import PUBLIC, requires
from taskmanager.api.rate_limits import counts_are_shared
from taskmanager.api.requests import settings
from taskmanager.api.responses import success
from taskmanager.api.serializers import statistics_json
from taskmanager.clock import format_time
from taskmanager.db import schema
from taskmanager.db.probe import find_write_refusal
from taskmanager.queue import maintenance_runs
from taskmanager.queue.figures import metrics, statistics

blueprint = Blueprint("service", __name__)

_STARTED = time.monotonic()


@blueprint.get("/health")
@requires(PUBLIC)
def health() -> Response:
    """GET /api/health: whether the service works. 200; 503 and why, where the database
    cannot be read or written. Writes a row and deletes it, at most twice a minute if all is well.

    `maintenance` is `silent` if it has not run for as long as the rule of alerts
    says, else `running`; null where that cannot be known.
    `rate_limits` is `shared`, or `per_process` while each process counts
    requests for itself.
    """
    unreachable = g.get("database_refusal") or schema.find_refusal()
    refusal = unreachable or find_write_refusal()
    data = {
        "status": "unhealthy" if refusal else "healthy",
        "database": "disconnected" if unreachable else "connected",
        "maintenance": None if refusal else _maintenance(),
        "rate_limits": "shared" if counts_are_shared() else "per_process",
        "version": __version__,
        "uptime_seconds": int(time.monotonic() - _STARTED),
        "timestamp": format_time(g.now),
    }
    if refusal is None:
        return success(data, "Service is healthy")
    refusal.details = data
    raise refusal


def _maintenance() -> str:
    rule = RULES["maintenance_silent"]
    seconds = settings().alert_rules.values[rule.name] or rule.default or 0
    since = maintenance_runs.expected_since()
    return "silent" if since is not None and g.now - since > seconds * 1000 else "running"


@blueprint.get("/stats")
@requires("tasks:read", query=request_schemas.NO_PARAMETERS)
def stats() -> Response:
    """GET /api/stats: counts by status and type, the oldest pending age, throughput. 200.

    The counts are those of `counted_at`: exact, or about a minute old for a queue
    with more than 50,000 tasks. The oldest pending age is always current.
    """
    figures = statistics.queue_statistics(caller=g.caller, now=g.now)
    return success(statistics_json(figures))


@blueprint.get("/metrics")
@requires("metrics:read", query=request_schemas.NO_PARAMETERS)
def show_metrics() -> Response:
    """GET /api/metrics: these figures and more in the text format of Prometheus. 200."""
    found = metrics.read_metrics(
        caller=g.caller, heartbeat_seconds=settings().heartbeat_seconds, now=g.now
    )
    return Response(prometheus.text_of(found), content_type=prometheus.CONTENT_TYPE)
