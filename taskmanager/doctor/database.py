"""Whether the database can be reached, and whether it is one that the program can work with."""

import re
from collections.abc import Iterator
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
# MySQL's error numbers: what was wrong, and what to do.
REFUSALS = {
    1045: (
        "the server refuses the user or the password",
        "Set both in TASKMANAGER_DATABASE_URL as the host's panel shows them; special characters "
        "are URL-quoted (@ is %40). And write localhost without a port: many servers let a user of "
        "this machine in by their socket alone.",
    ),
    1044: (
        "the user may not use this database",
        f"Add the user to the database in the host's panel, with all privileges, and see that "
        f"{_NAME} is whole: hosts put the account's name before it.",
    ),
    1049: (
        "there is no database of this name",
        f"Make it in the host's panel, and see that {_NAME} is whole: hosts put the account's "
        "name before it.",
    ),
    1040: (
        "the server has no connection left for anybody",
        "Wait, or ask the host; fewer processes and threads need fewer connections.",
    ),
    1203: (
        "the user has used up its connections",
        "Run fewer processes or threads: each keeps one connection.",
    ),
    1226: (
        "the user has used up its connections or its queries for this hour",
        "Run fewer processes or threads, or ask the host for a higher limit.",
    ),
    2003: (
        "nothing answers at that address",
        "See that the server runs, and that host and port in TASKMANAGER_DATABASE_URL are those "
        "that the host's panel names (on shared hosts mostly localhost).",
    ),
}

MEND_SERVER = "See that the server runs and takes connections; its log, or the host, tells more."
MEND_FILE = (
    "See that the file and its folder can be read and written by the user who runs the program. A "
    "file that is damaged is put back from a backup."
)


def check_reachable(case: Case) -> Iterator[Finding]:
    """Connects and asks for one row. Over HTTP the connection is the service's own."""
    url = case.known_settings.effective_database_url
    try:
        if case.call is None:
            connect_database(url)
        if url.startswith("sqlite:///"):
            unmade = _no_file_yet(url)
            if unmade is not None:
                case.missing[DATABASE] = "there is no database to be asked"
                yield unmade
                return
        fetch_one("SELECT 1 AS one")
        if url.startswith("sqlite:///"):
            fetch_one("SELECT COUNT(*) AS entries FROM sqlite_master")
    except ConfigurationError as error:
        case.missing[DATABASE] = "the database cannot be asked"
        yield problem("database", error.message, "Correct TASKMANAGER_DATABASE_URL and restart.")
    except DatabaseUnavailable as error:
        case.missing[DATABASE] = "the database cannot be asked"
        yield _unavailable(error, MEND_FILE if url.startswith("sqlite:///") else MEND_SERVER)
    else:
        yield ok("database", "The database answers.")


def _no_file_yet(url: str) -> Finding | None:
    path = Path(url.removeprefix("sqlite:///").partition("?")[0])
    try:
        path.stat()
    except FileNotFoundError:
        return warning(
            "database",
            "There is no database file yet.",
            "The first start makes it, or now: taskmanager init-db. If the queue was in use "
            "before, the settings name another file than they did.",
        )
    except OSError as error:
        return problem(
            "database",
            f"The database file cannot be reached: {reason_of(error)}.",
            "Correct TASKMANAGER_DATABASE_URL, or let the user who runs the program into the "
            "folders above the file.",
        )
    return None


def _unavailable(error: DatabaseUnavailable, remedy: str) -> Finding:
    cause = error.__cause__
    code = mysql_code(cause) if cause is not None else None
    if code in REFUSALS:
        reason, better_remedy = REFUSALS[code]
        return problem("database", f"The database cannot be used: {reason}.", better_remedy)
    first, _, _ = error.message.partition(". ")
    number = f" (error {code})" if code is not None else ""
    return problem("database", f"{first}{number}.", remedy)


def check_version(case: Case) -> Iterator[Finding]:
    """The engine and its version, as the database itself says."""
    yield judge_version(*engine_and_version())


def judge_version(engine: str, version: str) -> Finding:
    """`engine` is "SQLite", "MySQL" or "MariaDB"."""
    # Some MariaDB servers put 5.5.5- before their version, for clients that expect MySQL.
    found = re.match(r"\d+(?:\.\d+)*", version.removeprefix("5.5.5-"))
    numbers = tuple(map(int, found[0].split("."))) if found else ()
    oldest = OLDEST[engine]
    if numbers < oldest:
        return problem(
            "database_version",
            f"{engine} {version} is too old: it must be {oldest[0]}.{oldest[1]} or newer.",
            "Ask the host for a newer one, or use another database: taskmanager export and import "
            "move the queue.",
        )
    return ok("database_version", f"{engine} {version}.")
