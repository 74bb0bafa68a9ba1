"""Reading and writing times."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskmanager.clock import format_time, parse_time, utc_now


def test_now_is_a_time_in_milliseconds() -> None:
    before = datetime.now(UTC).timestamp() * 1000
    assert before - 1 <= utc_now() <= before + 60_000


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1, "1970-01-01T00:00:00.001Z"),
        (1_763_000_000_999, "2025-11-13T02:13:20.999Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_a_time_is_written_in_utc_with_milliseconds(milliseconds: int, text: str) -> None:
    assert format_time(milliseconds) == text
    assert parse_time(text) == milliseconds


def test_no_time_stays_none() -> None:
    assert format_time(None) is None


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31T12:00:00Z",
        "2026-01-31t12:00:00z",
        "2026-01-31T12:00:00.000+00:00",
        "2026-01-31T14:30:00+02:30",
        "2026-01-31T04:00:00.0009-08:00",
    ],
)
def test_every_spelling_of_a_moment_is_read_as_the_same(text: str) -> None:
    assert parse_time(text) == 1_769_860_800_000


@pytest.mark.parametrize(
    "text",
    ["", "now", "2026-01-31", "2026-01-31T12:00:00", "2026-02-30T12:00:00Z", "1763000000", "0Z"],
)
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_time(text)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"])
def test_an_offset_cannot_move_a_time_out_of_the_calendar(text: str) -> None:
    with pytest.raises(OverflowError):
        parse_time(text)


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_a_time_survives_being_written_and_read(milliseconds: int) -> None:
    text = format_time(milliseconds)
    assert text is not None
    assert parse_time(text) == milliseconds
