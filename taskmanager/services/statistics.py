"""Figures about the whole queue, of the task types that a caller may touch.

What is counted may be a moment old, see task_counts.py. The oldest pending task
of each type is the head of an index, and looked up for every answer.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from taskmanager.database import dialect, fetch_all
from taskmanager.services.keys import Caller
from taskmanager.services.task_counts import PERIODS_MS, task_counts
from taskmanager.services.task_queries import FINISHED_STATUSES, STATUSES

Counts = dict[str, int]


class QueueFigures(NamedTuple):
    """By the type's name: `tasks` by status, `finished` by period and status.

    `oldest_pending_seconds` has the types with pending tasks alone, and is of this
    moment; the others are of `counted_at`.
    """

    tasks: Mapping[str, Counts]
    finished: Mapping[str, Mapping[str, Counts]]
    oldest_pending_seconds: Mapping[str, float]
    counted_at: int
    count_duration_ms: int


def queue_figures(*, caller: Caller, now: int) -> QueueFigures:
    """The figures of each type that has tasks and that the caller may touch."""
    counts = task_counts(now=now)
    names: dict[int, str] = {}
    oldest: dict[str, float] = {}
    for row in fetch_all(
        "SELECT id, name, (SELECT created_at FROM tasks "
        f"{dialect().use_index.format('tasks_claim_by_id')} WHERE task_type_id = task_types.id "
        "AND status = 'pending' ORDER BY tasks.id LIMIT 1) AS oldest_at FROM task_types"
    ):
        if caller.may_touch(row["name"]):
            names[row["id"]] = row["name"]
            if row["oldest_at"] is not None:
                oldest[row["name"]] = max(now - row["oldest_at"], 0) / 1000
    tasks: dict[str, Counts] = {}
    finished: dict[str, dict[str, Counts]] = {}
    for group in counts.groups:
        if group.task_type_id not in names:
            continue
        name = names[group.task_type_id]
        if name not in tasks:
            tasks[name] = dict.fromkeys(STATUSES, 0)
            finished[name] = {period: dict.fromkeys(FINISHED_STATUSES, 0) for period in PERIODS_MS}
        tasks[name][group.status] = group.tasks
        if group.status in FINISHED_STATUSES:
            for period in PERIODS_MS:
                finished[name][period][group.status] = getattr(group, period)
    return QueueFigures(
        tasks=tasks,
        finished=finished,
        oldest_pending_seconds=oldest,
        counted_at=counts.counted_at,
        count_duration_ms=counts.duration_ms,
    )


def queue_statistics(*, caller: Caller, now: int) -> dict[str, Any]:
    """Counts by status and by type, the oldest pending task's age, and what was finished lately.

    Types that the caller may not touch are left out.
    """
    figures = queue_figures(caller=caller, now=now)
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
    }


def _sum(statuses: Iterable[str], counts: Iterable[Counts]) -> Counts:
    total = dict.fromkeys(statuses, 0)
    for one in counts:
        for status, count in one.items():
            total[status] += count
    return total
