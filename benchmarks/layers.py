"""Where the time of one request goes, layer by layer, in one process without a server around it.

    python -m benchmarks.layers [--requests 1000] [--engine sqlite|mariadb] [--json]

Calls the application as a server would, with a key whose requests are counted,
and times the functions in `layers()`, each without what it calls of the others.
What is left is Flask's: routing, context, hooks, the response. Reading the clock
costs about a microsecond a call, which is in the figures.
"""

import argparse
import functools
import json
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask import Flask
from werkzeug.test import EnvironBuilder, run_wsgi_app

from benchmarks.queues import ENGINES, open_queue
from taskmanager.access import keys
from taskmanager.access.caller import OPERATOR
from taskmanager.api import claims, rate_limits, requests, tasks
from taskmanager.app import create_app
from taskmanager.clock import utc_now
from taskmanager.db.connection import database
from taskmanager.params import validation

FLASK = "Flask: routing, context, hooks, response"
LAYERS = (
    *("key", "rate limit", "reading and checking the body", "validation of params"),
    *("the queue's own code", "SQL statements", "BEGIN and COMMIT", "serializing"),
)


def layers() -> dict[str, list[tuple[Any, str]]]:
    """Layer → its functions: where each is looked up, and its name. A queue must be open."""
    return {
        "key": [(keys, "authenticate")],
        "rate limit": [(rate_limits, "count_request")],
        "reading and checking the body": [(requests.RequestBody, "read")],
        "validation of params": [(validation, "check_params")],
        "the queue's own code": [
            (tasks, "create_task"),
            (claims, "claim_tasks"),
            (claims, "complete_task"),
        ],
        "SQL statements": [(database.obj, "execute_sql")],
        "BEGIN and COMMIT": [(database.obj, "begin"), (database.obj, "commit")],
        "serializing": [
            (tasks, "task_json"),
            (tasks, "success"),
            (claims, "claimed_task_json"),
            (claims, "_completed_json"),
            (claims, "success"),
        ],
    }


class Stopwatches:
    """Seconds by layer; a function that is called by another's stops the other's watch."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._running: list[str] = []
        self._since = 0.0

    def switch(self) -> None:
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

    @contextmanager
    def timing(self, layer: str) -> Iterator[None]:
        self.switch()
        self._running.append(layer)
        try:
            yield
        finally:
            self.switch()
            self._running.pop()

    def watch(self, layer: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*values: Any, **options: Any) -> Any:
            with self.timing(layer):
                return function(*values, **options)

        return timed


def measure(engine: str, synchronous: str, count: int) -> dict[str, dict[str, float]]:
    """Operation → layer → microseconds a request."""
    with (
        open_queue(engine, synchronous=synchronous) as url,
        tempfile.TemporaryDirectory() as folder,
    ):
        app = create_app(
            {
                "database_url": url,
                "instance_path": Path(folder),
                "sqlite_synchronous": synchronous,
                "rate_limit": "9999999",
            }
        )
        _, key = keys.create_key(
            name="bench", scopes=keys.ROLES["admin"], now=utc_now(), caller=OPERATOR
        )
        watches = Stopwatches()
        watched = Watched(app, key, watches)
        for layer, functions in layers().items():
            for owner, name in functions:
                setattr(owner, name, watches.watch(layer, getattr(owner, name)))
        claimed: list[Any] = []
        operations: dict[str, Callable[[int], Any]] = {
            "create": lambda n: watched.call("/api/tasks", {"type": "job.1", "params": {"n": n}}),
            "claim": lambda n: claimed.append(
                watched.call("/api/tasks/claim", {"worker_id": "bench", "type": "job.1"})
            ),
            "complete": lambda n: watched.call(
                f"/api/tasks/{claimed[n]['id']}/complete",
                {
                    "worker_id": "bench",
                    "claim_token": claimed[n]["claim_token"],
                    "success": True,
                    "result": {"n": n},
                },
            ),
            "empty poll": lambda n: watched.call(
                "/api/tasks/claim", {"worker_id": "bench", "type": "job.2"}
            ),
        }
        found = {}
        for name, operation in operations.items():
            watches.seconds.clear()
            for number in range(count):
                operation(number)
            found[name] = {
                layer: seconds / count * 1e6 for layer, seconds in watches.seconds.items()
            }
        return found


class Watched:
    """The application, called as a server calls it."""

    def __init__(self, app: Flask, key: str, watches: Stopwatches) -> None:
        self._app = app
        self._key = key
        self._watches = watches

    def call(self, path: str, body: Any) -> Any:
        """The data of the answer; the time until it is there counts, and is Flask's by default."""
        environ = EnvironBuilder(
            path, method="POST", json=body, headers={"X-API-Key": self._key}
        ).get_environ()
        with self._watches.timing(FLASK):
            chunks, _, _ = run_wsgi_app(self._app, environ)
            content = b"".join(chunks)
        return json.loads(content).get("data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1_000)
    parser.add_argument("--engine", choices=ENGINES, action="append")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    wanted = [
        (engine, synchronous)
        for engine in arguments.engine or ENGINES
        for synchronous in (("FULL", "NORMAL") if engine == "sqlite" else ("FULL",))
    ]
    figures = {}
    for engine, synchronous in wanted:
        # In a process of its own: what is watched stays so.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            label = f"{engine} {synchronous}" if engine == "sqlite" else engine
            figures[label] = pool.submit(measure, engine, synchronous, arguments.requests).result()
    if arguments.json:
        json.dump(figures, sys.stdout, indent=2)
        return
    for name, operations in figures.items():
        print(f"{name + ', microseconds':44}" + "".join(f"{one:>12}" for one in operations))
        for layer in (*LAYERS, FLASK):
            times = [operation.get(layer, 0.0) for operation in operations.values()]
            print(f"  {layer:42}" + "".join(f"{time:>12.0f}" for time in times))
        totals = [sum(operation.values()) for operation in operations.values()]
        print(f"  {'total':42}" + "".join(f"{total:>12.0f}" for total in totals))


if __name__ == "__main__":
    main()
