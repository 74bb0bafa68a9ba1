"""What needs a person, in one sentence each, the worst first: the top of the overview.

Draws its conclusions from figures that were read already. Refuses to count anything itself.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from taskmanager.access import keys
from taskmanager.access.caller import Caller
from taskmanager.dashboard.wording import count_of, duration
from taskmanager.db.statements import Row
from taskmanager.queue import maintenance_runs
from taskmanager.queue.figures.statistics import QueueFigures

FORGOTTEN_SECONDS = 300  # how long a task waits before the absence of workers is worth a sentence
SILENT_MS = 15 * 60_000
MANY_FAILURES = 5  # in an hour, so that one failure of two tasks raises no alarm
FAILURE_SHARE = 0.05
EXPIRES_MS = 7 * 86_400_000


class Notice(NamedTuple):
    """A sentence about `subject`. `is_bad`: something stands still. `link` names a kind of page."""

    is_bad: bool
    subject: str
    sentence: str
    link: str = ""


def notices(figures: QueueFigures, types: list[Row], *, caller: Caller, now: int) -> list[Notice]:
    """Everything that needs a person and that the caller may see, the worst first."""
    found = [*_of_types(figures, {row["name"]: row for row in types})]
    if caller.task_types is None:
        found += _of_maintenance(now)
        if caller.may("admin"):
            found += _of_keys(now)
    return sorted(found, key=lambda notice: not notice.is_bad)


def _of_types(figures: QueueFigures, types: Mapping[str, Row]) -> Iterator[Notice]:
    for name, tasks in figures.tasks.items():
        finished = figures.finished[name]
        oldest = figures.oldest_pending_seconds.get(name, 0.0)
        waiting = f"has {count_of(tasks['pending'], 'task')} waiting"
        is_idle = not tasks["claimed"] and not any(finished["hour"].values())
        if types[name]["is_paused"]:
            if tasks["pending"]:
                yield Notice(False, name, f"is paused and {waiting}.", "type")
        elif oldest >= FORGOTTEN_SECONDS and is_idle:
            since = f"the oldest for {duration(oldest * 1000)}"
            yield Notice(True, name, f"{waiting}, {since}, and nobody works on it.", "pending")
        hour = finished["hour"]
        all_of_hour = hour["failed"] + hour["completed"]
        if hour["failed"] >= MANY_FAILURES and hour["failed"] > FAILURE_SHARE * all_of_hour:
            of_all = f"{hour['failed']:,} of {all_of_hour:,}"
            yield Notice(False, name, f"{of_all} tasks failed in the last hour.", "failures")


def _of_maintenance(now: int) -> Iterator[Notice]:
    runs = maintenance_runs.last_runs()
    latest = max(
        (runs[road].last_run_at for road in ("command", "http") if road in runs), default=0
    )
    if now - latest > SILENT_MS:
        said = f"last ran {duration(now - latest)} ago" if latest else "has never run"
        yield Notice(
            False,
            "Maintenance",
            f"{said}: schedules and retries wait for the next claim, and old tasks are kept.",
            "doctor",
        )


def _of_keys(now: int) -> Iterator[Notice]:
    for row in keys.list_keys():
        expires_at = row["expires_at"]
        if row["revoked_at"] is None and expires_at and now < expires_at < now + EXPIRES_MS:
            yield Notice(
                False,
                row["name"],
                f"is a key that expires in {duration(expires_at - now)}.",
                "keys",
            )
