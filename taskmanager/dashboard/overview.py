"""/dashboard: what needs somebody, how much waits, and when each type will be done."""

from typing import Any

from flask import Blueprint, Response, g

from taskmanager.api.auth import requires
from taskmanager.api.requests import settings
from taskmanager.dashboard.answers import page
from taskmanager.dashboard.attention import notices
from taskmanager.queue import read, workers
from taskmanager.queue.figures import statistics
from taskmanager.queue.task_types import find_task_types

blueprint = Blueprint("overview", __name__)

TYPES_SHOWN = 12
FAILURES_SHOWN = 6
WORKERS_SHOWN = 6


@blueprint.get("")
@requires("tasks:read")
def show() -> Response:
    """GET /dashboard: the overview; before there is a type, what to do first."""
    types = find_task_types(caller=g.caller, columns="id, name, is_active, is_paused")
    if not types:
        return page("first_visit.html")
    figures = statistics.queue_figures(caller=g.caller, now=g.now)
    paused = {row["name"] for row in types if row["is_paused"]}
    rows = [{**row, "is_paused": row["name"] in paused} for row in type_rows(figures)]
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
        notices=notices(figures, types, caller=g.caller, now=g.now),
        totals=_totals(figures),
        types=sorted(rows, key=lambda row: -row["waiting"])[:TYPES_SHOWN],
        more_types=max(0, len(rows) - TYPES_SHOWN),
        most=max((row["waiting"] for row in rows), default=0),
        failures=_latest_failures(),
        workers=seen,
        counted_at=figures.counted_at,
    )


def type_rows(figures: statistics.QueueFigures) -> list[dict[str, Any]]:
    """One row for each type that has tasks: what waits, what was done, when it is drained.

    `drained_in` is in milliseconds: 0 where nothing waits, None where nothing of it was done in
    the last hour.
    """
    return [
        _type_row(name, tasks, figures.finished[name], figures.oldest_pending_seconds.get(name))
        for name, tasks in figures.tasks.items()
    ]


def _type_row(name: str, tasks: Any, finished: Any, oldest: float | None) -> dict[str, Any]:
    waiting = tasks["pending"] + tasks["scheduled"]
    hour, day = finished["hour"], finished["day"]
    done = hour["completed"] + hour["failed"]
    per_minute = max(finished["minute"]["completed"] + finished["minute"]["failed"], done / 60)
    drained_in = None if not per_minute else tasks["pending"] / per_minute * 60_000
    ended = day["completed"] + day["failed"]
    return {
        "name": name,
        "waiting": waiting,
        "oldest_ms": None if oldest is None else oldest * 1000,
        "running": tasks["claimed"],
        "per_minute": done / 60,
        "failed": day["failed"],
        "failed_share": day["failed"] / ended if ended else None,
        "drained_in": drained_in if tasks["pending"] else 0,
    }


def _totals(figures: statistics.QueueFigures) -> dict[str, Any]:
    tasks, finished = figures.tasks.values(), figures.finished.values()
    return {
        "waiting": sum(each["pending"] + each["scheduled"] for each in tasks),
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
