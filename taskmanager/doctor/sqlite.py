"""Checks for SQLite only: the file, the write-ahead log, and the processes that use it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from taskmanager.db.connection import database, dialect
from taskmanager.db.dialect import SQLITE
from taskmanager.db.facts import database_facts
from taskmanager.doctor.case import Case
from taskmanager.doctor.findings import Finding, not_applicable, ok, problem, warning

PROCESSES = Path("/proc")

MOVE = "taskmanager export and import can move the queue"


def check_file(case: Case) -> Iterator[Finding]:
    """Whether the file is writable, and its folder, where SQLite creates more files."""
    if dialect() is not SQLITE:
        return
    file = Path(database.database)
    facts = database_facts()
    if not (os.access(file, os.R_OK | os.W_OK) and os.access(file.parent, os.W_OK | os.X_OK)):
        yield problem(
            "sqlite_file",
            "The database file or its folder is not writable.",
            "Make the user who runs the program the owner of both. Check that the disk is not "
            "read-only.",
        )
    elif facts.is_network_file_system:
        yield warning(
            "sqlite_file",
            f"The database file is on a network file system ({facts.file_system}). Locks are slow "
            "there, and several machines must not use the same file.",
            f"Use MySQL or MariaDB ({MOVE}), or keep the file on a local disk.",
        )
    else:
        where = f" and is on {facts.file_system}" if facts.file_system else ""
        yield ok("sqlite_file", f"The database file is writable{where}.")


def check_journal(case: Case) -> Iterator[Finding]:
    """Whether the write-ahead log is in use, and if not, why."""
    if dialect() is not SQLITE:
        return
    facts = database_facts()
    if facts.journal != facts.wanted_journal:
        yield warning(
            "sqlite_journal",
            f"The journal mode is {facts.journal} but should be {facts.wanted_journal}. It can "
            "change only at a start while no other process uses the database.",
            "Stop every process that uses it, including cron and commands, then start again.",
        )
    elif facts.journal == "wal" and facts.is_network_file_system:
        yield warning(
            "sqlite_journal",
            "The write-ahead log is in use on a network file system, because of ?journal=wal.",
            "Remove that option from TASKMANAGER_DATABASE_URL unless the file is really on a "
            "local disk. Otherwise the database may be damaged.",
        )
    elif facts.journal == "wal":
        yield ok("sqlite_journal", "The write-ahead log is in use.")
    else:
        why = "this file system does not support it"
        if not facts.is_network_file_system:
            why = "of ?journal=delete"
        yield ok("sqlite_journal", f"There is no write-ahead log, because {why}.")


def check_processes(case: Case) -> Iterator[Finding]:
    """Counts the processes with the file open, among those that this user may see."""
    if dialect() is not SQLITE:
        return
    if not PROCESSES.joinpath("self", "fd").is_dir():
        yield not_applicable(
            "processes", "this system does not show which processes have the file open."
        )
        return
    wanted = os.stat(database.database)
    others = sum(
        _has_open(folder, wanted)
        for folder in PROCESSES.iterdir()
        if folder.name.isdigit() and int(folder.name) != os.getpid()
    )
    this = "this process" if case.call is not None else "this command"
    count = "1 process has" if others == 1 else f"{others} processes have"
    yield ok(
        "processes", f"Apart from {this}, {count} the database open, as far as this user can see."
    )


def _has_open(process: Path, wanted: os.stat_result) -> bool:
    try:
        entries = list((process / "fd").iterdir())
    except OSError:  # it belongs to another user, or has ended
        return False
    for entry in entries:
        with contextlib.suppress(OSError):
            if os.path.samestat(entry.stat(), wanted):
                return True
    return False
