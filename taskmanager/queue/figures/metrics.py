"""Figures for a monitoring system: the queue, its workers and its maintenance.

All of them are read from the database, so every process gives the same answer.
Refuses to know the format in which they are sent.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from taskmanager import __version__
from taskmanager.access.caller import Caller
from taskmanager.db.facts import clock_skew_ms, database_nodes
from taskmanager.queue import clock_jumps, maintenance, maintenance_runs, workers
from taskmanager.queue.figures import periods
from taskmanager.queue.figures.counts import PERIODS_MS
from taskmanager.queue.figures.periods import Durations, bucket_bound
from taskmanager.queue.figures.rates import failed_attempts
from taskmanager.queue.figures.statistics import QueueFigures, queue_figures
from taskmanager.queue.schedules import definitions

# The buckets whose bounds Prometheus gets: each is 3.8 times as long as the one before, from 9 ms
# to a day. Durations are whole milliseconds, so a bound that is rounded down counts the same.
BOUNDS = range(10, 88, 6)

Sample = tuple[Mapping[str, str], float]


class Histogram(NamedTuple):
    """Durations in seconds under one name, one series for each set of labels.

    A series has how many were at most as long as each bound, from the shortest on, how many there
    were, and their sum.
    """

    name: str
    help: str
    series: Sequence[tuple[Mapping[str, str], Mapping[float, int], int, float]]


class Gauge(NamedTuple):
    """Values under one name that go up and down; each has labels of its own."""

    name: str
    help: str
    samples: Sequence[Sample]


def read_metrics(*, caller: Caller, heartbeat_seconds: int, now: int) -> list[Gauge | Histogram]:
    """All metrics, limited to the task types that the caller may use and their schedules.

    A caller that is limited to types gets no gauge of what is overdue, because that is known only
    for all types together, and none of the database's servers.
    """
    figures = queue_figures(caller=caller, now=now)
    found: list[Gauge | Histogram] = [
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
        *_of_periods(figures.names),
        *_of_maintenance(),
        Gauge(
            "taskmanager_stored_times_ahead_seconds",
            "How far the latest stored time lies in the future; 0 up to a minute.",
            [({}, clock_jumps.seconds_ahead(now=now))],
        ),
        _clock_skew(),
    ]
    if caller.task_types is None:
        found += [_overdue(now), *_of_nodes()]
    return found


def _of_nodes() -> list[Gauge]:
    """Of several database servers each; empty where there is one."""
    nodes = {f"{node.host}:{node.port}": state for node, state in database_nodes()}
    if not nodes:
        return []
    synced = {
        name: int(state is not None and state.is_usable and state.is_synced)
        for name, state in nodes.items()
    }
    galera = {name: state.galera for name, state in nodes.items() if state and state.galera}
    return [
        Gauge(
            "taskmanager_database_node_up",
            "1: this server of the database has answered.",
            _by("node", {name: int(state is not None) for name, state in nodes.items()}),
        ),
        Gauge(
            "taskmanager_database_node_synced",
            "1: this server takes work: it can be written and has all that the others have.",
            _by("node", synced),
        ),
        Gauge(
            "taskmanager_database_node_paused_seconds",
            "For how long flow control has let the cluster wait, since this node was started.",
            _by("node", {name: counted.paused_seconds for name, counted in galera.items()}),
        ),
        Gauge(
            "taskmanager_database_node_conflicts",
            "Transactions that were undone since another node was first, since its start.",
            [
                ({"node": name, "found": found}, count)
                for name, counted in galera.items()
                for found, count in (
                    ("before_commit", counted.undone_before_commit),
                    ("at_commit", counted.undone_at_commit),
                )
            ],
        ),
    ]


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


def _of_periods(names: Mapping[int, str]) -> Iterator[Gauge | Histogram]:
    of_all_time = periods.durations_of_all_time()
    for measure, what in (
        ("wait", "How long tasks waited from pending to claimed."),
        ("run", "How long attempts took from the claim to the report."),
    ):
        series = [
            ({"type": names[type_id]}, _up_to_bounds(each), each.events, each.total_ms / 1000)
            for type_id, each in of_all_time[measure].items()
            if type_id in names
        ]
        yield Histogram(f"taskmanager_{measure}_seconds", what, series)
    until = periods.read_until()
    failed = [] if until is None else failed_attempts(names=names, until=until)
    yield Gauge(
        "taskmanager_failed_attempts_last_hour",
        "Failed attempts by error code, of the most frequent of the last day.",
        [({"type": each.type, "error_code": each.error_code or ""}, each.hour) for each in failed],
    )
    yield Gauge(
        "taskmanager_measured_until_timestamp_seconds",
        "Up to when waits, runs and failed attempts were counted.",
        [] if until is None else [({}, until / 1000)],
    )


def _up_to_bounds(durations: Durations) -> dict[float, int]:
    """How many durations were at most as long as each of BOUNDS, in seconds."""
    return {
        math.floor(bucket_bound(bound)) / 1000: sum(
            count for bucket, count in durations.buckets.items() if bucket <= bound
        )
        for bound in BOUNDS
    }


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
