"""A task that the worker holds: its lease, its deadlines, and how it ends."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Callable

from taskmanager_client.slots import Slot
from taskmanager_client.task import Handler, Report, failure

# After a handler was asked to stop: until Stopped is raised in it, and until it is ended by force.
TERMINATE_SECONDS = 2.0
KILL_SECONDS = 5.0
PROGRESS_SECONDS = 1.0

# Ends that the server is not told as a report of the attempt: the task is put back, or it is not
# this worker's any more.
RELEASED: Report = {"delay_seconds": 0}
DROPPED: Report = {"dropped": True}

now = time.monotonic


class Held:
    """Not thread-safe: the worker's lock guards it."""

    def __init__(self, task: Mapping[str, Any], lease_began: float, timeout: float | None) -> None:
        self.task = task
        self.slot: Slot | None = None
        self.report: Report | None = None
        self.is_stopping = False
        self._timeout = math.inf if timeout is None else timeout
        self.renewed(lease_began)
        self._why: Report = RELEASED
        self._stop_at = self._terminate_at = self._kill_at = math.inf
        self._began = math.inf
        self._progress: tuple[int, str | None] | None = None
        self._progress_at = 0.0

    @property
    def id(self) -> int:
        return int(self.task["id"])

    @property
    def claim(self) -> dict[str, Any]:
        """What proves that the task is this worker's."""
        return {"id": self.id, "claim_token": self.task["claim_token"]}

    @property
    def seconds(self) -> float:
        """How long the handler has been running."""
        return now() - self._began

    def start(self, slot: Slot, handler: Handler, on_end: Callable[[Report], None]) -> None:
        self.slot, self._began = slot, now()
        slot.start(self.task, handler, self._note_progress, on_end)

    def renewed(self, sent_at: float) -> None:
        """The lease began anew when that request was sent, or later."""
        self.lease_lasts(sent_at, float(self.task["lease_seconds"]))

    def lease_lasts(self, sent_at: float, seconds: float) -> None:
        """At least this many seconds of the lease were left when that request was sent."""
        self._lease_nearly_over_at = sent_at + 0.75 * seconds
        self._lease_ends_at = sent_at + seconds

    def stop(self, why: Report, in_seconds: float = 0) -> None:
        """Asks the handler to end at once, and makes it end after `in_seconds` and some more.

        Unless it succeeds, `why` is how the attempt ends.
        """
        if self._why is not DROPPED:
            self._why = why
        self._stop_at = min(self._stop_at, now() + in_seconds)
        self._terminate_at = min(self._terminate_at, self._stop_at + TERMINATE_SECONDS)
        self._kill_at = min(self._kill_at, self._stop_at + KILL_SECONDS)
        if not self.is_stopping:
            self.is_stopping = True
            if self.slot is not None:
                self.slot.ask_to_stop()

    def enforce_deadlines(self) -> Report | None:
        """Does what is due; the report where the handler is given up."""
        if self.slot is None or self.report is not None:
            return None
        if not self.is_stopping and self.seconds > self._timeout:
            why = f"The handler did not end within its timeout of {self._timeout:g} seconds."
            self.stop(failure(why, "timed_out"))
        if self._why is not DROPPED and now() > self._lease_nearly_over_at:
            self._end_within_lease()
        if now() >= self._kill_at:
            self._kill_at = math.inf
            if not self.slot.kill():
                return self._why
        elif now() >= self._terminate_at:
            self._terminate_at = math.inf
            self.slot.terminate()
        return None

    def _end_within_lease(self) -> None:
        """After it another worker may have the task: both must not work on it."""
        self.stop(DROPPED)
        left = max(0.0, self._lease_ends_at - now())
        self._terminate_at = min(self._terminate_at, self._lease_ends_at - left / 4)
        self._kill_at = min(self._kill_at, self._lease_ends_at)

    def judge(self, report: Report) -> Report:
        """How the attempt ends: what the handler says counts unless it was made to end."""
        was_made_to = report.get("error_code") in ("stopped", "worker_died")
        was_made_to |= now() >= self._stop_at
        must_end = self._why is DROPPED or (self.is_stopping and was_made_to)
        return self._why if must_end and not report.get("success") else report

    def _note_progress(self, percent: int, message: str | None) -> None:
        self._progress = percent, message

    def due_progress(self) -> dict[str, Any] | None:
        """What is to be sent of the handler's progress now, at most once a second."""
        if self._progress is None or self.report is not None or now() < self._progress_at:
            return None
        (percent, message), self._progress = self._progress, None
        self._progress_at = now() + PROGRESS_SECONDS
        return {"progress": percent, "message": message}
