"""Processor time of a request in the application itself, without sockets: against another checkout.

    python -m benchmarks.cpu --against CHECKOUT [--rounds 15] [--engine sqlite|mariadb] [--json]

Each checkout (with its requirements in `.venv`) runs in a process of its own, on a database of its
own. They take turns: in each round 300 tasks are created, claimed and completed, and an empty queue
is asked 300 times. What counts is the processor time of that process alone, so other load on the
machine, the disk and the database server matter little. The ratio is that of the other checkout to
this one: more than 1 means that this one needs less.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

CALLS = 300
KEY = "tm_" + "a" * 43
ENGINES = ("sqlite", "mariadb")
HERE = Path(__file__).resolve().parent.parent
# This very file, whatever the checkout has of its name.
SERVE = f"import runpy; runpy.run_path({__file__!r})['serve_rounds']()"


class Application:
    """The application of the checkout that this process imports from."""

    def __init__(self) -> None:
        from taskmanager.app import create_app

        self._app = create_app()
        self._made = 0
        schema = {"name": "job", "version": "1", "param_schema": {"type": "object"}}
        self._call("/api/task-types/register", schema)
        self.round()

    def round(self) -> dict[str, float]:
        """Microseconds of processor time a call, by operation."""
        claimed: list[Any] = []
        operations = {
            "create": lambda _: self._create(),
            "claim": lambda _: claimed.append(self._claim()),
            "complete": lambda n: self._complete(claimed[n]),
            "empty poll": lambda _: self._claim(),
        }
        return {name: _microseconds(call) for name, call in operations.items()}

    def _create(self) -> None:
        self._made += 1
        self._call("/api/tasks", {"type": "job", "params": {"n": self._made}})

    def _claim(self) -> Any:
        return self._call("/api/tasks/claim", {"worker_id": "w", "type": "job"}).get("data")

    def _complete(self, task: Any) -> None:
        report = {"claim_token": task["claim_token"], "success": True, "result": {"n": 1}}
        self._call(f"/api/tasks/{task['id']}/complete", {"worker_id": "w", **report})

    def _call(self, path: str, body: Any) -> Any:
        content = json.dumps(body).encode()
        environ = {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": path,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(content)),
            "HTTP_HOST": "localhost",
            "HTTP_X_API_KEY": KEY,
            "REMOTE_ADDR": "127.0.0.1",
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(content),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
        }
        answer = self._app(environ, lambda *_: lambda _: None)
        return json.loads(b"".join(answer))


def _microseconds(call: Any) -> float:
    started = time.process_time()
    for number in range(CALLS):
        call(number)
    return (time.process_time() - started) / CALLS * 1e6


def serve_rounds() -> None:
    """Measures a round for each line of stdin."""
    application = Application()
    for _ in sys.stdin:
        print(json.dumps(application.round()), flush=True)


class Contestant:
    """The process of one checkout."""

    def __init__(self, checkout: Path, folder: Path, url: str) -> None:
        folder.mkdir()
        environment = {
            "TASKMANAGER_INSTANCE_PATH": str(folder),
            "TASKMANAGER_DATABASE_URL": url,
            "TASKMANAGER_BOOTSTRAP_ADMIN_KEY": KEY,
            "TASKMANAGER_RATE_LIMIT": "0",
        }
        self._process = subprocess.Popen(
            [checkout / ".venv/bin/python", "-c", SERVE],
            cwd=checkout,  # which Python looks into first
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def round(self) -> dict[str, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        figures: dict[str, float] = json.loads(self._process.stdout.readline())
        return figures

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def measure(engine: str, other: Path, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """By operation, of each round: microseconds of this checkout and of the other."""
    from tests.support import mariadb

    with TemporaryDirectory() as folder:
        place = Path(folder)
        server = None
        if engine == "mariadb":
            server = mariadb.MariaDB(place)
            server.start()
        contestants = []
        try:
            for name, checkout in (("this", HERE), ("other", other)):
                url = (
                    f"sqlite:///{place / name}.db"
                    if server is None
                    else server.create_database(name)
                )
                contestants.append(Contestant(checkout, place / name, url))
            this, that = contestants
            pairs = [(this.round(), that.round()) for _ in range(rounds)]
        finally:
            for one in contestants:
                one.close()
            if server is not None:
                server.stop()
    return {name: [(a[name], b[name]) for a, b in pairs] for name in pairs[0][0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--engine", choices=ENGINES)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    engines = [arguments.engine] if arguments.engine else ENGINES
    results = {
        engine: measure(engine, arguments.against.resolve(), arguments.rounds) for engine in engines
    }
    if arguments.json:
        json.dump(results, sys.stdout, indent=2)
        return
    print(f"{'':22}{'this':>10}{'other':>10}   other ÷ this: median (lowest - highest)")
    for engine, operations in results.items():
        for operation, pairs in operations.items():
            this, that = (statistics.median(one) for one in zip(*pairs, strict=True))
            ratios = sorted(other / ours for ours, other in pairs)
            print(
                f"{engine:8} {operation:13}{this:>7.0f} µs{that:>7.0f} µs   "
                f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} - {ratios[-1]:.2f})"
            )


if __name__ == "__main__":
    main()
