"""`taskmanager alerts`: whether alerts arrive, and what is wrong now."""

import sys

import click

from taskmanager.alerts import channels, messages
from taskmanager.cli.queue_api import Call, with_api
from taskmanager.cli.terminal import json_option, say, show, show_json, show_table
from taskmanager.config import load_settings
from taskmanager.notify.sending import NotSent

SECONDS = 30.0


@click.group("alerts")
def alerts_group() -> None:
    """See what is wrong, and test whether alerts arrive."""


@alerts_group.command("test")
def send_test() -> None:
    """Send a test message now, and print what the server answered.

    By mail, to the webhook, or both, as the settings say. Exits with 1 if one of
    them was refused.
    """
    settings = load_settings()
    ways = channels.configured(settings)
    if not ways:
        say(
            "Alerts are sent nowhere: set TASKMANAGER_ALERT_EMAIL or TASKMANAGER_ALERT_WEBHOOK in "
            "the environment or in .env."
        )
    failed = not ways
    for channel in ways:
        try:
            answer = channel.send(settings, messages.test_message(), SECONDS)
        except NotSent as error:
            failed = True
            say(f"{channel.name}: not sent. {error}")
        else:
            show(f"{channel.name}: sent. The server answered {answer}")
    if failed:
        sys.exit(1)


@alerts_group.command("list")
@json_option
@with_api
def list_alerts(api: Call, as_json: bool) -> None:
    """List what is wrong now. With --json also what ended in the last 7 days."""
    found = api("GET", "/alerts")
    if as_json:
        show_json(found)
        return
    if found["looked_at"] is None:
        say("The rules were never looked at: run taskmanager maintain from cron.")
    else:
        say(f"The rules were last looked at {found['looked_at'][:19]} UTC.")
    for channel in found["channels"]:
        if channel["error"]:
            say(f"Alerts cannot be sent by {channel['name']}: {channel['error']}")
    is_open = [one for one in found["alerts"] if one["ended_at"] is None]
    show_table(
        ("rule", "since", "what"),
        (
            (one["rule"], one["began_at"][:19], f"{one['subject']} {one['message']}")
            for one in is_open
        ),
    )
