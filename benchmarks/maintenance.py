"""What maintenance costs on a queue of a million tasks, slice by slice.

    python -m benchmarks.maintenance [--rows 1000000] [--engine sqlite|mariadb] [--json]

Fills a table with tasks of all states, then times requeueing expired leases,
starting due tasks and pruning (with the three rows of history that each task
has), each with 100,000 tasks to work off, due runs of 500 schedules, and claims
while half of the rest is scheduled for tomorrow. A slice is one transaction:
its time is how long its locks are held, and on SQLite the wait for the disk
after that as well.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.queues import (
    ENGINES,
    TYPES,
    fill_history,
    fill_tasks,
    open_queue,
    stopwatch,
)
from taskmanager.access.caller import OPERATOR
from taskmanager.clock import utc_now
from taskmanager.db.connection import dialect
from taskmanager.db.statements import execute
from taskmanager.queue import claim, maintenance
from taskmanager.queue.claim_sql import claim_order
from taskmanager.queue.schedules import definitions, runs
from taskmanager.queue.task_types import TaskDefaults

DUE = 100_000
SCHEDULES = 500
DEFAULTS = TaskDefaults(max_attempts=3, lease_seconds=300)
DAY_MS = maintenance.DAY_MS


def measure(engine: str, rows: int) -> dict[str, Any]:
    now = utc_now()
    with open_queue(engine):
        others = rows - 3 * DUE
        fill_tasks(
            DUE,
            seed="expired",
            now=now,
            status="claimed",
            worker_id=lambda n: f"worker-{n % 50}",
            claim_token=lambda n: f"token-{n}",
            claimed_at=now - 600_000,
            lease_expires_at=lambda n: now - 300_000 + n % 1000,
            lease_seconds=300,
            attempts=lambda n: 1 + n % 3,
        )
        fill_tasks(
            DUE,
            seed="due",
            now=now,
            status="scheduled",
            available_at=lambda n: now - 5_000 + n % 1000,
        )
        fill_tasks(
            DUE,
            seed="old",
            now=now,
            status="completed",
            completed_at=lambda n: now - 40 * DAY_MS + n,
        )
        fill_tasks(
            others // 2,
            seed="tomorrow",
            now=now,
            status="scheduled",
            available_at=lambda n: now + DAY_MS + n,
        )
        fill_tasks(
            others - others // 2,
            seed="done",
            now=now,
            status="completed",
            completed_at=lambda n: now - DAY_MS + n,
        )
        fill_history(completed_before=now - 30 * DAY_MS)
        execute("ANALYZE" if dialect().name == "sqlite" else "ANALYZE TABLE tasks")
        return {
            "requeue": _slices(lambda size: maintenance._requeue_slice(now, size)),
            "start due": _slices(lambda size: maintenance._start_slice(now, size)),
            "prune": _slices(
                lambda size: maintenance._prune_slice(now - 30 * DAY_MS, size, {}, now)
            ),
            "schedule": _schedules(now),
            "claim": _claims(now),
        }


def _slices(run: Callable[[int], int]) -> dict[str, float]:
    """As maintenance runs them, without its rests."""
    times: list[float] = []
    moved, rows = 0, maintenance.SLICE_ROWS
    watch = stopwatch()
    while done := run(rows):
        times.append(watch.read())
        moved += done
        rows = maintenance.next_slice_rows(rows, times[-1] / 1000)
    return _figures(times, moved)


def _schedules(now: int) -> dict[str, float]:
    """SCHEDULES schedules whose time has come, each making one task."""
    for number in range(SCHEDULES):
        definitions.create_schedule(
            {
                "name": f"schedule-{number}",
                "type": f"job.{number % TYPES}",
                "params": {},
                "interval_seconds": 60,
            },
            defaults=DEFAULTS,
            caller=OPERATOR,
            now=now - 120_000,
        )
    times = []
    watch = stopwatch()
    # A deadline in the past: one run a call.
    while runs.run_due_schedules(now=now, defaults=DEFAULTS, deadline=0):
        times.append(watch.read())
    return _figures(times, SCHEDULES)


def _claims(now: int) -> dict[str, float]:
    request = claim.ClaimRequest(worker_id="bench", order=claim_order(None, None))
    times = []
    watch = stopwatch()
    for _ in range(1_000):
        claim.claim_tasks(request, defaults=DEFAULTS, caller=OPERATOR, now=now)
        times.append(watch.read())
    return _figures(times, 1_000)


def _figures(times: list[float], moved: int) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=100)
    return {
        "tasks": moved,
        "tasks_per_second": moved / sum(times) * 1000,
        "median_ms": statistics.median(times),
        "p99_ms": cuts[98],
        "max_ms": max(times),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--engine", choices=ENGINES, action="append")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = {
        engine: measure(engine, max(arguments.rows, 4 * DUE))
        for engine in arguments.engine or ENGINES
    }
    if arguments.json:
        json.dump(figures, sys.stdout, indent=2)
        return
    print(f"{'':24}{'tasks':>9}{'tasks/s':>10}{'median':>10}{'p99':>10}{'longest':>10}")
    for engine, operations in figures.items():
        for operation, one in operations.items():
            print(
                f"{engine + ' ' + operation:24}{one['tasks']:>9.0f}{one['tasks_per_second']:>10.0f}"
                f"{one['median_ms']:>8.1f}ms{one['p99_ms']:>8.1f}ms{one['max_ms']:>8.1f}ms"
            )


if __name__ == "__main__":
    main()
