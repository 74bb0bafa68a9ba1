"""The HTTP API: one blueprint per resource. A view reads the request, calls a service, answers."""

import os
import re
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Flask, Response, request

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
from taskmanager.api.rate_limits import (
    client_address,
    count_address,
    finish_count_of_address,
    quota_headers,
)
from taskmanager.api.requests import present
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
    """Puts everything under /api, and how errors are answered, on `app`."""
    app.url_map.converters["worker"] = workers.WorkerId
    api = Blueprint("api", __name__, url_prefix="/api")
    for resource in RESOURCES:
        api.register_blueprint(resource.blueprint)
    app.register_blueprint(api)
    app.add_url_rule("/", view_func=documentation.start)
    check_every_route_has_a_rule(app, api)
    register_error_handlers(app)


def register_request_hooks(app: Flask, use_prepared_database: Callable[[], None]) -> None:
    """Lets each request begin and end with what all have in common."""

    # One hook for all of it: Flask's way to a hook takes longer than most of these steps.
    @app.before_request
    def begin() -> Any:
        begin_request()
        use_prepared_database()
        if takes_no_key():
            return count_address()
        if request.url_rule is not None:
            authenticate_request()
        return None

    app.after_request(_end_request)


def begin_request() -> None:
    """Puts on `g` what later steps ask for: `request_id`, `now` (ms), `scope` and `policy`."""
    asked, of = present()
    request_id = asked.headers.get("X-Request-ID", "")
    if not _SANE_REQUEST_ID.fullmatch(request_id):
        request_id = os.urandom(16).hex()
    of.request_id = request_id
    of.now = utc_now()
    of.scope, of.policy = rule_of(asked)


def _end_request(response: Response) -> Response:
    _, of = present()
    response.headers["X-Request-ID"] = of.request_id
    caller = of.get("caller")
    if caller is not None:
        # A refused request and an empty poll write nothing.
        if response.status_code < 400:
            mark_used(caller, now=of.now)
    elif takes_no_key():
        finish_count_of_address(response)
    # 429 without a caller: failures from that address are over their limit.
    elif response.status_code in (401, 429):
        record_failed_authentication(
            address=client_address(),
            request_id=of.request_id,
            reason=response.get_json()["message"],
            now=of.now,
        )
    response.headers.extend(quota_headers())
    return response
