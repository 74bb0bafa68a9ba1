"""Counts hits in this process and tells the CounterFile of several at once: looking at the file
costs a request more than all else about a limit, since each look lets other threads go first.

A process keeps no more to itself than a thousandth of what is left of the limit: the nearer the
limit, the less, and of its last thousand nothing. It tells with the next hit a second later at the
latest; where none comes, or the process ends, the file never hears of them.
"""

import threading
from dataclasses import dataclass

from taskmanager.ratelimits.counter_file import LOCK_SECONDS, CounterFile, Window

TOLD_WITHIN_MS = 1_000
PART_UNTOLD = 1_000  # of what is left, one in so many


@dataclass(slots=True)
class _Tally:
    """What the file said at `told_at`, and how many hits it has not heard of since."""

    told: Window
    told_at: int
    most_untold: int
    untold: int = 0

    def may_wait(self, now: int) -> bool:
        return (
            self.untold < self.most_untold
            and abs(now - self.told_at) < TOLD_WITHIN_MS
            and now < self.told.ends_at
        )


class Tallies:
    """Those of one process in one file."""

    def __init__(self, counters: CounterFile) -> None:
        self._counters = counters
        self._lock = threading.Lock()
        self._tallies: dict[str, _Tally] = {}

    def hit(self, name: str, *, limit: int, seconds: int, now: int) -> Window:
        """Counts one hit in the present window. Raises OSError where the file cannot be had."""
        if not self._lock.acquire(timeout=LOCK_SECONDS):
            raise BlockingIOError("another thread has waited for the file all the while")
        try:
            tally = self._tallies.get(name)
            if tally is not None and tally.may_wait(now):
                tally.untold += 1
                return Window(tally.told.hits + tally.untold, tally.told.ends_at)
            untold = tally.untold if tally is not None and now < tally.told.ends_at else 0
            told = self._counters.add(name, amount=untold + 1, seconds=seconds, now=now)
            if most_untold := max(0, limit - told.hits) // PART_UNTOLD:
                self._tallies[name] = _Tally(told, now, most_untold)
            else:
                self._tallies.pop(name, None)
            return told
        finally:
            self._lock.release()

    def forget(self) -> None:
        """What the file has not heard of is lost."""
        with self._lock:
            self._tallies.clear()
