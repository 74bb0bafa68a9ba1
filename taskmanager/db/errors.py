"""What a driver's error means: try again, report it, or a bug of our own.

Knows the error codes of SQLite and MySQL; refuses to act on them.
"""

import logging
import sqlite3
from typing import NamedTuple

import peewee

from taskmanager.errors import DatabaseRefused, DatabaseUnavailable, TooLarge

log = logging.getLogger(__name__)

# Server error numbers: mariadb.com/kb/en/mariadb-error-codes, dev.mysql.com "Server Error Message
# Reference". The first group says that the server has rolled back and the same may be tried again.
MYSQL_LOCK_WAIT_TIMEOUT = 1205
MYSQL_CONFLICTS = frozenset({1213, 1020})  # with another transaction; on a cluster also at COMMIT
MYSQL_ROLLED_BACK = MYSQL_CONFLICTS | {MYSQL_LOCK_WAIT_TIMEOUT}
MYSQL_CONNECTION_LOST = frozenset({0, 1053, 1927, 2006, 2013, 2014, 2055, 4031})
# The node has lost its Galera cluster. The second one comes from COMMIT, and then nobody knows
# whether the others have got the transaction.
MYSQL_NODE_LOST = frozenset({1047, 1180})
# Only this server cannot: it is a replica, or (1205) what other nodes have committed does not come.
MYSQL_ANOTHER_SERVER_MAY = frozenset({1205, 1290, 1792, 1836, 3098})
# The binary log has statements and the session is READ COMMITTED: another session will be right.
MYSQL_LOGS_STATEMENTS = 1665
MYSQL_NO_SUCH_TABLE = 1146
MYSQL_TABLE_EXISTS = 1050
# A table, column or index is there already, or is not, a CHECK forbids it (MySQL, MariaDB): PyMySQL
# calls these operational, but no waiting will mend them.
MYSQL_STATEMENT_DOES_NOT_FIT = frozenset({1050, 1054, 1060, 1061, 1072, 1091, 3819, 4025})
MYSQL_DUPLICATE_ENTRY = 1062
MYSQL_PACKET_TOO_LARGE = 1153
MYSQL_NO_REFERENCED_ROW = 1452


def is_duplicate(error: peewee.IntegrityError) -> bool:
    """True where a unique index refused a row; False for any other constraint."""
    original = _original(error)
    if isinstance(original, sqlite3.Error):
        return original.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_UNIQUE
    return mysql_code(error) == MYSQL_DUPLICATE_ENTRY


def is_missing_reference(error: peewee.IntegrityError) -> bool:
    """True where a row names another one that does not exist."""
    original = _original(error)
    if isinstance(original, sqlite3.Error):
        return original.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY
    return mysql_code(error) == MYSQL_NO_REFERENCED_ROW


def _original(error: BaseException) -> BaseException:
    """The driver's own exception, which peewee keeps as `orig`, once or twice."""
    while isinstance(error, peewee.PeeweeException) and hasattr(error, "orig"):
        error = error.orig
    return error


def mysql_code(error: BaseException) -> int | None:
    """The server's error number, or None where the error has none."""
    original = _original(error)
    if isinstance(original, sqlite3.Error) or not original.args:
        return None
    code = original.args[0]
    return code if isinstance(code, int) else None


def is_connection_lost(error: BaseException) -> bool:
    """True where the connection is gone and another one may do."""
    original = _original(error)
    if isinstance(original, sqlite3.Error):
        return False
    code = mysql_code(error)
    return (
        isinstance(error, peewee.InterfaceError)
        or code in MYSQL_CONNECTION_LOST
        or code in MYSQL_NODE_LOST
        or code == MYSQL_LOGS_STATEMENTS
    )


def is_too_large(error: BaseException) -> bool:
    """True where a statement is larger than the server takes. It was not sent."""
    return mysql_code(error) == MYSQL_PACKET_TOO_LARGE


def is_of_this_server(error: BaseException) -> bool:
    """True where another server of the same database may do what this one refuses."""
    return mysql_code(error) in MYSQL_ANOTHER_SERVER_MAY


def is_rolled_back(error: BaseException) -> bool:
    """True where the server has undone the transaction and the same may be tried again."""
    return mysql_code(error) in MYSQL_ROLLED_BACK


def is_conflict(error: BaseException) -> bool:
    """True where that was for another transaction, which the server has found at once."""
    return mysql_code(error) in MYSQL_CONFLICTS


def is_busy(error: BaseException) -> bool:
    """True where another connection kept its lock for the whole timeout."""
    code = getattr(_original(error), "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_BUSY or mysql_code(error) == MYSQL_LOCK_WAIT_TIMEOUT


class Refusal(NamedTuple):
    """Why the database says no, and what to do. With a `code` of its own it says so for good."""

    cause: str
    remedy: str | None = None
    code: str | None = None


ACCESS = "database_access_denied"
READ_ONLY = "database_read_only"
FULL = "database_full"
DAMAGED = "database_damaged"
# A variable of the server, or of the session, forbids what the queue needs.
SETTINGS = "database_settings"
# While the last write was refused in one of these ways, nothing can be written.
STOPS_WRITING = frozenset({ACCESS, READ_ONLY, FULL, DAMAGED})

_PANEL = (
    "Check that the name in TASKMANAGER_DATABASE_URL is complete: hosts put the account's name "
    "before it."
)
_RIGHTS = Refusal(
    "The database user lacks a right on the tables",
    "Give the user all privileges on the database in the host's panel. The least are SELECT, "
    "INSERT, UPDATE and DELETE, and for upgrades CREATE, ALTER, INDEX, DROP and REFERENCES.",
    ACCESS,
)
_LOGIN = Refusal(
    "The database server rejects the user or the password",
    "Set both in TASKMANAGER_DATABASE_URL as the host's panel shows them, with special characters "
    "URL-quoted (@ is %40). Write localhost without a port: many servers accept local users only "
    "through their socket.",
    ACCESS,
)
_HOST = Refusal(
    "The database server does not accept connections from this machine",
    "Allow this machine in the host's panel (often named Remote MySQL), or set the host in "
    "TASKMANAGER_DATABASE_URL as the panel shows it, usually localhost. After too many failed "
    "connections, ask the host to unblock the machine.",
    ACCESS,
)
_SERVER_READ_ONLY = Refusal(
    "The database server is read-only",
    "It may be a replica, or its operator has set read_only. Name the writable server in "
    "TASKMANAGER_DATABASE_URL, or ask the host to end read_only.",
    READ_ONLY,
)
_SERVER_FULL = Refusal(
    "The database server has no space left",
    "Free space or ask the host for more. A lower TASKMANAGER_RETENTION_DAYS lets maintenance "
    "delete more finished tasks.",
    FULL,
)
_ROW_FORMAT = Refusal(
    "The row format of a table, or the page size of the database server, is too small for an index",
    "Run ALTER TABLE … ROW_FORMAT=DYNAMIC for the table. The server needs an innodb_page_size of "
    "16k, which is usual.",
    SETTINGS,
)
_TOO_SLOW = Refusal(
    "A statement took longer than the database server lets it",
    "Ask the host to raise max_statement_time (MariaDB) or max_execution_time (MySQL).",
)
_LATER = "Wait, run fewer processes or threads, or ask the host for a higher limit."
_NODE_LOST = Refusal(
    "The database server has lost its cluster and takes no work",
    "It comes back by itself when it sees the other nodes again. With all nodes in "
    "TASKMANAGER_DATABASE_URL, others are used meanwhile.",
)
CONTENDED = Refusal("Others kept changing the same rows")
MYSQL_REFUSALS = {
    1021: _SERVER_FULL,
    1040: Refusal("The database server has no free connection", _LATER),
    1044: Refusal(
        "The database user has no access to this database",
        "Add the user to the database in the host's panel, with all privileges. " + _PANEL,
        ACCESS,
    ),
    1045: _LOGIN,
    1047: _NODE_LOST,
    1049: Refusal(
        "There is no database with this name", f"Create it in the host's panel. {_PANEL}", ACCESS
    ),
    1071: _ROW_FORMAT,
    1104: Refusal(
        "The database server forbids statements that may look at many rows (max_join_size)",
        "Ask the host to set sql_big_selects=1, or to raise max_join_size.",
        SETTINGS,
    ),
    1114: _SERVER_FULL,
    1129: _HOST,
    1130: _HOST,
    1142: _RIGHTS,
    1143: _RIGHTS,
    1175: Refusal(
        "The database server forbids statements without a key in WHERE (sql_safe_updates)",
        "Ask the host to set sql_safe_updates=0.",
        SETTINGS,
    ),
    1180: _NODE_LOST,
    1203: Refusal("The database user has reached its limit of connections", _LATER),
    1205: Refusal(
        "Other transactions kept the rows locked for longer than the database server waits",
        "Find what holds them: SHOW PROCESSLIST.",
    ),
    **dict.fromkeys(MYSQL_CONFLICTS, CONTENDED),
    1226: Refusal(
        "The database user has reached its limit of connections or of statements this hour", _LATER
    ),
    1227: _RIGHTS,
    1290: _SERVER_READ_ONLY,
    MYSQL_LOGS_STATEMENTS: Refusal(
        "The database server writes its binary log by statement, which forbids READ COMMITTED",
        "Ask the host to set binlog_format=ROW or MIXED.",
        SETTINGS,
    ),
    1698: _LOGIN,
    1709: _ROW_FORMAT,
    1792: _SERVER_READ_ONLY,
    1836: _SERVER_READ_ONLY,
    1969: _TOO_SLOW,
    2003: Refusal(
        "Nothing answers at the address of the database server",
        "Check that the server runs, and that TASKMANAGER_DATABASE_URL has the host and port that "
        "the host's panel shows (on shared hosts usually localhost).",
    ),
    3024: _TOO_SLOW,
    3098: _SERVER_READ_ONLY,
    3118: Refusal(
        "The account of the database user is locked", "Unlock it in the host's panel.", ACCESS
    ),
    3750: Refusal(
        "The database server requires a primary key in every table",
        "Ask the host to set sql_require_primary_key=OFF while the tables are made.",
        SETTINGS,
    ),
    4151: Refusal(
        "The account of the database user is locked", "Unlock it in the host's panel.", ACCESS
    ),
}


def translated(error: Exception) -> Exception:
    """DatabaseUnavailable where waiting can mend it, DatabaseRefused where only the host or the
    operator can, TooLarge where the caller can, else the error itself (a bug).
    """
    if is_too_large(error):
        return TooLarge()
    refusal = refusal_of(error)
    if refusal is None:
        return error
    log.error("database: %s", _original(error))
    return refused(refusal)


def refused(refusal: Refusal) -> DatabaseUnavailable | DatabaseRefused:
    """The error that tells a caller of a refusal."""
    cause, remedy, code = refusal
    if code is None:
        message = f"{cause}. Nothing was changed; try again shortly."
        return DatabaseUnavailable(message, cause=cause, remedy=remedy)
    message = f"{cause}. Nothing was changed. {remedy}"
    return DatabaseRefused(message, code=code, cause=cause, remedy=remedy)


_NO_TABLES = Refusal("The database has no tables yet (run: taskmanager init-db)")
_STAYED_LOCKED = Refusal("The database stayed locked by another process")
_FILE = (
    "Check that the user who runs the program can read and write the file and its folder, and that "
    "the disk is not read-only. If the file is damaged, restore it from a backup."
)
_DAMAGED = Refusal("The database file is damaged or is not a database", _FILE, DAMAGED)
_SQLITE_REFUSALS = {
    sqlite3.SQLITE_BUSY: _STAYED_LOCKED,
    sqlite3.SQLITE_LOCKED: _STAYED_LOCKED,
    sqlite3.SQLITE_PROTOCOL: _STAYED_LOCKED,
    sqlite3.SQLITE_NOMEM: Refusal("The database ran out of memory"),
    sqlite3.SQLITE_READONLY: Refusal(
        "The database file cannot be written",
        "Make the user who runs the program the owner of the file and its folder. Check that the "
        "disk is not read-only.",
        READ_ONLY,
    ),
    sqlite3.SQLITE_IOERR: Refusal("The disk failed to read or write the database", _FILE),
    sqlite3.SQLITE_FULL: Refusal(
        "The disk is full",
        "Free space or ask the host for more. A lower TASKMANAGER_RETENTION_DAYS lets maintenance "
        "delete more finished tasks.",
        FULL,
    ),
    sqlite3.SQLITE_CANTOPEN: Refusal("The database file cannot be opened", _FILE, ACCESS),
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}


def refusal_of(error: Exception) -> Refusal | None:
    """What the error means; None where it is a bug."""
    original = _original(error)
    if isinstance(original, sqlite3.Error):
        if "no such table" in str(original):
            return _NO_TABLES
        return _SQLITE_REFUSALS.get(getattr(original, "sqlite_errorcode", 0) & 0xFF)
    code = mysql_code(error)
    if code in MYSQL_STATEMENT_DOES_NOT_FIT:
        return None
    if code in MYSQL_REFUSALS:
        return MYSQL_REFUSALS[code]
    if isinstance(error, (peewee.OperationalError, peewee.InterfaceError, peewee.InternalError)):
        return Refusal("The database server does not answer or refuses work")
    return _NO_TABLES if code == MYSQL_NO_SUCH_TABLE else None
