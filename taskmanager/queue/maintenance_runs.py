"""When maintenance last ran, on each of its three roads: what tells whether cron does its part."""

import contextlib
import time
from collections.abc import Mapping
from typing import Literal, NamedTuple

import peewee

from taskmanager.db.connection import cache
from taskmanager.db.statements import Row, fetch_all, insert, update
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import DatabaseUnavailable

Road = Literal["command", "http", "claims"]

CLAIMS_RESOLUTION_MS = 60_000


class LastRun(NamedTuple):
    """`tasks_moved` counts the tasks made, requeued, started and pruned."""

    last_run_at: int
    duration_ms: int
    tasks_moved: int


def last_runs() -> Mapping[str, LastRun]:
    """The last run of each road that was ever taken: `command`, `http`, `claims`.

    `claims` is noted once a minute at the most, and only where there was something to do.
    """
    rows = fetch_all("SELECT * FROM {maintenance_runs}")
    return {row.pop("road"): LastRun(**row) for row in rows}


@write_transaction
def record_run(road: Road, *, started_at: int, started: float, tasks_moved: int) -> None:
    """Notes a run that began at `started_at`, in milliseconds, and `started`, of time.monotonic().

    Raises DatabaseUnavailable.
    """
    run = {
        "last_run_at": started_at,
        "duration_ms": round((time.monotonic() - started) * 1000),
        "tasks_moved": tasks_moved,
    }
    if not _replace(road, run):
        try:
            insert("maintenance_runs", {"road": road, **run})
        except peewee.IntegrityError:  # another process has just made it
            _replace(road, run)


def _replace(road: Road, run: Row) -> bool:
    return bool(update("maintenance_runs", run, "road = ?", (road,)))


def record_slice_of_claim(*, started_at: int, started: float, tasks_moved: int) -> None:
    """The same for the road of claims, but never a reason for a claim to fail.

    Left out where nothing was moved, or this process has noted one within the minute.
    """
    remembered = cache()
    if tasks_moved and abs(started_at - remembered.maintenance_recorded_at) >= CLAIMS_RESOLUTION_MS:
        remembered.maintenance_recorded_at = started_at
        with contextlib.suppress(DatabaseUnavailable):
            record_run("claims", started_at=started_at, started=started, tasks_moved=tasks_moved)
