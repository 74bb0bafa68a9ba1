"""Where a handler runs: in a process of its own, or in a thread of the worker.

A slot runs one task at a time. From a thread of its own it calls `on_progress(percent, message)`
and, once, `on_end(report)`.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import IO, Any, Callable, NamedTuple, Protocol

from taskmanager_client.child import Program
from taskmanager_client.task import SHOWN, Handler, HeldTask, Report, failure, run_handler

# The path comes first: the child could not import anything of the worker's without it.
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from taskmanager_client import child; child.main()"
)
# How long a task waits where no process can be started, before it is put back and after.
NO_PROCESS_SECONDS = 5.0
DRAIN_SECONDS = 1.0

OnProgress = Callable[[int, "str | None"], None]
OnEnd = Callable[[Report], None]


class Limits(NamedTuple):
    """When a process is replaced, after a task: None is never. Bytes and seconds."""

    max_tasks: int | None = None
    max_memory: int | None = None
    max_runtime: float | None = None


class Slot(Protocol):
    """One place in which a handler can run."""

    def start(
        self, task: Mapping[str, Any], handler: Handler, on_progress: OnProgress, on_end: OnEnd
    ) -> None:
        """Runs the handler; returns at once."""

    def ask_to_stop(self) -> None:
        """Sets `task.stopping`."""

    def terminate(self) -> None:
        """Raises Stopped in the handler, where that is possible."""

    def kill(self) -> bool:
        """Ends the handler in the middle. Returns whether that was possible."""

    def close(self) -> None:
        """Frees what an idle slot has."""


class ProcessSlot:
    """A process that stays for the next task, until it reaches a limit."""

    def __init__(self, limits: Limits, log: Callable[[str], None]) -> None:
        self._limits = limits
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._started_at = 0.0
        self._tasks = 0
        self._on_progress: OnProgress = lambda percent, message: None
        self._on_end: OnEnd | None = None

    def start(
        self, task: Mapping[str, Any], handler: Handler, on_progress: OnProgress, on_end: OnEnd
    ) -> None:
        self._on_progress, self._on_end = on_progress, on_end
        try:
            if self._process is None:
                self._spawn()
        except OSError as error:  # the account has too many processes, or no memory is left
            self._log(f"cannot start a process for task {task['id']}: {error}")
            report = {"delay_seconds": NO_PROCESS_SECONDS}
            threading.Timer(NO_PROCESS_SECONDS, self._end, [report]).start()
            return
        self._tasks += 1
        is_measured = self._limits.max_memory is not None
        shown = {name: task[name] for name in SHOWN}
        self._tell({**shown, "handler": name_of(handler), "is_measured": is_measured})

    def ask_to_stop(self) -> None:
        self._tell("stop")

    def terminate(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> bool:
        if self._process is not None:
            self._process.kill()
        return True

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            _close(process.stdin)

    def _spawn(self) -> None:
        # Not forked: the worker has threads and connections, which a copy of it would break.
        self._process = subprocess.Popen(  # noqa: S603 - this very Python
            [sys.executable, "-c", _CHILD, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        self._started_at, self._tasks = time.monotonic(), 0
        self._tell(sys.argv)
        self._tell(Program.of_this_process())
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def _tell(self, message: Any) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        with self._lock:
            try:
                process.stdin.write(json.dumps(message) + "\n")
                process.stdin.flush()
            except (OSError, ValueError):  # it has died, which _listen() notices
                pass

    def _listen(self, process: subprocess.Popen[str]) -> None:
        reader = threading.Thread(target=self._read, args=(process,), daemon=True)
        reader.start()
        status = process.wait()
        # Not until the pipe ends: what the handler has forked may hold it open for ever.
        reader.join(DRAIN_SECONDS)
        if self._process is process:
            self._process = None
            self._end(failure(f"The handler's process {how_it_ended(status)}.", "worker_died"))
        _close(process.stdin)

    def _read(self, process: subprocess.Popen[str]) -> None:
        try:
            for line in process.stdout or ():
                message = json.loads(line)
                if self._process is not process:
                    continue
                if "report" in message:
                    if self._is_used_up(message.get("memory", 0)):
                        self.close()
                    self._end(message["report"])
                else:
                    self._on_progress(message["progress"], message["message"])
        except (ValueError, RecursionError):  # not a message of child.py
            process.kill()
        finally:
            _close(process.stdout)

    def _end(self, report: Report) -> None:
        with self._lock:
            on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(report)

    def _is_used_up(self, memory: int) -> bool:
        limits = self._limits
        age = time.monotonic() - self._started_at
        return (
            (limits.max_tasks is not None and self._tasks >= limits.max_tasks)
            or (limits.max_memory is not None and memory > limits.max_memory)
            or (limits.max_runtime is not None and age > limits.max_runtime)
        )


def _close(pipe: IO[str] | None) -> None:
    if pipe is not None:
        with contextlib.suppress(OSError):  # what it still holds can go nowhere
            pipe.close()


def how_it_ended(status: int) -> str:
    """Of an exit status as subprocess has it: a negative one is a signal."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = ", perhaps because memory ran out" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"


def name_of(handler: Handler) -> tuple[str, str]:
    """Module and qualified name by which a child imports a handler. Raises ValueError."""
    name = getattr(handler, "__qualname__", "")
    if not name or "<" in name:
        raise ValueError(
            f"{handler!r} cannot be imported by another process: define the handler at the top of "
            "its module, or use Worker(..., processes=False)."
        )
    return handler.__module__, name


class ThreadSlot:
    """A thread of the worker for each task. Nothing can end a handler that does not end itself."""

    def __init__(self) -> None:
        self._stopping, self._ending = threading.Event(), threading.Event()

    def start(
        self, task: Mapping[str, Any], handler: Handler, on_progress: OnProgress, on_end: OnEnd
    ) -> None:
        self._stopping, self._ending = threading.Event(), threading.Event()
        held = HeldTask(task, on_progress, self._stopping, self._ending)
        threading.Thread(
            target=lambda: on_end(run_handler(handler, held)), daemon=True, name=f"task-{held.id}"
        ).start()

    def ask_to_stop(self) -> None:
        self._stopping.set()

    def terminate(self) -> None:
        self._ending.set()

    def kill(self) -> bool:
        return False

    def close(self) -> None:
        pass
