"""The figures of a demo: checks that they add up, and formats the summary."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

LARGEST_SHOWN = 10
FAILURES_SHOWN = 5


@dataclass
class Enqueued:
    """The answers of the service to one pass over the files.

    `uncertain` counts tasks that existed when a call was repeated after a lost
    answer. The lost call created them, or they existed before.
    """

    created: int = 0
    deduplicated: int = 0
    uncertain: int = 0
    refused: list[str] = field(default_factory=list)
    create_seconds: list[float] = field(default_factory=list)

    @property
    def made(self) -> int:
        """The tasks that this pass created, if none existed before it."""
        return self.created + self.uncertain

    @property
    def found(self) -> int:
        """The tasks that this pass found, if all existed before it."""
        return self.deduplicated + self.uncertain


@dataclass
class ReadBack:
    """What the API lists at the end."""

    paths: set[str] = field(default_factory=set)
    completed: int = 0
    failed: int = 0
    largest: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Figures:
    """All figures, each counted independently. A report is None if its worker was killed."""

    folder: str
    paths: set[str]
    first_pass: Enqueued
    second_pass: Enqueued
    reports: dict[str, dict[str, Any] | None]
    read_back: ReadBack
    statistics: dict[str, int]
    enqueue_seconds: float
    work_seconds: float

    def reported(self, what: str) -> int:
        return sum(report[what] for report in self.reports.values() if report)

    def seconds(self, what: str) -> list[float]:
        return [one for report in self.reports.values() if report for one in report[what]]


def problems(figures: Figures) -> list[str]:
    """A sentence for each figure that does not add up."""
    files = len(figures.paths)
    first, second, listed = figures.first_pass, figures.second_pass, figures.read_back
    finished = listed.completed + listed.failed
    claims = [
        ("created", first.made, "files", files),
        ("de-duplicated in the first pass", first.deduplicated, "expected", 0),
        ("de-duplicated in the second pass", second.found, "files", files),
        ("created in the second pass", second.created, "expected", 0),
        ("completed and failed together", finished, "created", first.made),
        ("different files as listed", len(listed.paths & figures.paths), "files", files),
        ("listed files that were never enqueued", len(listed.paths - figures.paths), "expected", 0),
        ("tasks by the statistics", sum(figures.statistics.values()), "created", first.made),
    ]
    for what, count in (("completed", listed.completed), ("failed", listed.failed)):
        name = f"{what} as listed"
        claims.append((name, count, f"{what} by the statistics", figures.statistics[what]))
        if None not in figures.reports.values():
            # If a worker was killed, only the service knows its last completions.
            claims.append((name, count, f"{what} by the workers", figures.reported(what)))
    found = [
        f"{what}: {number:,}, but {other}: {expected:,}."
        for what, number, other, expected in claims
        if number != expected
    ]
    refused = first.refused + second.refused
    if refused:
        found.append(f"refused by the service: {len(refused):,} tasks, the first: {refused[0]}")
    return found


def percentile(values: Sequence[float], percent: int) -> float | None:
    """The smallest value that at least `percent` % of the values do not exceed (nearest rank)."""
    rank = -(-len(values) * percent // 100)  # rounded up
    return sorted(values)[rank - 1] if values else None


def summary(figures: Figures, *, batch: int, tasks_per_claim: int) -> Iterator[str]:
    """Yields the lines of the summary."""
    first, listed = figures.first_pass, figures.read_back
    per_second = len(figures.paths) / max(figures.work_seconds, 0.001)
    yield f"created        {first.made:>9,}  one task per file, {figures.enqueue_seconds:.1f} s"
    yield f"de-duplicated  {figures.second_pass.found:>9,}  the same files enqueued a second time"
    yield (
        f"completed      {listed.completed:>9,}  by {len(figures.reports)} worker processes, "
        f"{figures.work_seconds:.1f} s, {per_second:,.0f} tasks/s"
    )
    retried = figures.reported("retried")
    yield f"failed         {listed.failed:>9,}  permanently; {retried:,} failed attempts retried"
    for task in listed.failures[:FAILURES_SHOWN]:
        yield (
            f"    {_shown_path(figures, task)}: {task['error_message']} "
            f"({task['attempts']} of {task['max_attempts']} attempts)"
        )
    if listed.failed > FAILURES_SHOWN:
        yield f"    and {listed.failed - FAILURES_SHOWN:,} more"
    yield ""
    yield "latency, client side        p50         p95    calls"
    for call, seconds, note in (
        ("create", first.create_seconds, f"one task per call; the rest in batches of {batch:,}"),
        ("claim", figures.seconds("claim_seconds"), f"up to {tasks_per_claim} tasks per call"),
        ("complete", figures.seconds("complete_seconds"), "one task per call"),
    ):
        shown = "".join(
            f"{'-':>12}" if value is None else f"{value * 1000:>9.1f} ms"
            for value in (percentile(seconds, 50), percentile(seconds, 95))
        )
        yield f"  {call:<16}{shown} {len(seconds):>8,}  {note}"
    if listed.largest:
        yield ""
        yield "the largest files, read back from the API"
        yield f"{'bytes':>15}  {'lines':>10}  {'sha256':<12}  path"
    for task in listed.largest:
        result = task["result"]
        yield (
            f"{result['size_bytes']:>15,}  {result['lines']:>10,}  {result['sha256'][:12]}  "
            f"{_shown_path(figures, task)}"
        )


def _shown_path(figures: Figures, task: dict[str, Any]) -> str:
    return printable(os.path.relpath(task["params"]["path"], figures.folder))


def printable(text: str) -> str:
    """`text` with control characters escaped, which a path may contain."""
    return "".join(
        character if character.isprintable() else repr(character)[1:-1] for character in text
    )
