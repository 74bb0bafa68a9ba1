"""The processes that the demo starts, and how it is made sure that they end."""

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

START_SECONDS = 60
STOP_SECONDS = 15
KILLED_SECONDS = 0.2
LOG_LINES_SHOWN = 15

EMPTY_REPORT: dict[str, Any] = {
    "completed": 0,
    "failed": 0,
    "retried": 0,
    "lost": 0,
    "claim_seconds": [],
    "complete_seconds": [],
}


class ProcessFailed(Exception):
    """A process did not start, or ended before it was told to."""


class ChildProcess:
    """One process in a session of its own, so that Ctrl-C reaches the demo alone."""

    def __init__(self, name: str, arguments: list[str], folder: Path) -> None:
        self.name = name
        self._arguments = [sys.executable, "-m", *arguments]
        self._output = folder / f"{name}.out"
        self._log = folder / f"{name}.log"
        self._stopped = False
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self, *, environment: dict[str, str] | None = None, orders: Any = None) -> None:
        with self._output.open("wb") as output, self._log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603
                self._arguments,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=log,
                env=environment,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        stdin: IO[bytes] = self.process.stdin  # type: ignore[assignment]
        with stdin:
            if orders is not None:
                stdin.write(json.dumps(orders).encode() + b"\n")

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """Asks it to end, and ends it where it does not, with whatever it has started."""
        if self.process is None or self._stopped:
            return
        self._stopped = True
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
                if self.process.returncode == 0:
                    return
        # Its session is its own: only its children are left in the group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            time.sleep(KILLED_SECONDS)  # nobody can wait for the children of another process

    def how_it_ended(self) -> str:
        """A sentence for the person at the terminal, with the process's last words."""
        status = self.process.returncode if self.process else None
        ended = f"signal {-status}" if status is not None and status < 0 else f"exit {status}"
        words = self._log.read_text(errors="replace").strip().splitlines()[-LOG_LINES_SHOWN:]
        told = "; its last words:\n  " + "\n  ".join(words) if words else ""
        return f"{self.name} has ended ({ended}){told}"


class Server(ChildProcess):
    """`taskmanager serve` on an embedded database in `folder` and a free port."""

    def __init__(self, folder: Path) -> None:
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.admin_key = "tm_" + secrets.token_urlsafe(32)
        self._folder = folder
        super().__init__("server", ["taskmanager", "serve", "--port", str(self.port)], folder)

    def start(self) -> None:
        """Returns when it answers. Raises ProcessFailed."""
        self.launch(environment=self._environment())
        give_up_at = time.monotonic() + START_SECONDS
        while not self._answers():
            if not self.is_running():
                raise ProcessFailed(self.how_it_ended())
            if time.monotonic() > give_up_at:
                raise ProcessFailed(f"The server did not answer within {START_SECONDS} seconds.")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                pass
            HttpClient(self.url, self.admin_key, keep_trying=lambda: False).call(
                "GET", "/api/health"
            )
        except (OSError, ServiceError):
            return False
        return True

    def _environment(self) -> dict[str, str]:
        """Every setting at its default, whatever this machine's environment or .env says."""
        defaults = {
            PREFIX + setting.name.upper(): setting.metadata["default"]
            for setting in fields(Settings)
        }
        return {
            **os.environ,
            **defaults,
            "TASKMANAGER_INSTANCE_PATH": str(self._folder / "instance"),
            "TASKMANAGER_BOOTSTRAP_ADMIN_KEY": self.admin_key,
        }


class WorkerProcess(ChildProcess):
    """One worker, told over stdin what to do, so that no key shows in the list of processes."""

    def __init__(self, name: str, folder: Path, *, url: str, key: str, task_type: str) -> None:
        super().__init__(name, ["taskmanager.demo.worker"], folder)
        self._orders = {"url": url, "key": key, "worker_id": name, "task_type": task_type}

    def start(self) -> None:
        self.launch(orders=self._orders)

    def report(self) -> dict[str, Any] | None:
        """What it wrote down when it was stopped; None where it died before it could."""
        if self.process is None or self.process.returncode == -signal.SIGTERM:
            return EMPTY_REPORT  # stopped before it had got ready to work
        try:
            report: dict[str, Any] = json.loads(self._output.read_bytes())
        except ValueError:
            return None
        return report


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _prctl() -> Any:
    """Linux's prctl(); None elsewhere, and where Python was built without ctypes."""
    if sys.platform == "linux":
        with contextlib.suppress(ImportError):
            import ctypes

            return ctypes.CDLL(None).prctl
    return None


_PRCTL = _prctl()  # found before the fork: little may be done after it
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Runs in the child: even a demo that was killed outright leaves nothing running."""
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGTERM)
