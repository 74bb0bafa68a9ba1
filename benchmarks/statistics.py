"""What the figures of a queue cost: /api/stats, /api/metrics, and the counting behind them.

    python -m benchmarks.statistics [--rows 1000000] [--engine sqlite|mariadb] [--json]

Fills a table with tasks of all states, nine in ten of them finished within the
last three days, and 1,000 workers. The calls are made in this process, key and
rate limit included, without a socket: first with a snapshot of the counts, as
all but one a minute find it, then the counting itself.
"""

import sys
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
from taskmanager.db.connection import database, dialect
from taskmanager.db.statements import execute, fetch_one, insert_many
from taskmanager.queue.figures import counts

CALLS = 300
COUNTS = 15
WORKERS = 1_000
SPAN_MS = 3 * counts.PERIODS_MS["day"]


def measure(engine: str, rows: int) -> dict[str, Any]:
    now = utc_now()
    with open_queue(engine) as url, TemporaryDirectory() as folder:
        _fill(rows, now)
        app = create_app({"instance_path": Path(folder), "database_url": url, "rate_limit": "0"})
        _, key = keys.create_key(name="benchmark", scopes=["admin"], now=now, caller=OPERATOR)
        client = app.test_client()

        def get(path: str) -> Callable[[], None]:
            def call() -> None:
                answer = client.get(path, headers={"X-API-Key": key})
                if answer.status_code != 200:
                    raise SystemExit(f"{path} answered {answer.status_code}: {answer.text}")

            return call

        figures = {"first call, which counts": _times(get("/api/stats"), 1)}
        if fetch_one("SELECT id FROM statistics_snapshots") is None:
            print("So few tasks are counted with every call.", file=sys.stderr)
        figures["GET /api/stats"] = _times(get("/api/stats"), CALLS)
        figures["GET /api/metrics"] = _times(get("/api/metrics"), CALLS)
        figures["counting"] = _times(lambda: counts._count(utc_now()), COUNTS)
        return figures


def _fill(rows: int, now: int) -> None:
    finished = rows * 9 // 10
    fill_tasks(
        finished,
        seed="finished",
        now=now,
        # By tens, since the last digit decides the type.
        status=lambda n: ("completed", "completed", "completed", "failed", "cancelled")[
            n // 10 % 5
        ],
        worker_id=lambda n: f"worker-{n % WORKERS}",
        completed_at=lambda n: now - SPAN_MS + SPAN_MS * n // finished,
    )
    fill_tasks(
        rows - finished,
        seed="open",
        now=now,
        status=lambda n: ("pending", "scheduled")[n // 10 % 2],
        available_at=now,
    )
    workers = [
        {"id": f"worker-{n}", "first_seen_at": now, "last_seen_at": now - n * 1_000}
        for n in range(WORKERS)
    ]
    with database.atomic():
        insert_many("workers", workers)
    execute("ANALYZE" if dialect().name == "sqlite" else "ANALYZE TABLE tasks")


def _freshen_snapshot() -> None:
    """As if the counting had been done just now."""
    execute("UPDATE statistics_snapshots SET counted_at = ?", (utc_now(),))


def _times(call: Callable[[], Any], count: int) -> dict[str, float]:
    times = []
    for _ in range(count):
        _freshen_snapshot()
        watch = stopwatch()
        call()
        times.append(watch.read())
    return figures_of(times)


if __name__ == "__main__":
    measure_engines(__doc__, measure)
