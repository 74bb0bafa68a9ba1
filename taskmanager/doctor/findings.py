"""The findings of the doctor. Each has a code that programs can rely on: see docs/operations.md."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """WARNING: works, but should be improved. PROBLEM: does not work, or is not safe."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """What was found and, unless the level is OK, what to do about it.

    Neither text contains a secret or an absolute path. The runner of the checks sets `group`.
    """

    code: str
    level: Level
    found: str
    remedy: str | None = None
    group: str = ""


def ok(code: str, found: str, remedy: str | None = None) -> Finding:
    return Finding(code, Level.OK, found, remedy)


def not_applicable(code: str, sentence: str) -> Finding:
    """A check that does not apply to this host, or whose result cannot be known."""
    return Finding(code, Level.OK, f"Not applicable: {sentence}")


def warning(code: str, found: str, remedy: str, *, group: str = "") -> Finding:
    return Finding(code, Level.WARNING, found, remedy, group)


def problem(code: str, found: str, remedy: str) -> Finding:
    return Finding(code, Level.PROBLEM, found, remedy)


def listed(names: list[str], most: int = 10) -> str:
    """`a, b, c and 12 more`."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def reason_of(error: OSError) -> str:
    """The system's reason for the error, without the path."""
    return (error.strerror or type(error).__name__).lower()
