"""What is in the database: tables, keys, and the traces of maintenance."""

from collections.abc import Iterator

from taskmanager.access import keys
from taskmanager.clock import utc_now
from taskmanager.db.connection import database, dialect, skips_locked
from taskmanager.db.dialect import SQLITE
from taskmanager.db.models import MODELS
from taskmanager.db.schema import SCHEMA_VERSION, schema_version
from taskmanager.doctor.case import TABLES, Case
from taskmanager.doctor.findings import Finding, not_applicable, ok, problem, warning
from taskmanager.queue import maintenance_runs

SILENT_MS = 15 * 60_000
CRON = (
    "Let cron run 'taskmanager maintain' every minute, or fetch POST /api/maintenance/run where it "
    "can only fetch an address; see docs/operations.md."
)
ROADS = {"command": "by command", "http": "by address"}


def check_schema(case: Case) -> Iterator[Finding]:
    """The version that is noted, and whether every table is there."""
    found = schema_version()
    finding = judge_schema(found)
    if found != SCHEMA_VERSION:
        case.missing[TABLES] = "the tables are not those of this version"
    yield finding
    if found is None:
        return
    there = set(database.get_tables())
    missing = [name for model in MODELS if (name := model._meta.table_name) not in there]
    if missing and found == SCHEMA_VERSION:
        case.missing[TABLES] = "tables are missing"
        yield problem(
            "tables",
            f"Tables are missing: {', '.join(missing)}.",
            "Put the database back from a backup. Without one, empty it and run 'taskmanager "
            "init-db', which begins anew.",
        )
    elif found == SCHEMA_VERSION:
        yield ok("tables", f"All {len(MODELS)} tables are there.")


def judge_schema(found: int | None) -> Finding:
    """`found` is the version noted in the database, None where there are no tables."""
    if found is None:
        return warning(
            "schema_version",
            "The database has no tables yet.",
            "The first start makes them, or now: taskmanager init-db",
        )
    if found < SCHEMA_VERSION:
        return warning(
            "schema_version",
            f"The tables are of version {found}, the program knows {SCHEMA_VERSION}: an upgrade "
            "is pending.",
            "The next start does it, or now: taskmanager migrate",
        )
    if found > SCHEMA_VERSION:
        return problem(
            "schema_version",
            f"The tables are of version {found}, newer than the {SCHEMA_VERSION} that this program "
            "knows.",
            "Upload the newer program again, or restore the database of this one.",
        )
    return ok("schema_version", f"The tables are of version {found}, as the program.")


def check_claim_path(case: Case) -> Iterator[Finding]:
    """Which way claims take; nothing need be done about either."""
    if dialect() is SQLITE:
        yield not_applicable("claim_path", "on SQLite one writes at a time anyway.")
    elif skips_locked():
        yield ok("claim_path", "Claims pass by the rows of others (SKIP LOCKED).")
    else:
        yield ok(
            "claim_path",
            "Claims look first and then update what is still free, because the server does not "
            "know SKIP LOCKED or ?skip_locked=off is set; the order is then nearly exact.",
        )


def check_keys(case: Case) -> Iterator[Finding]:
    """Whether anybody may administer."""
    now = utc_now()
    admins = [row for row in keys.list_keys() if keys.may_administer(row, now=now)]
    if admins:
        count = "1 key" if len(admins) == 1 else f"{len(admins)} keys"
        yield ok("admin_key", f"{count} may administer.")
    else:
        yield problem(
            "admin_key",
            "No key that is in force may administer.",
            "Make one: taskmanager keys create --name me --role admin. Without a shell set "
            "TASKMANAGER_BOOTSTRAP_ADMIN_KEY to a key that was not used before, and restart.",
        )


def check_maintenance(case: Case) -> Iterator[Finding]:
    """When the two roads were last taken on which everything is done."""
    now = utc_now()
    runs = maintenance_runs.last_runs()
    said = [
        f"{name} {_ago(now - runs[road].last_run_at)}"
        for road, name in ROADS.items()
        if road in runs
    ]
    last = max((runs[road].last_run_at for road in ROADS if road in runs), default=None)
    if last is not None and now - last <= SILENT_MS:
        yield ok("maintenance", f"Maintenance has run: {', '.join(said)}.")
        return
    found = f"Maintenance has last run {', '.join(said)}" if said else "Maintenance has never run"
    claims = (
        f"; claims have last done part of it {_ago(now - runs['claims'].last_run_at)}"
        if "claims" in runs
        else ""
    )
    yield warning(
        "maintenance",
        f"{found}{claims}. Without it schedules and retries wait for the next claim, and finished "
        "tasks are never removed.",
        CRON,
    )


def _ago(milliseconds: int) -> str:
    seconds = max(0, milliseconds // 1000)
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}s ago"
    return f"{seconds} s ago"
