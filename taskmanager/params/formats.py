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

FormatCheck = Callable[[str], bool]

FORMATS: dict[str, FormatCheck] = {}

# RFC 3339, section 5.6: the offset is not optional, and the T may be written small.
_TIME = r"([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?([zZ]|[+-]([01]\d|2[0-3]):[0-5]\d)"
_TIME_PATTERN = re.compile(_TIME, re.ASCII)
_DATE_TIME_PATTERN = re.compile(rf"(\d{{4}}-\d\d-\d\d)[Tt ]{_TIME}", re.ASCII)
_DURATION_PATTERN = re.compile(
    r"P(?!$)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+S)?)?)", re.ASCII
)
_HOST_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)", re.ASCII)
# RFC 5321 limits the part before the @ to 64 characters; these are the ones RFC 5322 calls atoms.
_MAILBOX = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
# Not uuid.UUID(), which takes underscores, signs and the digits of other scripts for digits.
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", re.ASCII)
_URI_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:", re.ASCII)
# Possessive (++): a group repeated once a character remembers each of them to come back to.
_URI_CHARACTERS = re.compile(
    r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]++|%[0-9A-Fa-f]{2})*+", re.ASCII
)


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


@register_format("time")
def is_time(text: str) -> bool:
    return _TIME_PATTERN.fullmatch(text) is not None


@register_format("date-time")
def is_date_time(text: str) -> bool:
    match = _DATE_TIME_PATTERN.fullmatch(text)
    return match is not None and is_date(match[1])


@register_format("duration")
def is_duration(text: str) -> bool:
    return _DURATION_PATTERN.fullmatch(text) is not None


@register_format("hostname")
def is_hostname(text: str) -> bool:
    return len(text) <= 253 and all(_HOST_LABEL.fullmatch(label) for label in text.split("."))


@register_format("email")
def is_email(text: str) -> bool:
    mailbox, at, host = text.rpartition("@")
    return (
        bool(at) and len(mailbox) <= 64 and bool(_MAILBOX.fullmatch(mailbox)) and is_hostname(host)
    )


@register_format("uri-reference")
def is_uri_reference(text: str) -> bool:
    return _URI_CHARACTERS.fullmatch(text) is not None


@register_format("uri")
def is_uri(text: str) -> bool:
    return _URI_SCHEME.match(text) is not None and is_uri_reference(text)


@register_format("uuid")
def is_uuid(text: str) -> bool:
    return _UUID.fullmatch(text) is not None


@register_format("ipv4")
def is_ipv4(text: str) -> bool:
    return _is_address(socket.AF_INET, text)


@register_format("ipv6")
def is_ipv6(text: str) -> bool:
    return _is_address(socket.AF_INET6, text)


def _is_address(family: int, text: str) -> bool:
    """A tenth of the time that `ipaddress` takes to refuse a text."""
    try:
        socket.inet_pton(family, text)
    except (OSError, ValueError):
        return False
    return True


@register_format("youtube-video-id")
def is_youtube_video_id(text: str) -> bool:
    """Eleven characters of the URL-safe Base64 alphabet."""
    return re.fullmatch(r"[A-Za-z0-9_-]{11}", text) is not None


@register_format("reddit-subreddit")
def is_reddit_subreddit(text: str) -> bool:
    """A community's name without `r/`: 3 to 21 characters, not beginning with an underscore."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]{2,20}", text) is not None
