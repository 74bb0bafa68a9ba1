"""The instance folder and the disk below it. Writes a small file there and takes it away again."""

import os
import shutil
import stat
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from taskmanager.doctor.case import FOLDER, Case
from taskmanager.doctor.findings import Finding, ok, problem, reason_of, warning

SYNCS = 7
SYNC_BYTES = 4_096
MAX_SYNC_SECONDS = 2.0
SLOW_SYNC_MS = 50.0

LITTLE_SPACE = 200 * 1024 * 1024
NO_SPACE = 20 * 1024 * 1024
LITTLE_INODES = 500

ELSEWHERE = (
    "Make it writable for the user who runs the program, or set TASKMANAGER_INSTANCE_PATH to a "
    "folder that is."
)


def check_instance_folder(case: Case) -> Iterator[Finding]:
    """Tries to write there, which says more than modes do."""
    folder = case.known_settings.instance_path
    if not os.path.lexists(folder):
        yield _not_there(case, folder)
        return
    if not folder.is_dir():
        case.missing[FOLDER] = "the instance folder is no folder"
        yield problem(
            "instance_folder", "Where the instance folder should be there is no folder.", ELSEWHERE
        )
        return
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-"):
            pass
    except OSError as error:
        case.missing[FOLDER] = "the instance folder cannot be written"
        yield problem(
            "instance_folder",
            f"The instance folder cannot be written: {reason_of(error)}.",
            ELSEWHERE,
        )
    else:
        yield ok("instance_folder", "The instance folder is there and can be written.")
    yield _judge_access(folder.stat())


def _not_there(case: Case, folder: Path) -> Finding:
    case.missing[FOLDER] = "there is no instance folder yet"
    above = next(parent for parent in folder.parents if parent.exists())
    if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
        return warning(
            "instance_folder",
            "There is no instance folder yet.",
            "The first start makes it. If the queue was in use before, TASKMANAGER_INSTANCE_PATH "
            "names another folder than it did.",
        )
    return problem(
        "instance_folder", "There is no instance folder, and it cannot be made.", ELSEWHERE
    )


def _judge_access(found: os.stat_result) -> Finding:
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != os.geteuid():
        return warning(
            "instance_mode",
            f"The instance folder belongs to another user (id {found.st_uid}) than the one who "
            f"asks (id {os.geteuid()}).",
            "Run the service, cron and commands as one and the same user, and give the folder to "
            "that one: files made by one cannot be written by the other.",
        )
    if mode & 0o077:
        return warning(
            "instance_mode",
            f"Other users may look into the instance folder (mode {mode:04o}): the queue is in it.",
            "chmod 700 on the instance folder.",
        )
    return ok("instance_mode", f"The instance folder is its owner's alone (mode {mode:04o}).")


def check_space(case: Case) -> Iterator[Finding]:
    """On each disk that the queue writes to. A smaller quota of the account is not seen."""
    settings = case.known_settings
    folders = {"the instance folder": settings.instance_path}
    url = settings.effective_database_url
    if url.startswith("sqlite:///"):
        folders["the database"] = Path(url.removeprefix("sqlite:///").partition("?")[0]).parent
    seen = set()
    for name, folder in folders.items():
        there = next(path for path in (folder, *folder.parents) if path.is_dir())
        device = there.stat().st_dev
        if device not in seen:
            seen.add(device)
            inodes = os.statvfs(there)
            yield judge_space(
                name,
                shutil.disk_usage(there).free,
                inodes.f_favail if inodes.f_files else LITTLE_INODES,
            )


def judge_space(name: str, free: int, inodes: int) -> Finding:
    """`free` in bytes, `inodes` as the number of files that can still be made."""
    left = f"{free // 1024**2:,} MB"
    make_room = "Delete what is not needed, or take a larger package from the host."
    if inodes < LITTLE_INODES:
        return problem(
            "disk_space", f"On the disk of {name} only {inodes:,} files can be made.", make_room
        )
    if free < NO_SPACE:
        return problem("disk_space", f"On the disk of {name} only {left} are free.", make_room)
    if free < LITTLE_SPACE:
        return warning("disk_space", f"On the disk of {name} only {left} are free.", make_room)
    return ok(
        "disk_space",
        f"On the disk of {name} {left} are free (a quota of the account may leave less).",
    )


def check_sync(case: Case) -> Iterator[Finding]:
    """Times what every answered request on SQLite waits for."""
    milliseconds: list[float] = []
    deadline = time.monotonic() + MAX_SYNC_SECONDS
    with tempfile.TemporaryFile(dir=case.known_settings.instance_path, buffering=0) as file:
        while len(milliseconds) < SYNCS and (not milliseconds or time.monotonic() < deadline):
            file.write(os.urandom(SYNC_BYTES))
            started = time.perf_counter()
            os.fsync(file.fileno())
            milliseconds.append((time.perf_counter() - started) * 1000)
    uses_sqlite = case.known_settings.effective_database_url.startswith("sqlite:///")
    yield judge_sync(milliseconds, uses_sqlite=uses_sqlite)


def judge_sync(milliseconds: list[float], *, uses_sqlite: bool) -> Finding:
    """`milliseconds` of each write."""
    median = statistics.median(milliseconds)
    found = (
        f"The disk makes a write safe in {median:.1f} ms "
        f"(median of {len(milliseconds)}, slowest {max(milliseconds):.1f} ms)"
    )
    if median > SLOW_SYNC_MS and uses_sqlite:
        return warning(
            "disk_sync",
            f"{found}, and every change of the queue waits for that.",
            "Send tasks in batches and complete many at once; or take MySQL or MariaDB, or another "
            "disk. TASKMANAGER_SQLITE_SYNCHRONOUS=NORMAL does not wait, but a power cut may take "
            "the last moments with it.",
        )
    return ok("disk_sync", f"{found}.")
