"""Makes the tables from schema.sql, or brings those of an older version up to date.

Once, however many processes start together, and taken up again where a run was cut short: on
SQLite all of it is one transaction; on MySQL, which commits each change of a table by itself,
every step may be repeated, and the version is noted last.
"""

import contextlib
import enum
import logging
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import peewee

from taskmanager.clock import utc_now
from taskmanager.config import APP_ROOT
from taskmanager.db.connection import database, dialect
from taskmanager.db.dialect import SQLITE, Dialect
from taskmanager.db.errors import mysql_code, translated
from taskmanager.db.migrations import MIGRATIONS, STEPS_TABLE, DataStep, Ddl, Step
from taskmanager.db.statements import execute, fetch_one, insert
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import ConfigurationError, DatabaseUnavailable
from taskmanager.files.locks import try_file_lock

log = logging.getLogger(__name__)

SCHEMA_VERSION = max(MIGRATIONS)
# With AUTOINCREMENT an id is never given again, but every new row costs a page more.
SQLITE_PHRASES = {
    "BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY": "INTEGER PRIMARY KEY AUTOINCREMENT",
    "BIGINT NOT NULL /*! AUTO_INCREMENT */ PRIMARY KEY": "INTEGER PRIMARY KEY",
}

# How long each waits while another process is at the tables.
REQUEST_PATIENCE_SECONDS = 1
START_PATIENCE_SECONDS = 5
COMMAND_PATIENCE_SECONDS = 600
RETRY_AFTER_SECONDS = 5

# MySQL's error numbers. There already: table, column, index. Gone already: column or index.
DONE_BEFORE = frozenset({1050, 1060, 1061, 1091})
NO_SUCH_KEY_COLUMN = 1072
LOCK_WAIT_TIMEOUT = 1205
DENIED = frozenset({1044, 1142, 1143, 1227})
# A change of a table waits for transactions that use it, and everybody else waits behind it.
TABLE_LOCK_SECONDS = 5
TABLE_LOCK_TRIES = 12


class Preparation(enum.Enum):
    """What `create_schema` did."""

    NOTHING = "nothing"
    MADE = "made"
    UPGRADED = "upgraded"


def is_ready() -> bool:
    """True where the database answers and holds this version's tables."""
    try:
        row = fetch_one("SELECT MAX(version) AS version FROM schema_versions")
    except DatabaseUnavailable:
        return False
    return row is not None and row["version"] == SCHEMA_VERSION


def schema_version() -> int | None:
    """The version of the tables in the database; None where there are none yet."""
    if not database.table_exists("schema_versions"):
        return None
    row = fetch_one("SELECT MAX(version) AS version FROM schema_versions")
    return row["version"] if row else None


def create_schema(
    *,
    patience_seconds: int = START_PATIENCE_SECONDS,
    report: Callable[[str], None] = log.info,
) -> Preparation:
    """Makes the tables where there are none, and upgrades those of an older version.

    Safe to repeat and safe from several processes at once: one does it while
    the others wait, `patience_seconds` at the most. `report` is told of every
    step of an upgrade as it begins.
    Raises DatabaseUnavailable where another process is at it for longer, or the
    tables stay in use; ConfigurationError where the database was made by a newer
    version, or its user may not change tables.
    """
    found = schema_version()
    done = Preparation.NOTHING
    if found == SCHEMA_VERSION and dialect() is SQLITE:
        database.switch_journal()
    if found is None or found < SCHEMA_VERSION:
        with _schema_lock(patience_seconds):
            found = schema_version()
            if found is None:
                _make_tables(report)
                return Preparation.MADE
            if found < SCHEMA_VERSION:
                _upgrade(found, report)
                done = Preparation.UPGRADED
    if found > SCHEMA_VERSION:
        raise ConfigurationError(
            f"The database has schema version {found}, this program knows {SCHEMA_VERSION}: "
            "upload the newer program again, or restore the database of this one."
        )
    return done


def schema_statements(target: Dialect) -> list[str]:
    """The statements of schema.sql, as the engine of `target` spells them."""
    return statements_of(_schema_file().read_text(encoding="utf-8"), target)


def statements_of(text: str, target: Dialect) -> list[str]:
    """The statements of an SQL text, as the engine of `target` spells them."""
    text = re.sub(r"--.*", "", text)
    if target is SQLITE:
        text = re.sub(r"/\*sqlite (.*?) \*/", r"\1", text)
        for mysql, sqlite in SQLITE_PHRASES.items():
            text = text.replace(mysql, sqlite)
    return [statement.strip() for statement in text.split(";") if statement.strip()]


def _schema_file() -> Path:
    """Beside the application; else where pip puts it: share/ of a folder above the package's own.

    Which folder that is depends on how it was installed (a virtual environment, --user, --target).
    """
    beside = APP_ROOT / "schema.sql"
    if beside.exists():
        return beside
    for folder in (APP_ROOT, *APP_ROOT.parents):
        installed = folder / "share" / "taskmanager" / "schema.sql"
        if installed.exists():
            return installed
    raise ConfigurationError(
        f"schema.sql is missing: upload it to {APP_ROOT}, or install the package again."
    )


def _make_tables(report: Callable[[str], None]) -> None:
    """Everything in schema.sql; its last statement notes the version.

    Where some of it was there (MySQL, a start that was cut short), it may have
    been an older version that began: then what has changed since is done too.
    """
    *statements, note_version = schema_statements(dialect())
    made = [change_tables(statement, {NO_SUCH_KEY_COLUMN}) for statement in statements]
    if not all(made):
        for version in MIGRATIONS:
            _run_steps(version, report)
    with contextlib.suppress(peewee.IntegrityError):
        execute(note_version)


def _upgrade(found: int, report: Callable[[str], None]) -> None:
    change_tables(statements_of(STEPS_TABLE, dialect())[0])
    for version in sorted(MIGRATIONS):
        if version > found:
            _run_steps(version, report)
            # On a cluster, where the lock holds for one node, another may have been as fast.
            with contextlib.suppress(peewee.IntegrityError):
                insert("schema_versions", {"version": version, "applied_at": utc_now()})


def _run_steps(version: int, report: Callable[[str], None]) -> None:
    for step in MIGRATIONS[version]:
        with contextlib.suppress(peewee.IntegrityError):
            insert("migration_steps", {"name": step.name, "version": version, "position": 0})
        if _state_of(step)["finished_at"] is not None:
            continue
        report(f"schema version {version}: {step.name}")
        if isinstance(step, Ddl):
            text = step.sql if dialect() is SQLITE or step.mysql is None else step.mysql
            for statement in statements_of(text, dialect()):
                change_tables(statement)
            _note(step, position=0, finished=True)
        elif dialect() is SQLITE:
            while _run_slice(step):
                pass
        else:
            while write_transaction(_run_slice)(step):
                pass


def _run_slice(step: DataStep) -> bool:
    """Returns whether there is more. On a cluster another node may be at the same step."""
    state = _state_of(step, "{lock_rows}")
    if state["finished_at"] is not None:
        return False
    following = step.run(state["position"] or 0)
    _note(step, position=following or 0, finished=following is None)
    return following is not None


def _state_of(step: Step, lock: str = "") -> dict[str, int | None]:
    row = fetch_one(
        f"SELECT position, finished_at FROM migration_steps WHERE name = ? {lock}", (step.name,)
    )
    if row is None:
        raise AssertionError(f"the step '{step.name}' was not noted")
    return row


def _note(step: Step, *, position: int, finished: bool) -> None:
    execute(
        "UPDATE migration_steps SET position = ?, finished_at = ? WHERE name = ?",
        (position, utc_now() if finished else None, step.name),
    )


def change_tables(statement: str, also_done: Collection[int] = ()) -> bool:
    """Runs DDL; returns False where MySQL says that it was done before."""
    for _ in range(TABLE_LOCK_TRIES):
        try:
            # In a transaction errors come as they are, and the connection with the lock is kept.
            with database.atomic():
                database.execute_sql(statement)
            return True
        except (peewee.DatabaseError, peewee.InterfaceError) as error:
            code = mysql_code(error)
            if code in DONE_BEFORE or code in also_done:
                return False
            if code in DENIED:
                raise ConfigurationError(_denied(error)) from error
            if code != LOCK_WAIT_TIMEOUT:
                raise translated(error) from error
    raise DatabaseUnavailable(
        "The tables are to be brought up to date, but other transactions keep using them. "
        "Stop the workers for a moment; what is done so far is kept.",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


def _denied(error: Exception) -> str:
    return (
        f"The database's user may not change its tables ({error}). Give it the rights to SELECT, "
        "INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, DROP and REFERENCES on this database, or "
        "run 'taskmanager migrate' with TASKMANAGER_DATABASE_URL naming a user who has them."
    )


@contextlib.contextmanager
def _schema_lock(patience_seconds: int) -> Iterator[None]:
    if dialect() is SQLITE:
        path = Path(database.database)
        lock = path.with_name(path.name + ".lock")
        with try_file_lock(lock, patience_seconds=patience_seconds) as locked:
            _require_lock(locked)
            database.switch_journal()
            with database.atomic():
                yield
    else:
        name = f"taskmanager-schema-{database.database}"[:64]
        with database.patient():
            execute(f"SET SESSION lock_wait_timeout = {TABLE_LOCK_SECONDS}")
            row = fetch_one("SELECT GET_LOCK(?, ?) AS locked", (name, patience_seconds))
            _require_lock(row is not None and row["locked"] == 1)
            yield  # closing the connection gives the lock back


def _require_lock(locked: bool) -> None:
    if not locked:
        raise DatabaseUnavailable(
            "Another process is making the tables or bringing them up to date. Nothing was "
            "changed; try again shortly.",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )
