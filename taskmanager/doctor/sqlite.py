"""What can be wrong with a SQLite database alone: its file, its log, and who has it open."""

import os
from collections.abc import Iterator
from pathlib import Path

from taskmanager.db.connection import database, dialect
from taskmanager.db.dialect import SQLITE
from taskmanager.db.facts import database_facts
from taskmanager.doctor.case import Case
from taskmanager.doctor.findings import Finding, not_applicable, ok, problem, warning

PROCESSES = Path("/proc")

MOVE = "taskmanager export and import move the queue"


def check_file(case: Case) -> Iterator[Finding]:
    """Whether it can be written, and beside it, where SQLite makes files of its own."""
    if dialect() is not SQLITE:
        return
    file = Path(database.database)
    facts = database_facts()
    if not (os.access(file, os.R_OK | os.W_OK) and os.access(file.parent, os.W_OK | os.X_OK)):
        yield problem(
            "sqlite_file",
            "The database file, or the folder that it lies in, cannot be written.",
            "Give both to the user who runs the program, and see that the disk is not read-only.",
        )
    elif facts.is_network_file_system:
        yield warning(
            "sqlite_file",
            f"The database file lies on a network file system ({facts.file_system}). Its locks are "
            "slow there, and several machines must not use one file.",
            f"Take MySQL or MariaDB: {MOVE}. Or keep the file on a disk of this machine.",
        )
    else:
        where = f" and lies on {facts.file_system}" if facts.file_system else ""
        yield ok("sqlite_file", f"The database file can be written{where}.")


def check_journal(case: Case) -> Iterator[Finding]:
    """Whether the write-ahead log is in use, and why not."""
    if dialect() is not SQLITE:
        return
    facts = database_facts()
    if facts.journal != facts.wanted_journal:
        yield warning(
            "sqlite_journal",
            f"The journal mode is {facts.journal}, but should be {facts.wanted_journal}: it "
            "changes at a start at which nobody else uses the database.",
            "Stop every process that uses it, cron and commands too, and start again.",
        )
    elif facts.journal == "wal":
        if facts.is_network_file_system:
            yield warning(
                "sqlite_journal",
                "The write-ahead log is in use on a network file system, as ?journal=wal asks.",
                "Take that option out of TASKMANAGER_DATABASE_URL unless the file is in truth on a "
                "disk of this machine: the database may be damaged.",
            )
        else:
            yield ok("sqlite_journal", "The write-ahead log is in use.")
    elif facts.is_network_file_system:
        yield ok("sqlite_journal", "No write-ahead log: it cannot be used on this file system.")
    else:
        yield ok("sqlite_journal", "No write-ahead log, as ?journal=delete asks.")


def check_processes(case: Case) -> Iterator[Finding]:
    """Counts who has the file open among the processes that this user may look at."""
    if dialect() is not SQLITE:
        return
    if not PROCESSES.joinpath("self", "fd").is_dir():
        yield not_applicable("processes", "this system does not tell which have the file open.")
        return
    wanted = os.stat(database.database)
    others = sum(
        _has_open(folder, wanted)
        for folder in PROCESSES.iterdir()
        if folder.name.isdigit() and int(folder.name) != os.getpid()
    )
    besides = "this one" if case.call is not None else "this command"
    are = "1 process has" if others == 1 else f"{others} processes have"
    yield ok("processes", f"Besides {besides} {are} the database open (as far as may be seen).")


def _has_open(process: Path, wanted: os.stat_result) -> bool:
    try:
        return any(_is(entry, wanted) for entry in (process / "fd").iterdir())
    except OSError:  # another user's, or gone by now
        return False


def _is(entry: Path, wanted: os.stat_result) -> bool:
    try:
        found = entry.stat()
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino)
