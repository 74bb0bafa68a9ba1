"""How pages write figures, times and JSON: the filters of the templates."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from flask import g

from taskmanager.clock import UNITS, format_duration

LARGE_JSON = 100_000  # characters; what is longer is shown as it is stored
MAX_NESTING = 60

_PART = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
_CLOSING = {"{": "}", "[": "]"}


def number(value: float | None) -> str:
    """`12,840`; a dash where there is none."""
    return "–" if value is None else f"{value:,.0f}"


def rate(value: float | None) -> str:
    """`412`, `0.4`; 0 and nothing below a tenth are told apart."""
    if value is None:
        return "–"
    if 0 < value < 0.1:
        return "< 0.1"
    return f"{value:.1f}" if 0 < value < 10 else number(value)


def duration(milliseconds: float | None) -> str:
    """`0.4 s`, `38 s`, `4 min`, `1 h 12 min`, `3 days`; a dash where there is none."""
    return "–" if milliseconds is None else format_duration(milliseconds)


def ago(milliseconds: int | None) -> str:
    """`4 min ago`, `in 2 h`, `now`, as seen from the present request."""
    if milliseconds is None:
        return "never"
    passed = g.now - milliseconds
    if abs(passed) < 1000:
        return "now"
    seconds = abs(passed) // 1000
    size, unit = next(((size, unit) for size, unit, _, _ in UNITS if seconds >= size), (1, "s"))
    many = seconds // size
    text = f"{many} {'days' if unit == 'day' and many > 1 else unit}"
    return f"{text} ago" if passed > 0 else f"in {text}"


def moment(milliseconds: int | None) -> str:
    """`28 Nov 2026, 15:01:12 UTC`."""
    if milliseconds is None:
        return "–"
    at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return f"{at.day} {at:%b %Y, %H:%M:%S} UTC"


def clock_time(milliseconds: int) -> str:
    """`15:01:12.420`, in UTC."""
    at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return f"{at:%H:%M:%S}.{milliseconds % 1000:03d}"


def hour_of(milliseconds: int) -> str:
    """`15:01`, and on another day than today `29 Nov, 15:01`; in UTC."""
    at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    today = datetime.fromtimestamp(g.now / 1000, UTC).date()
    return f"{at:%H:%M}" if at.date() == today else f"{at.day} {at:%b, %H:%M}"


def machine_time(milliseconds: int) -> str:
    """What the attribute `datetime` of a time takes."""
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def count_of(many: int, noun: str) -> str:
    """`1 task`, `3 tasks`."""
    return f"{many:,} {noun}{'' if many == 1 else 's'}"


def json_parts(text: str | None) -> Iterator[tuple[str, str]]:
    """The parts of JSON as it is stored, indented: each with its kind, and its text.

    The kind is `key`, `text`, `value`, or empty for what is between. No number is converted.
    """
    if text is None or len(text) > LARGE_JSON:
        yield "", text or ""
        return
    depth = 0
    parts = [found[0] for found in _PART.finditer(text)]
    for at, part in enumerate(parts):
        following = parts[at + 1] if at + 1 < len(parts) else ""
        before = parts[at - 1] if at else ""
        if part in _CLOSING:
            depth += 1
            yield "", part if following == _CLOSING[part] else part + _line(depth)
        elif part in "}]":
            depth -= 1
            yield "", part if before in _CLOSING else _line(depth) + part
        elif part == ",":
            yield "", part + _line(depth)
        elif part == ":":
            yield "", ": "
        else:
            kind = "key" if following == ":" else "text" if part.startswith('"') else "value"
            yield kind, part


def _line(depth: int) -> str:
    return "\n" + "  " * min(depth, MAX_NESTING)


def json_list(text: str | None) -> list[Any]:
    """The members of a list that is stored as JSON; none where nothing is stored."""
    return json.loads(text) if text else []


def status_word(status: str) -> str:
    """The status as a heading has it: `Failed`."""
    return status.capitalize()


FILTERS: Mapping[str, Callable[..., Any]] = {
    "number": number,
    "rate": rate,
    "duration": duration,
    "ago": ago,
    "moment": moment,
    "clock_time": clock_time,
    "hour_of": hour_of,
    "machine_time": machine_time,
    "count_of": count_of,
    "json_list": json_list,
    "json_parts": json_parts,
    "status_word": status_word,
}
