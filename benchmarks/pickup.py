"""How long a task waits for a worker that waits for it.

    python -m benchmarks.pickup [--tasks 200] [--workers 1 8 32] [--only SQLite]

Starts `taskmanager serve` with its defaults, on SQLite with synchronous FULL and on MariaDB. With
`--only Galera` it is on a cluster of three nodes: once with the workers at the same server, and
once with them at another one, as on a second host.

So many workers claim with `wait_seconds`, each over a connection of its own. A producer creates one
task at a time, a tenth of a second apart. Printed is the time from the answer of its creation to
the answer of the claim (both seen by one process), and from the request of its creation, which
includes the COMMIT. The last column is the processor time that the server takes while all workers
wait and nothing is created.
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
from tests.support import galera, mariadb
from tests.support.server import Server, hosts

PAUSE_SECONDS = 0.1
IDLE_SECONDS = 10
TARGET_MS = 50
OTHER_HOST = "Galera, the workers at another host"


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
def databases(only: str | None) -> Iterator[dict[str, str]]:
    """A database for each engine, by its name."""
    with contextlib.ExitStack() as stack:
        found = {}
        if only in (None, "SQLite"):
            found["SQLite"] = ""
        if only in (None, "MariaDB"):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            database = mariadb.MariaDB(folder, durable=True)
            database.start()
            stack.callback(database.stop)
            found["MariaDB"] = database.create_database("pickup")
        if only == "Galera":
            cluster = stack.enter_context(galera.running())
            for name in ("Galera", OTHER_HOST):
                found[name] = cluster.create_database(f"pickup{len(found)}")
        yield found


def measure(server: Server, of_workers: Server, workers: int, tasks: int) -> None:
    picked: dict[int, float] = {}
    for number in range(workers):
        Worker(of_workers, number, picked).start()
    time.sleep(2)
    before = processor_seconds(of_workers)
    time.sleep(IDLE_SECONDS)
    idle = (processor_seconds(of_workers) - before) / IDLE_SECONDS
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
    parser.add_argument("--only", choices=["SQLite", "MariaDB", "Galera"])
    options = parser.parse_args()
    with databases(options.only) as engines:
        for name, url in engines.items():
            print(f"{name}: from the answer, and from the request, of a creation; ms")
            print(" workers     p50     p95     p50     p95  idle, of a core")
            for workers in options.workers:
                count = 2 if name == OTHER_HOST else 1
                with hosts(count, url, workers=WORKERS, threads=THREADS) as servers:
                    time.sleep(2)  # until all their processes are there
                    body = {"name": "pickup", "version": "1", "param_schema": {}}
                    servers[0].call("POST", "/api/task-types/register", body)
                    measure(servers[0], servers[-1], workers, options.tasks)
    print(f"The target for the median is {TARGET_MS} ms.")


if __name__ == "__main__":
    main()
