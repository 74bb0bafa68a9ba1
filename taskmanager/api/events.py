"""/api/events: the feed of what happens to tasks, for a program that follows it."""

from flask import Blueprint, Response, g

from taskmanager.api import request_schemas
from taskmanager.api.auth import requires
from taskmanager.api.requests import Values
from taskmanager.api.responses import success
from taskmanager.api.serializers import EVENT
from taskmanager.api.waiting_calls import Look, wait_until
from taskmanager.queue import feed
from taskmanager.wakeups import topics

blueprint = Blueprint("events", __name__, url_prefix="/events")


@blueprint.get("")
@requires("tasks:read", query=request_schemas.LIST_EVENTS)
def list_all(query: Values) -> Response:
    """GET /api/events: what happened to tasks, oldest first.

    `after`: `next_cursor` of the page before, `latest` to begin with what happens
    next, or nothing to begin with the oldest event that is kept; `limit` (100, at
    most 1,000); `type` (exact, or a pattern with %), `status` (several with
    commas), `tag`. Up to 5,000 events are looked at, `scanned` counts them: without
    `is_complete` there is more to read at once. `next_cursor` is never null, and no
    event is left out or repeated between two pages. With `wait_seconds` (0 to 20), waits
    until there is an event. 200; 400.
    """
    after, scanned = query["after"], 0

    def look() -> Look[feed.Page]:
        nonlocal after, scanned
        page = feed.list_events(
            after=after,
            limit=query["limit"],
            type_pattern=query["type"],
            statuses=query["status"],
            tag=query["tag"],
            caller=g.caller,
            now=g.now,
        )
        # The next look goes on behind what this one has read.
        after, scanned = page.next_cursor, scanned + page.scanned
        is_final = page.events or not page.is_complete
        return Look(page._replace(scanned=scanned), None if is_final else (topics.EVENTS,))

    page = wait_until(look, seconds=query["wait_seconds"], line=object())
    return success(
        {
            "events": [EVENT.of(row) for row in page.events],
            "count": len(page.events),
            "next_cursor": page.next_cursor,
            "scanned": page.scanned,
            "is_complete": page.is_complete,
        }
    )
