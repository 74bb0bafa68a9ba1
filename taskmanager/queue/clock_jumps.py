"""Undoes what was stored while the clock was ahead, once it has been set back.

Every time in the database comes from the clock of a host. If that jumps ahead and
comes back, leases, delays and due times that were computed meanwhile lie in the
future, and would keep tasks waiting until then. The same rows lie in the future if a
right clock is set back.

Owns the decision that a stored time cannot be right. Refuses to change what a caller
asked for, such as the delay of a new task. A jump ahead cannot be told from time that
has passed, so nothing here looks for one.
"""

import contextlib
import logging
from collections.abc import Sequence
from typing import Any

import peewee

from taskmanager.db.connection import cache
from taskmanager.db.models import MaintenanceRun, Worker
from taskmanager.db.statements import execute, fetch_all, fetch_value
from taskmanager.db.transactions import write_transaction
from taskmanager.queue.schedules import runs
from taskmanager.queue.schedules.runs import TOLERANCE_MS

log = logging.getLogger(__name__)

# After a correction, a request may still store a time that it read while the clock was ahead. So
# the corrections go on for as long as a request may wait for the database, and cron's next run.
LATE_COMMIT_MS = 90_000
CORRECTION = "clock"  # what the last correction is called among the runs of maintenance

# Three looks at the last entry of an index or at a table of three rows. Every call of a worker
# and every run of maintenance leaves its time in one of them.
LATEST_SEEN = "SELECT MAX(last_seen_at) FROM {workers}"
LATEST_RUN = "SELECT MAX(last_run_at) FROM {maintenance_runs}"
CORRECTED_AT = f"SELECT last_run_at FROM {{maintenance_runs}} WHERE road = '{CORRECTION}'"
LATEST_LEASE = (
    "SELECT lease_expires_at - lease_seconds * 1000 FROM {tasks} {index tasks_by_lease_expires_at} "
    "WHERE lease_expires_at > 0 ORDER BY lease_expires_at DESC LIMIT 1"
)

# kind → the table and the column of its index; the condition that finds a wrong row, with the
# latest credible time for each `?`; and the assignments that mend it, with now for each `?`. MySQL
# assigns from left to right, so `updated_at` comes last.
KINDS = {
    "leases": (
        "tasks",
        "lease_expires_at",
        "lease_expires_at > ? AND lease_expires_at - lease_seconds * 1000 > ?",
        "lease_expires_at = ? + lease_seconds * 1000, updated_at = ?",
    ),
    # A task that a worker has held: its delay comes from a failure or a release.
    "delays": (
        "tasks",
        "available_at",
        "status = 'scheduled' AND available_at > ? AND updated_at > ? AND worker_id IS NOT NULL",
        "available_at = ? + (available_at - updated_at), updated_at = ?",
    ),
    "ends": (
        "tasks",
        "completed_at",
        "dedupe_until IS NULL AND completed_at > ?",
        "completed_at = ?, updated_at = ?",
    ),
    "batches": (
        "batches",
        "finished_at",
        "finished_at > ?",
        "finished_at = ?, updated_at = ?",
    ),
}
ENDS = ("ends", "batches")


def latest_time() -> int:
    """The latest time at which a worker was seen, maintenance ran or the last lease began."""
    times = [fetch_value(statement) for statement in (LATEST_SEEN, LATEST_RUN, LATEST_LEASE)]
    return max(moment or 0 for moment in times)


def is_set_back(latest: int | None, *, now: int) -> bool:
    """Whether `latest`, a stored time, shows that the clock has been set back since."""
    return latest is not None and latest > now + TOLERANCE_MS


def is_correction_due(latest: int, corrected_at: int | None, *, now: int) -> bool:
    """Whether times may be stored that lie in the future, or may still come.

    `latest` is the latest stored time, `corrected_at` that of the last correction.
    """
    was_lately = corrected_at is not None and abs(now - corrected_at) < LATE_COMMIT_MS
    return was_lately or is_set_back(latest, now=now)


def seconds_ahead(*, now: int) -> float:
    """How far the latest stored time lies in the future; 0 up to TOLERANCE_MS."""
    latest = latest_time()
    return (latest - now) / 1000 if is_set_back(latest, now=now) else 0


def mend_slice(*, now: int, rows: int) -> int:
    """Mends up to `rows` rows of each kind, and every schedule; returns the most of one kind.

    A lease then ends after its `lease_seconds` from now: a live holder renews it
    before that, and a dead one keeps the task no longer. A delay after a failure or a
    release begins now. A task or batch that has ended in the future ended now, so that
    it is counted and pruned in time.

    Transition: none.
    Commits together: the rows of one kind.
    Raises DatabaseUnavailable.
    A crash leaves the rest. What shows that the clock was set back goes last, so the
    next slice goes on. Where nothing is wrong, nothing is written.
    """
    runs.reanchor_schedules(now=now)
    most = max([_mend(kind, now, rows) for kind in KINDS])
    if most < rows and is_set_back(latest_time(), now=now):
        log.warning("the clock was set back: times stored in the future have been corrected")
        _forget(now)
        # Otherwise this process would store nothing if the clock showed the same time once more.
        remembered = cache()
        remembered.next_due, remembered.maintenance_recorded_at = None, 0
        remembered.workers_seen_at.clear()
    return most


def mend_ends_slice(*, now: int, rows: int) -> int:
    """Mends up to `rows` tasks and batches that have ended in the future; returns the most of one.

    Who cancels a task leaves no other time than its end. What `mend_slice` says is true here too.
    """
    return max([_mend(kind, now, rows) for kind in ENDS])


def _mend(kind: str, now: int, rows: int) -> int:
    table, column, condition, assignments = KINDS[kind]
    limits = _limits(condition, now)
    # Read without a lock: many tasks may be held rightly.
    found = fetch_all(
        f"SELECT id FROM {{{table}}} {{index {table}_by_{column}}} WHERE {condition} "
        f"ORDER BY {column} DESC LIMIT ?",
        (*limits, rows),
    )
    if found:
        ids = sorted(row["id"] for row in found)
        write_transaction(execute)(
            f"UPDATE {{{table}}} {{by_id}} SET {assignments} WHERE id IN ? AND {condition}",
            (now, now, ids, *limits),
        )
    return len(found)


def _limits(condition: str, now: int) -> Sequence[Any]:
    return [now + TOLERANCE_MS] * condition.count("?")


@write_transaction
def _forget(now: int) -> None:
    """Moves the sightings of workers to now, and removes runs of maintenance that were never.

    Notes the correction.
    """
    latest = now + TOLERANCE_MS
    Worker.update(last_seen_at=now).where(Worker.last_seen_at > latest).execute()
    MaintenanceRun.delete().where(MaintenanceRun.last_run_at > latest).execute()
    MaintenanceRun.delete().where(MaintenanceRun.road == CORRECTION).execute()
    run = {"road": CORRECTION, "last_run_at": now, "duration_ms": 0, "tasks_moved": 0}
    with contextlib.suppress(peewee.IntegrityError):  # another process has just done the same
        MaintenanceRun.insert(run).execute()


def count_ahead(*, now: int) -> dict[str, int]:
    """How many stored times lie in the future and will be mended, by kind; without zeros."""
    counts = {"schedules": len(runs.schedules_ahead(now=now))}
    for kind, (table, column, condition, _) in KINDS.items():
        counts[kind] = fetch_value(
            f"SELECT COUNT(*) FROM {{{table}}} {{index {table}_by_{column}}} WHERE {condition}",
            _limits(condition, now),
        )
    latest = now + TOLERANCE_MS
    counts["workers"] = Worker.select().where(Worker.last_seen_at > latest).count()
    runs_ahead = MaintenanceRun.select().where(MaintenanceRun.last_run_at > latest)
    counts["runs of maintenance"] = runs_ahead.count()
    return {kind: count for kind, count in counts.items() if count}
