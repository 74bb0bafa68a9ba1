"""One log line for each request, and on every other line which request it belongs to.

Only for TASKMANAGER_LOG_FORMAT=json. No line has a body, a query or a key.
"""

import logging
import re
import time
from typing import Any

from flask import Flask, Response, g, has_request_context, request

from taskmanager.logs import write_json_lines

log = logging.getLogger(__name__)

MAX_TASK_IDS = 100
ARGUMENT = re.compile(r"<(?:[^>]*:)?((?:[a-z]+_)?([a-z]+))>")


def path_of_rule(rule: str) -> str:
    """The path of a route as the documentation writes it, such as `/api/tasks/{id}`."""
    return ARGUMENT.sub(r"{\2}", rule)


def register_request_logs(app: Flask) -> None:
    """To be called first: so the time of all other hooks is counted too."""
    write_json_lines().addFilter(_add_request)
    app.before_request(_begin)
    app.after_request(_log_request)


def _begin() -> None:
    g.log_started = time.perf_counter()


def _log_request(response: Response) -> Response:
    duration_ms = round((time.perf_counter() - g.log_started) * 1000, 1)
    fields = {"status": response.status_code, "duration_ms": duration_ms}
    rule = request.url_rule
    what = path_of_rule(rule.rule) if rule else "no route"
    log.info("%s %s: %s", request.method, what, response.status_code, extra={"fields": fields})
    return response


def _add_request(record: logging.LogRecord) -> bool:
    """A filter that passes everything."""
    if has_request_context():
        record.fields = {**_request_fields(), **getattr(record, "fields", {})}
    return True


def _request_fields() -> dict[str, Any]:
    """What is known of the present request by now."""
    named = request.view_args or {}
    caller, rule = g.get("caller"), request.url_rule
    task_ids = g.get("task_ids") or [named.get("task_id")]
    fields = {
        "request_id": g.get("request_id"),
        "method": request.method,
        "route": path_of_rule(rule.rule) if rule else None,
        "key_id": caller.key_id if caller else None,
        "key": caller.name if caller else None,
        "worker_id": named.get("worker_id") or g.get("worker_id"),
        "task_id": task_ids[0] if len(task_ids) == 1 else None,
        "task_ids": task_ids[:MAX_TASK_IDS] if len(task_ids) > 1 else None,
    }
    return {name: value for name, value in fields.items() if value is not None}
