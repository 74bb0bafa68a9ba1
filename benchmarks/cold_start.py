"""How long a process takes to its first answer under Passenger, and how much memory it keeps.

    python -m benchmarks.cold_start [--rounds 9] [--requests 1000] [--json] [--check]

Needs Apache with Passenger and mariadbd. Passenger starts a process when a
request comes and ends it when none has come for a while; here it ends after a
second. In each round a bare Flask application, the product on SQLite and the
product on MariaDB are asked in turn, each when its process has gone, so that
the request waits for a new one. The product is asked twice a round: for
/api/health, as the bare application is, and for the claim of a task, which
reads the key, counts the request and writes.

Time is what the client waits. CPU is what the process has used when the first
answer is there; where other programs use the machine too it is the steadier
figure. Memory is the process's own after one request and after many.

With `--check` the exit status is 1 where a client waits more than ALLOWED_RATIO
times as long for the product's /api/health as for the bare application's, or a
process holds more than ALLOWED_MEGABYTES.
"""

import argparse
import contextlib
import http.client
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.accounts import Account
from tests.support.apache import Apache
from tests.support.mariadb import MariaDB

ROOT = Path(__file__).resolve().parent.parent
ALLOWED_RATIO = 1.4
ALLOWED_MEGABYTES = 50.0
APPS = ("bare Flask", "SQLite", "MariaDB")
CLAIM = ("POST", "/api/tasks/claim", {"worker_id": "w"})
JOB = {"type": "job", "params": {"n": 1}, "dedupe": "none"}

BARE = """\
from flask import Flask, jsonify

application = Flask(__name__)


@application.get("/api/health")
def health():
    return jsonify(success=True)
"""
SITE = """\
PassengerAppRoot "{root}"
PassengerBaseURI "/{name}"
PassengerPython "{python}"
"""


class Start(NamedTuple):
    """One new process: the first answer, and what followed."""

    milliseconds: float
    cpu_milliseconds: float
    megabytes: float


class App:
    """One application in the account, at an address of its own."""

    def __init__(self, account: Account, python: Path, name: str) -> None:
        self.account = account
        self.python = python
        self.path = "/" + name.replace(" ", "-").lower()
        self.root = account.home / self.path[1:]
        self.port = 0
        self.key = ""
        site = SITE.format(root=self.root, name=self.path[1:], python=python)
        account.write(account.home / "public_html" / self.path[1:] / ".htaccess", site)

    def install_bare(self) -> None:
        self.account.write(self.root / "passenger_wsgi.py", BARE)

    def install_product(self, settings: str) -> None:
        """As an upload leaves it: without compiled files. Then its tables, and a key."""
        self.account.write(self.root / ".env", settings)
        for name in ("passenger_wsgi.py", "schema.sql"):
            self.account.write(self.root / name, (ROOT / name).read_text(encoding="utf-8"))
        for path in sorted((ROOT / "taskmanager").rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                text = path.read_text(encoding="utf-8")
                self.account.write(self.root / path.relative_to(ROOT), text)

    def prepare(self) -> None:
        """Makes the tables, a key without a rate limit and a type, without compiling for good."""
        command = (self.python, "-B", "-m", "taskmanager", "keys", "create")
        arguments = ("--name", "measure", "--role", "admin", "--rate-limit", "0")
        self._checked(self.python, "-B", "-m", "taskmanager", "init-db")
        self.key = self._checked(*command, *arguments).strip()

    def _checked(self, *command: str | Path) -> str:
        done = self.account.run(*command, cwd=self.root)
        if done.returncode:
            raise SystemExit(f"{command}: {done.stderr}")
        return done.stdout

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any, float]:
        """Status, content and milliseconds."""
        headers = {"Content-Type": "application/json", "X-API-Key": self.key}
        content = None if body is None else json.dumps(body)
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        with contextlib.closing(connection):
            connection.request(method, self.path + path, content, headers)
            response = connection.getresponse()
            text = response.read()
        took = (time.perf_counter() - began) * 1_000
        if response.status >= 400:
            raise SystemExit(f"{method} {self.path}{path}: {response.status} {text[:500]!r}")
        return response.status, json.loads(text), took

    def process(self) -> int | None:
        """Its number, found by the folder that Passenger runs an application in."""
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and (entry / "cwd").readlink() == self.root:
                    return int(entry.name)
        return None

    def wait_until_gone(self) -> None:
        deadline = time.monotonic() + 60
        while self.process() is not None:
            if time.monotonic() > deadline:
                raise SystemExit(f"Passenger does not end the process of {self.path}.")
            time.sleep(0.1)

    def first_answer(self, method: str, path: str, body: Any = None) -> Start:
        self.wait_until_gone()
        _, _, took = self.call(method, path, body)
        number = self.process()
        return Start(took, cpu_milliseconds(number), megabytes(number))


def cpu_milliseconds(process: int | None) -> float:
    """What all its threads have used."""
    threads = Path(f"/proc/{process}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e6


def megabytes(process: int | None, kind: str = "Rss") -> float:
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) / 1_024
    raise SystemExit(f"The system does not say how much memory process {process} holds.")


@contextlib.contextmanager
def applications() -> Iterator[dict[str, App]]:
    """The three of them, in an account of their own, behind one Apache."""
    account = Account()
    server = MariaDB(account.folder / "mariadb", durable=True)
    try:
        server.start()
        requirements = account.home / "requirements.txt"
        account.write(requirements, (ROOT / "requirements.txt").read_text(encoding="utf-8"))
        python = account.make_environment(account.home / "environment", requirements)
        apps = {name: App(account, python, name) for name in APPS}
        apps["bare Flask"].install_bare()
        apps["SQLite"].install_product("")
        url = server.create_database("queue")
        apps["MariaDB"].install_product(f"TASKMANAGER_DATABASE_URL={url}\n")
        more = "PassengerMinInstances 0\nPassengerPoolIdleTime 1\n"
        pages = account.home / "public_html"
        with Apache(account, pages, processes=len(APPS), more=more) as apache:
            for app in apps.values():
                app.port = apache.port
            for name in ("SQLite", "MariaDB"):
                apps[name].prepare()
            yield apps
    finally:
        server.stop()
        account.remove()


def measure_rounds(apps: dict[str, App], rounds: int) -> dict[str, list[Any]]:
    """What is measured → one figure or Start per round."""
    found: dict[str, list[Any]] = {}

    def note(what: str, figure: Any) -> None:
        found.setdefault(what, []).append(figure)

    for name, app in apps.items():
        note(f"{name}: first start after the upload", app.first_answer("GET", "/api/health"))
    for name in ("SQLite", "MariaDB"):
        schema = {"name": "job", "version": "1", "param_schema": {"type": "object"}}
        apps[name].call("POST", "/api/task-types/register", schema)
        for _ in range(2 * rounds):
            apps[name].call("POST", "/api/tasks", JOB)
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for name, app in apps.items():
            note(f"{name}: health", app.first_answer("GET", "/api/health"))
            if name == "bare Flask":
                continue
            for what in ("first", "second"):
                note(f"{name}: {what} create", app.call("POST", "/api/tasks", JOB)[2])
                note(f"{name}: {what} claim", app.call(*CLAIM)[2])
        for name in ("SQLite", "MariaDB"):
            note(f"{name}: claim", apps[name].first_answer(*CLAIM))
    return found


def measure_memory(app: App, requests: int) -> tuple[float, float]:
    """Resident and proportional megabytes after many requests to one process."""
    app.call("GET", "/api/health")
    number = app.process()
    if not app.key:
        for _ in range(requests):
            app.call("GET", "/api/health")
    for _ in range(requests // 4 if app.key else 0):
        app.call("GET", "/api/health")
        app.call("POST", "/api/tasks", JOB)
        task = app.call(*CLAIM)[1]["data"]
        done = {"worker_id": "w", "claim_token": task["claim_token"], "success": True}
        app.call("POST", f"/api/tasks/{task['id']}/complete", done)
    if app.process() != number:
        raise SystemExit("Passenger has ended the process in between.")
    return megabytes(number), megabytes(number, "Pss")


def spread(figures: list[float]) -> str:
    return f"{statistics.median(figures):7.0f} ({min(figures):.0f} to {max(figures):.0f})"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=1_000)
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument("--check", action="store_true", help="exit status 1 over the limits")
    options = parser.parse_args()
    with applications() as apps:
        found = measure_rounds(apps, options.rounds)
        memory = {name: measure_memory(app, options.requests) for name, app in apps.items()}
    if options.json:
        print(json.dumps({"rounds": found, "memory": memory}))
    bare = {
        kind: statistics.median(getattr(one, kind) for one in found["bare Flask: health"])
        for kind in ("milliseconds", "cpu_milliseconds")
    }
    failed = False
    print(f"{'until the first answer, ms':<42} {'waited':<22} {'ratio':<7} {'CPU':<22} ratio")
    for what, figures in found.items():
        if not isinstance(figures[0], Start):
            print(f"{what:<42} {spread(figures)}")
            continue
        waited = [one.milliseconds for one in figures]
        used = [one.cpu_milliseconds for one in figures]
        ratios = [
            statistics.median(waited) / bare["milliseconds"],
            statistics.median(used) / bare["cpu_milliseconds"],
        ]
        shown = f"{spread(waited):<22} {ratios[0]:<7.2f} {spread(used):<22} {ratios[1]:.2f}"
        print(f"{what:<42} {shown}")
        failed |= what.endswith(": health") and ratios[0] > ALLOWED_RATIO
    print(f"{'memory of a process, MB':<42} after one request, after {options.requests}, its share")
    for name, (resident, own) in memory.items():
        first = statistics.median(one.megabytes for one in found[f"{name}: health"])
        print(f"{name:<42} {first:.1f}  {resident:.1f}  {own:.1f}")
        failed |= max(first, resident) > ALLOWED_MEGABYTES
    return 1 if failed and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
