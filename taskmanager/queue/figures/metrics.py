"""Figures for a monitoring system: the queue, its workers and its maintenance.

All of them are read from the database, so every process gives the same answer.
Refuses to know the format in which they are sent.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from taskmanager import __version__
from taskmanager.access.caller import Caller
from taskmanager.db.facts import clock_skew_ms
from taskmanager.queue import clock_jumps, maintenance, maintenance_runs, workers
from taskmanager.queue.figures.counts import PERIODS_MS
from taskmanager.queue.figures.statistics import QueueFigures, queue_figures
from taskmanager.queue.schedules import definitions

Sample = tuple[Mapping[str, str], float]


class Gauge(NamedTuple):
    """Values under one name that go up and down; each has labels of its own."""

    name: str
    help: str
    samples: Sequence[Sample]


def read_gauges(*, caller: Caller, heartbeat_seconds: int, now: int) -> list[Gauge]:
    """All gauges, limited to the task types that the caller may use and their schedules.

    A caller that is limited to types gets no gauge of what is overdue, because
    that is known only for all types together.
    """
    figures = queue_figures(caller=caller, now=now)
    gauges = [
        Gauge("taskmanager_build_info", "The version that runs.", [({"version": __version__}, 1)]),
        Gauge("taskmanager_database_up", "1: the database has answered.", [({}, 1)]),
        *_of_tasks(figures),
        Gauge(
            "taskmanager_statistics_age_seconds",
            "How old the numbers of tasks are.",
            [({}, max(now - figures.counted_at, 0) / 1000)],
        ),
        Gauge(
            "taskmanager_statistics_count_duration_seconds",
            "How long it took to count them.",
            [({}, figures.count_duration_ms / 1000)],
        ),
        Gauge(
            "taskmanager_workers",
            f"Of the {workers.WORKERS_COUNTED} workers that were seen last.",
            _by("status", workers.count_workers(heartbeat_seconds=heartbeat_seconds, now=now)),
        ),
        Gauge(
            "taskmanager_schedules",
            "Schedules by whether they make tasks.",
            _by("status", definitions.count_schedules(caller=caller)),
        ),
        *_of_maintenance(),
        Gauge(
            "taskmanager_stored_times_ahead_seconds",
            "How far the latest stored time lies in the future; 0 up to a minute.",
            [({}, clock_jumps.seconds_ahead(now=now))],
        ),
        _clock_skew(),
    ]
    if caller.task_types is None:
        gauges.append(_overdue(now))
    return gauges


def _of_tasks(figures: QueueFigures) -> Iterator[Gauge]:
    yield Gauge(
        "taskmanager_tasks",
        "Tasks by type and status, of every type that has tasks.",
        _by_type_and_status(figures.tasks),
    )
    yield Gauge(
        "taskmanager_oldest_pending_seconds",
        "Age of the oldest task that waits to be claimed; 0 where none does.",
        _by("type", {**dict.fromkeys(figures.tasks, 0.0), **figures.oldest_pending_seconds}),
    )
    for period in PERIODS_MS:
        yield Gauge(
            f"taskmanager_finished_last_{period}",
            f"Tasks that were finished in the {period} before they were counted.",
            _by_type_and_status({name: each[period] for name, each in figures.finished.items()}),
        )


def _of_maintenance() -> Iterator[Gauge]:
    runs = maintenance_runs.last_runs()
    yield Gauge(
        "taskmanager_maintenance_last_run_timestamp_seconds",
        "When maintenance last ran: by command, by http, or, where it had work, with claims.",
        _by("road", {road: run.last_run_at / 1000 for road, run in runs.items()}),
    )
    yield Gauge(
        "taskmanager_maintenance_last_run_duration_seconds",
        "How long that run took.",
        _by("road", {road: run.duration_ms / 1000 for road, run in runs.items()}),
    )


def _clock_skew() -> Gauge:
    skew_ms = clock_skew_ms()
    return Gauge(
        "taskmanager_database_clock_skew_seconds",
        "How far the database server's clock is ahead of this host's; negative where behind.",
        [] if skew_ms is None else [({}, skew_ms / 1000)],
    )


def _overdue(now: int) -> Gauge:
    due = maintenance.next_due(now=now)
    moments = {"schedule": due.schedule_at, "lease": due.lease_at, "task": due.task_at}
    late = {kind: max(now - (moment or now), 0) / 1000 for kind, moment in moments.items()}
    return Gauge(
        "taskmanager_overdue_seconds",
        "For how long the first of each kind should have been dealt with; 0 where none is due.",
        _by("kind", late),
    )


def _by(label: str, values: Mapping[str, float]) -> list[Sample]:
    return [({label: name}, value) for name, value in values.items()]


def _by_type_and_status(counts: Mapping[str, Mapping[str, int]]) -> list[Sample]:
    return [
        ({"type": name, "status": status}, count)
        for name, each in counts.items()
        for status, count in each.items()
    ]
