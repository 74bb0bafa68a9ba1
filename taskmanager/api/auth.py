"""Every call of the API is made with a key, and each route says which scope and input it takes."""

import base64
import functools
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Flask, Request, Response, current_app, g, request
from werkzeug.datastructures import Headers

from taskmanager.access import keys
from taskmanager.access.audit import MAX_ADDRESS_LENGTH
from taskmanager.access.caller import Caller
from taskmanager.api import rate_limits
from taskmanager.api.rate_limits import Policy
from taskmanager.api.requests import QueryParameters, RequestBody, present
from taskmanager.errors import NotAllowed, NotAuthenticated

View = Callable[..., Response]

PUBLIC = "public"
# In the WSGI environment, where no client can put anything: who calls from this very process.
CALLER = "taskmanager.caller"
OPERATOR_SCOPES = ("tasks:manage", "admin")


def requires(
    scope: str,
    *,
    every_type: str | None = None,
    ends_or_keeps_lease: bool = False,
    query: QueryParameters | None = None,
    body: RequestBody | None = None,
) -> Callable[[View], View]:
    """Marks a view with the scope that a key needs to call it, or PUBLIC, and reads its input.

    `query` and `body` become arguments of the view, unless they have no fields. `every_type`
    says what a key that is limited to task types may not do here. `ends_or_keeps_lease` takes the
    call out of the key's own rate limit.
    """
    if scope != PUBLIC and scope not in keys.SCOPES:
        raise ValueError(f"no such scope: {scope}")

    def mark(view: View) -> View:
        @functools.wraps(view)
        def call(**values: Any) -> Response:
            if every_type is not None:
                g.caller.require_every_type(every_type)
            for name, taken in (("query", query), ("body", body)):
                if taken is not None:
                    read = taken.read()
                    if taken.fields:
                        values[name] = read
                    if "worker_id" in read:
                        g.worker_id = read["worker_id"]  # for the log
            return view(**values)

        call.required_scope = scope  # type: ignore[attr-defined]
        call.query, call.body = query, body  # type: ignore[attr-defined]
        call.ends_or_keeps_lease = ends_or_keeps_lease  # type: ignore[attr-defined]
        return call

    return mark


def check_every_route_has_a_rule(app: Flask, blueprint: Blueprint) -> None:
    """Stops the start where a view of `blueprint` was not marked by `requires`."""
    for endpoint, view in app.view_functions.items():
        if endpoint.startswith(f"{blueprint.name}.") and not hasattr(view, "required_scope"):
            raise AssertionError(f"the view {endpoint} says nothing about who may call it")


def rule_of(asked: Request) -> tuple[str, Policy]:
    """The scope that a request takes, and the limit that it counts against.

    The scope of a preflight is PUBLIC: nobody asks a key of it.
    """
    if asked.method == "OPTIONS":
        return PUBLIC, "key"
    view = current_app.view_functions.get(asked.endpoint or "")
    scope = getattr(view, "required_scope", "admin")
    if getattr(view, "ends_or_keeps_lease", False):
        return scope, "leases"
    return scope, "operator" if view is not None and scope in OPERATOR_SCOPES else "key"


def takes_no_key() -> bool:
    """True where anybody may make the present request."""
    return bool(g.get("scope") == PUBLIC)


def authenticate_request() -> None:
    """Puts the caller on `g`, with address and request id, and counts the request.

    Not for requests that take no key. Raises NotAuthenticated, NotAllowed, RateLimited.
    """
    asked, of = present()
    own = asked.environ.get(CALLER)
    if isinstance(own, Caller):
        of.caller = own._replace(request_id=of.request_id)
        return
    try:
        caller = keys.authenticate(_presented_key(asked.headers), now=of.now)
    except NotAuthenticated:
        rate_limits.count_failure("authentication")
        raise
    of.caller = caller = _of_this_request(caller)
    may = caller.may(of.scope)
    rate_limits.count_request(caller, of.policy if may else "key")
    if not may:
        raise _scope_missing(caller)


def renew_caller() -> None:
    """Puts the caller on `g` again, as the key is now, during a call that takes long.

    It does not count as another request. Raises NotAuthenticated, NotAllowed.
    """
    if isinstance(request.environ.get(CALLER), Caller):
        return
    caller = keys.authenticate(_presented_key(request.headers), now=g.now, remembered=False)
    g.caller = _of_this_request(caller)
    if not g.caller.may(g.scope):
        raise _scope_missing(g.caller)


def _of_this_request(caller: Caller) -> Caller:
    # Cut to where it is recorded: a proxy may send any text for an address.
    address = (request.remote_addr or "")[:MAX_ADDRESS_LENGTH] or None
    return caller._replace(address=address, request_id=g.request_id)


def _scope_missing(caller: Caller) -> NotAllowed:
    return NotAllowed(
        f"This key lacks the scope '{g.scope}'; it has: {', '.join(sorted(caller.scopes))}.",
        code="scope_missing",
    )


def _password(credentials: str, headers: Headers) -> str:
    """The password of HTTP Basic, which is a key: some clients can be told nothing but an address.

    A browser sends what it remembers with requests that a foreign page makes, so a request
    that a page may have made is refused. Raises NotAuthenticated.
    """
    site = headers.get("Sec-Fetch-Site", "none")
    if "Origin" in headers or site not in ("none", "same-origin"):
        raise NotAuthenticated(
            "A web page may not send a key as the password of HTTP Basic; send it in the header "
            "X-API-Key."
        )
    try:
        pair = base64.b64decode(credentials, validate=True).decode()
    except ValueError:
        raise NotAuthenticated(
            "The header Authorization: Basic must hold user:password in base64, where the "
            "password is your API key."
        ) from None
    return pair.partition(":")[2].strip()


def _presented_key(headers: Headers) -> str:
    key = headers.get("X-API-Key", "").strip()
    if not key:
        scheme, _, rest = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            key = rest.strip()
        elif scheme.lower() == "basic":
            key = _password(rest.strip(), headers)
    if not key:
        raise NotAuthenticated("Send your API key in the header X-API-Key.")
    return key
