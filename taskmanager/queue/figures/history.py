"""What happened over time: tasks that ended, failures by code, and who works on what.

All of it is read from what periods.py has counted, for the types in `names`, by id. Refuses to
know how it is drawn.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from taskmanager.queue.figures import periods
from taskmanager.queue.figures.periods import DAY_MS, HOUR_MS, MINUTE_MS

# range → how long it is, and how long each of its steps
RANGES = {
    "hour": (HOUR_MS, MINUTE_MS),
    "day": (DAY_MS, HOUR_MS),
    "week": (7 * DAY_MS, 6 * HOUR_MS),
}
TREND_STEPS = 24  # of an hour each


class Step(NamedTuple):
    """How many tasks ended from `at` on, in milliseconds, until the next step."""

    at: int
    completed: int
    failed: int


def finished_by_time(*, names: Mapping[int, str], range_name: str, now: int) -> list[Step]:
    """Tasks that ended in the range up to `now`, a step after the other.

    The last step is not over yet. None where nothing was counted.
    """
    if periods.read_until() is None:
        return []
    length, step = RANGES[range_name]
    end = now - now % step + step
    counted: Counter[tuple[int, str]] = Counter()
    found = periods.counts_by_time(periods.FINISHED, end - length, end, step)
    for (at, type_id, status), events in found.items():
        if type_id in names:
            counted[at, status] += events
    return [
        Step(at, counted[at, "completed"], counted[at, "failed"])
        for at in range(end - length, end, step)
    ]


def failures_by_hour(
    *, names: Mapping[int, str], now: int
) -> dict[tuple[str, str | None], Sequence[int]]:
    """Failed attempts by type and error code: 24 numbers, the hour that is not over yet last."""
    end = now - now % HOUR_MS + HOUR_MS
    begin = end - TREND_STEPS * HOUR_MS
    found: dict[tuple[str, str | None], list[int]] = {}
    counted = periods.counts_by_time(periods.FAILED, begin, end, HOUR_MS)
    for (at, type_id, code), events in counted.items():
        if type_id in names:
            kind = (names[type_id], code or None)
            found.setdefault(kind, [0] * TREND_STEPS)[(at - begin) // HOUR_MS] += events
    return dict(found)


def workers_by_type(*, names: Mapping[int, str]) -> dict[str, list[tuple[str, int]]]:
    """Who reported on tasks of each type in the last hour that was counted, the busiest first."""
    until = periods.read_until()
    if until is None:
        return {}
    end = until - until % MINUTE_MS + MINUTE_MS
    found: dict[str, list[tuple[str, int]]] = {}
    for (type_id, worker_id), events in periods.counts_between(
        periods.REPORTED, end - HOUR_MS, end
    ).most_common():
        if type_id in names and worker_id:
            found.setdefault(names[type_id], []).append((worker_id, events))
    return found
