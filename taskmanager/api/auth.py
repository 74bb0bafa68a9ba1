"""Every call of the API is made with a key, and each route says which scope it takes."""

from collections.abc import Callable
from typing import Any, TypeVar

from flask import Blueprint, Flask, current_app, g, request

from taskmanager.access import keys
from taskmanager.access.audit import MAX_ADDRESS_LENGTH
from taskmanager.access.caller import Caller
from taskmanager.api import rate_limits
from taskmanager.errors import NotAllowed, NotAuthenticated

View = TypeVar("View", bound=Callable[..., Any])

PUBLIC = "public"


def requires(scope: str) -> Callable[[View], View]:
    """Marks a view with the scope that a key needs to call it, or PUBLIC."""
    if scope != PUBLIC and scope not in keys.SCOPES:
        raise ValueError(f"no such scope: {scope}")

    def mark(view: View) -> View:
        view.required_scope = scope  # type: ignore[attr-defined]
        return view

    return mark


def check_every_route_has_a_rule(app: Flask, blueprint: Blueprint) -> None:
    """Stops the start where a view of `blueprint` was not marked by `requires`."""
    for endpoint, view in app.view_functions.items():
        if endpoint.startswith(f"{blueprint.name}.") and not hasattr(view, "required_scope"):
            raise AssertionError(f"the view {endpoint} says nothing about who may call it")


def required_scope() -> str:
    """What the present request takes: a scope, or PUBLIC; of a preflight nobody asks a key."""
    if request.method == "OPTIONS":
        return PUBLIC
    view = current_app.view_functions.get(request.endpoint or "")
    scope: str = getattr(view, "required_scope", "admin")
    return scope


def takes_no_key() -> bool:
    """True where anybody may make the present request."""
    return bool(g.get("scope") == PUBLIC)


def authenticate_request() -> None:
    """Puts the caller on `g`, with address and request id, and counts the request.

    Raises NotAuthenticated, NotAllowed, RateLimited.
    """
    if takes_no_key():
        return
    g.caller = caller = _authenticate()._replace(address=_address(), request_id=g.request_id)
    rate_limits.count_request(caller)
    if not caller.may(g.scope):
        raise NotAllowed(
            f"This key lacks the scope '{g.scope}'; it has: {', '.join(sorted(caller.scopes))}.",
            code="scope_missing",
        )


def _address() -> str | None:
    """The client's, as far as it fits where it is recorded: a proxy may send any text for one."""
    address = request.remote_addr
    return address[:MAX_ADDRESS_LENGTH] if address else None


def _authenticate() -> Caller:
    try:
        return keys.authenticate(_presented_key(), now=g.now)
    except NotAuthenticated:
        rate_limits.count_failure("authentication")
        raise


def _presented_key() -> str:
    key = request.headers.get("X-API-Key", "").strip()
    if not key:
        scheme, _, rest = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            key = rest.strip()
    if not key:
        raise NotAuthenticated("Send your API key in the header X-API-Key.")
    return key
