"""/dashboard/schedules: what recurs, when it is due next, and how it went last time."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from flask import Blueprint, Response, g, request

from taskmanager.api.auth import requires
from taskmanager.api.requests import task_defaults
from taskmanager.api.schedules import SCHEDULE
from taskmanager.dashboard.answers import lead_to, page
from taskmanager.dashboard.wording import duration
from taskmanager.db.statements import Row
from taskmanager.queue.schedules import definitions, due_times, runs

blueprint = Blueprint("schedules", __name__)

PAGE_SIZE = 50


@blueprint.get("/schedules")
@requires("task-types:read")
def show() -> Response:
    """GET /dashboard/schedules: a page of schedules by name, each with its next five runs."""
    found = definitions.list_schedules(
        limit=PAGE_SIZE, offset=0, cursor=request.args.get("cursor") or None, caller=g.caller
    )
    rows = [_shown(definitions.with_next_runs(row)) for row in found.rows]
    return page("schedules.html", page=found, rows=rows)


def _shown(row: Row) -> dict[str, Any]:
    """The schedule with its timing in words, and its next runs in its own time zone."""
    if row["cron"]:
        words = due_times.explain(row["cron"])
    else:
        words = f"Every {duration(row['interval_seconds'] * 1000)}"
    return {
        **row,
        "words": words,
        "next_runs": [(at, _local(at, row["timezone"])) for at in row["next_runs"]],
    }


def _local(at: int, zone: str) -> str:
    try:
        local = datetime.fromtimestamp(at / 1000, ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError):
        return ""
    return f"{local:%a} {local.day} {local:%b, %H:%M}"


@blueprint.post(f"/schedules{SCHEDULE}/run")
@requires("tasks:create")
def run(schedule_id: int) -> Response:
    """POST /dashboard/schedules/{id}/run: creates its task now."""
    outcome = runs.run_schedule_now(
        schedule_id=schedule_id, defaults=task_defaults(), caller=g.caller, now=g.now
    )
    task = outcome.task or {}
    said = (
        "Its last task is unfinished, so none was created."
        if outcome.deduplicated
        else f"Task #{task['id']} was created."
    )
    return lead_to("task.show", task_id=task["id"], said=said)


@blueprint.post(f"/schedules{SCHEDULE}/<any(pause, resume):switch>")
@requires("task-types:write")
def change(schedule_id: int, switch: str) -> Response:
    """POST /dashboard/schedules/{id}/pause or resume."""
    row = definitions.change_schedule(
        schedule_id=schedule_id,
        changes={"is_active": switch == "resume"},
        caller=g.caller,
        now=g.now,
    )
    said = "runs again; what it missed is not made up" if switch == "resume" else "is paused"
    return lead_to("schedules.show", said=f"{row['name']} {said}.")
