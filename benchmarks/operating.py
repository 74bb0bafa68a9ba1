"""What an operator's calls cost on a large queue: searches, failures in groups, bulk changes.

    python -m benchmarks.operating [--rows 1000000] [--engine sqlite|mariadb] [--json]

Fills a table with finished tasks, one in ten of them failed for one of six reasons, and with
pending tasks; 300 of all have a tag. The calls are made in this process, key and rate limit
included, without a socket. The slices of a bulk call are timed one by one. At last a process of its
own retries all failed tasks, while this one goes on claiming; before that it claims alone.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.queues import (
    figures_of,
    fill_tasks,
    measure_engines,
    open_queue,
    stopwatch,
)
from taskmanager.access import keys
from taskmanager.access.caller import OPERATOR
from taskmanager.app import create_app
from taskmanager.clock import utc_now
from taskmanager.db.connection import dialect
from taskmanager.db.statements import execute, fetch_value, insert_many
from taskmanager.queue import bulk

CALLS = 100
TAGGED = 300  # tasks
CLAIMS = 300
PAUSE_SECONDS = 0.02  # so that the tasks of the type last
REASONS = (
    ("timeout", "No answer within {n} s from 10.0.0.{n}:8080"),
    ("timeout", "Connection {n} timed out"),
    ("http_404", "https://example.com/{n} is gone"),
    ("http_500", "https://example.com/{n} failed"),
    (None, "KeyError: 'url' in row {n}"),
    ("out_of_memory", "Killed at {n} bytes"),
)
SEARCHES = {
    "list failed": "status=failed",
    "search error_code": "status=failed&error_code=timeout",
    "search error": "status=failed&error=timed%20out",
    "search rare error": "status=failed&error=nothing%20has%20this",
    "search params": "params.depth=4",
    "search times": "finished_after=2020-01-01T00:00:00Z",
    "search all types": "attempts_min=9",
    "list tag": "tag=import&limit=100",
    "list tag and status": "tag=import&status=failed",
}


def measure(engine: str, rows: int) -> dict[str, Any]:
    now = utc_now()
    with open_queue(engine) as url, TemporaryDirectory() as folder:
        _fill(rows, now)
        app = create_app({"instance_path": Path(folder), "database_url": url, "rate_limit": "0"})
        _, key = keys.create_key(name="benchmark", scopes=["admin"], now=now, caller=OPERATOR)
        client = app.test_client()

        def call(method: str, path: str, body: Any = None) -> None:
            answer = client.open(path, method=method, json=body, headers={"X-API-Key": key})
            if answer.status_code != 200:
                raise SystemExit(f"{path} answered {answer.status_code}: {answer.text}")

        figures = {
            name: _times(lambda query=query: call("GET", f"/api/tasks?{query}"), CALLS)  # type: ignore[misc]
            for name, query in SEARCHES.items()
        }
        figures["GET /api/tasks/errors"] = _times(lambda: call("GET", "/api/tasks/errors"), CALLS)
        figures["slice of a retry"] = _slices(
            lambda: call("POST", "/api/tasks/retry", {"filter": {"error_code": "http_404"}})
        )

        def claim() -> None:
            call("POST", "/api/tasks/claim", {"worker_id": "w", "type": "job.0"})

        figures["claim alone"] = _times(claim, CLAIMS, pause_seconds=PAUSE_SECONDS)
        command = [sys.executable, "-m", "taskmanager", "tasks", "retry", "status=failed"]
        places = {"TASKMANAGER_INSTANCE_PATH": folder, "TASKMANAGER_DATABASE_URL": url}
        with subprocess.Popen(command, env={**os.environ, **places}) as retrying:
            figures["claim during a bulk retry"] = _times(
                claim,
                CLAIMS,
                pause_seconds=PAUSE_SECONDS,
                until=lambda: retrying.poll() is not None,
            )
        return figures


def _fill(rows: int, now: int) -> None:
    finished = rows * 8 // 10

    def reason(n: int) -> tuple[str | None, str | None]:
        code, message = REASONS[n // 10 % len(REASONS)]
        return (code, message.format(n=n)) if n // 10 % 8 == 0 else (None, None)

    fill_tasks(
        finished,
        seed="finished",
        now=now,
        status=lambda n: "failed" if n // 10 % 8 == 0 else "completed",
        error_code=lambda n: reason(n)[0],
        error_message=lambda n: reason(n)[1],
        completed_at=now,
    )
    fill_tasks(rows - finished, seed="open", now=now)
    first = fetch_value("SELECT MIN(id) FROM {tasks}")
    tagged = list(range(first, first + rows, rows // TAGGED))
    insert_many("task_tags", [{"tag": "import", "task_id": task_id} for task_id in tagged])
    execute("UPDATE {tasks} SET tags = ? WHERE id IN ?", ('["import"]', tagged))
    execute("ANALYZE" if dialect().name == "sqlite" else "ANALYZE TABLE tasks")


def _slices(run: Callable[[], None]) -> dict[str, float]:
    """How long each transaction of a bulk call took."""
    times: list[float] = []
    change = bulk._change

    def timed(*arguments: Any) -> Any:
        watch = stopwatch()
        done = change(*arguments)
        times.append(watch.read())
        return done

    bulk._change = timed
    try:
        run()
    finally:
        bulk._change = change
    return figures_of(times)


def _times(
    call: Callable[[], Any],
    count: int,
    *,
    pause_seconds: float = 0,
    until: Callable[[], bool] | None = None,
) -> dict[str, float]:
    """Of `count` calls, or of as many as fit in `until` something is true."""
    times: list[float] = []
    while not until() if until else len(times) < count:
        watch = stopwatch()
        call()
        times.append(watch.read())
        time.sleep(pause_seconds)
    return figures_of(times)


if __name__ == "__main__":
    measure_engines(__doc__, measure)
