"""`taskmanager serve` as a process of its own, spoken to over HTTP."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from taskmanager.access import keys
from taskmanager.access.caller import OPERATOR
from taskmanager.bootstrap import open_database, prepare_database
from taskmanager.clock import utc_now
from taskmanager.config import load_settings
from taskmanager.db.connection import close_connection
from tests.support.ports import free_port
from tests.support.processes import CONTEXT


class Answer(NamedTuple):
    status: int
    body: Any
    headers: Any

    @property
    def data(self) -> Any:
        return self.body["data"]


class Server:
    """One running service on an instance folder and, where given, another database than SQLite.

    `checkout` is another one than this, with an environment of its own in `.venv`.
    """

    def __init__(
        self,
        folder: Path,
        database_url: str = "",
        *,
        workers: int = 2,
        threads: int = 4,
        checkout: Path | None = None,
    ) -> None:
        python = sys.executable if checkout is None else str(checkout / ".venv" / "bin" / "python")
        self._program = [python, "-m", "taskmanager"]
        self._checkout = checkout
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **os.environ,
            "TASKMANAGER_INSTANCE_PATH": str(folder),
            "TASKMANAGER_DATABASE_URL": database_url,
        }
        self._arguments = ["--port", str(self.port)]
        self._arguments += ["--workers", str(workers), "--threads", str(threads)]
        self.key = ""
        self.process: subprocess.Popen[str] | None = None

    def start(self, *, health: int = 200) -> "Server":
        """Makes an admin key without a rate limit, if it has none, and starts the service.

        Comes back when /api/health answers with `health`.
        """
        if not self.key:
            self.key = self._make_key()
        with (self.folder / "serve.log").open("a") as log:
            self.process = subprocess.Popen(
                [*self._program, "serve", *self._arguments],
                cwd=self._checkout,
                env=self.environment,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                if self.call("GET", "/api/health").status == health:
                    return self
            except OSError:
                pass
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError((self.folder / "serve.log").read_text())
            time.sleep(0.05)

    def _make_key(self) -> str:
        """As the command does it, which takes a second's work; another checkout has its own."""
        if self._checkout is not None:
            arguments = ["--name", "test", "--role", "admin", "--rate-limit", "0"]
            return self.command("keys", "create", *arguments).strip()
        made = CONTEXT.SimpleQueue()
        process = CONTEXT.Process(target=_put_key, args=(self.environment, made))
        process.start()
        process.join(60)
        if process.exitcode:
            raise AssertionError("no key could be made; see what the process has written")
        return made.get()

    def command(self, *arguments: str) -> str:
        """Runs `taskmanager …` on the same queue; returns its stdout."""
        done = subprocess.run(
            [*self._program, *arguments],
            cwd=self._checkout,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"exit {done.returncode}: {done.stderr}")
        return done.stdout

    def call(
        self, method: str, path: str, body: Any = None, key: str | None = None, timeout: float = 60
    ) -> Answer:
        """One request; an answer of any status. Raises OSError where there is none."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Content-Type": "application/json",
                "X-API-Key": self.key if key is None else key,
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return Answer(response.status, json.load(response), response.headers)
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, json.load(error), error.headers)

    def log(self) -> str:
        return (self.folder / "serve.log").read_text()

    def kill(self) -> None:
        """Ends all its processes at once, with SIGKILL."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)
            self.process = None

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(30)
            self.process = None


def _put_key(environment: dict[str, str], made: Any) -> None:
    """Prepares the database of these settings and puts an admin key into the queue `made`."""
    settings = load_settings(environ=environment)
    open_database(settings)
    prepare_database(settings)
    fields = {"name": "test", "scopes": keys.ROLES["admin"], "rate_limit": "0"}
    _, key = keys.create_key(**fields, caller=OPERATOR, now=utc_now())
    close_connection()
    made.put(key)


@contextlib.contextmanager
def hosts(count: int, database_url: str, **options: Any) -> Iterator[list[Server]]:
    """Servers of one queue with one key, each with a folder of its own; `options` as `Server` has.

    All are killed at the end.
    """
    with contextlib.ExitStack() as stack:
        servers: list[Server] = []
        for _ in range(count):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            server = Server(folder, database_url, **options)
            stack.callback(server.kill)
            server.key = servers[0].key if servers else ""
            servers.append(server.start())
        yield servers
