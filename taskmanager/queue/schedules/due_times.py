"""When something recurring falls due: a cron expression in a time zone, or an interval.

Knows neither schedules nor tasks; times are milliseconds since the epoch.
cronsim and zoneinfo are imported when the first expression is used.
"""

import datetime
import difflib
import importlib.util
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from taskmanager.errors import ValidationFailed

# Without it the program must not start: no schedule would run. Found here, imported when needed.
if importlib.util.find_spec("cronsim") is None:
    raise ModuleNotFoundError("No module named 'cronsim'", name="cronsim")

CRON_FIELDS = (  # name, what it takes, number of values
    ("minute", "0-59", 60),
    ("hour", "0-23", 24),
    ("day of month", "1-31, L or LW", 31),
    ("month", "1-12 or JAN-DEC", 12),
    ("day of week", "0-7 or SUN-SAT, 5L, MON#1", 7),
)
# In the zone database, but each means something else on the next machine.
_LOCAL_ZONES = frozenset({"localtime", "posixrules", "Factory"})
_ZONE_VARIANTS = ("posix/", "right/")


class Timing(NamedTuple):
    """When something falls due: by `cron`, read in `timezone`, or every `interval_seconds`."""

    cron: str | None
    timezone: str
    interval_seconds: int | None


def first_after(timing: Timing, moment: int) -> int:
    """The first due time after `moment`; an interval begins there.

    Raises ValidationFailed for an expression or a zone that cannot be used, and
    for an expression that never falls due.
    """
    return next(_times_after(timing, moment))


def first_before(timing: Timing, due_at: int, now: int) -> int:
    """The first due time after `now`, where `due_at` is a later one.

    Raises ValidationFailed as `first_after` does.
    """
    if timing.interval_seconds is None:
        return first_after(timing, now)
    return now + 1 + (due_at - now - 1) % (timing.interval_seconds * 1000)


def upcoming(timing: Timing, due_at: int, count: int) -> list[int]:
    """`due_at`, which is a due time, and those that follow it: `count` in all."""
    return [due_at, *islice(_times_after(timing, due_at), count - 1)]


def latest_and_next(timing: Timing, due_at: int, now: int) -> tuple[int, int]:
    """The last due time up to `now` and the first after it; `due_at` is one that has come.

    Costs the same however many due times lie between the two.
    """
    if timing.interval_seconds is not None:
        step = timing.interval_seconds * 1000
        latest = due_at + (now - due_at) // step * step
        return latest, latest + step
    latest = max(due_at, _some_time_up_to(timing, now))
    times = _times_after(timing, latest)
    while (following := next(times)) <= now:
        latest = following
    return latest, following


def _times_after(timing: Timing, moment: int) -> Iterator[int]:
    """Every due time after `moment`, for ever. Raises ValidationFailed where there is no more."""
    if timing.interval_seconds is not None:
        while True:
            moment += timing.interval_seconds * 1000
            yield moment
    start = datetime.datetime.fromtimestamp(moment / 1000, load_zone(timing.timezone))
    for due_at in map(_milliseconds, _simulate(timing.cron or "", start)):
        # cronsim counts by the clock on the wall: begun in an hour that is there twice, it
        # may first answer with a time of the earlier of the two.
        if due_at > moment:
            yield due_at
    raise _bad("cron", f"never falls due: no day fits '{timing.cron}'")


def _some_time_up_to(timing: Timing, now: int) -> int:
    """A due time up to `now` with few others between; 0 where there is none.

    Backwards cronsim takes another way through the hours that the clocks skip
    or repeat, so what it finds is only where to begin forwards.
    """
    second_after = datetime.datetime.fromtimestamp(now // 1000 + 1, load_zone(timing.timezone))
    moments = map(_milliseconds, _simulate(timing.cron or "", second_after, reverse=True))
    return next((moment for moment in moments if moment <= now), 0)


def _milliseconds(moment: datetime.datetime) -> int:
    return round(moment.timestamp()) * 1000


def _simulate(
    cron: str, start: datetime.datetime, *, reverse: bool = False
) -> Iterator[datetime.datetime]:
    from cronsim import CronSim, CronSimError

    try:
        return CronSim(cron, start, reverse=reverse)
    except CronSimError:
        raise _bad("cron", _what_is_wrong(cron)) from None


def clean_cron(cron: str) -> str:
    """The expression with single spaces.

    Raises ValidationFailed unless it has five fields without a step beyond what the
    field holds: `*/90` would run every hour.
    """
    fields = cron.split()
    if len(fields) != len(CRON_FIELDS):
        raise _bad(
            "cron",
            f"must have five fields ({', '.join(name for name, _, _ in CRON_FIELDS)}), "
            f"for example '30 2 * * *', not {len(fields)}",
        )
    for text, (name, _, values) in zip(fields, CRON_FIELDS, strict=True):
        steps = [part.partition("/")[2] for part in text.split(",")]
        beyond = [step for step in steps if step.isdecimal() and int(step) > values]
        if beyond:
            raise _bad(
                "cron",
                f"counts in steps of {beyond[0]} in its {name} '{text}', which has {values} "
                "values: it would be due at the first of them only; for a longer interval use "
                "interval_seconds",
            )
    return " ".join(fields)


def explain(cron: str) -> str:
    """A valid expression in words: `At 03:00 every day`."""
    from cronsim import CronSim

    words: str = CronSim(cron, datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)).explain()
    return words


def _what_is_wrong(cron: str) -> str:
    """Each field tried by itself; where none is wrong, it is that they do not go together."""
    from cronsim import CronSim, CronSimError

    for index, (text, (name, expected, _)) in enumerate(
        zip(cron.split(), CRON_FIELDS, strict=True)
    ):
        alone = ["*"] * len(CRON_FIELDS)
        alone[index] = text
        try:
            CronSim(" ".join(alone), datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC))
        except CronSimError:
            return (
                f"has a bad {name}: '{text}'; expected {expected}, "
                "or * , and lists (1,2), ranges (1-5), steps (*/10) of them"
            )
    return f"never falls due: no day fits '{cron}'"


def load_zone(name: str) -> datetime.tzinfo:
    """A time zone by its IANA name. Raises ValidationFailed with the nearest one as a hint."""
    import zoneinfo

    if name not in _LOCAL_ZONES and not name.startswith(_ZONE_VARIANTS):
        try:
            return zoneinfo.ZoneInfo(name)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            pass
    near = difflib.get_close_matches(name, zoneinfo.available_timezones() - _LOCAL_ZONES, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "use an IANA name such as Europe/Berlin"
    raise _bad("timezone", f"is not a known time zone: '{name}'; {hint}")


def _bad(field: str, message: str) -> ValidationFailed:
    return ValidationFailed(
        f"{field} {message}" + ("" if message.endswith("?") else "."),
        code="invalid_request",
        details=[{"path": field, "message": message, "keyword": field}],
    )
