"""Checks of the database itself: whether it can be reached, its version, and its surroundings.

With SQLite these are the file, the write-ahead log and the processes that use it; with MySQL and
MariaDB the server's clock and its limits of connections.
"""

import contextlib
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from taskmanager.db.connection import connect_database, database, dialect, keeps_snapshot
from taskmanager.db.dialect import SQLITE
from taskmanager.db.errors import mysql_code
from taskmanager.db.facts import (
    client_hosts,
    clock_skew_ms,
    database_facts,
    database_nodes,
    engine_and_version,
)
from taskmanager.db.statements import fetch_all, fetch_one
from taskmanager.doctor.case import DATABASE, TABLES, Case
from taskmanager.doctor.findings import (
    Finding,
    Level,
    listed,
    not_applicable,
    numbers_of,
    ok,
    problem,
    reason_of,
    warning,
)
from taskmanager.errors import ConfigurationError, DatabaseUnavailable

if TYPE_CHECKING:  # SQLite needs none of what this imports
    from taskmanager.db.mysql.nodes import Node, State

OLDEST = {"SQLite": [3, 7], "MySQL": [5, 7], "MariaDB": [10, 3]}
MAX_SKEW_MS = 5_000
NEARLY_FULL = 0.8
REST_OF_STATEMENT_BYTES = 16_384  # what a statement has besides a text that is large

FIX_SERVER = (
    "Check that the server runs and accepts connections. Its log, or the host, has the details."
)
FIX_FILE = (
    "Check that the user who runs the program can read and write the file and its folder. If the "
    "file is damaged, restore it from a backup."
)


def check_reachable(case: Case) -> Finding:
    """Connects and reads one row. Over HTTP it uses the connection of the service."""
    finding = _reach(case)
    if finding.level is not Level.OK:
        case.missing[DATABASE] = case.missing[TABLES] = "there is no usable database"
    return finding


def _reach(case: Case) -> Finding:
    settings = case.settings
    file = case.sqlite_file
    try:
        if case.call is None:
            connect_database(settings.effective_database_url, table_prefix=settings.table_prefix)
        if file and (missing := _no_file_yet(file)):
            return missing
        fetch_one("SELECT COUNT(*) AS entries FROM sqlite_master" if file else "SELECT 1 AS one")
    except ConfigurationError as error:
        return problem(error.message, "Correct TASKMANAGER_DATABASE_URL and restart.")
    except DatabaseUnavailable as error:
        if error.remedy:
            return problem(f"{error.cause}.", error.remedy)
        code = mysql_code(error.__cause__ or error)
        number = f" (error {code})" if code is not None else ""
        return problem(
            f"{error.message.partition('. ')[0]}{number}.", FIX_FILE if file else FIX_SERVER
        )
    return ok("The database answers.")


def _no_file_yet(path: Path) -> Finding | None:
    try:
        path.stat()
    except FileNotFoundError:
        return warning(
            "There is no database file yet.",
            "The first start creates it, or run: taskmanager init-db. If the queue was in use "
            "before, the settings now name another file.",
        )
    except OSError as error:
        return problem(
            f"The database file cannot be reached: {reason_of(error)}.",
            "Correct TASKMANAGER_DATABASE_URL, or give the user who runs the program access to the "
            "folders above the file.",
        )
    return None


def check_version(case: Case) -> Finding:
    return judge_version(*engine_and_version())


def judge_version(engine: str, version: str) -> Finding:
    """`engine` is "SQLite", "MySQL" or "MariaDB"."""
    oldest = OLDEST[engine]
    # Some MariaDB servers prefix their version with 5.5.5- for clients that expect MySQL.
    if numbers_of(version.removeprefix("5.5.5-")) < oldest:
        return problem(
            f"{engine} {version} is too old. TaskManager needs {oldest[0]}.{oldest[1]} or newer.",
            "Ask the host for a newer one, or move to another database with taskmanager export and "
            "import.",
        )
    return ok(f"{engine} {version}.")


def check_file(case: Case) -> Iterator[Finding]:
    """Whether the file is writable, and its folder, where SQLite creates more files."""
    if dialect() is not SQLITE:
        return
    file = Path(database.database)
    facts = database_facts()
    if not (os.access(file, os.R_OK | os.W_OK) and os.access(file.parent, os.W_OK | os.X_OK)):
        yield problem(
            "The database file or its folder is not writable.",
            "Make the user who runs the program the owner of both. Check that the disk is not "
            "read-only.",
        )
    elif facts.is_network_file_system:
        yield warning(
            f"The database file is on a network file system ({facts.file_system}). Locks are slow "
            "there, and several machines must not use the same file.",
            "Use MySQL or MariaDB (taskmanager export and import can move the queue), or keep the "
            "file on a local disk.",
        )
    else:
        where = f" and is on {facts.file_system}" if facts.file_system else ""
        yield ok(f"The database file is writable{where}.")


def check_journal(case: Case) -> Iterator[Finding]:
    if dialect() is not SQLITE:
        return
    facts = database_facts()
    if database.has_failed_log():
        yield problem(
            "The disk has failed to keep changes, and the log has not been recovered since. Every "
            "write is answered with 503.",
            "The next write recovers the log if the disk works again. If this remains, ask the "
            "host about the disk, and restart the program when it is repaired.",
            code="sync_failed",
        )
    if facts.journal != facts.wanted_journal:
        yield warning(
            f"The journal mode is {facts.journal} but should be {facts.wanted_journal}. It can "
            "change only at a start while no other process uses the database.",
            "Stop every process that uses it, including cron and commands, then start again.",
        )
    elif facts.journal == "wal" and facts.is_network_file_system:
        yield warning(
            "The write-ahead log is in use on a network file system, because of ?journal=wal.",
            "Remove that option from TASKMANAGER_DATABASE_URL unless the file is really on a "
            "local disk. Otherwise the database may be damaged.",
        )
    elif facts.journal == "wal":
        yield ok("The write-ahead log is in use.")
    else:
        because = "of ?journal=delete"
        if facts.is_network_file_system:
            because = "this file system does not support it"
        yield ok(f"There is no write-ahead log, because {because}.")


def check_processes(case: Case) -> Finding:
    """Counts the processes with the file open, among those that this user may see."""
    if dialect() is not SQLITE:
        return not_applicable("a database server knows connections, not processes.")
    if not os.path.isdir("/proc/self/fd"):
        return not_applicable("this system does not show which processes have the file open.")
    holders = set()
    for entry in glob.iglob("/proc/[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # it was closed meanwhile
            if os.path.samefile(entry, database.database):
                holders.add(int(entry.split("/")[2]))
    others = len(holders - {os.getpid()})
    this = "this process" if case.call is not None else "this command"
    count = "1 process has" if others == 1 else f"{others} processes have"
    return ok(f"Apart from {this}, {count} the database open, as far as this user can see.")


def check_clock(case: Case) -> Finding:
    """The queue uses only the local clock, but if the two differ, one of them is wrong."""
    skew_ms = clock_skew_ms()
    if skew_ms is None:
        return not_applicable("SQLite has no clock of its own.")
    found = f"The database server's clock is {abs(skew_ms) / 1000:.1f} s "
    found += "ahead of" if skew_ms > 0 else "behind"
    if abs(skew_ms) > MAX_SKEW_MS:
        return warning(
            f"{found} the local clock. The queue uses the local clock. If that one is wrong, "
            "leases, delays and schedules are wrong too, and machines disagree with each other.",
            "Find out which clock is wrong (date -u). Set it with NTP, or tell the host.",
        )
    return ok(f"{found} the local clock.")


def check_binary_log(case: Case) -> Finding:
    """Which isolation level transactions have. Both are fine."""
    if dialect() is SQLITE:
        return not_applicable("SQLite has no binary log.")
    if keeps_snapshot():
        return ok(
            "Transactions use REPEATABLE READ, because the server writes its binary log by "
            "statement (binlog_format=STATEMENT). More of them are repeated."
        )
    return ok("Transactions use READ COMMITTED.")


def check_hosts(case: Case) -> Finding:
    """Whether several machines use the database and each counts requests on its own.

    A machine is seen while it is connected, whatever for.
    """
    hosts = client_hosts()
    if not hosts:
        return not_applicable("SQLite is for one host.")
    if case.settings.rate_limit_storage_uri:
        return ok("Requests are not counted in a file of one host.")
    if len(hosts) == 1:
        return ok("One machine is connected to the database now.")
    return warning(
        f"{len(hosts)} machines are connected to the database now: {listed(hosts)}. Each that "
        "serves the API counts requests in a file of its own, so with two of them a key can send "
        "twice as many requests as its limit allows.",
        "If more than one of them serves the API, set TASKMANAGER_RATE_LIMIT_STORAGE_URI on all "
        "of them to the same redis://host:6379, and restart. See docs/cluster.md.",
    )


def check_nodes(case: Case) -> Finding:
    """Which of several servers of the URL can be used."""
    nodes = database_nodes()
    if not nodes:
        return not_applicable("TASKMANAGER_DATABASE_URL names one database.")
    return judge_nodes(nodes)


def judge_nodes(nodes: Sequence[tuple["Node", "State | None"]]) -> Finding:
    """`nodes` has each server and what it says of itself, None where it does not answer."""
    unfit = [
        f"{node.host}:{node.port} {_why_unfit(state)}"
        for node, state in nodes
        if state is None or not (state.is_usable and state.is_synced)
    ]
    if unfit:
        return warning(
            f"Of {len(nodes)} database servers, {len(unfit)} cannot be used now: {listed(unfit)}.",
            "Start the server, or wait until it has caught up with the others. Meanwhile the "
            "others are used.",
        )
    return ok(f"All {len(nodes)} database servers can be used.")


def _why_unfit(state: "State | None") -> str:
    if state is None:
        return "does not answer"
    if not state.is_ready:
        return "has lost the others"
    return "is catching up or copies its data to another" if state.is_writable else "is read-only"


def check_packets(case: Case) -> Finding:
    """Whether the server can store what TASKMANAGER_MAX_BODY_BYTES lets in."""
    if dialect() is SQLITE:
        return not_applicable("SQLite has no limit that a request could reach.")
    (row,) = fetch_all("SELECT @@max_allowed_packet AS `limit`")
    return judge_packets(row["limit"], case.settings.max_body_bytes)


def judge_packets(limit: int, max_body: int) -> Finding:
    """Quotes and backslashes take twice as much in a statement as in a body."""
    found = (
        f"The database server takes statements of up to {limit:,} bytes (max_allowed_packet), and "
        f"requests may have {max_body:,}"
    )
    if limit < 2 * max_body + REST_OF_STATEMENT_BYTES:
        return warning(
            f"{found}. In a statement they can take twice as much. Params that are too large are "
            "refused with 413, and a task with a result that is too large fails.",
            "Ask the host to raise max_allowed_packet, or set TASKMANAGER_MAX_BODY_BYTES to at "
            f"most {(limit - REST_OF_STATEMENT_BYTES) // 2:,}.",
        )
    return ok(f"{found}.")


def check_connections(case: Case) -> Finding:
    """Connections of the whole server and of this user, as far as the user may see them."""
    if dialect() is SQLITE:
        return not_applicable("SQLite has no server.")
    (everybody,) = fetch_all("SHOW GLOBAL STATUS LIKE 'Threads_connected'")
    (row,) = fetch_all(
        "SELECT @@max_connections AS `limit`, @@max_user_connections AS own_limit, "
        "COUNT(*) AS own FROM information_schema.processlist "
        "WHERE user = SUBSTRING_INDEX(USER(), '@', 1)"
    )
    return judge_connections(everybody=int(everybody["Value"]), **row)


def judge_connections(*, own: int, own_limit: int, everybody: int, limit: int) -> Finding:
    """`own_limit` is 0 if only the limit of the server applies."""
    of_own = f" of {own_limit}" if own_limit else ""
    found = (
        f"This user has {own}{of_own} connections, and all users have {everybody} of {limit}. Each "
        "process keeps one per thread"
    )
    if (own_limit and own >= NEARLY_FULL * own_limit) or everybody >= NEARLY_FULL * limit:
        return warning(
            f"{found}. Above the limit, requests are answered with 503.",
            "Run fewer processes or threads (under Passenger: PassengerMaxPoolSize), or ask the "
            "host for a higher limit.",
        )
    return ok(f"{found}.")
