"""What browsers and proxies in front are told and believed: on every answer, API or page.

X-Forwarded-* headers count only from as many proxies as the setting names. Pages
of other origins get in by setting only, and never with cookies.
"""

from typing import Any

from flask import Flask, Response, request
from werkzeug.middleware.proxy_fix import ProxyFix

from taskmanager.config import Settings

_ONE_YEAR = 31_536_000
_PREFLIGHT_SECONDS = 600
_ON_EVERY_ANSWER = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
)
_OVER_TLS_ONLY = ("Strict-Transport-Security", f"max-age={_ONE_YEAR}")
_SENT_BY_BROWSERS = "Authorization, Content-Type, X-API-Key, X-Request-ID, traceparent"
_READ_BY_BROWSERS = (
    "Retry-After, RateLimit, RateLimit-Policy, X-RateLimit-Limit, X-RateLimit-Remaining, "
    "X-RateLimit-Reset, X-Request-ID"
)


def register_http_rules(app: Flask, settings: Settings) -> None:
    """Trusts the configured proxies, answers preflights, and sets the security headers."""
    if settings.api_at_root:
        app.wsgi_app = _ApiAtRoot(app)  # type: ignore[method-assign]
    app.wsgi_app = _SecurityHeaders(app.wsgi_app)  # type: ignore[method-assign]
    if settings.trusted_proxies:
        count = settings.trusted_proxies
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=count, x_proto=count, x_host=count
        )
    if settings.cors_origins:
        origins = frozenset(settings.cors_origins)
        app.after_request(lambda response: _allow_origin(response, origins))


class _SecurityHeaders:
    """WSGI middleware that adds the headers which are the same on nearly every answer."""

    def __init__(self, application: Any) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            # A file that may be kept, and a page that loads something, have said so themselves.
            said = {name for name, _ in headers}
            more = [header for header in _ON_EVERY_ANSWER if header[0] not in said]
            headers = [*headers, *more]
            if environ["wsgi.url_scheme"] == "https":
                headers.append(_OVER_TLS_ONLY)
            return start_response(status, headers, *error)

        return self._application(environ, start)


class _ApiAtRoot:
    """WSGI middleware that finds /tasks/claim where /api/tasks/claim is; pages stay as they are."""

    def __init__(self, app: Flask) -> None:
        self._application = app.wsgi_app
        rules = (rule.rule.split("/") for rule in app.url_map.iter_rules())
        self._first_parts = {parts[2] for parts in rules if parts[1] == "api"}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        path = environ.get("PATH_INFO", "")
        first = path.removeprefix("/").partition("/")[0]
        if path.startswith("/") and first in self._first_parts:
            environ["PATH_INFO"] = f"/api{path}"
        return self._application(environ, start_response)


def _allow_origin(response: Response, origins: frozenset[str]) -> Response:
    if not request.path.startswith("/api/"):
        return response
    response.vary.add("Origin")
    origin = request.headers.get("Origin", "")
    if not origin or not origins & {origin, "*"}:
        return response
    headers = response.headers
    headers["Access-Control-Allow-Origin"] = "*" if "*" in origins else origin
    headers["Access-Control-Expose-Headers"] = _READ_BY_BROWSERS
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        headers["Access-Control-Allow-Methods"] = headers.get("Allow", "")
        headers["Access-Control-Allow-Headers"] = _SENT_BY_BROWSERS
        headers["Access-Control-Max-Age"] = str(_PREFLIGHT_SECONDS)
    return response
