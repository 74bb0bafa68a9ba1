"""What the pages of the dashboard cost on a large queue.

    python -m benchmarks.dashboard [--rows 1000000] [--engine sqlite|mariadb] [--json]

The queue is that of benchmarks.statistics, with a hundred schedules, a batch and a webhook. Every
page is opened in this process with a session, rate limit included, without a socket.
"""

import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import statistics
from benchmarks.queues import measure_engines, open_queue
from taskmanager.access import keys
from taskmanager.access.caller import OPERATOR
from taskmanager.app import create_app
from taskmanager.clock import utc_now
from taskmanager.db.statements import fetch_value

CALLS = 40
SCHEDULES = 100


def measure(engine: str, rows: int) -> dict[str, Any]:
    now = utc_now()
    with open_queue(engine) as url, TemporaryDirectory() as folder:
        statistics._fill(rows, now)
        app = create_app({"instance_path": Path(folder), "database_url": url})
        _, key = keys.create_key(name="benchmark", scopes=["admin"], now=now, caller=OPERATOR)
        client = app.test_client()
        headers = {"X-API-Key": key}

        def create(kind: str, body: Any) -> None:
            answer = client.post(f"/api/{kind}", json=body, headers=headers)
            if answer.status_code != 201:
                raise SystemExit(f"/api/{kind} answered {answer.status_code}: {answer.text}")

        for n in range(SCHEDULES):
            timing = {"type": "job.0", "params": {}, "cron": "0 3 * * *"}
            create("schedules", {"name": f"schedule {n}", **timing})
        create("batches", {"name": "b", "tasks": [{"type": "job.0", "params": {"n": 1}}]})
        create("webhooks", {"name": "h", "url": "https://nowhere.invalid/"})
        client.get("/api/stats", headers=headers)
        form = client.get("/dashboard/sign-in").text
        token = re.findall('name="csrf_token" value="([^"]+)"', form)[0]
        client.post("/dashboard/sign-in", data={"csrf_token": token, "key": key})
        return {
            path or "/": statistics._times(_opening(client, path), CALLS) for path in _pages(client)
        }


def _pages(client: Any) -> list[str]:
    cursor = ""
    for _ in range(20):
        page = client.get(f"/dashboard/tasks?status=completed&cursor={cursor}").text
        cursor = re.findall(r"cursor=([\w-]+)", page)[-1]
    failed, pending = [
        fetch_value("SELECT id FROM {tasks} WHERE status = ? ORDER BY id LIMIT 1", (status,))
        for status in ("failed", "pending")
    ]
    return [
        *("", "/tasks", "/tasks?status=failed", "/tasks?sort=priority"),
        f"/tasks?status=completed&cursor={cursor}",
        *("/tasks?error=nothing+like+it", f"/tasks/{failed}", f"/tasks/{pending}/change"),
        *("/tasks/new", "/tasks/new?type=job.0", "/batches", "/batches/1", "/errors", "/types"),
        *("/types/job.0", "/schedules", "/schedules/1/change", "/workers", "/workers/worker-1"),
        *("/webhooks", "/webhooks/1", "/alerts", "/admin", "/admin/keys/1/change"),
        *("/admin/audit", "/admin/doctor", "/admin/settings"),
    ]


def _opening(client: Any, path: str) -> Callable[[], None]:
    def call() -> None:
        answer = client.get(f"/dashboard{path}")
        if answer.status_code != 200:
            raise SystemExit(f"{path} answered {answer.status_code}")

    return call


if __name__ == "__main__":
    measure_engines(__doc__, measure)
