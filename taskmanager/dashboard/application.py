"""The application of the pages: what is wired together, and what every page has in common."""

import logging
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, g, request, session, url_for
from flask_wtf.csrf import generate_csrf
from werkzeug.exceptions import HTTPException

from taskmanager import __version__, errors
from taskmanager.api import begin_request
from taskmanager.api.auth import check_every_route_has_a_rule
from taskmanager.api.errors import status_of
from taskmanager.api.workers import WorkerId
from taskmanager.config import Settings
from taskmanager.dashboard import (
    PREFIX,
    administration,
    assets,
    batches,
    creation,
    failures,
    key_change,
    overview,
    schedule_change,
    schedules,
    sign_in,
    task,
    task_change,
    task_types,
    tasks,
    webhooks,
    wording,
    workers,
)
from taskmanager.dashboard.answers import compressed, page
from taskmanager.dashboard.session_cookie import SessionCookie
from taskmanager.db.connection import release_connection
from taskmanager.files.secret import read_or_create_secret

ROOMS = (
    *(assets, sign_in, overview, creation, tasks, task, task_change, batches, failures),
    *(task_types, schedules, schedule_change, workers, administration, key_change, webhooks),
)

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    # Behind TLS a form is taken only if its page is ours, which the referrer says.
    "Referrer-Policy": "same-origin",
}

log = logging.getLogger(__name__)


def create_pages(api: Flask, use_prepared_database: Callable[[], None]) -> Flask:
    """The application of all pages, on the settings, limits and database of `api`.

    Raises OSError if the secret that signs the sessions can be neither read nor created.
    """
    settings: Settings = api.extensions["taskmanager"]
    pages = Flask(__name__, static_folder=None)
    pages.extensions = api.extensions
    pages.url_map.strict_slashes = False
    pages.url_map.merge_slashes = False
    pages.url_map.converters["worker"] = WorkerId
    pages.secret_key = settings.secret_key or read_or_create_secret(
        settings.instance_path / "secret_key"
    )
    pages.session_interface = SessionCookie()
    pages.config |= {
        "MAX_CONTENT_LENGTH": settings.max_body_bytes * 2,  # a form encodes what it sends
        "MAX_FORM_MEMORY_SIZE": None,
        **sign_in.CSRF_SETTINGS,
    }
    pages.jinja_env.trim_blocks = pages.jinja_env.lstrip_blocks = True
    pages.jinja_env.filters |= wording.FILTERS
    pages.jinja_env.globals["csrf_token"] = generate_csrf
    pages.before_request(use_prepared_database)
    pages.before_request(begin_request)
    pages.before_request(sign_in.require_session)
    pages.context_processor(_shown_everywhere)
    pages.after_request(_add_headers)
    pages.after_request(compressed)
    pages.teardown_appcontext(lambda _: release_connection())
    pages.register_error_handler(errors.TaskManagerError, _refused)
    pages.register_error_handler(HTTPException, _http)
    pages.register_error_handler(Exception, _unforeseen)
    for room in ROOMS:
        pages.register_blueprint(room.blueprint, url_prefix=PREFIX)
        check_every_route_has_a_rule(pages, room.blueprint)
    return pages


def _shown_everywhere() -> dict[str, Any]:
    caller = g.get("caller")
    return {
        "caller": caller,
        "may": caller.may if caller else lambda scope: False,
        "now": g.get("now", 0),
        "done": session.pop("done", None),  # what the form before this page has done
        "asset": assets.address_of,
        "version": __version__,
    }


def _add_headers(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["X-Request-ID"] = g.get("request_id", "-")
    return response


def _refused(error: errors.TaskManagerError) -> Response:
    status = status_of(error)
    if status == 500:
        return _unforeseen(error)
    if status == 401:
        return sign_in.ask_again(error.message)
    response = _error_page(error.message, status)
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    return response


def _http(error: HTTPException) -> Response:
    status = error.code or 500
    if error.response is not None or status < 400:
        return error.get_response()  # type: ignore[return-value]
    if status >= 500:
        return _unforeseen(error)
    sentences = {
        404: "There is no page at this address.",
        405: "This page is not opened like this; go back and try again.",
        413: "The form holds more than the server takes.",
    }
    return _error_page(sentences.get(status, error.description or "This did not work."), status)


def _unforeseen(error: Exception) -> Response:
    log.error("page %s failed", g.get("request_id", "-"), exc_info=error)
    sentence = f"Something went wrong. The server's log says more under {g.get('request_id', '-')}."
    return _error_page(sentence, 500)


def _error_page(sentence: str, status: int) -> Response:
    back = request.referrer if request.method == "POST" else None
    if back is None or not back.startswith(request.host_url):
        back = url_for("overview.show")
    heading = {403: "Not allowed", 404: "Not found"}.get(status, "This did not work")
    return page("error.html", status, heading=heading, sentence=sentence, back=back)
