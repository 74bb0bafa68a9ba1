"""Turns every error into the envelope: ours by class, Flask's own, and the ones nobody foresaw.

Nothing of a stack trace, SQL, a path or a library's own text reaches a caller;
what nobody foresaw goes to the log with the request's id.
"""

import logging
import re
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from taskmanager import errors
from taskmanager.api.requests import MAX_INTEGER, EncodedBody
from taskmanager.api.responses import failure

log = logging.getLogger(__name__)

# The nearest class in an error's ancestry decides.
STATUS_OF: dict[type[errors.TaskManagerError], int] = {
    errors.InvalidRequest: 400,
    errors.NotAuthenticated: 401,
    errors.NotAllowed: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.TooLarge: 413,
    errors.RateLimited: 429,
    errors.QueueFull: 429,
    errors.DatabaseUnavailable: 503,
    errors.PayloadUnreadable: 503,
    errors.TaskManagerError: 500,
}

# What Flask raises by itself: code and sentence.
_HTTP_ERRORS = {
    400: ("bad_request", "The request could not be understood."),
    404: ("not_found", "There is nothing at this address{hint}."),
    405: ("method_not_allowed", "This address does not take the method {method}; see Allow."),
    413: ("body_too_large", "The request body is too large; the limit is {limit} bytes."),
    415: ("not_json", "The body must be JSON: send the header Content-Type: application/json."),
}
# The addresses below which things have ids, with what stands in the place of one that is none.
_NO_ID = re.compile(
    r"/api/(?:tasks|batches|schedules|webhooks|admin/keys)/(?!0*[1-9][0-9]{0,17}(?:/|$))."
)
DRAINED_BYTES = 32 * 1024 * 1024


def status_of(error: errors.TaskManagerError) -> int:
    """The HTTP status of one of our errors."""
    return next(STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF)


def error_json(error: errors.TaskManagerError) -> dict[str, Any]:
    """One refused item of a batch: `message`, `code`, `status`, and `details` where it has them."""
    content = {"message": error.message, "code": error.code, "status": status_of(error)}
    return content if error.details is None else {**content, "details": error.details}


def register_error_handlers(app: Flask) -> None:
    app.register_error_handler(errors.TaskManagerError, error_response)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unforeseen)


def error_response(error: errors.TaskManagerError) -> Response:
    """The answer for one of our errors: its envelope, status and headers."""
    status = status_of(error)
    if status == 500:
        return _unforeseen(error)
    response = failure(error.message, code=error.code, status=status, details=error.details)
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="TaskManager"'
    return response


def _http(error: HTTPException) -> Response:
    status = error.code or 500
    if error.response is not None or status < 400:
        return error.get_response()  # type: ignore[return-value]
    if status >= 500:
        return _unforeseen(error)
    if status == 413:
        _drain()
    code, sentence = _HTTP_ERRORS.get(status, ("bad_request", "The request was refused."))
    if isinstance(error, EncodedBody):
        code, sentence = "encoded_body", error.description or sentence
    response = failure(
        sentence.format(
            method=request.method, limit=request.max_content_length, hint=_hint(request.path)
        ),
        code=code,
        status=status,
    )
    for name, value in error.get_headers():
        if name in ("Allow", "Retry-After"):
            response.headers[name] = value
    return response


def _hint(path: str) -> str:
    """What helps at an address where there is nothing."""
    if path != "/api" and not path.startswith("/api/"):
        return "; the API begins at /api"
    return f"; an id is a whole number from 1 to {MAX_INTEGER}" if _NO_ID.match(path) else ""


def _drain() -> None:
    """Reads what is left of a body that was refused: a client still sending would never see why."""
    stream = request.environ["wsgi.input"]
    length = request.content_length
    if length is None and "wsgi.input_terminated" in request.environ:  # it ends by itself
        length = DRAINED_BYTES
    left = min(length or 0, DRAINED_BYTES)
    while left > 0 and (chunk := stream.read(min(left, 65_536))):
        left -= len(chunk)


def _unforeseen(error: Exception) -> Response:
    log.error("request %s failed", g.get("request_id", "-"), exc_info=error)
    return failure(
        "Something went wrong on the server; its log tells more under this request's X-Request-ID.",
        code="internal_error",
        status=500,
    )
