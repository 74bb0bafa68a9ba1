"""The one door to alerts: looks at the rules once a minute, and sends what has begun and ended.

Several processes may call it at once. What they do is claimed in the database first, so each
message is sent once, and again only if a process died while it sent it.
"""

import logging
import time

from taskmanager.alerts import channels, messages, state
from taskmanager.alerts.channels import Channel
from taskmanager.alerts.findings import find_all
from taskmanager.clock import utc_now
from taskmanager.config import Settings
from taskmanager.notify.sending import NotSent

log = logging.getLogger(__name__)

BUDGET_SECONDS = 30.0
LEAST_SECONDS = 1.0  # no sending begins with less


def run(settings: Settings, *, budget_seconds: float = BUDGET_SECONDS) -> int:
    """Looks and sends for about `budget_seconds`; returns how many messages were sent.

    What could not be sent is sent by a later run, and said in `alert_channels`. Raises
    DatabaseUnavailable. A crash leaves what was found; what was being sent may be sent again.
    """
    deadline = time.monotonic() + budget_seconds
    now = utc_now()
    if state.begin_look(now=now):
        state.record(find_all(settings=settings, now=now), now=now)
        state.prune(retention_days=settings.retention_days, now=now)
    return sum([_tell(channel, settings, deadline) for channel in channels.configured(settings)])


def _tell(channel: Channel, settings: Settings, deadline: float) -> bool:
    """Sends everything that the channel has not told yet, as one message."""
    now = utc_now()
    seconds = deadline - time.monotonic()
    if seconds < LEAST_SECONDS or not state.due(channel.mark, now=now):
        return False
    if not state.claim(channel.name, now=now):
        return False
    rows = state.due(channel.mark, now=now)  # as it is now that nobody else sends
    if not rows:
        state.release(channel.name, now=now)
        return False
    try:
        channel.send(settings, messages.about(rows), seconds)
    except NotSent as error:
        log.warning("alerts cannot be sent by %s: %s", channel.name, error)
        state.record_failure(channel.name, str(error), now=utc_now())
        return False
    state.record_sent(channel.name, channel.mark, rows, now=utc_now())
    return True
