"""Checks the content of the database: tables, keys and the last runs of maintenance."""

from collections.abc import Iterator
from dataclasses import replace

from taskmanager.access import keys
from taskmanager.clock import utc_now
from taskmanager.db.connection import database, dialect, skips_locked
from taskmanager.db.dialect import SQLITE
from taskmanager.db.models import MODELS
from taskmanager.db.probe import find_creation_refusal, try_to_write
from taskmanager.db.schema import PREFIX_REMEDY, SCHEMA_VERSION, foreign_tables, schema_version
from taskmanager.doctor.case import TABLES, Case
from taskmanager.doctor.findings import Finding, listed, not_applicable, ok, problem, warning
from taskmanager.errors import ConfigurationError
from taskmanager.notify import endpoints
from taskmanager.payloads import keys_in_use
from taskmanager.payloads.keyring import Keyring
from taskmanager.queue import clock_jumps, maintenance_runs, task_types

SILENT_MS = 15 * 60_000
FAILING_MS = 3_600_000  # shorter failures of a receiver are retried and need nobody
CRON = (
    "Let cron run 'taskmanager maintain' every minute. If it can only fetch an address, let it "
    "call POST /api/maintenance/run. See docs/operations.md."
)
WAYS = {"command": "by command", "http": "over HTTP"}


def check_schema(case: Case) -> Iterator[Finding]:
    """The recorded schema version, and whether every table exists."""
    found = schema_version()
    if found != SCHEMA_VERSION:
        case.missing[TABLES] = "the tables have another version"
    if found is None and (foreign := foreign_tables()):
        found_there = f"The database has tables of another program: {listed(foreign)}."
        yield problem(found_there, PREFIX_REMEDY)
    elif found is None:
        yield warning(
            "The database has no tables yet.",
            "The first start creates them, or run: taskmanager init-db",
        )
    elif found < SCHEMA_VERSION:
        yield warning(
            f"The tables have version {found} and the program has {SCHEMA_VERSION}: an upgrade is "
            "pending.",
            "The next start upgrades them, or run: taskmanager migrate",
        )
    elif found > SCHEMA_VERSION:
        yield problem(
            f"The tables have version {found}, but this program only has {SCHEMA_VERSION}.",
            "Upload the newer program again, or restore a backup made with this one.",
        )
    else:
        yield ok(f"The tables have version {found}, like the program.")
        yield replace(_check_tables(case), code="tables")


def _check_tables(case: Case) -> Finding:
    existing = set(database.get_tables())
    missing = [name for model in MODELS if (name := model._meta.table_name) not in existing]
    if not missing:
        return ok(f"All {len(MODELS)} tables exist.")
    case.missing[TABLES] = "tables are missing"
    return problem(
        f"Tables are missing: {', '.join(missing)}.",
        "Restore the database from a backup. Without one, delete its other tables and run "
        "'taskmanager init-db' to start with an empty queue.",
    )


def check_writing(case: Case) -> Finding:
    """Whether rows can be written, and tables created. Nothing of it stays."""
    if dialect() is SQLITE:
        return not_applicable("the finding sqlite_file says whether SQLite can write.")
    creation = find_creation_refusal()
    refusal = creation if TABLES in case.missing else try_to_write(keep=False)
    if refusal:
        return problem(f"Nothing can be written. {refusal.cause}.", refusal.remedy or "")
    if creation:
        return warning(
            f"The next upgrade of the tables will fail. {creation.cause}.", creation.remedy or ""
        )
    return ok("Rows can be written and tables created.")


def check_claim_path(case: Case) -> Finding:
    """How claims lock tasks. Both ways are fine."""
    if dialect() is SQLITE:
        return not_applicable("SQLite has one writer at a time.")
    if skips_locked():
        return ok("Claims use SKIP LOCKED.")
    return ok(
        "Claims use guarded updates, because the server has no SKIP LOCKED or ?skip_locked=off "
        "is set. With many workers the order of tasks is nearly exact."
    )


def check_keys(case: Case) -> Finding:
    now = utc_now()
    admins = sum(keys.may_administer(row, now=now) for row in keys.list_keys())
    if admins:
        return ok(f"There {'is 1 admin key' if admins == 1 else f'are {admins} admin keys'}.")
    return problem(
        "There is no valid admin key.",
        "Create one: taskmanager keys create --name me --role admin. Without a shell set "
        "TASKMANAGER_BOOTSTRAP_ADMIN_KEY to a key that was never used before, and restart.",
    )


def check_task_types(case: Case) -> Iterator[Finding]:
    unusable = task_types.unusable_task_types()
    for row in unusable:
        yield problem(
            f"New tasks of type '{row['name']}' (version {row['version']}) are refused: "
            f"{row['problem']}",
            "Register the type again with a schema that can be used. See docs/schemas.md.",
        )
    if not unusable:
        yield ok("The schemas of all task types can be used.")


def check_payload_keys(case: Case) -> Finding:
    """Whether the settings have the keys that encrypted tasks need, and no more."""
    given = case.settings.payload_key
    try:
        if case.call is None:
            database.obj.keyring = Keyring(given) if given else None
        keys_in_use.check_keys()
    except ConfigurationError as error:
        return problem(
            error.message,
            "Correct TASKMANAGER_PAYLOAD_KEY and restart. Until then the program does not start, "
            "and without the key nobody can read these tasks.",
        )
    if not keys_in_use.ids_and_secrets():
        return not_applicable("no task was ever encrypted.")
    if len(given) > 1:
        return warning(
            f"TASKMANAGER_PAYLOAD_KEY has {len(given)} keys: a change of the key is not finished.",
            "When all processes have the new first key, run: taskmanager payloads rotate. Then "
            "remove the others from the setting.",
        )
    return ok("TASKMANAGER_PAYLOAD_KEY has the key that encrypted tasks need, and no other.")


def check_maintenance(case: Case) -> Finding:
    """When full maintenance last ran, by command and over HTTP."""
    ages = {way: utc_now() - run.last_run_at for way, run in maintenance_runs.last_runs().items()}
    full = {name: ages[way] for way, name in WAYS.items() if way in ages}
    said = ", ".join(f"{name} {_ago(age)}" for name, age in full.items())
    if full and min(full.values()) <= SILENT_MS:
        return ok(f"Maintenance last ran {said}.")
    found = f"Maintenance last ran {said}" if said else "Maintenance has never run"
    if "claims" in ages:
        found += f"; claims last did part of it {_ago(ages['claims'])}"
    return warning(
        f"{found}. Without it schedules and retries wait for the next claim, and finished "
        "tasks are never deleted.",
        CRON,
    )


def check_webhooks(case: Case) -> Iterator[Finding]:
    """Webhooks that have failed for long, or were switched off for it."""
    now, webhooks = utc_now(), endpoints.list_webhooks()
    bad = False
    for row in webhooks:
        name, since = f"The webhook '{row['name']}'", row["failing_since"]
        if row["disabled_at"] is not None:
            found = f"{name} was switched off {_ago(now - row['disabled_at'])}, after three days "
            found += f"of failures. The last one: {row['disabled_reason']}"
            remedy = "Mend the receiver, switch the webhook on, and send again what failed."
        elif since is not None and row["is_active"] and now - since >= FAILING_MS:
            found = f"{name} is failing, first {_ago(now - since)}."
            remedy = "Mend the receiver. After three days the webhook is switched off."
        else:
            continue
        bad = True
        yield warning(found, f"{remedy} See docs/operations.md.")
    if not bad:
        yield ok("No webhook is failing." if webhooks else "There are no webhooks.")


def check_stored_times(case: Case) -> Finding:
    """Times that a clock stored which was ahead of the present one."""
    ahead = clock_jumps.count_ahead(now=utc_now())
    if not ahead:
        return ok("No stored time lies in the future that should not.")
    counts = ", ".join(f"{kind} ({count})" for kind, count in ahead.items())
    return warning(
        f"Stored times lie in the future: {counts}. The clock was ahead when they were stored, or "
        "it is behind now.",
        "Check the clock (date -u). If it is right now, the next run of maintenance corrects these "
        "times. See docs/operations.md.",
    )


def _ago(milliseconds: int) -> str:
    seconds = max(0, milliseconds // 1000)
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}s ago"
    return f"{seconds} s ago"
