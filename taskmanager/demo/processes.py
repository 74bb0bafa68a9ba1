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
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from taskmanager.config import PREFIX, Settings
from taskmanager.demo.http_client import HttpClient

# What stops the demo.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOP_SECONDS = 15
KILLED_SECONDS = 0.2
LOG_LINES_SHOWN = 15

_PR_SET_PDEATHSIG = 1
_prctl: Any = None  # loaded before the fork, after which little is safe
with contextlib.suppress(ImportError, AttributeError):  # only Linux has it
    import ctypes

    _prctl = ctypes.CDLL(None).prctl


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Lets SIGNALS wait until the block has ended.

    A signal between the start of a process and the note that it has to be stopped would leave the
    process behind.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class ProcessFailed(Exception):
    """A process did not start, or ended too early."""


class ChildProcess:
    """One process in its own session, so that Ctrl-C reaches only the demo.

    Keys are passed in `environment`: the list of processes shows arguments to every user.
    """

    def __init__(
        self, name: str, arguments: list[str], folder: Path, environment: dict[str, str]
    ) -> None:
        self.name = name
        self.output = folder / f"{name}.out"
        self._log = folder / f"{name}.log"
        with self.output.open("wb") as output, self._log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                env={**os.environ, **environment},
                start_new_session=True,
                preexec_fn=_prepare_child,
            )

    def is_running(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        """Terminates the process, and kills it with its children if it does not end in time."""
        with uninterrupted():
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                if self.process.wait(STOP_SECONDS) == 0:
                    return
            # The process group contains only this process and its children.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                time.sleep(KILLED_SECONDS)  # there is no way to wait for grandchildren

    def how_it_ended(self) -> str:
        """A sentence for the user, with the last lines of the process's log."""
        status = self.process.returncode
        ended = f"exit {status}" if status >= 0 else f"signal {-status}"
        lines = self._log.read_text(errors="replace").strip().splitlines()[-LOG_LINES_SHOWN:]
        log = ". The last lines of its log:\n  " + "\n  ".join(lines) if lines else ""
        return f"{self.name} has ended ({ended}){log}"


class Server(ChildProcess):
    """`taskmanager serve` with SQLite in `folder`, on a free port."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.admin_key = "tm_" + secrets.token_urlsafe(32)
        # Every setting has its default, whatever the environment or .env says.
        environment = {
            **{PREFIX + it.name.upper(): it.metadata["default"] for it in fields(Settings)},
            "TASKMANAGER_INSTANCE_PATH": str(folder / "instance"),
            "TASKMANAGER_BOOTSTRAP_ADMIN_KEY": self.admin_key,
        }
        arguments = ["taskmanager", "serve", "--port", str(port)]
        super().__init__("server", arguments, folder, environment)

    def client(self, key: str) -> HttpClient:
        """Retries only while the server runs."""
        return HttpClient(self.url, key, keep_trying=self.is_running)


class WorkerProcess(ChildProcess):
    """One worker, whose id is its name."""

    def __init__(self, name: str, folder: Path, *, url: str, key: str) -> None:
        arguments = ["taskmanager.demo.worker", name]
        super().__init__(name, arguments, folder, {"URL": url, "KEY": key})

    def report(self) -> dict[str, Any] | None:
        """The report that it wrote when it stopped, or None if it was killed."""
        try:
            report: dict[str, Any] = json.loads(self.output.read_bytes())
        except ValueError:
            return None
        return report


def _prepare_child() -> None:
    """Runs in the child: it is terminated even if the demo is killed, and takes every signal."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
