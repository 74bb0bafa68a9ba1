"""Checks for the `format` keyword of a schema, each registered by its name.

A plugin module (`TASKMANAGER_PLUGINS`) adds its own:

    from taskmanager.params.formats import register_format

    @register_format("order-number")
    def is_order_number(text: str) -> bool:
        return text.startswith("ORD-") and text[4:].isdigit()

A check gets a string and answers whether it is one. Other kinds of values
never reach it: `type` is there for those. Every check here is linear in the
length of the text.
"""

import re
import socket
from collections.abc import Callable
from datetime import date
from functools import partial

FormatCheck = Callable[[str], bool]

# RFC 3339, section 5.6: the offset is not optional, and the T may be written small.
_TIME = r"([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?([zZ]|[+-]([01]\d|2[0-3]):[0-5]\d)"
_DATE_TIME = re.compile(rf"(\d{{4}}-\d\d-\d\d)[Tt ]{_TIME}", re.ASCII)
_HOST_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
# RFC 5321 limits the part before the @ to 64 characters; these are the ones RFC 5322 calls atoms.
_MAILBOX = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
# Possessive (++): a group repeated once a character remembers each of them to come back to.
_URI_REFERENCE = r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]++|%[0-9A-Fa-f]{2})*+"


def _matches(pattern: str) -> FormatCheck:
    expression = re.compile(pattern, re.ASCII)
    return lambda text: expression.fullmatch(text) is not None


def _is_address(family: int, text: str) -> bool:
    """A tenth of the time that `ipaddress` takes to refuse a text."""
    try:
        socket.inet_pton(family, text)
    except (OSError, ValueError):
        return False
    return True


FORMATS: dict[str, FormatCheck] = {
    "time": _matches(_TIME),
    "duration": _matches(r"P(?!$)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+S)?)?)"),
    "uri-reference": _matches(_URI_REFERENCE),
    "uri": _matches(r"(?=[A-Za-z][A-Za-z0-9+.-]*:)" + _URI_REFERENCE),
    "ipv4": partial(_is_address, socket.AF_INET),
    "ipv6": partial(_is_address, socket.AF_INET6),
    # Not uuid.UUID(), which takes underscores, signs and the digits of other scripts for digits.
    "uuid": _matches(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"),
    # Eleven characters of the URL-safe Base64 alphabet.
    "youtube-video-id": _matches(r"[A-Za-z0-9_-]{11}"),
    # A community's name without `r/`: 3 to 21 characters, not beginning with an underscore.
    "reddit-subreddit": _matches(r"[A-Za-z0-9][A-Za-z0-9_]{2,20}"),
}


def register_format(name: str) -> Callable[[FormatCheck], FormatCheck]:
    """A decorator that makes `{"format": name}` mean the decorated check."""

    def register(check: FormatCheck) -> FormatCheck:
        FORMATS[name] = check
        return check

    return register


@register_format("date")
def is_date(text: str) -> bool:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


@register_format("date-time")
def is_date_time(text: str) -> bool:
    match = _DATE_TIME.fullmatch(text)
    return match is not None and is_date(match[1])


@register_format("hostname")
def is_hostname(text: str) -> bool:
    return len(text) <= 253 and all(_HOST_LABEL.fullmatch(label) for label in text.split("."))


@register_format("email")
def is_email(text: str) -> bool:
    mailbox, at, host = text.rpartition("@")
    return (
        bool(at) and len(mailbox) <= 64 and bool(_MAILBOX.fullmatch(mailbox)) and is_hostname(host)
    )
