"""/dashboard: what needs somebody, how much waits, and when each type will be done."""

from typing import Any

from flask import Blueprint, Response, g, request

from taskmanager.api.auth import requires
from taskmanager.api.requests import settings
from taskmanager.dashboard.answers import page
from taskmanager.dashboard.attention import notices
from taskmanager.dashboard.chart import chart_of
from taskmanager.queue import read, workers
from taskmanager.queue.figures import history, rates, statistics
from taskmanager.queue.task_types import find_task_types

blueprint = Blueprint("overview", __name__)

TYPES_SHOWN = 12
FAILURES_SHOWN = 6
WORKERS_SHOWN = 6


@blueprint.get("")
@requires("tasks:read")
def show() -> Response:
    """GET /dashboard: the overview; `range` is of its chart. Before there is a type, what to do."""
    types = find_task_types(caller=g.caller, columns="id, name, is_active, is_paused")
    if not types:
        return page("first_visit.html")
    figures = statistics.queue_figures(caller=g.caller, now=g.now)
    paused = {row["name"] for row in types if row["is_paused"]}
    rows = [{**row, "is_paused": row["name"] in paused} for row in type_rows(figures, now=g.now)]
    asked = request.args.get("range")
    range_name = asked if asked in history.RANGES else "day"
    steps = history.finished_by_time(names=figures.names, range_name=range_name, now=g.now)
    seen: Any = None
    if g.caller.may("workers:read"):
        seen = workers.list_workers(
            limit=WORKERS_SHOWN,
            offset=0,
            cursor=None,
            heartbeat_seconds=settings().heartbeat_seconds,
            caller=g.caller,
            now=g.now,
        )
    return page(
        "overview.html",
        notices=notices(figures, types, settings=settings(), caller=g.caller, now=g.now),
        totals=_totals(figures),
        chart=chart_of(steps, range_name) if steps else None,
        ranges=history.RANGES,
        range=range_name,
        types=sorted(rows, key=lambda row: -row["waiting"])[:TYPES_SHOWN],
        more_types=max(0, len(rows) - TYPES_SHOWN),
        most=max((row["waiting"] for row in rows), default=0),
        failures=_latest_failures(),
        workers=seen,
        counted_at=figures.counted_at,
    )


def type_rows(figures: statistics.QueueFigures, *, now: int) -> list[dict[str, Any]]:
    """One row for each type that has tasks: what waits, what was done, when it is drained.

    `drains_at` is None where nothing waits, and where the backlog does not shrink; then
    `is_measured` tells whether that is known. `wait` and `run` are the durations of the last hour
    that was counted, or None; `workers` those who worked on it then, the busiest first.
    """
    backlog = {name: each["pending"] + each["claimed"] for name, each in figures.tasks.items()}
    found = rates.queue_rates(names=figures.names, backlog=backlog, now=now)
    until = found.measured_until
    workers_of = history.workers_by_type(names=figures.names)
    return [
        {
            **_counted(name, tasks, figures.finished[name]),
            "oldest_ms": _milliseconds(figures.oldest_pending_seconds.get(name)),
            "drains_at": found.drains_at[name],
            "is_measured": until is not None and now - until <= rates.STALE_MS,
            "wait": found.waits.get(name),
            "run": found.runs.get(name),
            "workers": workers_of.get(name, []),
        }
        for name, tasks in figures.tasks.items()
    ]


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def _counted(name: str, tasks: Any, finished: Any) -> dict[str, Any]:
    waiting = sum(tasks[status] for status in read.WAITING_STATUSES)
    hour, day = finished["hour"], finished["day"]
    done = hour["completed"] + hour["failed"]
    ended = day["completed"] + day["failed"]
    return {
        "name": name,
        "waiting": waiting,
        "pending": tasks["pending"],
        "running": tasks["claimed"],
        "per_minute": done / 60,
        "failed": day["failed"],
        "failed_share": day["failed"] / ended if ended else None,
    }


def _totals(figures: statistics.QueueFigures) -> dict[str, Any]:
    tasks, finished = figures.tasks.values(), figures.finished.values()
    return {
        "waiting": sum(each[status] for each in tasks for status in read.WAITING_STATUSES),
        "scheduled": sum(each["scheduled"] for each in tasks),
        "oldest_ms": max(figures.oldest_pending_seconds.values(), default=0) * 1000 or None,
        "running": sum(each["claimed"] for each in tasks),
        **{
            f"{status}_{period}": sum(each[period][status] for each in finished)
            for period in ("minute", "hour", "day")
            for status in ("completed", "failed")
        },
    }


def _latest_failures() -> list[Any]:
    return read.list_tasks(
        task_filter=read.TaskFilter(statuses=("failed",)),
        sort_by="id",
        descending=True,
        limit=FAILURES_SHOWN,
        offset=0,
        cursor=None,
        with_total=False,
        caller=g.caller,
    ).tasks
