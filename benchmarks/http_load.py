"""Requests a second over HTTP, as ratios to the floor of the same run.

    python -m benchmarks.http_load [--rounds 5] [--seconds 3] [--json]

Needs wrk (Debian's package `wrk`) and mariadbd. In each round the floor (bare
Flask, the same JSON, no database) and the product, as shipped, on SQLite with
synchronous FULL and NORMAL and on MariaDB are measured one after the other: 2
gunicorn processes of 4 threads, 8 connections. Keys, validation and history
are on; the key has no rate limit of its own but each request is counted.
"""

import argparse
import contextlib
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests import mariadb
from tests.server import Server

CONNECTIONS = 8
WORKERS, THREADS = 2, 4
BATCH = 100
OPERATIONS = ("create", "claim", "complete", "empty poll")

SCRIPT = """
local bodies = {{}}
local paths = {{}}
for line in io.lines("{requests}") do
    local path, body = line:match("^(%S+) (.*)$")
    paths[#paths + 1] = path
    bodies[#bodies + 1] = body
end
local headers = {{["Content-Type"] = "application/json", ["X-API-Key"] = "{key}"}}
local next = 0
request = function()
    next = next + 1
    if next > #paths then
        next = 1
        if not {repeatable} then
            wrk.thread:stop()
        end
    end
    return wrk.format("POST", paths[next], headers, bodies[next])
end
done = function(summary, latency)
    io.write(string.format(
        "RESULT %d %d %d %d %d\\n", summary.requests, summary.duration, summary.errors.status,
        latency:percentile(50), latency:percentile(95)))
end
"""


def run_wrk(
    folder: Path, url: str, key: str, requests: list[str], seconds: int, *, repeatable: bool
) -> dict[str, Any]:
    """Sends `requests` (path, space, body) for `seconds`, or once each."""
    listed, script = folder / "requests", folder / "wrk.lua"
    listed.write_text("\n".join(requests) + "\n")
    script.write_text(SCRIPT.format(requests=listed, key=key, repeatable=str(repeatable).lower()))
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script), url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    line = next(line for line in output.splitlines() if line.startswith("RESULT"))
    count, microseconds, errors, p50, p95 = map(int, line.split()[1:])
    return {
        "per_second": count / microseconds * 1e6,
        "refused": errors,
        "p50_ms": p50 / 1000,
        "p95_ms": p95 / 1000,
    }


class Target:
    """One server under load."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self._made = 0

    url: str
    key = ""

    def create_requests(self, count: int) -> list[str]:
        requests = []
        for _ in range(count):
            self._made += 1
            body = {"type": "job", "params": {"url": f"https://example.com/{self._made}", "n": 3}}
            requests.append(f"/api/tasks {json.dumps(body)}")
        return requests

    def claim_requests(self, count: int) -> list[str]:
        body = json.dumps({"worker_id": "bench", "type": "job"})
        return [f"/api/tasks/claim {body}"] * count

    def complete_requests(self, count: int) -> list[str]:
        body = {"worker_id": "bench", "claim_token": "x" * 24, "success": True, "result": {"n": 1}}
        return [f"/api/tasks/{number}/complete {json.dumps(body)}" for number in range(1, count)]

    def empty_requests(self, count: int) -> list[str]:
        body = json.dumps({"worker_id": "bench", "type": "idle"})
        return [f"/api/tasks/claim {body}"] * count

    def measure(self, operation: str, seconds: int) -> dict[str, Any]:
        count = 4_000 * seconds
        requests = {
            "create": self.create_requests,
            "claim": self.claim_requests,
            "complete": self.complete_requests,
            "empty poll": self.empty_requests,
        }[operation](count)
        repeatable = operation == "empty poll" or not isinstance(self, Product)
        return run_wrk(self.folder, self.url, self.key, requests, seconds, repeatable=repeatable)


class Product(Target):
    """The product, with enough tasks laid in before each operation."""

    def __init__(self, folder: Path, name: str, server: Server) -> None:
        super().__init__(folder, name)
        self._server = server
        self.url = server.url
        self.key = server.key
        for type_name in ("job", "idle"):
            schema = {
                "type": "object",
                "properties": {"url": {"type": "string"}, "n": {"type": "integer"}},
                "required": ["url"],
                "additionalProperties": False,
            }
            body = {"name": type_name, "version": "1", "param_schema": schema}
            server.call("POST", "/api/task-types/register", body)

    def claim_requests(self, count: int) -> list[str]:
        wanted = count // 2
        for _ in range(0, wanted, 1_000):
            tasks = [json.loads(line.split(" ", 1)[1]) for line in self.create_requests(1_000)]
            self._server.call("POST", "/api/tasks/batch", {"tasks": tasks})
        return super().claim_requests(wanted)

    def complete_requests(self, count: int) -> list[str]:
        self.claim_requests(count)
        requests = []
        while len(requests) < count // 2:
            body = {"worker_id": "bench", "type": "job", "limit": BATCH}
            for task in self._server.call("POST", "/api/tasks/claim", body).data["tasks"]:
                report = {
                    "worker_id": "bench",
                    "claim_token": task["claim_token"],
                    "success": True,
                    "result": {"n": 1},
                }
                requests.append(f"/api/tasks/{task['id']}/complete {json.dumps(report)}")
        return requests

    def batch_gains(self) -> dict[str, float]:
        """Tasks a second in calls of 100 ÷ tasks a second in single calls, one client."""
        host, port = self.url.removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        headers = {"Content-Type": "application/json", "X-API-Key": self.key}

        def call(path: str, body: Any) -> Any:
            connection.request("POST", path, json.dumps(body), headers)
            return json.loads(connection.getresponse().read())["data"]

        def tasks(count: int) -> list[Any]:
            return [json.loads(line.split(" ", 1)[1]) for line in self.create_requests(count)]

        def timed(calls: list[tuple[str, Any]]) -> tuple[float, list[Any]]:
            started = time.perf_counter()
            answers = [call(path, body) for path, body in calls]
            return time.perf_counter() - started, answers

        def report(task: Any) -> dict[str, Any]:
            return {"claim_token": task["claim_token"], "success": True, "result": {"n": 1}}

        worker = {"worker_id": "bench"}
        wanted = {**worker, "type": "job"}
        gains = {}
        single, _ = timed([("/api/tasks", task) for task in tasks(2 * BATCH)])
        batched, _ = timed([("/api/tasks/batch", {"tasks": tasks(BATCH)}) for _ in range(4)])
        gains["create"] = (single / 2) / (batched / 4)
        single, claimed = timed([("/api/tasks/claim", wanted)] * (2 * BATCH))
        batched, lists = timed([("/api/tasks/claim", {**wanted, "limit": BATCH})] * 4)
        gains["claim"] = (single / 2) / (batched / 4)
        single, _ = timed(
            [(f"/api/tasks/{task['id']}/complete", {**worker, **report(task)}) for task in claimed]
        )
        batched, _ = timed(
            [
                (
                    "/api/tasks/complete",
                    {
                        **worker,
                        "completions": [
                            {"id": task["id"], **report(task)} for task in one["tasks"]
                        ],
                    },
                )
                for one in lists
            ]
        )
        gains["complete"] = (single / 2) / (batched / 4)
        connection.close()
        return gains


@contextlib.contextmanager
def targets(folder: Path) -> Iterator[list[Target]]:
    """The floor and the product on each database, all running."""
    with contextlib.ExitStack() as stack:
        floor = Target(folder, "floor")
        port = mariadb.free_port()
        floor.url = f"http://127.0.0.1:{port}"
        options = ["--workers", str(WORKERS), "--threads", str(THREADS), "--worker-class=gthread"]
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", *options, "--no-control-socket"),
                *("--log-level=error", "-b", f"127.0.0.1:{port}"),
                "benchmarks.floor:create_app()",
            ]
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        found: list[Target] = [floor]
        server = mariadb.MariaDB(_made(folder / "mariadb"), durable=True)
        server.start()
        stack.callback(server.stop)
        urls = {
            "SQLite FULL": ("", "FULL"),
            "SQLite NORMAL": ("", "NORMAL"),
            "MariaDB": (server.create_database("bench"), "FULL"),
        }
        for name, (url, synchronous) in urls.items():
            product = Server(_made(folder / name), url, workers=WORKERS, threads=THREADS)
            product.environment["TASKMANAGER_SQLITE_SYNCHRONOUS"] = synchronous
            product.environment["TASKMANAGER_RATE_LIMIT"] = "100000000/minute"
            stack.callback(product.stop)
            found.append(Product(folder, name, product.start()))
        yield found


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def measure(rounds: int, seconds: int) -> dict[str, Any]:
    """Per operation and target every round's figures and its ratio to that round's floor."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, targets(Path(name)) as all_targets:
        for round_number in range(rounds):
            for operation in OPERATIONS:
                floor = 0.0
                for target in all_targets:
                    figures = target.measure(operation, seconds)
                    if target.name == "floor":
                        floor = figures["per_second"]
                    figures["ratio"] = figures["per_second"] / floor
                    results.setdefault(operation, {}).setdefault(target.name, []).append(figures)
            for target in all_targets:
                if isinstance(target, Product):
                    for operation, gain in target.batch_gains().items():
                        key = f"batch of {BATCH}: {operation}"
                        results.setdefault(key, {}).setdefault(target.name, []).append(
                            {"ratio": gain}
                        )
            print(f"round {round_number + 1} of {rounds} done", file=sys.stderr)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = measure(arguments.rounds, arguments.seconds)
    if arguments.json:
        json.dump(results, sys.stdout, indent=2)
        return
    print(f"{'':36}{'ratio: median (lowest - highest)':>34}{'per second':>12}{'p95':>10}")
    for operation, by_target in results.items():
        for name, rounds in by_target.items():
            ratios = [one["ratio"] for one in rounds]
            line = f"{operation + ', ' + name:36}{statistics.median(ratios):>16.2f}"
            line += f" ({min(ratios):.2f} - {max(ratios):.2f})".rjust(18)
            if "per_second" in rounds[0]:
                line += f"{statistics.median(one['per_second'] for one in rounds):>12.0f}"
                line += f"{statistics.median(one['p95_ms'] for one in rounds):>8.1f}ms"
            print(line)


if __name__ == "__main__":
    main()
