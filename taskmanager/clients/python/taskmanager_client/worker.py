"""The worker as its author sees it: which handlers there are, and how they are run."""

from __future__ import annotations

import functools
import os
import socket
import sys
import threading
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from taskmanager_client import child
from taskmanager_client.client import Client
from taskmanager_client.run import Run
from taskmanager_client.slots import Limits, name_of
from taskmanager_client.task import Handler, HeldTask, is_release, run_handler

if TYPE_CHECKING:
    from taskmanager_client import fields


class Registered(NamedTuple):
    handler: Handler
    schema: Mapping[str, Any] | None
    version: str
    lease_seconds: int | None
    timeout: float | None


class Worker:
    """Runs handlers for tasks of the types that it has them for.

    `concurrency` handlers run at once, each in a process of its own, or with `processes=False` in
    threads of this one. A process is replaced, after a task, once it has had `max_tasks`, is
    larger than `max_memory` bytes or older than `max_runtime` seconds. `grace` is how many seconds
    handlers have to end after SIGTERM. `log` gets each line of the worker's log.
    """

    def __init__(
        self,
        client: Client,
        *,
        worker_id: str | None = None,
        concurrency: int = 1,
        processes: bool = True,
        grace: float = 30,
        max_tasks: int | None = None,
        max_memory: int | None = None,
        max_runtime: float | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self.id = worker_id or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.client = client
        self.concurrency = concurrency
        self.processes = processes
        self.grace = grace
        self.limits = Limits(max_tasks, max_memory, max_runtime)
        self._write_log = log or _print_to_stderr
        self.types: dict[str, Registered] = {}
        self._run: Run | None = None
        self.completed = 0  # attempts that ended so, since the worker was made
        self.failed = 0

    def task(
        self,
        type: str,
        *,
        schema: Mapping[str, Any] | None = None,
        version: str = "1",
        lease_seconds: int | None = None,
        timeout: float | None = None,
    ) -> Callable[[Handler], Handler]:
        """Makes a function the handler of a task type.

        With `schema` run() registers the type, with this `version`. Without `lease_seconds` the
        server decides how long a lease lasts; the worker renews it. After `timeout` seconds the
        handler is stopped, and the attempt has failed with the code "timed_out". The handler gets
        a HeldTask and returns the result, anything that JSON can hold.
        """

        def register(handler: Handler) -> Handler:
            if self.processes and not child.is_child():
                name_of(handler)
            self.types[type] = Registered(handler, schema, version, lease_seconds, timeout)
            return handler

        return register

    def run(
        self, *, burst: bool = False, max_tasks: int | None = None, max_runtime: float | None = None
    ) -> None:
        """Works until SIGTERM or SIGINT, or stop() in another thread.

        With `burst` it ends once nothing is left to claim, and after `max_tasks` tasks or
        `max_runtime` seconds it claims no more. The first signal stops claiming and gives the
        handlers `grace` seconds; a second one stops them at once. What is left is put back, and
        the attempt not counted. Raises ApiError where the server refuses the worker for good.
        """
        if child.is_child():
            raise child.InChild
        if not self.types:
            raise ValueError("The worker has no handler: decorate one with @worker.task(type).")
        self._register_types()
        self._run = Run(self, burst, max_tasks, max_runtime)
        try:
            self._run.until_end()
        finally:
            self._run = None

    @property
    def held(self) -> int:
        """How many tasks it holds."""
        run = self._run
        return run.count_held() if run is not None else 0

    def stop(self) -> None:
        """Ends run() as SIGTERM does. Any thread may call it."""
        if self._run is not None:
            self._run.stop()

    def run_until_empty(self) -> int:
        """Runs handlers in this thread until nothing is left to claim; returns how many. For tests.

        Tasks that wait for a time stay as they are. No lease is renewed.
        """
        self._register_types()
        count = 0
        while True:
            for turn in self.turns():
                for task in self.client.claim(self.id, limit=1, **turn):
                    report = run_handler(
                        self.types[task["type"]].handler,
                        HeldTask(task, functools.partial(self._send_progress, task), _never),
                    )
                    fields = {"worker_id": self.id, "claim_token": task["claim_token"], **report}
                    end = "release" if is_release(report) else "complete"
                    self.client.call("POST", f"/tasks/{task['id']}/{end}", fields)
                    count += 1
                    break
                else:
                    continue
                break
            else:
                return count

    def _send_progress(self, task: Mapping[str, Any], percent: int, message: str | None) -> None:
        self.client.progress(
            task["id"],
            worker_id=self.id,
            claim_token=task["claim_token"],
            progress=percent,
            message=message,
        )

    def _register_types(self) -> None:
        for name, one in self.types.items():
            if one.schema is not None:
                defaults: fields.TypeDefaults = {}
                if one.lease_seconds is not None:
                    defaults["lease_seconds"] = one.lease_seconds
                self.client.register(name, one.version, one.schema, **defaults)

    def turns(self) -> list[dict[str, Any]]:
        """The filters of the claims that are made in turn: one for each length of a lease."""
        turns: dict[int | None, dict[str, Any]] = {}
        for name, one in self.types.items():
            lease = {} if one.lease_seconds is None else {"lease_seconds": one.lease_seconds}
            turns.setdefault(one.lease_seconds, {**lease, "task_types": []})
            turns[one.lease_seconds]["task_types"].append(name)
        return list(turns.values())

    def log(self, message: str) -> None:
        self._write_log(f"taskmanager worker {self.id}: {message}")


_never = threading.Event()


def _print_to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
