"""When maintenance last ran, in each of its three ways. Shows whether cron works."""

import contextlib
import time
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import peewee

from taskmanager.db.connection import cache
from taskmanager.db.models import MaintenanceRun
from taskmanager.db.queries import rows_of
from taskmanager.db.statements import fetch_value
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import DatabaseUnavailable

Road = Literal["command", "http", "claims"]

FULL: tuple[Road, ...] = ("command", "http")  # claims do a part of it
CLAIMS_RESOLUTION_MS = 60_000


class LastRun(NamedTuple):
    """`tasks_moved` counts the tasks created, requeued, started and pruned."""

    last_run_at: int
    duration_ms: int
    tasks_moved: int


def last_runs() -> Mapping[str, LastRun]:
    """The last run in each way that has ever run: `command`, `http`, `claims`.

    `claims` is stored at most once a minute, and only if there was something to do.
    """
    runs = rows_of(MaintenanceRun.select().where(MaintenanceRun.road.in_(get_args(Road))))
    return {run.pop("road"): LastRun(**run) for run in runs}


def last_full_run() -> int | None:
    """When maintenance last ran by command or over HTTP; None if it never has."""
    runs = last_runs()
    return max((runs[road].last_run_at for road in FULL if road in runs), default=None)


def expected_since() -> int | None:
    """The last full run or, before the first one, when the first key was created.

    Whoever has just created it has the time to set up cron. None where there is no key either.
    """
    last = last_full_run()
    return fetch_value("SELECT MIN(created_at) FROM {api_keys}") if last is None else last


@write_transaction
def record_run(road: Road, *, started_at: int, started: float, tasks_moved: int) -> None:
    """Stores a run that began at `started_at` (milliseconds) and `started` (time.monotonic()).

    A run in the future stays: it shows clock_jumps that the clock was set back.
    Raises DatabaseUnavailable.
    """
    run = {
        "last_run_at": started_at,
        "duration_ms": round((time.monotonic() - started) * 1000),
        "tasks_moved": tasks_moved,
    }
    replace = MaintenanceRun.update(run).where(
        MaintenanceRun.road == road, MaintenanceRun.last_run_at <= started_at
    )
    if not replace.execute():
        try:
            MaintenanceRun.insert({"road": road, **run}).execute()
        except peewee.IntegrityError:  # one in the future, or another process has just inserted it
            replace.execute()


def record_slice_of_claim(*, started_at: int, started: float, tasks_moved: int) -> None:
    """The same for a slice that a claim has run; never makes the claim fail.

    Left out if nothing was moved, or if this process has stored one within the minute.
    """
    remembered = cache()
    if tasks_moved and abs(started_at - remembered.maintenance_recorded_at) >= CLAIMS_RESOLUTION_MS:
        remembered.maintenance_recorded_at = started_at
        with contextlib.suppress(DatabaseUnavailable):
            record_run("claims", started_at=started_at, started=started, tasks_moved=tasks_moved)
