"""Counts hits in this process and tells the CounterFile of several at once: looking at the file
costs a request more than all else about a limit, since each look lets other threads go first.

How late the other processes hear of hits is bounded: by a second, and by a thousandth of what is
left of the limit, so the nearer the limit, the sooner, and of its last thousand at once.
"""

import threading
from dataclasses import dataclass

from taskmanager.counter_file import CounterFile, Window

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
        untold = 0
        with self._lock:
            tally = self._tallies.get(name)
            if tally is not None:
                if tally.may_wait(now):
                    tally.untold += 1
                    return Window(tally.told.hits + tally.untold, tally.told.ends_at)
                del self._tallies[name]
                untold = tally.untold if now < tally.told.ends_at else 0
        told = self._counters.add(name, amount=untold + 1, seconds=seconds, now=now)
        if most_untold := max(0, limit - told.hits) // PART_UNTOLD:
            with self._lock:
                self._tallies.setdefault(name, _Tally(told, now, most_untold))
        return told

    def forget(self) -> None:
        """What the file has not heard of is lost."""
        with self._lock:
            self._tallies.clear()
