"""When a cron expression or an interval falls due."""

from itertools import takewhile

import pytest

from taskmanager.clock import format_time, parse_time
from taskmanager.queue.schedules import due_times
from taskmanager.queue.schedules.due_times import Timing

QUARTER_HOUR_MS = 900_000
DAY_MS = 86_400_000


def by_cron(cron: str, timezone: str = "UTC") -> Timing:
    return Timing(cron=cron, timezone=timezone, interval_seconds=None)


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
@pytest.mark.parametrize(
    "cron",
    ["30 2 * * *", "0 2,3 * * *", "*/20 * * * *", "0 * * * *", "5-50/15 2 * * *", "* 2 * * 0"],
)
def test_the_due_times_are_the_same_from_wherever_they_are_counted(day: str, cron: str) -> None:
    timing = by_cron(cron, "Europe/Berlin")
    midnight = parse_time(f"{day}T00:00:00Z")
    start = due_times.first_after(timing, midnight - 8 * DAY_MS)
    all_of_them = [
        *takewhile(
            lambda due_at: due_at < midnight + 8 * DAY_MS,
            due_times.upcoming(timing, start, 16 * 24 * 4),
        )
    ]
    for now in range(midnight, midnight + DAY_MS // 6, QUARTER_HOUR_MS):
        latest = max(due_at for due_at in all_of_them if due_at <= now)
        following = min(due_at for due_at in all_of_them if due_at > now)
        assert due_times.first_after(timing, now) == following, format_time(now)
        assert due_times.latest_and_next(timing, start, now) == (latest, following)


@pytest.mark.parametrize(
    "timing",
    [by_cron("* * * * *"), Timing(cron=None, timezone="UTC", interval_seconds=60)],
)
def test_millions_of_missed_due_times_are_not_walked_through(timing: Timing) -> None:
    long_ago, now = parse_time("1976-01-01T00:00:00Z"), parse_time("2026-01-15T12:00:30Z")
    assert due_times.latest_and_next(timing, long_ago, now) == (now - 30_000, now + 30_000)


def test_a_due_time_is_one_that_has_come_to_the_millisecond() -> None:
    noon = parse_time("2026-01-15T12:00:00Z")
    hourly = by_cron("0 * * * *")
    assert due_times.first_after(hourly, noon - 1) == noon
    assert due_times.first_after(hourly, noon) == noon + 3_600_000
    yesterday = noon - DAY_MS
    assert due_times.latest_and_next(hourly, yesterday, noon - 1)[1] == noon
    assert due_times.latest_and_next(hourly, yesterday, noon)[0] == noon
