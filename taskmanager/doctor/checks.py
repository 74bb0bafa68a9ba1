"""The list of all checks, in the order in which they run and are shown, and the runner."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from taskmanager.doctor.case import DATABASE, FOLDER, PLACE, SETTINGS, TABLES, Case
from taskmanager.doctor.findings import Finding, warning

# Name of a group → its heading.
GROUPS = {
    "program": "Program",
    "settings": "Settings",
    "host": "Host",
    "database": "Database",
    "queue": "Queue",
    "network": "Network",
}


@dataclass(frozen=True)
class Check:
    """`function` is `module:name` in this package, imported just before it runs.

    `subject` names the check in the report if it is skipped. `needs` lists the
    entries of `Case.missing` that skip it.
    """

    group: str
    function: str
    subject: str
    needs: tuple[str, ...] = ()


CHECKS = (
    Check("program", "program:check_python", "Python"),
    Check("program", "program:check_libraries", "libraries"),
    Check("program", "program:check_loading", "the program's parts"),
    Check("program", "release:check_files", "the release's files"),
    Check("settings", "settings:check_settings", "settings"),
    Check("settings", "settings:check_env_file", "`.env`"),
    Check("settings", "settings:check_plugins", "plugins", (SETTINGS,)),
    Check("settings", "settings:check_bootstrap_key", "the bootstrap key", (SETTINGS,)),
    Check("host", "folders:check_instance_folder", "the instance folder", (PLACE,)),
    Check("host", "folders:check_space", "free space", (PLACE,)),
    Check("host", "folders:check_sync", "the speed of the disk", (FOLDER, PLACE)),
    Check("host", "rate_limits:check_storage", "rate limits", (PLACE,)),
    Check("database", "database:check_reachable", "the database", (PLACE,)),
    Check("database", "database:check_version", "the database version", (DATABASE, PLACE)),
    Check("database", "sqlite:check_file", "the database file", (DATABASE, PLACE)),
    Check("database", "sqlite:check_journal", "the journal", (DATABASE, PLACE)),
    Check("database", "sqlite:check_processes", "processes", (DATABASE, PLACE)),
    Check("database", "mysql:check_clock", "clocks", (DATABASE, PLACE)),
    Check("database", "mysql:check_connections", "connections", (DATABASE, PLACE)),
    Check("queue", "queue:check_schema", "tables", (DATABASE, PLACE)),
    Check("queue", "queue:check_claim_path", "SKIP LOCKED", (TABLES, DATABASE, PLACE)),
    Check("queue", "queue:check_keys", "keys", (TABLES, DATABASE, PLACE)),
    Check("queue", "queue:check_task_types", "task types", (TABLES, DATABASE, PLACE)),
    Check("queue", "queue:check_maintenance", "maintenance", (TABLES, DATABASE, PLACE)),
    Check("network", "network:check_encryption", "encryption"),
    Check("network", "network:check_proxies", "proxies", (SETTINGS,)),
    Check("network", "network:check_document_root", "the document root"),
    Check("network", "outside:check_from_outside", "exposed files"),
)


def examine(case: Case) -> Iterator[Finding]:
    """Runs all checks and yields every finding, group by group. Never raises."""
    for group in GROUPS:
        skipped: dict[str, list[str]] = {}
        for check in CHECKS:
            if check.group != group:
                continue
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
            yield replace(_not_checked(subjects, reason), group=group)


def _run(check: Check, case: Case) -> list[Finding]:
    try:
        module, _, name = check.function.partition(":")
        function: Callable[[Case], Iterator[Finding]]
        function = getattr(importlib.import_module(f"taskmanager.doctor.{module}"), name)
        return list(function(case))
    except Exception as error:  # noqa: BLE001 - the other checks must still run
        return [_failed(check, error)]


def _failed(check: Check, error: Exception) -> Finding:
    # The text of the error is not shown: it may contain secrets.
    if isinstance(error, ModuleNotFoundError):
        why = f"the module {error.name} is missing"
    else:
        why = f"the check failed with {type(error).__name__}"
    return warning(
        "check_failed",
        f"Not checked: {check.subject}. Reason: {why}.",
        "Fix the other findings first. If this one remains, please report it as a bug.",
    )


def _not_checked(subjects: list[str], reason: str) -> Finding:
    return warning(
        "not_checked",
        f"Not checked: {', '.join(subjects)}. Reason: {reason}.",
        "Fix that first, then run the doctor again.",
    )
