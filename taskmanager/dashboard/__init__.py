"""The pages for people, below /dashboard: an application of its own beside the API.

It is built when the first page is asked for, so that a process which serves only the API neither
loads nor holds any of it, and no call of the API pays for sessions.
"""

import threading
from collections.abc import Callable
from typing import Any

from flask import Flask

PREFIX = "/dashboard"


def mount_dashboard(app: Flask, use_prepared_database: Callable[[], None]) -> None:
    """Serves the dashboard from the process of `app`; each request first calls the function."""
    app.wsgi_app = _Dashboard(app, use_prepared_database)  # type: ignore[method-assign]


class _Dashboard:
    """WSGI middleware that answers for /dashboard and hands everything else on."""

    def __init__(self, app: Flask, use_prepared_database: Callable[[], None]) -> None:
        self._app, self._application = app, app.wsgi_app
        self._use_prepared_database = use_prepared_database
        self._lock = threading.Lock()
        self._pages: Flask | None = None

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        path = environ.get("PATH_INFO", "")
        if path == PREFIX or path.startswith(f"{PREFIX}/"):
            return self._built()(environ, start_response)
        return self._application(environ, start_response)

    def _built(self) -> Flask:
        with self._lock:
            if self._pages is None:
                from taskmanager.dashboard.application import create_pages

                self._pages = create_pages(self._app, self._use_prepared_database)
            return self._pages
