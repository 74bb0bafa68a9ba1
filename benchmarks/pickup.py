"""How long a task waits for a worker that waits for it.

    python -m benchmarks.pickup [--tasks 200] [--workers 1 8 32] [--only SQLite]

Starts `taskmanager serve` with its defaults, on SQLite with synchronous FULL and on MariaDB.
So many workers claim with `wait_seconds`, each over a connection of its own. A producer
creates one task at a time, a tenth of a second apart. Printed is the time from the answer of its
creation to the answer of the claim (both seen by one process), and from the request of its
creation, which includes the COMMIT. The last column is the processor time that the server takes
while all workers wait and nothing is created.
"""

import argparse
import contextlib
import http.client
import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.http_load import THREADS, WORKERS
from tests.support import mariadb
from tests.support.server import Server

PAUSE_SECONDS = 0.1
IDLE_SECONDS = 10
TARGET_MS = 50


class Worker(threading.Thread):
    """Claims one task after the other, and notes when each claim was answered."""

    def __init__(self, server: Server, number: int, picked: dict[int, float]) -> None:
        super().__init__(daemon=True)
        self._server, self._name, self._picked = server, f"worker-{number}", picked

    def run(self) -> None:
        body = json.dumps({"worker_id": self._name, "wait_seconds": 20, "type": "pickup"})
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=60)
            while True:
                status, data = call(connection, self._server, "POST", "/api/tasks/claim", body)
                at = time.monotonic()
                if status == 200:
                    self._picked[data["id"]] = at


def call(
    connection: http.client.HTTPConnection, server: Server, method: str, path: str, body: str
) -> tuple[int, Any]:
    headers = {"X-API-Key": server.key, "Content-Type": "application/json"}
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = json.load(answer)
    return answer.status, content.get("data")


@contextlib.contextmanager
def servers(only: str | None) -> Iterator[list[tuple[str, str]]]:
    """Name and database of each engine."""
    with contextlib.ExitStack() as stack:
        found = [("SQLite", "")]
        if mariadb.is_installed() and only != "SQLite":
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            database = mariadb.MariaDB(folder, durable=True)
            database.start()
            stack.callback(database.stop)
            found.append(("MariaDB", database.create_database("pickup")))
        yield [one for one in found if only in (None, one[0])]


def measure(server: Server, workers: int, tasks: int) -> None:
    picked: dict[int, float] = {}
    for number in range(workers):
        Worker(server, number, picked).start()
    time.sleep(2)
    before = processor_seconds(server)
    time.sleep(IDLE_SECONDS)
    idle = (processor_seconds(server) - before) / IDLE_SECONDS
    asked, answered = create(server, tasks)
    time.sleep(1)
    if missing := answered.keys() - picked.keys():
        print(f"{len(missing)} tasks were not picked up")
    since_answer = [max(0.0, picked[one] - answered[one]) for one in answered if one in picked]
    since_request = [picked[one] - asked[one] for one in answered if one in picked]
    figures = [f"{figure:7.1f}" for figure in (*spread(since_answer), *spread(since_request))]
    print(f"{workers:8} {' '.join(figures)} {idle * 100:9.1f} %", flush=True)


def create(server: Server, tasks: int) -> tuple[dict[int, float], dict[int, float]]:
    """When each task was asked for, and when its creation was answered."""
    asked, answered = {}, {}
    body = json.dumps({"type": "pickup", "params": {}, "dedupe": "none"})
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    for _ in range(tasks):
        began = time.monotonic()
        _, task = call(connection, server, "POST", "/api/tasks", body)
        asked[task["id"]], answered[task["id"]] = began, time.monotonic()
        time.sleep(PAUSE_SECONDS)
    connection.close()
    return asked, answered


def spread(seconds: list[float]) -> tuple[float, float]:
    """Median and 95th percentile, in milliseconds."""
    return statistics.median(seconds) * 1000, statistics.quantiles(seconds, n=20)[-1] * 1000


def processor_seconds(server: Server) -> float:
    """Of all its processes since they began."""
    assert server.process is not None
    group = os.getpgid(server.process.pid)
    listed = subprocess.run(["pgrep", "-g", str(group)], capture_output=True, text=True, check=True)
    ticks = 0
    for pid in listed.stdout.split():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--only", choices=["SQLite", "MariaDB"])
    options = parser.parse_args()
    with servers(options.only) as engines:
        for name, url in engines:
            print(f"{name}: from the answer, and from the request, of a creation; ms")
            print(" workers     p50     p95     p50     p95  idle, of a core")
            for workers in options.workers:
                with tempfile.TemporaryDirectory() as folder:
                    server = Server(Path(folder), url, workers=WORKERS, threads=THREADS).start()
                    try:
                        time.sleep(2)  # until all its processes are there
                        body = {"name": "pickup", "version": "1", "param_schema": {}}
                        server.call("POST", "/api/task-types/register", body)
                        measure(server, workers, options.tasks)
                    finally:
                        server.stop()
    print(f"The target for the median is {TARGET_MS} ms.")


if __name__ == "__main__":
    main()
