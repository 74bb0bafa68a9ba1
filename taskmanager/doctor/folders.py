"""Checks the instance folder and its disk. Writes a small file there and removes it again."""

import os
import stat
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from taskmanager.config import is_installed
from taskmanager.doctor.case import FOLDER, Case
from taskmanager.doctor.findings import Finding, listed, ok, problem, reason_of, warning
from taskmanager.files.space import free_space

OTHERS = 0o077
OTHERS_ENTER = 0o011

SYNCS = 7
SYNC_BYTES = 4_096
MAX_SYNC_SECONDS = 2.0
SLOW_SYNC_MS = 50.0

LITTLE_SPACE = 200 * 1024 * 1024
NO_SPACE = 20 * 1024 * 1024
LITTLE_INODES = 500

ELSEWHERE = (
    "Make it writable for the user who runs the program, or set TASKMANAGER_INSTANCE_PATH to "
    "another folder."
)


def check_instance_folder(case: Case) -> Iterator[Finding]:
    """Writes a file there, which is more reliable than looking at the permissions."""
    folder = case.settings.instance_path
    if not os.path.lexists(folder):
        case.missing[FOLDER] = "there is no instance folder yet"
        yield _not_there(folder)
    elif not folder.is_dir():
        case.missing[FOLDER] = "the instance folder is not a folder"
        yield problem("The path of the instance folder is not a folder.", ELSEWHERE)
    else:
        try:
            tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-").close()
        except OSError as error:
            case.missing[FOLDER] = "the instance folder is not writable"
            found = f"The instance folder is not writable: {reason_of(error)}."
            yield problem(found, ELSEWHERE)
        else:
            yield ok("The instance folder exists and is writable.")
        yield replace(_judge_access(folder.stat()), code="instance_mode")
        if is_installed() and folder.is_relative_to(case.root):
            yield warning(
                "The instance folder is among the installed packages, so the queue is deleted "
                "with their environment.",
                "Stop the program, move the folder elsewhere and set TASKMANAGER_INSTANCE_PATH "
                "to it in the environment.",
                code="instance_among_packages",
            )


def check_file_modes(case: Case) -> Iterator[Finding]:
    """Files of the queue that other users can open; those in a closed folder are safe."""
    places = {case.settings.instance_path: "*"}
    if case.sqlite_file:
        places.setdefault(case.sqlite_file.parent, f"{case.sqlite_file.name}*")
    open_to_others = []
    for folder, pattern in places.items():
        if folder.stat().st_mode & OTHERS_ENTER:
            for file in sorted(folder.glob(pattern)):
                mode = stat.S_IMODE(file.lstat().st_mode)
                if file.is_file() and mode & OTHERS:
                    open_to_others.append(f"{file.name} ({mode:04o})")
    if open_to_others:
        yield warning(
            f"Other users can open files of the queue: {listed(open_to_others)}.",
            "Run chmod 600 on them. A file that other users can read may contain the queue; one "
            "that they can lock can stop it.",
        )


def _not_there(folder: Path) -> Finding:
    above = next(parent for parent in folder.parents if parent.exists())
    if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
        return warning(
            "There is no instance folder yet.",
            "The first start creates it. If the queue was in use before, TASKMANAGER_INSTANCE_PATH "
            "now names another folder.",
        )
    return problem("There is no instance folder, and it cannot be created.", ELSEWHERE)


def _judge_access(found: os.stat_result) -> Finding:
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != os.geteuid():
        return warning(
            f"The instance folder belongs to another user (id {found.st_uid}) than the one who "
            f"runs this check (id {os.geteuid()}).",
            "Run the service, cron and all commands as the same user, and make that user the "
            "owner of the folder. Otherwise one cannot write the files of the other.",
        )
    if mode & OTHERS:
        return warning(
            f"Other users can access the instance folder (mode {mode:04o}). It contains the queue.",
            "Run chmod 700 on the instance folder.",
        )
    return ok(f"Only its owner can access the instance folder (mode {mode:04o}).")


def check_space(case: Case) -> Iterator[Finding]:
    """Free space on each disk that the queue writes to. Does not see the account's quota."""
    folders = {"the instance folder": case.settings.instance_path}
    if case.sqlite_file:
        folders["the database"] = case.sqlite_file.parent
    for space in free_space(folders):
        inodes = LITTLE_INODES if space.files is None else space.files
        yield judge_space(space.name, space.free_bytes, inodes)


def judge_space(name: str, free: int, inodes: int) -> Finding:
    """`free` is in bytes; `inodes` is how many more files can be created."""
    left = f"{free // 1024**2:,} MB"
    make_room = "Delete what you do not need, or ask the host for more space."
    if inodes < LITTLE_INODES:
        found = f"Only {inodes:,} more files can be created on the disk of {name}."
        return problem(found, make_room)
    if free < LITTLE_SPACE:
        level = problem if free < NO_SPACE else warning
        return level(f"Only {left} are free on the disk of {name}.", make_room)
    return ok(f"{left} are free on the disk of {name}. A quota of the account may leave less.")


def check_sync(case: Case) -> Finding:
    """Measures fsync, for which every write request on SQLite waits."""
    milliseconds: list[float] = []
    deadline = time.monotonic() + MAX_SYNC_SECONDS
    with tempfile.TemporaryFile(dir=case.settings.instance_path, buffering=0) as file:
        while len(milliseconds) < SYNCS and (not milliseconds or time.monotonic() < deadline):
            file.write(os.urandom(SYNC_BYTES))
            started = time.perf_counter()
            os.fsync(file.fileno())
            milliseconds.append((time.perf_counter() - started) * 1000)
    return judge_sync(milliseconds, uses_sqlite=case.sqlite_file is not None)


def judge_sync(milliseconds: list[float], *, uses_sqlite: bool) -> Finding:
    """`milliseconds` has the duration of each fsync."""
    median = statistics.median(milliseconds)
    found = (
        f"The disk makes a write durable in {median:.1f} ms "
        f"(median of {len(milliseconds)}, slowest {max(milliseconds):.1f} ms)"
    )
    if median > SLOW_SYNC_MS and uses_sqlite:
        return warning(
            f"{found}. Every change of the queue waits for it.",
            "Create and complete tasks in batches, or use MySQL, MariaDB or another disk. "
            "TASKMANAGER_SQLITE_SYNCHRONOUS=NORMAL does not wait, but a power cut may lose the "
            "last moments.",
        )
    return ok(f"{found}.")
