"""The child processes of the demo, and the guarantee that they end with it."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

from taskmanager.config import PREFIX, Settings
from taskmanager.demo.http_client import HttpClient, ServiceError
from taskmanager.demo.worker import empty_report

START_SECONDS = 60
STOP_SECONDS = 15
KILLED_SECONDS = 0.2
LOG_LINES_SHOWN = 15


class ProcessFailed(Exception):
    """A process did not start, or ended too early."""


class ChildProcess:
    """One process in its own session, so that Ctrl-C reaches only the demo.

    It gets `orders` over stdin, so that the list of processes does not show them.
    """

    def __init__(
        self,
        name: str,
        arguments: list[str],
        folder: Path,
        *,
        environment: dict[str, str] | None = None,
        orders: Any = None,
    ) -> None:
        self.name = name
        self._arguments = [sys.executable, "-m", *arguments]
        self._environment = environment
        self._orders = json.dumps(orders).encode() + b"\n"
        self._output = folder / f"{name}.out"
        self._log = folder / f"{name}.log"
        self._stopped = False
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._output.open("wb") as output, self._log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603
                self._arguments,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=log,
                env=self._environment,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        stdin: IO[bytes] = self.process.stdin  # type: ignore[assignment]
        with contextlib.suppress(BrokenPipeError), stdin:
            stdin.write(self._orders)

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """Terminates the process, and kills it with its children if it does not end in time."""
        if self.process is None or self._stopped:
            return
        self._stopped = True
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
                if self.process.returncode == 0:
                    return
        # The process group contains only this process and its children.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            time.sleep(KILLED_SECONDS)  # there is no way to wait for grandchildren

    def how_it_ended(self) -> str:
        """A sentence for the user, with the last lines of the process's log."""
        status = self.process.returncode if self.process else None
        ended = f"signal {-status}" if status is not None and status < 0 else f"exit {status}"
        lines = self._log.read_text(errors="replace").strip().splitlines()[-LOG_LINES_SHOWN:]
        log = ". The last lines of its log:\n  " + "\n  ".join(lines) if lines else ""
        return f"{self.name} has ended ({ended}){log}"


class Server(ChildProcess):
    """`taskmanager serve` with SQLite in `folder`, on a free port."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.address = listener.getsockname()
        self.url = "http://{}:{}".format(*self.address)
        self.admin_key = "tm_" + secrets.token_urlsafe(32)
        # Every setting has its default, whatever the environment or .env says.
        defaults = {
            PREFIX + setting.name.upper(): setting.metadata["default"]
            for setting in fields(Settings)
        }
        super().__init__(
            "server",
            ["taskmanager", "serve", "--port", str(self.address[1])],
            folder,
            environment={
                **os.environ,
                **defaults,
                "TASKMANAGER_INSTANCE_PATH": str(folder / "instance"),
                "TASKMANAGER_BOOTSTRAP_ADMIN_KEY": self.admin_key,
            },
        )

    def start(self) -> None:
        """Returns when the server answers. Raises ProcessFailed."""
        super().start()
        give_up_at = time.monotonic() + START_SECONDS
        while not self._answers():
            if not self.is_running():
                raise ProcessFailed(self.how_it_ended())
            if time.monotonic() > give_up_at:
                raise ProcessFailed(f"The server did not answer within {START_SECONDS} seconds.")
            time.sleep(0.05)

    def client(self, key: str) -> HttpClient:
        """Retries only while the server runs."""
        return HttpClient(self.url, key, keep_trying=self.is_running)

    def _answers(self) -> bool:
        client = HttpClient(self.url, self.admin_key, keep_trying=lambda: False)
        try:
            socket.create_connection(self.address, timeout=1).close()
            client.call("GET", "/api/health")
        except (OSError, ServiceError):
            return False
        return True


class WorkerProcess(ChildProcess):
    """One worker. Its orders contain its key."""

    def __init__(self, name: str, folder: Path, *, url: str, key: str, task_type: str) -> None:
        orders = {"url": url, "key": key, "worker_id": name, "task_type": task_type}
        super().__init__(name, ["taskmanager.demo.worker"], folder, orders=orders)

    def report(self) -> dict[str, Any] | None:
        """The report that it wrote when it stopped, or None if it was killed."""
        if self.process is None or self.process.returncode == -signal.SIGTERM:
            return empty_report()  # stopped before it was ready
        try:
            report: dict[str, Any] = json.loads(self._output.read_bytes())
        except ValueError:
            return None
        return report


_PR_SET_PDEATHSIG = 1
_PRCTL: Any = None  # loaded before the fork, after which little is safe
if sys.platform == "linux":
    with contextlib.suppress(ImportError):
        import ctypes

        _PRCTL = ctypes.CDLL(None).prctl


def _die_with_parent() -> None:
    """Runs in the child: it is terminated even if the demo is killed."""
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGTERM)
