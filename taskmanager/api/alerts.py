"""/api/alerts: what is wrong, what was wrong lately, and whether people could be told."""

from flask import Blueprint, Response, g

from taskmanager.alerts import channels, messages, state
from taskmanager.api import request_schemas
from taskmanager.api.auth import requires
from taskmanager.api.requests import settings
from taskmanager.api.responses import success
from taskmanager.api.serializers import ALERT, ALERT_CHANNEL
from taskmanager.clock import format_time

blueprint = Blueprint("alerts", __name__, url_prefix="/alerts")

SHOWN_MS = 7 * 86_400_000


@blueprint.get("")
@requires(
    "admin",
    every_type="see alerts, which are about all types",
    query=request_schemas.NO_PARAMETERS,
)
def list_all() -> Response:
    """GET /api/alerts: open alerts, then those that ended in the last 7 days.

    `looked_at` is when the rules were last looked at. `channels` are the ways of
    sending that the settings name; `error` is why the last message was not sent. 200.
    """
    rows = state.list_alerts(ended_since=g.now - SHOWN_MS)
    used = state.channels()
    return success(
        {
            "alerts": [ALERT.of({**row, "remedy": messages.remedy_of(row)}) for row in rows],
            "count": len(rows),
            "looked_at": format_time(state.looked_at()),
            "channels": [
                ALERT_CHANNEL.of(
                    {
                        "last_sent_at": None,
                        "error": None,
                        **used.get(one.name, {}),
                        "name": one.name,
                    }
                )
                for one in channels.configured(settings())
            ],
        }
    )
