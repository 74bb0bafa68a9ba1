"""One check of a value against a compiled schema: what it costs and what it finds."""

from collections.abc import Callable
from typing import Any, NamedTuple

from taskmanager.params.work_meter import TooCostly, WorkMeter

# The way to a value: the way to what holds it, and its name or index there.
Path = tuple[Any, str | int] | None
IN_NAME = -1  # the step from an object to one of its property names


class EnoughFailures(Exception):
    """As many failures are known as are reported."""


class Failure(NamedTuple):
    """`rule` is the keyword's value; for a property that is not allowed, the known ones."""

    path: Path
    keyword: str
    rule: Any
    value: Any

    @property
    def steps(self) -> tuple[str | int, ...]:
        steps, path = [], self.path
        while path is not None:
            path, step = path
            steps.append(step)
        return tuple(reversed(steps))


class Run(WorkMeter):
    """While quiet, only whether a value fits is of interest, and the first failure ends a check."""

    __slots__ = ("failures", "is_quiet", "most_failures")

    def __init__(self, *, units: int, most_failures: int) -> None:
        super().__init__(units)
        self.most_failures = most_failures
        self.failures: list[Failure] = []
        self.is_quiet = False

    def fail(self, path: Path, keyword: str, rule: Any, value: Any) -> bool:
        """Always False: the check's answer. Raises EnoughFailures."""
        if not self.is_quiet:
            self.failures.append(Failure(path, keyword, rule, value))
            if len(self.failures) >= self.most_failures:
                raise EnoughFailures
        return False

    def fits_quietly(self, node: "Node", value: Any) -> bool:
        was_quiet, self.is_quiet = self.is_quiet, True
        fits = node.fits(value, None, self)
        self.is_quiet = was_quiet
        return fits


Check = Callable[[Any, Path, Run], bool]

_ROOM = 33_000


def with_room(check: Callable[[Any, Run], None], value: Any, run: Run) -> None:
    """Calls `check` where a thousand calls inside one another find room without a break.

    CPython keeps the frames of calls in pieces of 16 KB. A loop that calls a
    function just past the end of a piece gets and frees a piece each time, which
    costs fifteen times the call; how deep that is, a schema can arrange. A frame
    that asks for a quarter of a megabyte makes the piece that holds it so
    large that all the others fit behind it. That takes 10 µs, so it is for the
    few checks that turn out to be long.
    """
    check(value, run)


with_room.__code__ = with_room.__code__.replace(co_stacksize=_ROOM)

_COST_OF_SUBSCHEMA = 2
_COST_OF_CHECK = 1


class Node:
    """A compiled subschema."""

    __slots__ = ("checks", "cost")

    def __init__(self) -> None:
        self.set_checks([])

    def set_checks(self, checks: list[Check]) -> None:
        self.checks = checks
        self.cost = _COST_OF_SUBSCHEMA + _COST_OF_CHECK * len(checks)

    def fits(self, value: Any, path: Path, run: Run) -> bool:
        run.left -= self.cost
        if run.left < 0:
            raise TooCostly
        fits = True
        for check in self.checks:
            if not check(value, path, run):
                if run.is_quiet:
                    return False
                fits = False
        return fits
