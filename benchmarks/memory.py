"""How much memory a server process has after 1,000 requests, and after many more.

    python -m benchmarks.memory [--requests 100000] [--engine sqlite|mariadb] [--json]

The product runs as `taskmanager serve` starts it. Of every ten requests two create a
task, two claim, two complete, one reads and one lists, and two are bad ones; what can
differ from request to request does: names of workers, patterns, cursors, keys, paths.
Printed are the means of the processes that serve, without the one that starts them:
RSS all of their memory, PSS with what they share divided among them, USS what is of
each alone.
"""

import argparse
import contextlib
import http.client
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.http_load import THREADS, WORKERS
from benchmarks.queues import ENGINES
from tests.support import mariadb
from tests.support.server import Server

FIRST = 1_000
CLIENTS = 8
TYPES = 20
ALLOWED = 1.1


class Client:
    """One connection that sends mixed requests; `number` keeps it apart from the others."""

    def __init__(self, server: Server, number: int) -> None:
        self._host = server.url.removeprefix("http://")
        self._key = server.key
        self._random = random.Random(number)
        self._name = f"client-{number}"
        self._sent = 0
        self._cursor = ""
        self._held: list[tuple[str, Any]] = []
        self.statuses: dict[int, int] = {}
        self._connection = http.client.HTTPConnection(self._host, timeout=60)

    def send(self, count: int) -> None:
        for _ in range(count):
            self._sent += 1
            getattr(self, f"_{MIXTURE[self._sent % len(MIXTURE)]}")(f"{self._name}.{self._sent}")

    def _call(self, method: str, path: str, body: Any = None, key: str = "") -> Any:
        headers = {"Content-Type": "application/json", "X-API-Key": key or self._key}
        text = body if isinstance(body, str) else json.dumps(body) if body is not None else None
        try:
            self._connection.request(method, path, text, headers)
            response = self._connection.getresponse()
        except ConnectionError:  # the server closes one that was idle, which sends nothing
            self._connection.close()
            self._connection.request(method, path, text, headers)
            response = self._connection.getresponse()
        self.statuses[response.status] = self.statuses.get(response.status, 0) + 1
        return json.loads(response.read()).get("data")

    def _type(self) -> str:
        return f"job.{self._random.randrange(TYPES)}"

    def _create(self, name: str) -> None:
        params = {"url": f"https://example.com/{name}", "text": "x" * self._random.randrange(2_000)}
        self._call("POST", "/api/tasks", {"type": self._type(), "params": params})

    def _claim(self, name: str) -> None:
        worker = f"worker-{name}"
        filters: list[dict[str, Any]] = [
            {"type": self._type()},
            {"task_types": list({self._type() for _ in range(5)})},
            {"type_pattern": f"job.{self._random.randrange(3)}%"},
            {},
        ]
        wanted = {"worker_id": worker, **self._random.choice(filters)}
        if task := self._call("POST", "/api/tasks/claim", wanted):
            self._held.append((worker, task))

    def _complete(self, name: str) -> None:
        if not self._held:
            return self._get(name)
        worker, task = self._held.pop()
        report = {
            "worker_id": worker,
            "claim_token": task["claim_token"],
            "success": True,
            "result": {"name": name},
        }
        return self._call("POST", f"/api/tasks/{task['id']}/complete", report)

    def _get(self, name: str) -> None:
        self._call("GET", f"/api/tasks/{self._random.randint(1, self._sent * 2)}")

    def _list(self, name: str) -> None:
        query = self._random.choice(
            (f"cursor={self._cursor}", f"type={self._type()}", "type=job.1%25", "status=completed")
        )
        page = self._call("GET", f"/api/tasks?limit={self._random.randint(1, 100)}&{query}")
        self._cursor = (page or {}).get("next_cursor") or ""

    def _bad(self, name: str) -> None:
        requests = (
            ("POST", "/api/tasks", {"type": f"none.{name}", "params": {}}),
            ("POST", "/api/tasks", {"type": self._type(), "params": {"url": self._sent}}),
            ("POST", "/api/tasks", '{"type": ' + name),
            ("POST", "/api/tasks/claim", {"worker_id": name, "type_pattern": f"{name}%"}),
            ("POST", "/api/tasks/1/complete", {"worker_id": name, "success": True, name: 1}),
            ("GET", f"/api/{name}"),
            ("GET", "/api/tasks", None, f"wrong-{name}"),
        )
        self._call(*self._random.choice(requests))  # type: ignore[arg-type]


MIXTURE = (*("create", "claim", "complete") * 2, "get", "list", "bad", "bad")


def measure(engine: str, requests: int) -> dict[str, Any]:
    """Number of requests → kilobytes of the processes, in the middle of all that serve."""
    with _served(engine) as server:
        clients = [Client(server, number) for number in range(CLIENTS)]
        found: dict[int, dict[str, float]] = {}
        sent = 0
        with ThreadPoolExecutor(CLIENTS) as pool:
            for until in sorted({FIRST, *(requests * part // 10 for part in (1, 3, 6, 10))}):
                share = (until - sent) // CLIENTS
                list(pool.map(lambda client, count=share: client.send(count), clients))
                found[until] = _memory(server)
                sent = until
                print(f"{engine}: {sent} requests: {found[until]}", file=sys.stderr)
        statuses: dict[int, int] = {}
        for client in clients:
            for status, count in client.statuses.items():
                statuses[status] = statuses.get(status, 0) + count
        return {"memory": found, "answers": dict(sorted(statuses.items()))}


@contextlib.contextmanager
def _served(engine: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        url = ""
        if engine == "mariadb":
            database = mariadb.MariaDB(folder)
            database.start()
            stack.callback(database.stop)
            url = database.create_database("benchmark")
        server = Server(folder, url, workers=WORKERS, threads=THREADS)
        stack.callback(server.stop)
        server.start()
        schema = {"type": "object", "properties": {"url": {"type": "string"}}}
        for number in range(TYPES):
            body = {"name": f"job.{number}", "version": "1", "param_schema": schema}
            server.call("POST", "/api/task-types/register", body)
        yield server


def _memory(server: Server) -> dict[str, float]:
    parent = server.process.pid if server.process else 0
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    totals = {"rss": 0, "pss": 0, "uss": 0}
    for child in children:
        for line in Path(f"/proc/{child}/smaps_rollup").read_text().splitlines()[1:]:
            name, kilobytes = line.split()[:2]
            for figure, names in FIGURES.items():
                totals[figure] += int(kilobytes) if name in names else 0
    return {figure: total / len(children) for figure, total in totals.items()}


FIGURES = {"rss": ("Rss:",), "pss": ("Pss:",), "uss": ("Private_Clean:", "Private_Dirty:")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--engine", choices=ENGINES, action="append")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = {
        engine: measure(engine, arguments.requests) for engine in arguments.engine or ENGINES
    }
    if arguments.json:
        json.dump(results, sys.stdout, indent=2)
        return
    print(f"{'':26}{'RSS':>18}{'PSS':>18}{'USS':>18}   (÷ after {FIRST})")
    for engine, found in results.items():
        first = found["memory"][FIRST]
        for requests, memory in found["memory"].items():
            line = f"{engine + f', {requests} requests':26}"
            for figure in FIGURES:
                ratio = memory[figure] / first[figure]
                mark = "*" if ratio > ALLOWED else " "
                line += f"{memory[figure] / 1024:>9.1f}MB {ratio:.2f}{mark}".rjust(18)
            print(line)
        print(f"{engine}: answers by status: {found['answers']}")
    print(f"* more than {ALLOWED}")


if __name__ == "__main__":
    main()
