"""Checks that alerts can be sent, by what the last attempt showed. Sends nothing."""

from collections.abc import Iterator

from taskmanager.alerts import channels, state
from taskmanager.doctor.case import Case
from taskmanager.doctor.findings import Finding, not_applicable, ok, warning


def check_alerts(case: Case) -> Iterator[Finding]:
    """Each way of sending that the settings name."""
    ways = channels.configured(case.settings)
    if not ways:
        yield not_applicable("TASKMANAGER_ALERT_EMAIL and TASKMANAGER_ALERT_WEBHOOK are empty.")
    used = state.channels()
    for channel in ways:
        row = used.get(channel.name)
        if row is None:
            yield ok(f"Alerts go by {channel.name}. None was sent yet.")
        elif row["error"]:
            yield warning(
                f"Alerts cannot be sent by {channel.name}: {row['error']}",
                "Correct the settings or mend the server, and try: taskmanager alerts test",
            )
        else:
            yield ok(f"Alerts go by {channel.name}, and the last one was sent.")
