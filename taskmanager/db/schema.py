"""Creates the tables from schema.sql, or upgrades those of an older version.

Several processes may start at once: one of them does it, the others wait (schema_lock.py). An
interrupted run is completed by the next one. On SQLite the whole run is one transaction. MySQL
commits each change of a table by itself, so there every step can be repeated, and the version is
stored last.
"""

import contextlib
import enum
import logging
import re
from collections.abc import Callable, Collection
from pathlib import Path

import peewee

from taskmanager.clock import utc_now
from taskmanager.config import APP_ROOT
from taskmanager.db.connection import database, dialect
from taskmanager.db.dialect import SQLITE, Dialect
from taskmanager.db.errors import is_rolled_back, mysql_code, translated
from taskmanager.db.migrations import MIGRATIONS, STEPS_TABLE, DataStep, Ddl, Definition, Step
from taskmanager.db.models import MODELS, SchemaVersion
from taskmanager.db.schema_lock import RETRY_AFTER_SECONDS, Keep, schema_lock
from taskmanager.db.sqlite.definitions import rewrite_definition
from taskmanager.db.statements import execute, fetch_one, insert, update
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import ConfigurationError, DatabaseUnavailable

log = logging.getLogger(__name__)

SCHEMA_VERSION = max(MIGRATIONS)
# AUTOINCREMENT never gives an id twice, but costs every new row one more page.
SQLITE_PHRASES = {
    "BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY": "INTEGER PRIMARY KEY AUTOINCREMENT",
    "BIGINT NOT NULL /*! AUTO_INCREMENT */ PRIMARY KEY": "INTEGER PRIMARY KEY",
}

# A table, index or constraint in schema.sql and in migrations.py: a name in lower case that
# follows one of these words. A column follows none of them.
_NAME = re.compile(
    r"\b(TABLE|INDEX|CONSTRAINT|DROP CHECK|REFERENCES|EXISTS|ON|INTO|FROM|JOIN|UPDATE|RENAME TO)"
    r"(\s+)(?=[a-z])"
)

# How long each waits while another process creates or upgrades the tables.
REQUEST_PATIENCE_SECONDS = 1
START_PATIENCE_SECONDS = 5
COMMAND_PATIENCE_SECONDS = 600

# MySQL's error numbers: the table, column, index or CHECK exists already, or exists no more.
DONE_BEFORE = frozenset({1050, 1060, 1061, 1091, 3821, 3822})
NO_SUCH_KEY_COLUMN = 1072
DENIED = frozenset({1044, 1142, 1143, 1227})
TABLE_LOCK_TRIES = 12
# schema.sql begins with schema_versions and migration_steps.
FIRST_TABLES = 2


PREFIX_REMEDY = (
    "Set TASKMANAGER_TABLE_PREFIX, for example to tm_, so that both can live there, or name an "
    "empty database in TASKMANAGER_DATABASE_URL."
)


class Preparation(enum.Enum):
    """What `create_schema` did."""

    NOTHING = "nothing"
    MADE = "made"
    UPGRADED = "upgraded"


def find_refusal() -> DatabaseUnavailable | None:
    """What keeps the queue from working; None where the database has the tables of this version."""
    try:
        if _stored_version() == SCHEMA_VERSION:
            return None
    except DatabaseUnavailable as error:
        return error
    return DatabaseUnavailable("The tables of the database have another version.")


def schema_version() -> int | None:
    """The version of the tables in the database; None if there are none yet."""
    return _stored_version() if _has_own_versions() else None


def _has_own_versions() -> bool:
    """Whether there is the table of versions: other programs have one of that name too."""
    table = SchemaVersion._meta
    return database.table_exists(table.table_name) and _columns_of(table.table_name) == set(
        table.columns
    )


def _columns_of(table: str) -> set[str]:
    return {column.name for column in database.get_columns(table)}


def foreign_tables() -> list[str]:
    """Tables and views of other programs that have the names of ours, where we have none yet.

    A start that was interrupted on MySQL leaves tables of ours without a version; the first of
    them is the table of versions.
    """
    present = {*database.get_tables(), *(view.name for view in database.get_views())}
    named = [model._meta for model in MODELS if model._meta.table_name in present]
    if _has_own_versions():
        if _stored_version() is not None:
            return []
        named = [table for table in named if _columns_of(table.table_name) - set(table.columns)]
    return [table.table_name for table in named]


def _stored_version() -> int | None:
    row = fetch_one("SELECT MAX(version) AS version FROM {schema_versions}")
    return row["version"] if row else None


def create_schema(
    *, patience_seconds: int = START_PATIENCE_SECONDS, report: Callable[[str], None] = log.info
) -> Preparation:
    """Creates the tables if there are none, and upgrades those of an older version.

    Safe to repeat, also from several processes at once: one does it while the
    others wait for at most `patience_seconds`. `report` is called with the name
    of each step of an upgrade as it begins.
    Raises DatabaseUnavailable if another process takes longer, or the tables
    stay in use; ConfigurationError if a newer version has created the tables, or
    the database's user may not change tables, or tables of another program have
    the names of ours.
    """
    found = schema_version()
    done = Preparation.NOTHING
    if found == SCHEMA_VERSION and dialect() is SQLITE:
        database.switch_journal()
    if found is None or found < SCHEMA_VERSION:
        if database.is_clustered():
            _make_first_tables()
        with schema_lock(patience_seconds) as keep:
            found = schema_version()
            if found is None:
                _make_first_tables()
                _make_tables(report, keep)
                return Preparation.MADE
            if found < SCHEMA_VERSION:
                _upgrade(found, report, keep)
                done = Preparation.UPGRADED
    if found > SCHEMA_VERSION:
        raise ConfigurationError(
            f"The database has schema version {found}, this program knows {SCHEMA_VERSION}: "
            "upload the newer program again, or restore the database of this one."
        )
    return done


def _make_first_tables() -> None:
    """The first two of schema.sql; the lock of a cluster is a row in one of them."""
    if foreign := foreign_tables():
        raise ConfigurationError(
            f"The database has tables of another program: {', '.join(foreign)}. Nothing was "
            f"changed. {PREFIX_REMEDY}"
        )
    for statement in schema_statements(dialect(), database.table_prefix)[:FIRST_TABLES]:
        change_tables(statement)


def schema_statements(target: Dialect, prefix: str = "") -> list[str]:
    """The statements of schema.sql, as the engine of `target` spells them."""
    return statements_of(_schema_file().read_text(encoding="utf-8"), target, prefix)


def statements_of(text: str, target: Dialect, prefix: str = "") -> list[str]:
    """The statements of an SQL text, as the engine of `target` spells them.

    `prefix` is put before the name of every table, index and constraint.
    """
    text = re.sub(r" *--.*", "", text)
    if target is SQLITE:
        text = re.sub(r"/\*sqlite (.*?) \*/", r"\1", text)
        for mysql, sqlite in SQLITE_PHRASES.items():
            text = text.replace(mysql, sqlite)
    else:
        text = re.sub(r" */\*sqlite .*? \*/", "", text)
    text = _NAME.sub(rf"\1\2{prefix}", text)
    return [statement.strip() for statement in text.split(";") if statement.strip()]


def _schema_file() -> Path:
    """Beside the application, or where pip puts it: in share/ of a folder above the package.

    Which folder that is depends on the installation (a virtual environment, --user, --target).
    """
    shared = [folder / "share" / "taskmanager" for folder in (APP_ROOT, *APP_ROOT.parents)]
    for folder in (APP_ROOT, *shared):
        if (folder / "schema.sql").exists():
            return folder / "schema.sql"
    raise ConfigurationError(
        f"schema.sql is missing: upload it to {APP_ROOT}, or install the package again."
    )


def _make_tables(report: Callable[[str], None], keep: Keep) -> None:
    """Runs the rest of schema.sql, whose last statement stores the version.

    On MySQL an interrupted start may have left some of the tables. It may have
    been an older version's, so the migrations run as well.
    """
    *statements, store_version = schema_statements(dialect(), database.table_prefix)
    made = []
    for statement in statements[FIRST_TABLES:]:
        keep()
        made.append(change_tables(statement, {NO_SUCH_KEY_COLUMN}))
    if not all(made):
        for version in MIGRATIONS:
            _run_steps(version, report, keep)
    keep()
    with contextlib.suppress(peewee.IntegrityError):
        execute(store_version)


def _upgrade(found: int, report: Callable[[str], None], keep: Keep) -> None:
    change_tables(_spelled(STEPS_TABLE)[0])
    for version in sorted(MIGRATIONS):
        if version > found:
            _run_steps(version, report, keep)
            keep()
            # Another process notes it where this one is stopped for long just here.
            with contextlib.suppress(peewee.IntegrityError):
                insert("schema_versions", {"version": version, "applied_at": utc_now()})


def _run_steps(version: int, report: Callable[[str], None], keep: Keep) -> None:
    for step in MIGRATIONS[version]:
        keep()
        with contextlib.suppress(peewee.IntegrityError):
            insert("migration_steps", {"name": step.name, "version": version, "position": 0})
        if _state_of(step)["finished_at"] is not None:
            continue
        report(f"schema version {version}: {step.name}")
        if isinstance(step, DataStep):
            run = _run_slice if dialect() is SQLITE else write_transaction(_run_slice)
            while run(step, keep):
                pass
        else:
            _change_definitions(step, keep)
            _note(step, position=0, finished=True)


def _change_definitions(step: Ddl | Definition, keep: Keep) -> None:
    if dialect() is not SQLITE and step.mysql is not None:
        text = step.mysql
    elif isinstance(step, Definition):
        rewrite_definition(database.table_prefix + step.table, step.old, step.new)
        return
    else:
        text = step.sql
    for statement in _spelled(text):
        keep()
        change_tables(statement)


def _spelled(text: str) -> list[str]:
    return statements_of(text, dialect(), database.table_prefix)


def _run_slice(step: DataStep, keep: Keep) -> bool:
    """Returns whether there is more to do."""
    keep()
    state = _state_of(step)
    following = step.run(state["position"] or 0)
    _note(step, position=following or 0, finished=following is None)
    return following is not None


def _state_of(step: Step) -> dict[str, int | None]:
    row = fetch_one(
        "SELECT position, finished_at FROM {migration_steps} WHERE name = ?", (step.name,)
    )
    if row is None:
        raise AssertionError(f"the step '{step.name}' was not noted")
    return row


def _note(step: Step, *, position: int, finished: bool) -> None:
    changes = {"position": position, "finished_at": utc_now() if finished else None}
    update("migration_steps", changes, "name = ?", (step.name,))


def change_tables(statement: str, also_done: Collection[int] = ()) -> bool:
    """Runs DDL; returns False if MySQL reports that it was done before."""
    for _ in range(TABLE_LOCK_TRIES):
        try:
            # In a transaction, errors are not translated, and the connection keeps its lock.
            with database.atomic():
                database.execute_sql(statement)
            return True
        except (peewee.DatabaseError, peewee.InterfaceError) as error:
            code = mysql_code(error)
            if code in DONE_BEFORE or code in also_done:
                return False
            if code in DENIED:
                raise ConfigurationError(
                    f"The database's user may not change its tables ({error}). Give it the rights "
                    "to SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, DROP and REFERENCES "
                    "on this database, or run 'taskmanager migrate' with TASKMANAGER_DATABASE_URL "
                    "naming a user who has them."
                ) from error
            if not is_rolled_back(error):
                raise translated(error) from error
    raise DatabaseUnavailable(
        "The tables are to be brought up to date, but other transactions keep using them. "
        "Stop the workers for a moment; what is done so far is kept.",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )
