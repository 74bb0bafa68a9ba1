"""Charts as parts of an SVG: where each bar stands, in percent of the width and pixels of height.

So letters keep their size at any width, and no style is needed inside a page. Refuses to know what
is counted.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from taskmanager.queue.figures.history import Step

HEIGHT = 160
TOP = 12  # room for the letters of the highest line
LABELS = 6
GAP = 0.2  # of a step's width
SMALLEST = 1.5  # pixels of a bar that stands for something
FORMATS = {"hour": "%H:%M", "day": "%H:%M", "week": "%a %H:%M"}


class Bar(NamedTuple):
    """A step: `x` and `width` in percent; from the top, in pixels, `done_y` and `failed_y`."""

    name: str
    completed: int
    failed: int
    x: float
    width: float
    done_y: float
    failed_y: float


class Chart(NamedTuple):
    """`lines` are pairs of pixels from the top and what stands there; `labels`, of percent."""

    bars: Sequence[Bar]
    lines: Sequence[tuple[float, int]]
    labels: Sequence[tuple[float, str]]
    height: int


def chart_of(steps: Sequence[Step], range_name: str) -> Chart:
    """The chart of a range of history.RANGES; failed tasks stand on those that were completed."""
    most = _round_up(max((step.completed + step.failed for step in steps), default=0))
    width = 100 / max(len(steps), 1)
    every = max(1, len(steps) // LABELS)
    names = [_name(step.at, range_name) for step in steps]
    return Chart(
        bars=[_bar(step, names[at], at * width, width, most) for at, step in enumerate(steps)],
        lines=[(_y(value, most), value) for value in (0, most // 2, most)],
        labels=[(round(at * width, 2), names[at]) for at in range(0, len(steps), every)],
        height=HEIGHT,
    )


def _bar(step: Step, name: str, x: float, width: float, most: int) -> Bar:
    done_y = _top(_y(step.completed, most), HEIGHT, step.completed)
    failed_y = _top(done_y - step.failed / most * (HEIGHT - TOP), done_y, step.failed)
    gap = width * GAP
    return Bar(
        name,
        step.completed,
        step.failed,
        round(x + gap / 2, 2),
        round(width - gap, 2),
        done_y,
        failed_y,
    )


def _top(y: float, below: float, value: int) -> float:
    return round(min(y, below - SMALLEST), 1) if value else below


def _y(value: int, most: int) -> float:
    return round(HEIGHT - value / most * (HEIGHT - TOP), 1)


def _round_up(value: int) -> int:
    """The next of 2, 4, 6, 10, 20, 40, 60, 100, …"""
    size = 1
    while True:
        for step in (2, 4, 6, 10):
            if value <= step * size:
                return step * size
        size *= 10


def _name(at: int, range_name: str) -> str:
    return f"{datetime.fromtimestamp(at / 1000, UTC):{FORMATS[range_name]}}"
