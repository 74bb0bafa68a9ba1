"""/dashboard/errors: failures grouped by type, code and message, the largest group first."""

from typing import Any

from flask import Blueprint, Response, g, request

from taskmanager.api.auth import requires
from taskmanager.dashboard import search_line
from taskmanager.dashboard.answers import page
from taskmanager.dashboard.filters import asked_filters, task_filter
from taskmanager.queue import failures
from taskmanager.queue.figures import history
from taskmanager.queue.task_types import find_task_types

blueprint = Blueprint("failures", __name__)


@blueprint.get("/errors")
@requires("tasks:read")
def show() -> Response:
    """GET /dashboard/errors: the groups of the latest failures; the filters of the list."""
    filters = asked_filters()
    found = failures.group_failures(
        task_filter=task_filter(filters), cursor=request.args.get("cursor") or None, caller=g.caller
    )
    types = find_task_types(caller=g.caller)
    trends = history.failures_by_hour(names={row["id"]: row["name"] for row in types}, now=g.now)
    return page(
        "errors.html",
        found=found,
        groups=[
            {
                **group,
                "filters": filters_of(group),
                "trend": trends.get((group["type"], group["error_code"])),
            }
            for group in found.groups
        ],
        most=max((group["count"] for group in found.groups), default=0),
        filters=filters,
        line=search_line.line_of(filters),
        types=[row["name"] for row in types],
    )


def filters_of(group: dict[str, Any]) -> dict[str, str]:
    """The filters of a list that has the tasks of a group.

    Of its message, the longest part without a number or id, so the list may have a few more.
    """
    filters = {"type": group["type"], "status": "failed"}
    if group["error_code"]:
        filters["error_code"] = group["error_code"]
    fixed = max((group["message"] or "").split("#"), key=len).strip()
    if fixed:
        filters["error"] = fixed
    return filters
