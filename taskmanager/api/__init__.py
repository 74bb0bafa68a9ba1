"""The HTTP API: one blueprint per resource. A view reads the request, calls a service, answers."""

import os
import re

from flask import Blueprint, Flask, Response, g, request

from taskmanager.access.audit import record_failed_authentication
from taskmanager.access.keys import mark_used
from taskmanager.api import (
    alerts,
    audit,
    batches,
    bulk,
    claims,
    clients,
    doctor,
    documentation,
    events,
    keys,
    maintenance,
    schedules,
    service,
    task_types,
    tasks,
    webhooks,
    workers,
)
from taskmanager.api.auth import (
    authenticate_request,
    check_every_route_has_a_rule,
    rule_of,
    takes_no_key,
)
from taskmanager.api.errors import register_error_handlers
from taskmanager.api.rate_limits import client_address
from taskmanager.clock import utc_now

RESOURCES = (
    *(
        task_types,
        tasks,
        bulk,
        batches,
        claims,
        events,
        schedules,
        workers,
        service,
        keys,
        audit,
        alerts,
        webhooks,
        maintenance,
    ),
    *(doctor, documentation, clients),
)

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def register_api(app: Flask) -> None:
    """Puts everything under /api and what all its answers have in common on `app`."""
    app.url_map.converters["worker"] = workers.WorkerId
    api = Blueprint("api", __name__, url_prefix="/api")
    api.before_request(authenticate_request)
    for resource in RESOURCES:
        api.register_blueprint(resource.blueprint)
    app.before_request(begin_request)
    app.after_request(_end_request)
    register_error_handlers(app)
    app.register_blueprint(api)
    app.add_url_rule("/", view_func=documentation.start)
    check_every_route_has_a_rule(app, api)


def begin_request() -> None:
    """Puts on `g` what later steps ask for: `request_id`, `now` (ms), `scope` and `policy`."""
    request_id = request.headers.get("X-Request-ID", "")
    if not _SANE_REQUEST_ID.fullmatch(request_id):
        request_id = os.urandom(16).hex()
    g.request_id = request_id
    g.now = utc_now()
    g.scope, g.policy = rule_of(request)


def _end_request(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.request_id
    caller = g.get("caller")
    if caller is not None:
        # A refused request and an empty poll write nothing.
        if response.status_code < 400:
            mark_used(caller, now=g.now)
    # 429 without a caller: failures from that address are over their limit, or requests without
    # a key are, which are no failures.
    elif response.status_code in (401, 429) and not takes_no_key():
        record_failed_authentication(
            address=client_address(),
            request_id=g.request_id,
            reason=response.get_json()["message"],
            now=g.now,
        )
    return response
