"""Signing in with an API key, and out again; what every page asks of a session.

A session ends after IDLE_MS without a request of its person, after ABSOLUTE_MS in any case, and
as soon as its key is revoked, has expired or was signed out everywhere.
"""

import contextlib
from urllib.parse import urlsplit

from flask import Blueprint, Response, g, make_response, redirect, request, session, url_for
from flask_wtf.csrf import CSRFError, CSRFProtect

from taskmanager.access import keys, sessions
from taskmanager.access.audit import MAX_ADDRESS_LENGTH, record_failed_authentication
from taskmanager.access.caller import Caller
from taskmanager.api import rate_limits
from taskmanager.api.auth import PUBLIC, requires, takes_no_key
from taskmanager.dashboard import PREFIX
from taskmanager.dashboard.answers import lead_to, page
from taskmanager.errors import NotAllowed, NotAuthenticated

blueprint = Blueprint("sign_in", __name__)

IDLE_MS = 60 * 60_000
ABSOLUTE_MS = 12 * 60 * 60_000
SEEN_RESOLUTION_MS = 60_000
# A page that refreshes itself says so: it keeps no session alive.
REFRESH = "X-Refresh"

CSRF_SETTINGS = {
    "WTF_CSRF_ENABLED": True,
    "WTF_CSRF_METHODS": {"POST", "PUT", "PATCH", "DELETE"},
    "WTF_CSRF_FIELD_NAME": "csrf_token",
    "WTF_CSRF_HEADERS": ["X-CSRF-Token"],
    "WTF_CSRF_TIME_LIMIT": None,  # as long as the session
    "WTF_CSRF_SSL_STRICT": True,
}
_csrf = CSRFProtect()


def require_session() -> Response | None:
    """Puts the caller on `g`; without a session, leads to the page that begins one.

    Every form must hold its session's token. Raises NotAllowed, RateLimited.
    """
    if request.method not in ("GET", "HEAD", "OPTIONS"):
        try:
            _csrf.protect()
        except CSRFError:
            raise NotAllowed(
                "This form is no longer valid, because its session has ended or cookies are off. "
                "Go back, reload the page and send it again."
            ) from None
    if takes_no_key() or "key" not in session:
        rate_limits.count_without_key()
    if takes_no_key():
        return None
    try:
        g.caller = caller = _caller_of_session()
    except NotAuthenticated as error:
        session.clear()
        return ask_again(error.message)
    rate_limits.count_request(caller, "operator")
    if request.url_rule is not None and not caller.may(g.scope):
        raise NotAllowed(
            f"This page takes the scope {g.scope}, which the key {caller.name} does not have."
        )
    return None


def _caller_of_session() -> Caller:
    if "key" not in session:
        raise NotAuthenticated("")
    began, seen = session["began"], session["seen"]
    if not 0 <= g.now - began < ABSOLUTE_MS or g.now - seen >= IDLE_MS:
        raise NotAuthenticated("You were signed out because the session had ended.")
    caller = sessions.caller_of(sessions.Entry(session["key"], session["epoch"]), now=g.now)
    if g.now - seen >= SEEN_RESOLUTION_MS and REFRESH not in request.headers:
        session["seen"] = g.now
        keys.mark_used(caller, now=g.now)
    address = (request.remote_addr or "")[:MAX_ADDRESS_LENGTH] or None
    return caller._replace(address=address, request_id=g.request_id)


def ask_again(reason: str) -> Response:
    """Leads to the sign-in page, and from there back to the page that was asked for."""
    if REFRESH in request.headers:
        return make_response("", 401)
    if reason:
        session["said"] = reason
    wanted = request.full_path.rstrip("?") if request.method == "GET" else ""
    return lead_to("sign_in.show", next=wanted or None)


@blueprint.get("/sign-in")
@requires(PUBLIC)
def show() -> Response:
    """GET /dashboard/sign-in: the form, and for a new installation how to get a key."""
    return _page(session.pop("said", None))


def _page(message: str | None, status: int = 200) -> Response:
    wanted = request.values.get("next", "")
    return page(
        "sign_in.html",
        message=message,
        wanted=wanted,
        has_keys=keys.any_key_exists(),
        status=status,
    )


@blueprint.post("/sign-in")
@requires(PUBLIC)
def begin() -> Response:
    """POST /dashboard/sign-in: begins a session with the API key `key`, and opens `next`."""
    address = (request.remote_addr or "")[:MAX_ADDRESS_LENGTH] or None
    try:
        entry = sessions.sign_in(
            request.form.get("key", "").strip(),
            address=address,
            request_id=g.request_id,
            now=g.now,
        )
    except NotAuthenticated as error:
        rate_limits.count_failure("authentication")
        record_failed_authentication(
            address=rate_limits.client_address(),
            request_id=g.request_id,
            reason=f"Sign-in to the dashboard: {error.message}",
            now=g.now,
        )
        return _page("This key is not known, or it is revoked or expired.", 401)
    session.clear()
    session.update(key=entry.key_id, epoch=entry.epoch, began=g.now, seen=g.now)
    return make_response(redirect(_own_address(request.form.get("next", "")), 303))


def _own_address(wanted: str) -> str:
    """`wanted` if it is a page of the dashboard, else the first page. Never another host's."""
    is_ours = wanted.startswith(f"{PREFIX}/") and "\\" not in wanted and wanted.isprintable()
    if is_ours and not urlsplit(wanted).netloc:
        return request.script_root + wanted
    return url_for("overview.show")


@blueprint.post("/sign-out")
@requires(PUBLIC)
def end() -> Response:
    """POST /dashboard/sign-out: ends this session; with `everywhere`, all of this key."""
    with contextlib.suppress(NotAuthenticated):  # it has ended by itself
        caller = _caller_of_session()
        if request.form.get("everywhere"):
            sessions.sign_out_everywhere(caller, now=g.now)
        else:
            sessions.sign_out(caller, now=g.now)
    session.clear()
    session["said"] = "You are signed out."
    return lead_to("sign_in.show")
