"""What the server does without being asked: a list of steps, and the thread that runs them.

Every process of the server has the thread, and one at a time runs the steps: the one that holds
the lock file. When that process ends, in whatever way, the system releases the lock, and another
takes over within LOOK_SECONDS. Where the file system has no locks, every process runs the steps.
Knows no rule of any step.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskmanager.alerts import watch
from taskmanager.config import Settings
from taskmanager.db import schema
from taskmanager.db.connection import close_connection, release_connection
from taskmanager.errors import DatabaseUnavailable
from taskmanager.files.locks import try_file_lock
from taskmanager.notify import deliveries

LOOK_SECONDS = 1.0
SENDING_SECONDS = 5.0  # of webhooks; then the other steps have their turn
ALERTS_EVERY_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 60.0  # after a step has failed again and again
STOP_SECONDS = 3.0  # what the end of a process waits for a step

# Whether the process is about to end.
IsStopping = Callable[[], bool]

log = logging.getLogger(__name__)


@dataclass
class Step:
    """`run` is called every `every_seconds`, or at each look if that is 0.

    It ends soon once the function that it gets returns true.

    What it raises is logged, and the step pauses for twice as long after each failure in a row.
    `due_at` is in seconds of time.monotonic().
    """

    name: str
    every_seconds: float
    run: Callable[[IsStopping], object]
    due_at: float = 0.0
    failures: int = 0


def steps_of(settings: Settings) -> list[Step]:
    """Everything that the server does in the background."""
    rules, resting = deliveries.rules_of(settings), dict[int, float]()

    def send_webhooks(is_stopping: IsStopping) -> None:
        deliveries.send_due(
            rules=rules, budget_seconds=SENDING_SECONDS, is_stopping=is_stopping, resting=resting
        )

    return [
        Step("webhooks", 0, send_webhooks),
        Step("alerts", ALERTS_EVERY_SECONDS, lambda _: watch.run(settings)),
    ]


def has_tables() -> bool:
    """Whether the database can be reached and has the tables of this version."""
    try:
        return schema.schema_version() == schema.SCHEMA_VERSION
    except DatabaseUnavailable:
        return False


class Background:
    """The thread of this process, while the context lasts. Enter it after the process is forked.

    `is_stopping` is asked at least once a second. No step is run before `is_ready()`.
    """

    def __init__(
        self,
        lock_file: Path,
        steps: Sequence[Step],
        *,
        is_stopping: IsStopping,
        is_ready: Callable[[], bool],
    ) -> None:
        self._lock_file, self._steps = lock_file, steps
        self._is_process_stopping, self._is_ready = is_stopping, is_ready
        self._ended = threading.Event()
        # An attempt that waits for its receiver does not keep the process: its message is sent
        # again once the claim of the delivery has expired.
        self._thread = threading.Thread(target=self._work, name="background", daemon=True)

    def __enter__(self) -> "Background":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._thread.join(STOP_SECONDS)

    def _is_stopping(self) -> bool:
        return self._ended.is_set() or self._is_process_stopping()

    def _work(self) -> None:
        failures = 0
        while not self._is_stopping():
            try:
                with try_file_lock(self._lock_file) as is_mine:
                    if is_mine and self._is_ready():
                        self._run_steps()
                failures = 0
            except Exception:
                failures += 1
                log.exception("nothing is done in the background for now")
            self._ended.wait(_pause_seconds(LOOK_SECONDS, failures))
        close_connection()

    def _run_steps(self) -> None:
        while not self._is_stopping():
            for step in self._steps:
                if step.due_at <= time.monotonic() and not self._is_stopping():
                    _run(step, self._is_stopping)
            release_connection()
            self._ended.wait(LOOK_SECONDS)


def _run(step: Step, is_stopping: IsStopping) -> None:
    try:
        step.run(is_stopping)
        step.failures = 0
    except Exception as error:
        step.failures += 1
        if isinstance(error, DatabaseUnavailable):
            log.warning("%s in the background: %s", step.name, error.message)
        else:
            log.exception("%s in the background failed", step.name)
    step.due_at = time.monotonic() + _pause_seconds(step.every_seconds, step.failures)


def _pause_seconds(seconds: float, failures: int) -> float:
    """Twice as long after each failure in a row, up to LONGEST_PAUSE_SECONDS."""
    if not failures:
        return seconds
    doubled: float = max(seconds, LOOK_SECONDS) * 2 ** min(failures, 10)
    return max(seconds, min(doubled, LONGEST_PAUSE_SECONDS))
