"""Checks the content of the database: tables, keys, task types and runs of maintenance."""

from collections.abc import Iterator

from taskmanager.access import keys
from taskmanager.clock import utc_now
from taskmanager.db.connection import database, dialect, skips_locked
from taskmanager.db.dialect import SQLITE
from taskmanager.db.models import MODELS
from taskmanager.db.schema import SCHEMA_VERSION, schema_version
from taskmanager.doctor.case import TABLES, Case
from taskmanager.doctor.findings import Finding, not_applicable, ok, problem, warning
from taskmanager.queue import maintenance_runs, task_types

SILENT_MS = 15 * 60_000
CRON = (
    "Let cron run 'taskmanager maintain' every minute. If it can only fetch an address, let it "
    "call POST /api/maintenance/run. See docs/operations.md."
)
WAYS = {"command": "by command", "http": "over HTTP"}


def check_schema(case: Case) -> Iterator[Finding]:
    """The recorded schema version, and whether every table exists."""
    found = schema_version()
    finding = judge_schema(found)
    if found != SCHEMA_VERSION:
        case.missing[TABLES] = "the tables have another version"
    yield finding
    if found is None:
        return
    existing = set(database.get_tables())
    missing = [name for model in MODELS if (name := model._meta.table_name) not in existing]
    if missing and found == SCHEMA_VERSION:
        case.missing[TABLES] = "tables are missing"
        yield problem(
            "tables",
            f"Tables are missing: {', '.join(missing)}.",
            "Restore the database from a backup. Without one, delete its other tables and run "
            "'taskmanager init-db' to start with an empty queue.",
        )
    elif found == SCHEMA_VERSION:
        yield ok("tables", f"All {len(MODELS)} tables exist.")


def judge_schema(found: int | None) -> Finding:
    """`found` is the version recorded in the database, or None if there are no tables."""
    if found is None:
        return warning(
            "schema_version",
            "The database has no tables yet.",
            "The first start creates them, or run: taskmanager init-db",
        )
    if found < SCHEMA_VERSION:
        return warning(
            "schema_version",
            f"The tables have version {found} and the program has {SCHEMA_VERSION}: an upgrade is "
            "pending.",
            "The next start upgrades them, or run: taskmanager migrate",
        )
    if found > SCHEMA_VERSION:
        return problem(
            "schema_version",
            f"The tables have version {found}, but this program only has {SCHEMA_VERSION}.",
            "Upload the newer program again, or restore a backup made with this one.",
        )
    return ok("schema_version", f"The tables have version {found}, like the program.")


def check_claim_path(case: Case) -> Iterator[Finding]:
    """How claims lock tasks. Both ways are fine."""
    if dialect() is SQLITE:
        yield not_applicable("claim_path", "SQLite has one writer at a time.")
    elif skips_locked():
        yield ok("claim_path", "Claims use SKIP LOCKED.")
    else:
        yield ok(
            "claim_path",
            "Claims use guarded updates, because the server has no SKIP LOCKED or ?skip_locked=off "
            "is set. With many workers the order of tasks is nearly exact.",
        )


def check_keys(case: Case) -> Iterator[Finding]:
    """Whether there is a valid admin key."""
    now = utc_now()
    admins = [row for row in keys.list_keys() if keys.may_administer(row, now=now)]
    if admins:
        count = "is 1 admin key" if len(admins) == 1 else f"are {len(admins)} admin keys"
        yield ok("admin_key", f"There {count}.")
    else:
        yield problem(
            "admin_key",
            "There is no valid admin key.",
            "Create one: taskmanager keys create --name me --role admin. Without a shell set "
            "TASKMANAGER_BOOTSTRAP_ADMIN_KEY to a key that was never used before, and restart.",
        )


def check_task_types(case: Case) -> Iterator[Finding]:
    """Whether the schemas that are stored can still be used."""
    unusable = task_types.unusable_task_types()
    for row in unusable:
        yield problem(
            "param_schemas",
            f"New tasks of type '{row['name']}' (version {row['version']}) are refused: "
            f"{row['problem']}",
            "Register the type again with a schema that can be used. See docs/schemas.md.",
        )
    if not unusable:
        yield ok("param_schemas", "The schemas of all task types can be used.")


def check_maintenance(case: Case) -> Iterator[Finding]:
    """When full maintenance last ran, by command and over HTTP."""
    now = utc_now()
    runs = maintenance_runs.last_runs()
    said = [
        f"{name} {_ago(now - runs[way].last_run_at)}" for way, name in WAYS.items() if way in runs
    ]
    last = max((runs[way].last_run_at for way in WAYS if way in runs), default=None)
    if last is not None and now - last <= SILENT_MS:
        yield ok("maintenance", f"Maintenance last ran {', '.join(said)}.")
        return
    found = f"Maintenance last ran {', '.join(said)}" if said else "Maintenance has never run"
    claims = (
        f"; claims last did part of it {_ago(now - runs['claims'].last_run_at)}"
        if "claims" in runs
        else ""
    )
    yield warning(
        "maintenance",
        f"{found}{claims}. Without it schedules and retries wait for the next claim, and finished "
        "tasks are never deleted.",
        CRON,
    )


def _ago(milliseconds: int) -> str:
    seconds = max(0, milliseconds // 1000)
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}s ago"
    return f"{seconds} s ago"
