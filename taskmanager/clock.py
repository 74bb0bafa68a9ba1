"""The only clock. Everything that asks what time it is asks here, so tests can move it.

Also how times and durations are written.
"""

import functools
import time
from datetime import UTC, datetime, timedelta

# Seconds of a unit, its name, and the same of the next smaller one.
UNITS = ((86_400, "day", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s"))

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def utc_now() -> int:
    """Milliseconds since 1970-01-01 UTC: how every time is stored and compared."""
    return time.time_ns() // 1_000_000


def format_time(milliseconds: int | None) -> str | None:
    """RFC 3339 in UTC with milliseconds, `2026-01-31T12:00:00.000Z`; None stays None."""
    if milliseconds is None:
        return None
    seconds, millis = divmod(milliseconds, 1000)
    return f"{_format_second(seconds)}.{millis:03d}Z"


# An answer holds several times, many of them of one second, and so do those that follow.
@functools.lru_cache(maxsize=1_000)
def _format_second(seconds: int) -> str:
    # strftime costs three times as much.
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def format_duration(milliseconds: float) -> str:
    """`0.4 s`, `38 s`, `4 min`, `1 h 12 min`, `3 days`, for people."""
    seconds = max(milliseconds, 0) / 1000
    if seconds < 10:
        return f"{seconds:.1f} s"
    seconds = round(seconds)
    for size, unit, smaller, smaller_unit in UNITS:
        if seconds >= size:
            many, rest = seconds // size, seconds % size // smaller
            name = "days" if unit == "day" and many > 1 else unit
            # Two units only while the second still says something.
            return (
                f"{many} {name} {rest} {smaller_unit}" if rest and many < 10 else f"{many} {name}"
            )
    return f"{seconds} s"


def parse_time(text: str) -> int:
    """Milliseconds since the epoch from an RFC 3339 time.

    Raises ValueError where `text` is not a time or names no offset from UTC: a
    time without one means something else on every machine. Raises OverflowError
    where the offset moves it out of the years 1 to 9999, which nothing could show.
    """
    moment = datetime.fromisoformat(text.upper())  # RFC 3339 allows a small t and z
    if moment.tzinfo is None:
        raise ValueError("no offset from UTC")
    return (moment.astimezone(UTC) - _EPOCH) // timedelta(milliseconds=1)
