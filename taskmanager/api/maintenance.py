"""/api/maintenance: the work of cron, for hosts whose cron can only fetch a URL."""

import time

from flask import Blueprint, Response, g

from taskmanager.alerts import watch
from taskmanager.api import request_schemas
from taskmanager.api.auth import requires
from taskmanager.api.requests import settings, task_defaults
from taskmanager.api.responses import success
from taskmanager.notify import deliveries
from taskmanager.queue import maintenance
from taskmanager.queue.maintenance_runs import record_run

blueprint = Blueprint("maintenance", __name__, url_prefix="/maintenance")

# Web servers give up on a request after 30 seconds or so; what is left is for the next run.
MAX_REQUEST_SECONDS = 20.0
# Of webhooks, after that: no attempt begins later, and each ends within POST_SECONDS.
SENDING_SECONDS = 2.0
POST_SECONDS = 5.0
# Of alerts, last: what is left of the time of a request, and this at least.
WHOLE_SECONDS = 28.0
ALERT_SECONDS = 5.0


@blueprint.post("/run")
@requires(
    "admin",
    every_type="run maintenance, which is for the tasks of all types",
    body=request_schemas.NOTHING,
)
def run() -> Response:
    """POST /api/maintenance/run: does what is due, for at most 20 seconds.

    Then sends webhooks for 2 seconds, and alerts.

    200 with the number of tasks `created` (by schedules), `requeued` (expired
    leases), `started` (delayed until now) and `pruned` (past their retention);
    403 for a key that is limited to task types.
    """
    now, started = g.now, time.monotonic()
    done = maintenance.maintain(
        retention_days=settings().retention_days,
        defaults=task_defaults(),
        caller=g.caller,
        now=now,
        max_seconds=MAX_REQUEST_SECONDS,
    )
    record_run("http", started_at=now, started=started, tasks_moved=sum(done.values()))
    deliveries.correct_times(now=now)
    deliveries.prune(retention_days=settings().retention_days, now=now)
    deliveries.send_due(
        rules=deliveries.rules_of(settings()),
        budget_seconds=SENDING_SECONDS,
        post_seconds=POST_SECONDS,
    )
    left = started + WHOLE_SECONDS - time.monotonic()
    watch.run(settings(), budget_seconds=max(left, ALERT_SECONDS))
    return success(done, "Maintenance done")
