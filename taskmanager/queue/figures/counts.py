"""How many tasks there are of each type and status, and how many were finished lately.

Counting takes one pass over an index, in proportion to the number of tasks.
Owns the table statistics_snapshots: where there are many tasks, all processes
share what one of them has counted, so that nobody waits for it twice. Refuses
to know who may see which figure.
"""

import contextlib
import json
import logging
import time
from collections.abc import Sequence
from typing import NamedTuple

import peewee

from taskmanager.db.statements import Row, execute, fetch_one, insert
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import DatabaseUnavailable

log = logging.getLogger(__name__)

PERIODS_MS = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}

# Up to here the answer is always exact. A number of tasks, not of milliseconds: a busy moment of
# the machine must not make a small queue's figures old.
EXACT_UP_TO_TASKS = 50_000
# Longer than the minute between two runs of cron, which renews a snapshot that is older than the
# second of these: with cron running no request has to count.
SNAPSHOT_MS = 90_000
RENEWED_BY_MAINTENANCE_MS = 30_000
# Who has counted for so long has died.
GIVEN_UP_MS = 120_000

_ID = 1


class Group(NamedTuple):
    """The tasks of one type and status; of how many the end lies within each period."""

    task_type_id: int
    status: str
    tasks: int
    minute: int
    hour: int
    day: int


class TaskCounts(NamedTuple):
    """Every group that has tasks, as they were at `counted_at`, and how long counting took."""

    groups: Sequence[Group]
    counted_at: int
    duration_ms: int

    @property
    def tasks(self) -> int:
        return sum(group.tasks for group in self.groups)


def task_counts(*, now: int, max_age_ms: int = SNAPSHOT_MS) -> TaskCounts:
    """The figures: of this moment, or of a queue with many tasks at most `max_age_ms` old.

    They are older only while another process counts anew.
    Transition: none of a task. Commits: the new snapshot, where one was due.
    Raises DatabaseUnavailable where the database cannot be read; that a snapshot
    cannot be written is no reason to answer nothing.
    Dying in the middle leaves the snapshot as it was, for the next one to renew.
    """
    stored = fetch_one("SELECT * FROM {statistics_snapshots} WHERE id = ?", (_ID,))
    if stored is None or stored["tasks"] <= EXACT_UP_TO_TASKS:
        counted = _count(now)
        if counted.tasks > EXACT_UP_TO_TASKS:
            _keep(counted, stored)
        return counted
    if abs(now - stored["counted_at"]) < max_age_ms or not _begin(stored, now):
        return _from(stored)
    counted = _count(now)
    _keep(counted, {**stored, "counting_since": now})
    return counted


def _count(now: int) -> TaskCounts:
    started = time.monotonic()
    within = ", ".join("COUNT(CASE WHEN completed_at > ? THEN 1 END)" for _ in PERIODS_MS)
    rows = execute(
        f"SELECT task_type_id, status, COUNT(*), {within} "
        f"FROM {{tasks}} {{index tasks_claim_by_id}} "
        "GROUP BY task_type_id, status",
        [now - period for period in PERIODS_MS.values()],
    ).fetchall()
    return TaskCounts(
        groups=[Group(*row) for row in rows],
        counted_at=now,
        duration_ms=round((time.monotonic() - started) * 1000),
    )


def _from(stored: Row) -> TaskCounts:
    return TaskCounts(
        groups=[Group(*group) for group in json.loads(stored["figures"])],
        counted_at=stored["counted_at"],
        duration_ms=stored["duration_ms"],
    )


def _begin(stored: Row, now: int) -> bool:
    """Whether it is this process that counts; False where another one does, or has just done."""
    try:
        return _mark(stored["counted_at"], now)
    except DatabaseUnavailable as error:
        log.info("the snapshot of the statistics is not renewed: %s", error.message)
        return False


@write_transaction
def _mark(counted_at: int, now: int) -> bool:
    changed: int = execute(
        "UPDATE {statistics_snapshots} SET counting_since = ? WHERE id = ? AND counted_at = ? "
        "AND (counting_since IS NULL OR ABS(counting_since - ?) >= ?)",
        (now, _ID, counted_at, now, GIVEN_UP_MS),
    ).rowcount
    return changed == 1


def _keep(counted: TaskCounts, replaced: Row | None) -> None:
    try:
        _store(counted, replaced)
    except DatabaseUnavailable as error:
        log.info("the snapshot of the statistics is not kept: %s", error.message)


@write_transaction
def _store(counted: TaskCounts, replaced: Row | None) -> None:
    """Writes nothing where another process has stored figures, or begun to count, meanwhile."""
    row = {
        "figures": json.dumps(counted.groups, separators=(",", ":")),
        "tasks": counted.tasks,
        "counted_at": counted.counted_at,
        "duration_ms": counted.duration_ms,
        "counting_since": None,
    }
    if replaced is None:
        with contextlib.suppress(peewee.IntegrityError):  # another process has just made it
            insert("statistics_snapshots", {"id": _ID, **row})
        return
    since = replaced["counting_since"]
    mine = "counting_since IS NULL" if since is None else "counting_since = ?"
    execute(
        f"UPDATE {{statistics_snapshots}} SET {', '.join(f'{column} = ?' for column in row)} "
        f"WHERE id = ? AND counted_at = ? AND {mine}",
        (*row.values(), _ID, replaced["counted_at"], *([] if since is None else [since])),
    )
