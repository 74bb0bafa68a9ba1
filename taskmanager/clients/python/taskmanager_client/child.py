"""The process in which handlers run: it reads tasks from stdin and writes reports to stdout.

Each line is one JSON object. What a handler prints goes to stderr. The handlers are imported by the
names that the worker knows them by, so the process begins with nothing of its parent: no locks,
no connections, no threads.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import signal
import sys
import threading
import time
import types
from typing import Any, NamedTuple, NoReturn

from taskmanager_client.errors import Stopped
from taskmanager_client.task import Handler, HeldTask, failure, run_handler

WATCHED_AFTER_SECONDS = 0.05
MAIN = "__mp_main__"  # the name under which multiprocessing, too, imports a program in a child


class InChild(BaseException):
    """Raised by Worker.run() in a child: the program has been imported far enough."""


class Program(NamedTuple):
    """How a child imports the program that was started: by module, or by the path of its file."""

    module: str | None
    path: str | None

    @classmethod
    def of_this_process(cls) -> Program:
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)
        if spec is not None:
            return cls(spec.name, None)
        path = getattr(main, "__file__", None)
        return cls(None, os.path.abspath(path) if path else None)


def is_child() -> bool:
    """Whether this process runs handlers for a worker in another one."""
    return _messages is not None


_messages: Any = None  # where a child writes to, else None
_lock = threading.Lock()


def main() -> NoReturn:
    """Serves tasks until stdin ends, which it also does when the worker dies."""
    global _messages
    # Handlers may read stdin and write to stdout as they like.
    _messages = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    tasks = os.fdopen(os.dup(0), "r", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the worker
        signal.signal(signal.SIGTERM, _on_sigterm)
    sys.argv[:] = json.loads(tasks.readline())
    program = Program(*json.loads(tasks.readline()))
    inbox = _Inbox(tasks)
    threading.Thread(target=inbox.watch, daemon=True).start()
    while True:
        _serve(inbox.next_task(), program)


class _Inbox:
    """What the worker sends: tasks, and "stop" for the present one.

    The thread that runs the handlers also reads the next task: if another thread handed it over, a
    no-op task would cost the child nearly twice the processor time (docs/decisions/0037). Where a
    handler takes longer than WATCHED_AFTER_SECONDS, the thread of watch() reads in its place, so
    that a "stop" arrives, and the end of the worker is noticed.
    """

    def __init__(self, lines: Any) -> None:
        self._lines = lines
        self._reading = threading.Lock()
        self._next: dict[str, Any] | None = None  # guarded by _reading, as the lines are
        self._busy = threading.Event()
        self._handlers = 0  # how many have begun
        self._runs = False

    def next_task(self) -> dict[str, Any]:
        self._runs = False
        with self._reading:
            task, self._next = self._next, None
            while task is None:
                task = self._read()
            stopping.clear()  # here, where no later "stop" can be lost by it
            self._handlers += 1
            self._runs = True
        self._busy.set()
        return task

    def watch(self) -> None:
        while True:
            self._busy.wait()
            present = self._handlers
            time.sleep(WATCHED_AFTER_SECONDS)
            if not self._is_running():
                self._busy.clear()
                if self._is_running():  # since a moment ago
                    self._busy.set()
            elif self._handlers == present:
                with self._reading:
                    if self._is_running() and self._handlers == present:
                        self._next = self._read()

    def _is_running(self) -> bool:
        return self._runs

    def _read(self) -> dict[str, Any] | None:
        """The next task; None where it was something else."""
        line = self._lines.readline()
        if not line:
            os._exit(0)  # the worker has ended or has died: nobody waits for the result
        message: Any = json.loads(line)
        if message == "stop":
            stopping.set()
            return None
        return dict(message)


stopping = threading.Event()
_is_running = False


def _on_sigterm(*_: Any) -> None:
    """The first one asks the handler to end, as a supervisor's does; a later one ends it."""
    if stopping.is_set() and _is_running:
        raise Stopped
    stopping.set()


def _serve(task: dict[str, Any], program: Program) -> None:
    global _is_running
    held = HeldTask(
        task, lambda percent, message: send(progress=percent, message=message), stopping
    )
    try:
        module, name = task["handler"]
        handler = load_handler(module, name, program)
    except Exception as error:  # noqa: BLE001 - whatever the user's module raises
        send(report=failure(f"The handler cannot be imported: {error!r}", "import_error"))
        return
    try:
        _is_running = True
        report = run_handler(handler, held)
        _is_running = False
    except Stopped:  # between the handler's end and the line after it
        report = failure("The handler was stopped.", "stopped")
    finally:
        _is_running = False
    send(report=report, memory=resident_bytes() if task["is_measured"] else 0)


def send(**message: Any) -> None:
    line = json.dumps(message, ensure_ascii=True) + "\n"
    with _lock:
        _messages.write(line)
        _messages.flush()


def load_handler(module: str, name: str, program: Program) -> Handler:
    """The function with this qualified name. Raises ImportError, AttributeError and what its
    module raises.
    """
    found: Any = _main_module(program) if module == "__main__" else importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]


# Not looked for in sys.modules: whoever imports multiprocessing puts this process there as MAIN.
_imported: types.ModuleType | None = None


def _main_module(program: Program) -> types.ModuleType:
    """The program that was started, imported without starting a worker in it."""
    global _imported
    if _imported is not None:
        return _imported
    module = types.ModuleType(MAIN)
    if program.module is not None:
        spec = importlib.util.find_spec(program.module)
        if spec is None or spec.loader is None:
            raise ImportError(f"there is no module {program.module}")
        code = spec.loader.get_code(program.module)  # type: ignore[attr-defined]
        module.__file__ = spec.origin
    elif program.path is not None:
        with open(program.path, "rb") as source:
            code = compile(source.read(), program.path, "exec")
        module.__file__ = program.path
    else:
        raise ImportError("an interactive session cannot be imported; use processes=False")
    sys.modules[MAIN] = sys.modules["__main__"] = module
    with contextlib.suppress(InChild):
        # It is the user's own program.
        exec(code, module.__dict__)  # nosec B102 # noqa: S102
    _imported = module
    return module


def resident_bytes() -> int:
    """The memory of this process, or 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
