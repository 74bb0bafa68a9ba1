"""The list of all checks, in the order in which they run and are shown, and the runner."""

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from taskmanager.doctor.case import DATABASE, FOLDER, PLACE, SETTINGS, TABLES, Case
from taskmanager.doctor.findings import Finding, warning


@dataclass(frozen=True)
class Check:
    """`function` is `module:name` in this package, imported just before it runs.

    It returns one finding or yields several. `subject` names the check in the report if it is
    skipped. `needs` lists the entries of `Case.missing` that skip it.
    """

    function: str
    subject: str
    needs: tuple[str, ...] = ()


# Group → its checks.
CHECKS = {
    "program": (
        Check("program:check_python", "Python"),
        Check("program:check_libraries", "libraries"),
        Check("program:check_loading", "the program's parts"),
        Check("release:check_files", "the release's files"),
    ),
    "settings": (
        Check("settings:check_settings", "settings"),
        Check("settings:check_env_file", "`.env`"),
        Check("settings:check_plugins", "plugins", (SETTINGS,)),
        Check("settings:check_bootstrap_key", "the bootstrap key", (SETTINGS,)),
    ),
    "host": (
        Check("folders:check_instance_folder", "the instance folder", (PLACE,)),
        Check("folders:check_space", "free space", (PLACE,)),
        Check("folders:check_sync", "the speed of the disk", (FOLDER, PLACE)),
        Check("rate_limits:check_storage", "rate limits", (PLACE,)),
    ),
    "database": (
        Check("database:check_reachable", "the database", (PLACE,)),
        Check("database:check_version", "the database version", (DATABASE, PLACE)),
        Check("sqlite:check_file", "the database file", (DATABASE, PLACE)),
        Check("sqlite:check_journal", "the journal", (DATABASE, PLACE)),
        Check("sqlite:check_processes", "processes", (DATABASE, PLACE)),
        Check("mysql:check_clock", "clocks", (DATABASE, PLACE)),
        Check("mysql:check_connections", "connections", (DATABASE, PLACE)),
    ),
    "queue": (
        Check("queue:check_schema", "tables", (DATABASE, PLACE)),
        Check("queue:check_claim_path", "SKIP LOCKED", (TABLES, DATABASE, PLACE)),
        Check("queue:check_keys", "keys", (TABLES, DATABASE, PLACE)),
        Check("queue:check_maintenance", "maintenance", (TABLES, DATABASE, PLACE)),
    ),
    "network": (
        Check("network:check_encryption", "encryption"),
        Check("network:check_proxies", "proxies", (SETTINGS,)),
        Check("network:check_document_root", "the document root"),
        Check("outside:check_from_outside", "exposed files"),
    ),
}


def examine(case: Case) -> Iterator[Finding]:
    """Runs all checks and yields every finding, group by group. Never raises."""
    for group, checks in CHECKS.items():
        skipped: dict[str, list[str]] = {}
        for check in checks:
            # The most basic requirement is listed last, so report that one: it is the cause.
            reason = next(
                (case.missing[need] for need in reversed(check.needs) if need in case.missing), None
            )
            if reason:
                skipped.setdefault(reason, []).append(check.subject)
                continue
            for finding in _run(check, case):
                yield replace(finding, group=group)
        for reason, subjects in skipped.items():
            yield warning(
                "not_checked",
                f"Not checked: {', '.join(subjects)}. Reason: {reason}.",
                "Fix that first, then run the doctor again.",
                group=group,
            )


def _run(check: Check, case: Case) -> list[Finding]:
    try:
        module, _, name = check.function.partition(":")
        function: Callable[[Case], Finding | Iterable[Finding]]
        function = getattr(importlib.import_module(f"taskmanager.doctor.{module}"), name)
        found = function(case)
        return [found] if isinstance(found, Finding) else list(found)
    except Exception as error:  # noqa: BLE001 - the other checks must still run
        # The text of the error is not shown: it may contain secrets.
        if isinstance(error, ModuleNotFoundError):
            why = f"the module {error.name} is missing"
        else:
            why = f"the check failed with {type(error).__name__}"
    return [
        warning(
            "check_failed",
            f"Not checked: {check.subject}. Reason: {why}.",
            "Fix the other findings first. If this one remains, please report it as a bug.",
        )
    ]
