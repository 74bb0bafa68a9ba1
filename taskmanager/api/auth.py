"""Every call of the API is made with a key, and each route says which scope it takes."""

from collections.abc import Callable
from typing import Any, TypeVar

from flask import Blueprint, Flask, current_app, g, request

from taskmanager.api import rate_limits
from taskmanager.clock import utc_now
from taskmanager.exceptions import NotAllowed, NotAuthenticated
from taskmanager.services import keys
from taskmanager.services.keys import Caller

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
    for endpoint in app.view_functions:
        if endpoint.startswith(f"{blueprint.name}.") and required_scope(app, endpoint) is None:
            raise AssertionError(f"the view {endpoint} says nothing about who may call it")


def required_scope(app: Flask, endpoint: str | None) -> str | None:
    """The scope that a route of the API takes, or PUBLIC; None for what is no such route."""
    scope: str | None = getattr(app.view_functions.get(endpoint or ""), "required_scope", None)
    return scope


def takes_no_key() -> bool:
    """True where the present request may be made by anybody: a public route, a preflight."""
    scope = required_scope(current_app, request.endpoint)
    return scope == PUBLIC or (scope is not None and request.method == "OPTIONS")


def authenticate_request() -> None:
    """Puts the caller on `g` and counts the request.

    Raises NotAuthenticated, NotAllowed, RateLimited.
    """
    scope = required_scope(current_app, request.endpoint)
    if scope is None or takes_no_key():
        return
    g.caller = caller = _authenticate()
    rate_limits.count_request(caller)
    if not caller.may(scope):
        raise NotAllowed(
            f"This key lacks the scope '{scope}'; it has: {', '.join(sorted(caller.scopes))}.",
            code="scope_missing",
        )


def _authenticate() -> Caller:
    try:
        return keys.authenticate(_presented_key(), now=utc_now())
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
