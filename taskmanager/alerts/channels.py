"""The ways in which alerts reach people: by mail, and posted to an address."""

from collections.abc import Callable
from typing import NamedTuple

from taskmanager.alerts.messages import Message, json_of
from taskmanager.clock import utc_now
from taskmanager.config import Settings
from taskmanager.notify.addresses import AddressRefused
from taskmanager.notify.deliveries import rules_of
from taskmanager.notify.sending import NotSent, post

SECONDS = 15.0  # for one message


class Channel(NamedTuple):
    """`mark` is the column of `alerts` that has what it has told. `send` returns the answer.

    `send` raises NotSent, and ends within the seconds that it is given.
    """

    name: str
    mark: str
    send: Callable[[Settings, Message, float], str]


def configured(settings: Settings) -> list[Channel]:
    """Those that the settings name."""
    return [channel for channel in CHANNELS if getattr(settings, f"alert_{channel.name}")]


def _by_email(settings: Settings, message: Message, seconds: float) -> str:
    # smtplib and email take a while to load, and most processes never send a mail.
    from taskmanager.alerts.mail import send_mail

    return send_mail(
        message,
        server=settings.smtp_url,
        recipients=settings.alert_email,
        seconds=min(seconds, SECONDS),
    )


def _by_webhook(settings: Settings, message: Message, seconds: float) -> str:
    body = json_of(message, now=utc_now())
    headers = {"content-type": "application/json", "user-agent": "TaskManager"}
    rules = rules_of(settings)
    try:
        answer = post(
            settings.alert_webhook, body, headers, rules=rules, seconds=min(seconds, SECONDS)
        )
    except AddressRefused as error:
        raise NotSent(str(error)) from None
    if not 200 <= answer.status < 300:
        raise NotSent(f"The receiver answered {answer.status}.")
    return str(answer.status)


CHANNELS = (
    Channel("email", "emailed", _by_email),
    Channel("webhook", "posted", _by_webhook),
)
