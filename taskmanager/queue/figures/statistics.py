"""Figures about the whole queue, for the task types that a caller may use.

The counts can be a minute old: see counts.py, and for how fast it works rates.py. The oldest
pending task of each type is the first entry of an index and is read for every answer.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from taskmanager.access.caller import Caller
from taskmanager.db.statements import MAX_ROWS, fetch_all, parts_of
from taskmanager.queue import task_types
from taskmanager.queue.claim_sql import claim_order, find_heads
from taskmanager.queue.figures.counts import PERIODS_MS, task_counts
from taskmanager.queue.figures.periods import Durations
from taskmanager.queue.figures.rates import Rates, queue_rates
from taskmanager.queue.read import FINISHED_STATUSES, STATUSES

Counts = dict[str, int]


class QueueFigures(NamedTuple):
    """By the type's name: `tasks` by status, `finished` by period and status.

    `names` has every type that the caller may use, by id.

    `oldest_pending_seconds` has only types with pending tasks and is of this
    moment; the other figures are of `counted_at`.
    """

    names: Mapping[int, str]
    tasks: Mapping[str, Counts]
    finished: Mapping[str, Mapping[str, Counts]]
    oldest_pending_seconds: Mapping[str, float]
    counted_at: int
    count_duration_ms: int


def queue_figures(*, caller: Caller, now: int) -> QueueFigures:
    """The figures of each type that has tasks and that the caller may use."""
    counts = task_counts(now=now)
    names = {row["id"]: row["name"] for row in task_types.find_task_types(caller=caller)}
    tasks: dict[str, Counts] = {}
    finished: dict[str, dict[str, Counts]] = {}
    for group in counts.groups:
        if (name := names.get(group.task_type_id)) is None:
            continue
        if name not in tasks:
            tasks[name] = dict.fromkeys(STATUSES, 0)
            finished[name] = {period: dict.fromkeys(FINISHED_STATUSES, 0) for period in PERIODS_MS}
        tasks[name][group.status] = group.tasks
        if group.status in FINISHED_STATUSES:
            for period in PERIODS_MS:
                finished[name][period][group.status] = getattr(group, period)
    oldest = _oldest_pending_seconds(names, now)
    return QueueFigures(names, tasks, finished, oldest, counts.counted_at, counts.duration_ms)


def _oldest_pending_seconds(names: Mapping[int, str], now: int) -> dict[str, float]:
    heads = find_heads(list(names), order=claim_order("id", "ASC"), count=1)
    oldest: dict[str, float] = {}
    for some in parts_of([head["id"] for head in heads], MAX_ROWS):
        for row in fetch_all("SELECT task_type_id, created_at FROM {tasks} WHERE id IN ?", (some,)):
            oldest[names[row["task_type_id"]]] = max(now - row["created_at"], 0) / 1000
    return oldest


def queue_statistics(*, caller: Caller, now: int) -> dict[str, Any]:
    """Counts by status and type, the age of the oldest pending task, and what finished lately.

    With how long tasks waited and ran, when each backlog ends, and which attempts failed.
    Types that the caller may not use are left out.
    """
    figures = queue_figures(caller=caller, now=now)
    backlog = {name: each["pending"] + each["claimed"] for name, each in figures.tasks.items()}
    rates = queue_rates(names=figures.names, backlog=backlog, now=now)
    by_status = _sum(STATUSES, figures.tasks.values())
    return {
        "by_status": by_status,
        "by_type": dict(figures.tasks),
        "total": sum(by_status.values()),
        "oldest_pending_seconds": max(figures.oldest_pending_seconds.values(), default=None),
        "finished": {
            period: _sum(FINISHED_STATUSES, [one[period] for one in figures.finished.values()])
            for period in PERIODS_MS
        },
        "counted_at": figures.counted_at,
        **_of_rates(rates),
    }


def _of_rates(rates: Rates) -> dict[str, Any]:
    return {
        "wait_seconds": {name: _quantiles(found) for name, found in rates.waits.items()},
        "run_seconds": {name: _quantiles(found) for name, found in rates.runs.items()},
        "drains_at": rates.drains_at,
        "failed_attempts": [failure._asdict() for failure in rates.failures],
        "measured_until": rates.measured_until,
    }


def _quantiles(durations: Durations) -> dict[str, float]:
    """Seconds that half, and 95 of 100, did not exceed, and how many were counted."""
    p50, p95 = (round(durations.quantile_ms(share) / 1000, 3) for share in (0.5, 0.95))
    return {"p50": p50, "p95": p95, "count": durations.events}


def _sum(statuses: Iterable[str], counts: Iterable[Counts]) -> Counts:
    total = dict.fromkeys(statuses, 0)
    for one in counts:
        for status, count in one.items():
            total[status] += count
    return total
