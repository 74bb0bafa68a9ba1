"""Opens a queue for a benchmark and fills its tables without going through the services."""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from taskmanager.access.caller import OPERATOR
from taskmanager.bootstrap import open_database, prepare_database
from taskmanager.clock import utc_now
from taskmanager.config import load_settings
from taskmanager.db.connection import close_connection, database
from taskmanager.db.models import Task
from taskmanager.db.statements import fetch_all, insert_many
from taskmanager.queue import history, task_types
from tests.support import mariadb

ENGINES = ("sqlite", "mariadb")
TYPES = 10


@contextlib.contextmanager
def open_queue(engine: str, *, synchronous: str = "FULL") -> Iterator[str]:
    """An empty queue with ten task types, `job.0` to `job.9`; yields its database URL.

    MariaDB keeps what is in it in memory, as the system's cache does with an SQLite file.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = None
        url = f"sqlite:///{folder / 'queue.db'}"
        if engine == "mariadb":
            server = mariadb.MariaDB(folder, durable=True, buffer_pool="6G")
            server.start()
            url = server.create_database("benchmark")
        connect_queue(folder, url, synchronous=synchronous)
        try:
            yield url
        finally:
            close_connection()
            if server is not None:
                server.stop()


def connect_queue(folder: Path, url: str, *, synchronous: str = "FULL") -> None:
    """Opens the queue at `url` with ten task types, `job.0` to `job.9`; makes what is missing."""
    settings = load_settings(
        {"instance_path": folder, "database_url": url, "sqlite_synchronous": synchronous}
    )
    open_database(settings)
    prepare_database(settings)
    for number in range(TYPES):
        task_types.register_task_type(
            name=f"job.{number}",
            version="1",
            param_schema={"type": "object"},
            defaults={},
            now=utc_now(),
            caller=OPERATOR,
        )


def fill_tasks(count: int, *, seed: str, now: int, **columns: Any) -> None:
    """Inserts `count` tasks, spread over the ten types; `columns` override what they have.

    A column may be a function of the task's number. `seed` keeps the dedupe
    keys of several fillings apart.
    """
    template: dict[str, Any] = {
        "type_version": "1",
        "status": "pending",
        "params": '{"url":"https://example.com/","depth":3}',
        "attempts": 0,
        "max_attempts": 3,
        "dedupe": "forever",
        "available_at": now,
        "created_at": now,
        "updated_at": now,
        **columns,
    }
    names = [name for name in Task._meta.columns if name in template or name in _COMPUTED]
    for start in range(0, count, 10_000):
        rows = []
        for number in range(start, min(start + 10_000, count)):
            row = {
                name: value(number) if callable(value) else value
                for name, value in template.items()
            }
            row["task_type_id"] = number % TYPES + 1
            row["priority"] = row.get("priority", number % 5)
            row["claim_rank"] = -row["priority"]
            # Scattered like the hashes they stand for.
            row["dedupe_key"] = f"{(number * 0x9E3779B97F4A7C15) % 2**64:016x}{seed:0>48}"
            row["holds_key_forever"] = 1
            row["holds_key_while_open"] = None if "completed_at" in template else 1
            rows.append({name: row[name] for name in names})
        with database.atomic():
            insert_many("tasks", rows)


_COMPUTED = {
    *("task_type_id", "priority", "claim_rank", "dedupe_key", "holds_key_forever"),
    "holds_key_while_open",
}


def fill_history(*, completed_before: int) -> None:
    """Gives every task that was completed before then the three rows that its life would have."""
    done = fetch_all(
        "SELECT id, completed_at FROM tasks WHERE completed_at < ? ORDER BY id", (completed_before,)
    )
    for start in range(0, len(done), 10_000):
        events = [
            history.event_row(
                {"id": task["id"], "attempts": 1, "worker_id": "worker-1"},
                event,
                status=status,
                now=task["completed_at"],
            )
            for task in done[start : start + 10_000]
            for event, status in _LIFE
        ]
        with database.atomic():
            history.record_rows(events)


_LIFE = (("created", "pending"), ("claimed", "claimed"), ("completed", "completed"))


def figures_of(times: list[float]) -> dict[str, float]:
    """Median, 95th percentile and longest of some times in milliseconds, and how many they are."""
    times = sorted(times)
    return {
        "calls": len(times),
        "median_ms": statistics.median(times),
        "p95_ms": times[min(round(len(times) * 0.95), len(times) - 1)],
        "max_ms": times[-1],
    }


def measure_engines(
    documentation: str, measure: Callable[[str, int], dict[str, dict[str, float]]]
) -> None:
    """The command line of a benchmark that measures operations on a table of --rows tasks.

    `measure` is given engine and rows, and returns the figures of each operation.
    """
    parser = argparse.ArgumentParser(description=documentation.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--engine", choices=ENGINES, action="append")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = {engine: measure(engine, arguments.rows) for engine in arguments.engine or ENGINES}
    if arguments.json:
        json.dump(figures, sys.stdout, indent=2)
        return
    print(f"{arguments.rows:,} tasks{'':28}{'calls':>6}{'median':>11}{'p95':>11}{'longest':>11}")
    for engine, operations in figures.items():
        for operation, one in operations.items():
            print(
                f"{engine + ' ' + operation:40}{one['calls']:>6.0f}{one['median_ms']:>9.1f}ms"
                f"{one['p95_ms']:>9.1f}ms{one['max_ms']:>9.1f}ms"
            )


def stopwatch() -> "Stopwatch":
    return Stopwatch(time.perf_counter())


class Stopwatch:
    """Milliseconds since it was started or last read."""

    def __init__(self, started: float) -> None:
        self._started = started

    def read(self) -> float:
        now = time.perf_counter()
        elapsed, self._started = (now - self._started) * 1000, now
        return elapsed
