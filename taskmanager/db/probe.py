"""Finds out whether the database can be written, by writing."""

import time

import peewee

from taskmanager.db.connection import cache, close_connection, database, dialect
from taskmanager.db.dialect import SQLITE
from taskmanager.db.errors import (
    MYSQL_NO_SUCH_TABLE,
    MYSQL_TABLE_EXISTS,
    is_busy,
    mysql_code,
    translated,
)
from taskmanager.db.statements import execute
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import DatabaseRefused, DatabaseUnavailable

STAYS_KNOWN_SECONDS = 30.0
# SQLite's log may have a little room left on a full disk. A task takes a dozen pages.
PROBE_CHARACTERS = 65_536
# A row of no snapshot, which is left over where the disk fills between the two.
_INSERT = (
    "REPLACE INTO {statistics_snapshots} (id, figures, tasks, counted_at, duration_ms) "
    "VALUES (0, ?, 0, 0, 0)"
)
_DELETE = "DELETE FROM {statistics_snapshots} WHERE id = 0"


def find_write_refusal() -> DatabaseUnavailable | None:
    """Why nothing can be written; None where it can, or where the database is only busy.

    What was found out stays known for STAYS_KNOWN_SECONDS, unless a write is refused meanwhile.
    Recovers SQLite's log after a failed sync.
    """
    if dialect() is SQLITE and database.has_failed_log():
        try:
            _begin_and_commit()
        except DatabaseUnavailable as error:
            return error
    remembered = cache()
    if time.monotonic() < remembered.writes_known_until:
        return None
    refusal = try_to_write(keep=True)
    if refusal is None:
        remembered.writes_known_until = time.monotonic() + STAYS_KNOWN_SECONDS
    return refusal


@write_transaction
def _begin_and_commit() -> None:
    """Where the log has failed, no transaction begins before it is recovered."""


def try_to_write(*, keep: bool) -> DatabaseRefused | None:
    """Inserts a row and deletes it, without waiting for other writers.

    With `keep` both are committed, which needs room on the disk; otherwise rolled back.
    """
    is_sqlite = dialect() is SQLITE
    try:
        database.connection()
        with database.manual_commit():
            execute(dialect().short_lock_wait)
            # SQLite writes no page that the same transaction has freed again, so there are two.
            for statement, values in ((_INSERT, ("x" * PROBE_CHARACTERS,)), (_DELETE, ())):
                execute("BEGIN IMMEDIATE" if is_sqlite else "START TRANSACTION")
                execute(statement, values)
                execute("COMMIT" if keep else "ROLLBACK")
            execute(dialect().usual_lock_wait)
    except (peewee.DatabaseError, peewee.InterfaceError) as error:
        close_connection()  # which ends the transaction
        if is_busy(error):
            return None
        refusal = translated(error)
        return refusal if isinstance(refusal, DatabaseRefused) else None
    return None


def find_creation_refusal() -> DatabaseRefused | None:
    """Why a user of MySQL may not create tables; None where the user may. Creates none.

    The server looks for the right first, and then for the table to copy, which does not exist.
    """
    database.connection()
    try:
        with database.manual_commit():  # errors are not translated within
            execute("CREATE TABLE {schema_versions} LIKE taskmanager_of_no_such_name")
    except (peewee.DatabaseError, peewee.InterfaceError) as error:
        # The target is there, or the table to copy is not: the right was there in both cases.
        if mysql_code(error) not in (MYSQL_TABLE_EXISTS, MYSQL_NO_SUCH_TABLE):
            refusal = translated(error)
            return refusal if isinstance(refusal, DatabaseRefused) else None
    return None
