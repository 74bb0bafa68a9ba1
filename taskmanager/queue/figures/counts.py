"""Counts of tasks by type and status, and of those that finished lately.

Counting reads one index from end to end, so its cost grows with the number of
tasks. Owns the table statistics_snapshots: if there are many tasks, one process
counts and the others share its figures. Refuses to know who may see which figure.
"""

import json
import logging
import time
from collections.abc import Sequence
from typing import NamedTuple

import peewee
from peewee import fn

from taskmanager.db.models import StatisticsSnapshot
from taskmanager.db.queries import execute_if_free, first_row
from taskmanager.db.statements import Row, execute
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import DatabaseUnavailable, TooLarge

log = logging.getLogger(__name__)

PERIODS_MS = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}

# Up to here the figures are always exact. This is a number of tasks, not of milliseconds: the
# figures of a small queue must not become old because the machine is busy for a moment.
EXACT_UP_TO_TASKS = 50_000
# SNAPSHOT_MS is longer than the minute between two runs of cron, which renews a snapshot older than
# RENEWED_BY_MAINTENANCE_MS. So no request has to count while cron runs.
SNAPSHOT_MS = 90_000
RENEWED_BY_MAINTENANCE_MS = 30_000
# A process that has been counting for this long has died.
GIVEN_UP_MS = 120_000

_ID = 1


class Group(NamedTuple):
    """The tasks of one type and status, and how many of them finished within each period."""

    task_type_id: int
    status: str
    tasks: int
    minute: int
    hour: int
    day: int


class TaskCounts(NamedTuple):
    """Every group that has tasks, as counted at `counted_at`, and how long counting took."""

    groups: Sequence[Group]
    counted_at: int
    duration_ms: int

    @property
    def tasks(self) -> int:
        return sum(group.tasks for group in self.groups)


def task_counts(*, now: int, max_age_ms: int = SNAPSHOT_MS) -> TaskCounts:
    """The figures of this moment or, for a queue with many tasks, at most `max_age_ms` old.

    They can be older while another process is counting.
    Transition: none of a task.
    Commits: the new snapshot, if one was due.
    Raises DatabaseUnavailable if the database cannot be read. A snapshot that
    cannot be written is logged only.
    A crash leaves the old snapshot, which the next call renews.
    """
    stored = first_row(StatisticsSnapshot.select().where(StatisticsSnapshot.id == _ID))
    if stored is None or stored["tasks"] <= EXACT_UP_TO_TASKS:
        counted = _count(now)
        if counted.tasks > EXACT_UP_TO_TASKS:
            _keep(counted, stored)
        return counted
    if abs(now - stored["counted_at"]) < max_age_ms or not _begin(stored, now):
        return TaskCounts(
            groups=[Group(*group) for group in json.loads(stored["figures"])],
            counted_at=stored["counted_at"],
            duration_ms=stored["duration_ms"],
        )
    counted = _count(now)
    _keep(counted, {**stored, "counting_since": now})
    return counted


def _count(now: int) -> TaskCounts:
    started = time.monotonic()
    since = [now - period for period in PERIODS_MS.values()]
    rows = execute(COUNT_ALL, since).fetchall()
    return TaskCounts(
        groups=[Group(*row) for row in rows],
        counted_at=now,
        duration_ms=round((time.monotonic() - started) * 1000),
    )


_WITHIN = ", ".join(["COUNT(CASE WHEN completed_at > ? THEN 1 END)"] * len(PERIODS_MS))
# Through an index that has every column that is read.
COUNT_ALL = (
    f"SELECT task_type_id, status, COUNT(*), {_WITHIN} "
    "FROM {tasks} {index tasks_claim_by_id} GROUP BY task_type_id, status"
)


def _has_written(query: peewee.Query) -> bool:
    """Whether `query` changed the row, in a transaction of its own. Its failure is logged only."""
    try:
        return bool(write_transaction(query.execute)())
    except peewee.IntegrityError:  # another process has just inserted the row
        return False
    except (DatabaseUnavailable, TooLarge) as error:
        log.info("the snapshot of the statistics is not renewed: %s", error.message)
        return False


def _begin(stored: Row, now: int) -> bool:
    """Whether this process is to count; False if another one counts now, or has just counted.

    False too where others are writing: whoever looks at figures waits for nobody.
    """
    since = StatisticsSnapshot.counting_since
    mark = StatisticsSnapshot.update(counting_since=now).where(
        StatisticsSnapshot.id == _ID,
        StatisticsSnapshot.counted_at == stored["counted_at"],
        since.is_null() | (fn.ABS(since - now) >= GIVEN_UP_MS),
    )
    return execute_if_free(mark)


def _keep(counted: TaskCounts, replaced: Row | None) -> None:
    """Stores nothing if another process has stored figures or begun to count meanwhile."""
    row = {
        "figures": json.dumps(counted.groups, separators=(",", ":")),
        "tasks": counted.tasks,
        "counted_at": counted.counted_at,
        "duration_ms": counted.duration_ms,
        "counting_since": None,
    }
    if replaced is None:
        _has_written(StatisticsSnapshot.insert({"id": _ID, **row}))
        return
    update = StatisticsSnapshot.update(row).where(
        StatisticsSnapshot.id == _ID,
        StatisticsSnapshot.counted_at == replaced["counted_at"],
        StatisticsSnapshot.counting_since == replaced["counting_since"],  # None: IS NULL
    )
    _has_written(update)
