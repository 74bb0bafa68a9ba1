"""What a driver's error means: try again, report it, or a bug of our own.

Knows the error codes of SQLite and MySQL; refuses to act on them.
"""

import logging
import sqlite3

import peewee

from taskmanager.errors import DatabaseUnavailable

log = logging.getLogger(__name__)

# Server error numbers: mariadb.com/kb/en/mariadb-error-codes, dev.mysql.com "Server Error Message
# Reference". The first group says that the server has rolled back and the same may be tried again.
MYSQL_ROLLED_BACK = frozenset({1213, 1205, 1020})
MYSQL_CONNECTION_LOST = frozenset({0, 1053, 1927, 2006, 2013, 2014, 2055, 4031})
MYSQL_NO_SUCH_TABLE = 1146
# A table, column or index is there already, or is not, a CHECK forbids it (MySQL, MariaDB): PyMySQL
# calls these operational, but no waiting will mend them.
MYSQL_STATEMENT_DOES_NOT_FIT = frozenset({1050, 1054, 1060, 1061, 1072, 1091, 3819, 4025})
MYSQL_DUPLICATE_ENTRY = 1062
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
    return isinstance(error, peewee.InterfaceError) or mysql_code(error) in MYSQL_CONNECTION_LOST


def is_rolled_back(error: BaseException) -> bool:
    """True where the server has undone the transaction and the same may be tried again."""
    return mysql_code(error) in MYSQL_ROLLED_BACK


def translated(error: Exception) -> Exception:
    """DatabaseUnavailable where waiting or the host can mend it, else the error itself (a bug)."""
    sentence = _sentence(error)
    if sentence is None:
        return error
    log.error("database: %s", _original(error))
    return DatabaseUnavailable(f"{sentence}. Nothing was changed; try again shortly.")


_NO_TABLES = "The database has no tables yet (run: taskmanager init-db)"
_STAYED_LOCKED = "The database stayed locked by another process"
_DAMAGED = "The database file is damaged or is not a database"
_SQLITE_SENTENCES = {
    sqlite3.SQLITE_BUSY: _STAYED_LOCKED,
    sqlite3.SQLITE_LOCKED: _STAYED_LOCKED,
    sqlite3.SQLITE_PROTOCOL: _STAYED_LOCKED,
    sqlite3.SQLITE_NOMEM: "The database ran out of memory",
    sqlite3.SQLITE_READONLY: "The database file cannot be written",
    sqlite3.SQLITE_IOERR: "The disk failed to read or write the database",
    sqlite3.SQLITE_FULL: "The disk is full",
    sqlite3.SQLITE_CANTOPEN: "The database file cannot be opened",
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}


def _sentence(error: Exception) -> str | None:
    original = _original(error)
    if isinstance(original, sqlite3.Error):
        if "no such table" in str(original):
            return _NO_TABLES
        return _SQLITE_SENTENCES.get(getattr(original, "sqlite_errorcode", 0) & 0xFF)
    code = mysql_code(error)
    if code in MYSQL_STATEMENT_DOES_NOT_FIT:
        return None
    if isinstance(error, (peewee.OperationalError, peewee.InterfaceError, peewee.InternalError)):
        return "The database server does not answer or refuses work"
    return _NO_TABLES if code == MYSQL_NO_SUCH_TABLE else None
