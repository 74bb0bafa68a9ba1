"""The doctor on the command line: the report for people and for scripts, and the exit status."""

import json
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from taskmanager import __version__
from taskmanager.doctor.case import PLACE, Case, case_of_command
from taskmanager.doctor.checks import CHECKS, examine
from taskmanager.doctor.findings import Finding, Level

WIDTH = 100

NO_ADDRESS = "must be an address like https://example.org/queue"


def is_address(text: str) -> bool:
    """Whether `text` is valid for --url."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def run_doctor(*, as_json: bool, url: str | None) -> int:
    """Prints the report on stdout. Returns the exit status: 1 if there is a problem, else 0."""
    case = case_of_command(url)
    findings = list(examine(case))
    # Only if it was loaded: it may be what is broken.
    if connection := sys.modules.get("taskmanager.db.connection"):
        connection.close_connection()
    if as_json:
        text = json.dumps(report_json(findings), ensure_ascii=False, indent=2)
    else:
        text = "\n".join(report_lines(findings, case))
    sys.stdout.write(text + "\n")
    return 1 if _count(findings, Level.PROBLEM) else 0


def report_json(findings: list[Finding]) -> dict[str, Any]:
    """The report as JSON; the HTTP call returns the same."""
    return {
        "version": __version__,
        "findings": [asdict(finding) for finding in findings],
        "count": len(findings),
        "problems": _count(findings, Level.PROBLEM),
        "warnings": _count(findings, Level.WARNING),
    }


def summary(findings: Iterable[Finding]) -> str:
    """`1 problem, 2 warnings.`"""
    parts = [
        f"{count} {level}{'s' if count > 1 else ''}"
        for level in (Level.PROBLEM, Level.WARNING)
        if (count := _count(findings, level))
    ]
    return f"{', '.join(parts)}." if parts else "No problems, no warnings."


def report_lines(findings: list[Finding], case: Case) -> Iterator[str]:
    """The report for people: by group, each finding with its level and what to do."""
    yield f"TaskManager {__version__} in {case.root}"
    if case.settings:
        yield f"Instance folder: {case.settings.instance_path}"
        if PLACE not in case.missing and case.sqlite_file:
            yield f"Database: {case.sqlite_file}"
    for group in CHECKS:
        yield ""
        yield group.capitalize()
        for finding in findings:
            if finding.group == group:
                mark = "ok" if finding.level is Level.OK else finding.level.upper()
                yield _indented(f"{mark:<8}", f"{finding.found} [{finding.code}]")
                if finding.remedy:
                    yield _indented(" " * 8, f"To do: {finding.remedy}")
    yield ""
    yield summary(findings).capitalize()


def _indented(mark: str, text: str) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=f"  {mark}",
        subsequent_indent=" " * 10,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _count(findings: Iterable[Finding], level: Level) -> int:
    return sum(finding.level is level for finding in findings)
