"""The list of all checks, in the order in which they run and are shown, and the runner."""

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from taskmanager.doctor.case import DATABASE, FOLDER, PLACE, SETTINGS, TABLES, Case
from taskmanager.doctor.findings import Finding, warning


@dataclass(frozen=True)
class Check:
    """`code` is that of its findings, unless a finding has one of its own.

    `function` is `module:name` in this package, imported just before it runs. It returns one
    finding or yields several. `subject` names the check in the report if it is skipped, which
    it is if `needs` is in `Case.missing`.
    """

    code: str
    function: str
    subject: str
    needs: str = ""


# Group → its checks.
CHECKS = {
    "program": (
        Check("python_version", "program:check_python", "Python"),
        Check("libraries", "program:check_libraries", "libraries"),
        Check("program_loads", "program:check_loading", "the program's parts"),
        Check("release_files", "release:check_files", "the release's files"),
    ),
    "settings": (
        Check("settings", "settings:check_settings", "settings"),
        Check("env_file", "settings:check_env_file", "`.env`"),
        Check("plugins", "settings:check_plugins", "plugins", SETTINGS),
        Check("bootstrap_key", "settings:check_bootstrap_key", "the bootstrap key", SETTINGS),
    ),
    "host": (
        Check("instance_folder", "folders:check_instance_folder", "the instance folder", PLACE),
        Check("file_modes", "folders:check_file_modes", "modes of files", FOLDER),
        Check("disk_space", "folders:check_space", "free space", PLACE),
        Check("disk_sync", "folders:check_sync", "the speed of the disk", FOLDER),
        Check("rate_limits", "rate_limits:check_storage", "rate limits", PLACE),
    ),
    "database": (
        Check("database", "database:check_reachable", "the database", PLACE),
        Check("database_version", "database:check_version", "the database version", DATABASE),
        Check("sqlite_file", "database:check_file", "the database file", DATABASE),
        Check("sqlite_journal", "database:check_journal", "the journal", DATABASE),
        Check("processes", "database:check_processes", "processes", DATABASE),
        Check("clock", "database:check_clock", "clocks", DATABASE),
        Check("connections", "database:check_connections", "connections", DATABASE),
        Check("rate_limit_hosts", "database:check_hosts", "hosts of one database", DATABASE),
        Check("database_nodes", "database:check_nodes", "database servers", DATABASE),
        Check("binary_log", "database:check_binary_log", "the binary log", DATABASE),
        Check("packet_size", "database:check_packets", "max_allowed_packet", DATABASE),
    ),
    "queue": (
        Check("schema_version", "queue:check_schema", "tables", DATABASE),
        Check("database_writes", "queue:check_writing", "writing", DATABASE),
        Check("claim_path", "queue:check_claim_path", "SKIP LOCKED", TABLES),
        Check("admin_key", "queue:check_keys", "keys", TABLES),
        Check("param_schemas", "queue:check_task_types", "task types", TABLES),
        Check("payload_keys", "queue:check_payload_keys", "keys of encrypted tasks", TABLES),
        Check("maintenance", "queue:check_maintenance", "maintenance", TABLES),
        Check("webhooks", "queue:check_webhooks", "webhooks", TABLES),
        Check("alerts", "alerts:check_alerts", "alerts", TABLES),
        Check("stored_times", "queue:check_stored_times", "stored times", TABLES),
    ),
    "network": (
        Check("encryption", "network:check_encryption", "encryption"),
        Check("proxies", "network:check_proxies", "proxies", SETTINGS),
        Check("document_root", "network:check_document_root", "the document root"),
        Check("files_exposed", "outside:check_from_outside", "exposed files"),
    ),
}


def examine(case: Case) -> Iterator[Finding]:
    """Runs all checks and yields every finding, group by group. Never raises."""
    for group, checks in CHECKS.items():
        skipped: dict[str, list[str]] = {}
        for check in checks:
            if reason := case.missing.get(check.needs):
                skipped.setdefault(reason, []).append(check.subject)
                continue
            for finding in _run(check, case):
                yield replace(finding, group=group, code=finding.code or check.code)
        for reason, subjects in skipped.items():
            found = f"Not checked: {', '.join(subjects)}. Reason: {reason}."
            remedy = "Fix that first, then run the doctor again."
            yield replace(warning(found, remedy, code="not_checked"), group=group)


def _run(check: Check, case: Case) -> list[Finding]:
    try:
        module, _, name = check.function.partition(":")
        function: Callable[[Case], Finding | Iterable[Finding]]
        function = getattr(importlib.import_module(f"taskmanager.doctor.{module}"), name)
        findings = function(case)
        return [findings] if isinstance(findings, Finding) else list(findings)
    except Exception as error:  # noqa: BLE001 - the other checks must still run
        # The text of the error is not shown: it may contain secrets.
        if isinstance(error, ModuleNotFoundError):
            why = f"the module {error.name} is missing"
        else:
            why = f"the check failed with {type(error).__name__}"
    found = f"Not checked: {check.subject}. Reason: {why}."
    remedy = "Fix the other findings first. If this one remains, please report it as a bug."
    return [warning(found, remedy, code="check_failed")]
