"""Checks that the database can be reached and that its version is supported."""

import re
from pathlib import Path

from taskmanager.db.connection import connect_database
from taskmanager.db.errors import mysql_code
from taskmanager.db.facts import engine_and_version
from taskmanager.db.statements import fetch_one
from taskmanager.doctor.case import DATABASE, Case
from taskmanager.doctor.findings import Finding, ok, problem, reason_of, warning
from taskmanager.errors import ConfigurationError, DatabaseUnavailable

OLDEST = {"SQLite": (3, 7), "MySQL": (5, 7), "MariaDB": (10, 3)}

_NAME = "the name in TASKMANAGER_DATABASE_URL"
# MySQL's error numbers → what is wrong, and what to do.
REFUSALS = {
    1045: (
        "the server rejects the user or the password",
        "Set both in TASKMANAGER_DATABASE_URL as the host's panel shows them, with special "
        "characters URL-quoted (@ is %40). Write localhost without a port: many servers accept "
        "local users only through their socket.",
    ),
    1044: (
        "the user has no access to this database",
        "Add the user to the database in the host's panel, with all privileges. Check that "
        f"{_NAME} is complete: hosts put the account's name before it.",
    ),
    1049: (
        "there is no database with this name",
        f"Create it in the host's panel. Check that {_NAME} is complete: hosts put the account's "
        "name before it.",
    ),
    1040: (
        "the server has no free connection",
        "Wait, run fewer processes or threads, or ask the host.",
    ),
    1203: (
        "the user has reached its limit of connections",
        "Run fewer processes or threads. Each keeps one connection.",
    ),
    1226: (
        "the user has reached its limit of connections or of queries this hour",
        "Run fewer processes or threads, or ask the host for a higher limit.",
    ),
    2003: (
        "nothing answers at that address",
        "Check that the server runs, and that TASKMANAGER_DATABASE_URL has the host and port that "
        "the host's panel shows (on shared hosts usually localhost).",
    ),
}

FIX_SERVER = (
    "Check that the server runs and accepts connections. Its log, or the host, has the details."
)
FIX_FILE = (
    "Check that the user who runs the program can read and write the file and its folder. If the "
    "file is damaged, restore it from a backup."
)


def check_reachable(case: Case) -> Finding:
    """Connects and reads one row. Over HTTP it uses the connection of the service."""
    settings = case.known_settings
    try:
        if case.call is None:
            connect_database(settings.effective_database_url, table_prefix=settings.table_prefix)
        if case.sqlite_file and (missing := _no_file_yet(case.sqlite_file)):
            case.missing[DATABASE] = "there is no database"
            return missing
        fetch_one("SELECT 1 AS one")
        if case.sqlite_file:
            fetch_one("SELECT COUNT(*) AS entries FROM sqlite_master")
    except ConfigurationError as error:
        case.missing[DATABASE] = "the database cannot be used"
        return problem("database", error.message, "Correct TASKMANAGER_DATABASE_URL and restart.")
    except DatabaseUnavailable as error:
        case.missing[DATABASE] = "the database cannot be used"
        return _unavailable(error, FIX_FILE if case.sqlite_file else FIX_SERVER)
    return ok("database", "The database answers.")


def _no_file_yet(path: Path) -> Finding | None:
    try:
        path.stat()
    except FileNotFoundError:
        return warning(
            "database",
            "There is no database file yet.",
            "The first start creates it, or run: taskmanager init-db. If the queue was in use "
            "before, the settings now name another file.",
        )
    except OSError as error:
        return problem(
            "database",
            f"The database file cannot be reached: {reason_of(error)}.",
            "Correct TASKMANAGER_DATABASE_URL, or give the user who runs the program access to the "
            "folders above the file.",
        )
    return None


def _unavailable(error: DatabaseUnavailable, remedy: str) -> Finding:
    code = mysql_code(error.__cause__) if error.__cause__ is not None else None
    if code in REFUSALS:
        reason, specific_remedy = REFUSALS[code]
        return problem("database", f"The database cannot be used: {reason}.", specific_remedy)
    first, _, _ = error.message.partition(". ")
    number = f" (error {code})" if code is not None else ""
    return problem("database", f"{first}{number}.", remedy)


def check_version(case: Case) -> Finding:
    """The engine and its version, as the database reports them."""
    return judge_version(*engine_and_version())


def judge_version(engine: str, version: str) -> Finding:
    """`engine` is "SQLite", "MySQL" or "MariaDB"."""
    # Some MariaDB servers prefix their version with 5.5.5- for clients that expect MySQL.
    found = re.match(r"\d+(?:\.\d+)*", version.removeprefix("5.5.5-"))
    numbers = tuple(map(int, found[0].split("."))) if found else ()
    oldest = OLDEST[engine]
    if numbers < oldest:
        return problem(
            "database_version",
            f"{engine} {version} is too old. TaskManager needs {oldest[0]}.{oldest[1]} or newer.",
            "Ask the host for a newer one, or move to another database with taskmanager export and "
            "import.",
        )
    return ok("database_version", f"{engine} {version}.")
