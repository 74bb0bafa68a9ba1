"""Tests of producers and workers against the real queue, in the test's own process.

    from taskmanager_client.testing import Queue

    def test_a_video_is_fetched():
        with Queue() as queue:
            queue.client.register("video.fetch", "1", {"type": "object"})
            task = queue.client.create("video.fetch", {"id": "x"})
            worker = Worker(queue.client, processes=False)
            worker.task("video.fetch")(fetch)
            assert worker.run_until_empty() == 1
            assert queue.client.get(task.id).status == "completed"

Needs the server's package `taskmanager`. The queue is an SQLite file in a temporary folder; no port
is opened, and its clock stands still until `advance` moves it.
"""

from __future__ import annotations

import tempfile
import types
from pathlib import Path
from typing import Any

from taskmanager_client.client import Client
from taskmanager_client.transport import Response


class Queue:
    """A queue of its own for one test; `client` has an admin key.

    `settings` are the server's, by the names of their fields: max_attempts=5.
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = settings
        self._folder = tempfile.TemporaryDirectory(prefix="taskmanager-test-")

    def __enter__(self) -> Queue:
        from taskmanager import clock
        from taskmanager.access import keys
        from taskmanager.access.caller import OPERATOR
        from taskmanager.app import create_app

        self._now_ms: int = clock.utc_now()
        self._names = vars(clock)  # of the server's clock, which reads `time`
        self._time = self._names["time"]
        self._names["time"] = types.SimpleNamespace(time_ns=lambda: self._now_ms * 1_000_000)
        folder = Path(self._folder.name)
        self._app = create_app(
            {
                "instance_path": folder,
                "database_url": f"sqlite:///{folder / 'queue.db'}",
                "sqlite_synchronous": "NORMAL",
                "rate_limit": "0",
                **self._settings,
            }
        )
        _, key = keys.create_key(
            name="test", scopes=keys.ROLES["admin"], now=self._now_ms, caller=OPERATOR
        )
        self.client = Client("http://test", key, transport=_InProcess(self._app, key))
        return self

    def __exit__(self, *_: object) -> None:
        from taskmanager.app import close_app

        close_app(self._app)
        self._names["time"] = self._time
        self._folder.cleanup()

    def advance(self, seconds: float) -> None:
        """Moves the queue's clock: delayed tasks become due, leases expire."""
        self._now_ms += round(seconds * 1000)


class _InProcess:
    """Calls the WSGI application instead of a server."""

    url = "http://test/api"

    def __init__(self, app: Any, key: str) -> None:
        self._client = app.test_client()
        self._headers = {"X-API-Key": key, "Content-Type": "application/json"}

    def send(self, method: str, path: str, content: bytes | None, timeout: float) -> Response:
        from taskmanager.db.connection import close_connection

        answer = self._client.open(
            f"/api{path}", method=method, data=content, headers=self._headers
        )
        close_connection()  # a worker's threads end, and each has one of its own
        headers = {name.lower(): value for name, value in answer.headers}
        return Response(answer.status_code, headers, answer.data)
