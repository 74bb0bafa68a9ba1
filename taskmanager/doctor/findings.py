"""The findings of the doctor. Each has a code that programs can rely on: see docs/operations.md."""

import re
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """WARNING: works, but should be improved. PROBLEM: does not work, or is not safe."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found and, unless the level is OK, what to do about it.

    Neither text contains a secret or an absolute path. The runner sets `group` and, if it is
    empty, `code`: both are those of the check.
    """

    group: str = ""
    code: str
    level: Level
    found: str
    remedy: str | None = None


def ok(found: str) -> Finding:
    return Finding(code="", level=Level.OK, found=found)


def not_applicable(sentence: str) -> Finding:
    """A check that does not apply to this host, or whose result cannot be known."""
    return ok(f"Not applicable: {sentence}")


def warning(found: str, remedy: str, *, code: str = "") -> Finding:
    return Finding(code=code, level=Level.WARNING, found=found, remedy=remedy)


def problem(found: str, remedy: str, *, code: str = "") -> Finding:
    return Finding(code=code, level=Level.PROBLEM, found=found, remedy=remedy)


def listed(names: list[str]) -> str:
    """The first ten: `a, b, c and 12 more`."""
    shown = ", ".join(names[:10])
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown


def numbers_of(version: str) -> list[int]:
    """`[4, 5]` of `4.5.0rc1`: the numbers that it begins with, without zeros at the end."""
    numbers = [int(part) for part in re.split(r"[^0-9.]", version)[0].split(".") if part]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers


def reason_of(error: OSError) -> str:
    """The system's reason for the error, without the path."""
    return (error.strerror or type(error).__name__).lower()
