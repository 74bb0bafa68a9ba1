"""Requests a second over HTTP, as ratios to the floor of the same run.

    python -m benchmarks.http_load [--rounds 5] [--seconds 3] [--json] [--at-least 0.5]
        [--against CHECKOUT] [--only MariaDB] [--operation claim] [--connections 8]

Needs wrk (Debian's package `wrk`) and mariadbd. In each round the floors (bare
Flask, the same JSON, no database) and the product on SQLite with synchronous
FULL and NORMAL and on MariaDB, which waits for the disk at every commit too,
are measured one after the other, with 8 connections of 8 workers. The settings
are the shipped ones, the rate limit of 1000 a minute included: the load is
spread over as many keys as that takes.
The floor of the targets is two gunicorn workers, as gunicorn starts them. The
other one has as many processes and threads as `taskmanager serve` starts, and
keeps its connections open.

With `--at-least` the exit status is 1 where the best round of an operation
stays below that part of its target. With `--against` the product of another
checkout (with its requirements in `.venv`) takes part in every round, and the
ratio of the two is printed: the median, and the interval that holds the true
median with a probability of 95 %. `--only` measures one database alone,
`--operation` one operation.
"""

import argparse
import contextlib
import http.client
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from taskmanager.cli.server import serve
from tests.support import mariadb
from tests.support.ports import free_port
from tests.support.server import Server


def serve_default(option: str) -> int:
    """What `taskmanager serve` does unless told otherwise."""
    return next(int(one.default) for one in serve.params if one.name == option)


CONNECTIONS = 8
WORKERS, THREADS = serve_default("workers"), serve_default("threads")
KEYS = 60  # of 1000 requests a minute each
BATCH = 100
MOST_PER_SECOND = 4_000  # no target here has been seen to take more single requests
# Ratios to the floor; for batches, to single calls.
TARGETS = {
    **dict.fromkeys(("create", "claim", "complete"), (0.25, 0.40, 0.25)),
    "empty poll": (0.55, 0.55, 0.55),
    **{
        f"batch of {BATCH}: {operation}": (8.0, 8.0, 8.0)
        for operation in ("create", "claim", "complete")
    },
}
FLOOR, STRICTER_FLOOR = "floor", "stricter floor"
FLOORS = {
    FLOOR: ("--workers=2",),
    STRICTER_FLOOR: (f"--workers={WORKERS}", f"--threads={THREADS}", "--reuse-port"),
}
OTHER = "other checkout, "
DATABASES = ("SQLite FULL", "SQLite NORMAL", "MariaDB")
OPERATIONS = ("create", "claim", "complete", "empty poll")

SCRIPT = """
local bodies = {{}}
local paths = {{}}
for line in io.lines("{requests}") do
    local path, body = line:match("^(%S+) (.*)$")
    paths[#paths + 1] = path
    bodies[#bodies + 1] = body
end
local headers = {{}}
for key in ("{keys}"):gmatch("%S+") do
    headers[#headers + 1] = {{["Content-Type"] = "application/json", ["X-API-Key"] = key}}
end
local next, sent = 0, 0
request = function()
    next = next + 1
    if next > #paths then
        next = 1
        if not {repeatable} then
            wrk.thread:stop()
        end
    end
    sent = sent + 1
    return wrk.format("POST", paths[next], headers[sent % #headers + 1], bodies[next])
end
done = function(summary, latency)
    io.write(string.format(
        "RESULT %d %d %d %d %d %d\\n", summary.requests, summary.duration, summary.errors.status,
        summary.errors.connect + summary.errors.read + summary.errors.write
        + summary.errors.timeout, latency:percentile(50), latency:percentile(95)))
end
"""


def run_wrk(
    folder: Path,
    url: str,
    keys: Sequence[str],
    requests: list[str],
    seconds: int,
    *,
    repeatable: bool,
    connections: int = CONNECTIONS,
) -> dict[str, Any]:
    """Sends `requests` (path, space, body) for `seconds`, or once each."""
    listed, script = folder / "requests", folder / "wrk.lua"
    listed.write_text("\n".join(requests) + "\n")
    script.write_text(
        SCRIPT.format(requests=listed, keys=" ".join(keys), repeatable=str(repeatable).lower())
    )
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    line = next(line for line in output.splitlines() if line.startswith("RESULT"))
    count, microseconds, refused, broken, p50, p95 = map(int, line.split()[1:])
    if broken:
        raise SystemExit(f"{url}: {broken} requests were not answered")
    return {
        "per_second": count / microseconds * 1e6,
        "answers": count,
        "refused": refused,
        "p50_ms": p50 / 1000,
        "p95_ms": p95 / 1000,
    }


class Target:
    """One server under load."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self._made = 0

    url: str
    keys: tuple[str, ...] = ("none",)

    def create_requests(self, count: int) -> list[str]:
        requests = []
        for _ in range(count):
            self._made += 1
            body = {"type": "job", "params": {"url": f"https://example.com/{self._made}", "n": 3}}
            requests.append(f"/api/tasks {json.dumps(body)}")
        return requests

    def claim_requests(self, count: int, workers: int = CONNECTIONS) -> list[str]:
        return self._polls("job", count, workers)

    def complete_requests(self, count: int) -> list[str]:
        body = {"worker_id": "bench", "claim_token": "x" * 24, "success": True, "result": {"n": 1}}
        return [f"/api/tasks/{number}/complete {json.dumps(body)}" for number in range(1, count)]

    def empty_requests(self, count: int) -> list[str]:
        return self._polls("idle", count, CONNECTIONS)

    def _polls(self, type_name: str, count: int, workers: int) -> list[str]:
        bodies = [
            json.dumps({"worker_id": f"bench-{number}", "type": type_name})
            for number in range(workers)
        ]
        return [f"/api/tasks/claim {bodies[number % workers]}" for number in range(count)]

    def measure(self, operation: str, seconds: int, connections: int) -> dict[str, Any]:
        count = MOST_PER_SECOND * seconds
        requests = {
            "create": self.create_requests,
            "claim": self.claim_requests,
            "complete": self.complete_requests,
            "empty poll": self.empty_requests,
        }[operation](count)
        repeatable = operation == "empty poll" or not isinstance(self, Product)
        os.sync()  # what was written before, by the others too, is not this one's to wait for
        figures = run_wrk(
            self.folder,
            self.url,
            self.keys,
            requests,
            seconds,
            repeatable=repeatable,
            connections=connections,
        )
        if figures["refused"] != self.refusals_of(operation, figures["answers"]):
            raise SystemExit(f"{self.name}, {operation}: not the answers it should give: {figures}")
        return figures

    def refusals_of(self, operation: str, answers: int) -> int:
        """How many of so many answers must have a status of 400 and more."""
        return 0


class Product(Target):
    """The product, with enough tasks laid in before each operation."""

    def __init__(self, folder: Path, name: str, server: Server) -> None:
        super().__init__(folder, name)
        self._server = server
        self.url = server.url
        of_key = {"name": "bench", "role": "admin"}
        answers = [server.call("POST", "/api/admin/keys", of_key) for _ in range(KEYS)]
        self.keys = tuple(answer.data["key"] for answer in answers)
        for type_name in ("job", "idle"):
            schema = {
                "type": "object",
                "properties": {"url": {"type": "string"}, "n": {"type": "integer"}},
                "required": ["url"],
                "additionalProperties": False,
            }
            body = {"name": type_name, "version": "1", "param_schema": schema}
            server.call("POST", "/api/task-types/register", body)

    def refusals_of(self, operation: str, answers: int) -> int:
        if operation != "empty poll":
            return 0
        answer = self._server.call("POST", "/api/tasks/claim", {"worker_id": "b", "type": "idle"})
        if answer.body.get("code") != "no_task_available":
            raise SystemExit(f"{self.name}: an empty poll is answered with {answer}")
        return answers  # all of them, and this one shows which they are

    def claim_requests(self, count: int, workers: int = CONNECTIONS) -> list[str]:
        for _ in range(0, count, 1_000):
            tasks = [json.loads(line.split(" ", 1)[1]) for line in self.create_requests(1_000)]
            self._server.call("POST", "/api/tasks/batch", {"tasks": tasks})
        return super().claim_requests(count, workers)

    def complete_requests(self, count: int) -> list[str]:
        self.claim_requests(count)
        requests = []
        while len(requests) < count:
            worker = f"bench-{len(requests) // BATCH % CONNECTIONS}"
            body = {"worker_id": worker, "type": "job", "limit": BATCH}
            for task in self._server.call("POST", "/api/tasks/claim", body).data["tasks"]:
                report = {
                    "worker_id": worker,
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
        headers = {"Content-Type": "application/json", "X-API-Key": self._server.key}

        def call(path: str, body: Any) -> Any:
            connection.request("POST", path, json.dumps(body), headers)
            data = json.loads(connection.getresponse().read())["data"]
            if data.get("count", BATCH) != BATCH or data.get("failed"):
                raise SystemExit(f"{self.name}: {path} did not do all that was asked: {data}")
            return data

        def tasks(count: int) -> list[Any]:
            return [json.loads(line.split(" ", 1)[1]) for line in self.create_requests(count)]

        def timed(calls: list[tuple[str, Any]]) -> tuple[float, list[Any]]:
            started = time.perf_counter()
            answers = [call(path, body) for path, body in calls]
            return time.perf_counter() - started, answers

        def report(task: Any) -> dict[str, Any]:
            result = {"n": task["id"]}
            return {"claim_token": task["claim_token"], "success": True, "result": result}

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
def targets(
    folder: Path, against: Path | None = None, only: Sequence[str] = DATABASES
) -> Iterator[list[Target]]:
    """The floors and the product on each database, all running; also that of another checkout."""
    with contextlib.ExitStack() as stack:
        found: list[Target] = []
        found += [stack.enter_context(_floor(folder, *floor)) for floor in FLOORS.items()]
        found += stack.enter_context(products(folder, only=only))
        if against is not None:
            found += stack.enter_context(products(_made(folder / "other"), against, only))
        yield found


@contextlib.contextmanager
def _floor(folder: Path, name: str, options: tuple[str, ...]) -> Iterator[Target]:
    floor = Target(folder, name)
    with bare_flask(*options) as (_, port):
        floor.url = f"http://127.0.0.1:{port}"
        yield floor


@contextlib.contextmanager
def bare_flask(*options: str) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """benchmarks/floor.py under gunicorn with `options`: its first process and its port."""
    port = free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "gunicorn", *options, "--no-control-socket"),
            *("--log-level=error", f"--bind=127.0.0.1:{port}", "benchmarks.floor:create_app()"),
        ]
    )
    try:
        yield process, port
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def products(
    folder: Path, checkout: Path | None = None, only: Sequence[str] = DATABASES
) -> Iterator[list["Product"]]:
    """The product as it is served, on each database; that of `checkout` is called OTHER."""
    prefix = "" if checkout is None else OTHER
    with contextlib.ExitStack() as stack:
        found: list[Product] = []
        database = mariadb.MariaDB(_made(folder / "mariadb"), durable=True)
        database.start()
        stack.callback(database.stop)
        by_socket = f"{database.create_database('bench')}?unix_socket={database.folder / 's'}"
        urls = (("", "FULL"), ("", "NORMAL"), (by_socket, "FULL"))
        for name, (url, synchronous) in zip(DATABASES, urls, strict=True):
            if name not in only:
                continue
            of_product = _made(folder / name)
            server = Server(of_product, url, workers=WORKERS, threads=THREADS, checkout=checkout)
            server.environment["TASKMANAGER_SQLITE_SYNCHRONOUS"] = synchronous
            stack.callback(server.stop)
            found.append(Product(of_product, prefix + name, server.start()))
        yield found


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def measure(
    rounds: int,
    seconds: int,
    against: Path | None = None,
    only: Sequence[str] = DATABASES,
    connections: int = CONNECTIONS,
    operations: Sequence[str] = OPERATIONS,
) -> dict[str, Any]:
    """Per operation and target every round's figures and its ratios to that round's floors."""
    results: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        targets(Path(folder), against, only) as all_targets,
    ):
        for round_number in range(rounds):
            all_targets.reverse()  # so that none is always the first
            for operation in operations:
                round_ = {
                    one.name: one.measure(operation, seconds, connections) for one in all_targets
                }
                for name, figures in round_.items():
                    per_second = figures["per_second"]
                    figures["ratio"] = per_second / round_[FLOOR]["per_second"]
                    figures["stricter_ratio"] = per_second / round_[STRICTER_FLOOR]["per_second"]
                    if OTHER + name in round_:
                        # A machine that stands still for a second lets nothing be answered.
                        other = round_[OTHER + name]["per_second"]
                        figures["to_other"] = per_second / other if other else math.inf
                    results.setdefault(operation, {}).setdefault(name, []).append(figures)
            for target in all_targets:
                if isinstance(target, Product) and against is None:
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
    parser.add_argument("--at-least", type=float, default=0.0, metavar="PART")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT")
    parser.add_argument("--only", choices=DATABASES)
    parser.add_argument("--operation", choices=OPERATIONS)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    arguments = parser.parse_args()
    only = [arguments.only] if arguments.only else DATABASES
    operations = [arguments.operation] if arguments.operation else OPERATIONS
    results = measure(
        arguments.rounds,
        arguments.seconds,
        arguments.against,
        only,
        arguments.connections,
        operations,
    )
    if arguments.json:
        json.dump(results, sys.stdout, indent=2)
    else:
        print_table(results)
    missed = below_targets(results, arguments.at_least)
    if missed:
        sys.exit("\n".join(missed))


def below_targets(results: dict[str, Any], part: float) -> list[str]:
    """What stays below that part of its target in every round; the best one counts.

    A busy machine makes a round slower, never faster.
    """
    missed = []
    for operation, targets in TARGETS.items():
        for name, target in zip(DATABASES, targets, strict=True):
            if name not in results.get(operation, {}):
                continue
            best = max(one["ratio"] for one in results[operation][name])
            if best < part * target:
                missed.append(f"{operation}, {name}: {best:.2f}, below {part} of {target}")
    return missed


def print_table(results: dict[str, Any]) -> None:
    print(
        f"{'median (lowest - highest)':34}{'ratio to floor':>22}{'to the stricter one':>22}", end=""
    )
    print(f"{'per second':>12}{'p95':>10}")
    for operation, by_target in results.items():
        for name, rounds in by_target.items():
            line = f"{operation + ', ' + name:34}{_spread(rounds, 'ratio'):>22}"
            if "per_second" in rounds[0]:
                line += f"{_spread(rounds, 'stricter_ratio'):>22}"
                line += f"{statistics.median(one['per_second'] for one in rounds):>12.0f}"
                line += f"{statistics.median(one['p95_ms'] for one in rounds):>8.1f}ms"
            if "to_other" in rounds[0]:
                line += f"  to the other checkout {_spread(rounds, 'to_other')}"
                low, high = interval_of_median([one["to_other"] for one in rounds])
                line += f", 95 %: {low:.2f} - {high:.2f}"
            print(line)


def interval_of_median(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % confidence interval of the median, from the order of the values alone.

    Each value is as likely to lie above the true median as below it, so the number below it
    has the binomial distribution. Of five values and fewer, the interval is their whole spread.
    """
    ordered, count = sorted(values), len(values)
    left_out, probability = 0, 0.5**count
    while probability <= 0.025 and left_out < count // 2:
        left_out += 1
        probability += math.comb(count, left_out) * 0.5**count
    edge = max(left_out - 1, 0)
    return ordered[edge], ordered[-1 - edge]


def _spread(rounds: list[dict[str, Any]], figure: str) -> str:
    values = [one[figure] for one in rounds]
    return f"{statistics.median(values):.2f} ({min(values):.2f} - {max(values):.2f})"


if __name__ == "__main__":
    main()
