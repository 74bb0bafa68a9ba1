"""The findings of the doctor. Each has a code that programs can rely on."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """WARNING: works, but should be improved. PROBLEM: does not work, or is not safe."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


# Code → what it checks; docs/operations.md has the same list.
CODES = {
    "python_version": "whether this Python can run the program, and Passenger can load it",
    "libraries": "whether the installed libraries meet `requirements.txt`",
    "program_loads": "whether every part of the program can be imported",
    "release_files": "whether the files match the manifest of the uploaded release",
    "files_missing": "files of the release that are missing",
    "files_damaged": "files that are truncated, unreadable or from another version",
    "files_text_mode": "files whose line endings an FTP program has changed",
    "files_left_over": "files in the package that are not part of the release",
    "htaccess_changed": "an `.htaccess` that differs from the one in the release",
    "settings": "whether every setting is known and valid",
    "settings_unreadable": "settings that could not be read at all",
    "plugins": "whether the modules in `TASKMANAGER_PLUGINS` can be imported",
    "bootstrap_key": "a bootstrap key that is still set",
    "env_file": "who can read and write `.env`",
    "instance_folder": "whether the instance folder exists and is writable",
    "instance_mode": "who owns the instance folder and who can read it",
    "disk_space": "free space on the disks that the queue writes to",
    "disk_sync": "how long the disk takes to make a write durable (median)",
    "rate_limits": "whether all processes share the counters of the rate limits",
    "database": "whether the database can be reached",
    "database_version": "which database it is, and whether its version is new enough",
    "claim_path": "whether claims use SKIP LOCKED",
    "sqlite_journal": "whether SQLite's write-ahead log is in use, and if not, why",
    "sqlite_file": "whether the database file is writable and on a local disk",
    "clock": "the clock of the database server compared with the local one",
    "connections": "open database connections compared with the server's limits",
    "processes": "how many processes have the database open",
    "schema_version": "whether the version of the tables matches the program",
    "tables": "whether every table exists",
    "admin_key": "whether there is a valid admin key",
    "param_schemas": "whether the schemas of all task types can be used",
    "maintenance": "when maintenance last ran, and whether by command or over HTTP",
    "encryption": "whether the call came over HTTPS",
    "proxies": "`TASKMANAGER_TRUSTED_PROXIES` compared with the headers of the call",
    "document_root": "whether the program is inside the web server's document root",
    "service_reached": "what answers at the address given with `--url`",
    "files_exposed": "whether `.env`, the database or the program can be fetched from that address",
    "not_checked": "checks that were skipped, and why",
    "check_failed": "a check that itself failed",
}


@dataclass(frozen=True)
class Finding:
    """What was found and, unless the level is OK, what to do about it.

    Neither text contains a secret or an absolute path. The runner of the checks sets `group`.
    """

    code: str
    level: Level
    found: str
    remedy: str | None = None
    group: str = ""

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise AssertionError(f"the code {self.code} is missing from CODES")
        if self.level is not Level.OK and not self.remedy:
            raise AssertionError(f"the finding {self.code} does not say what to do")


def ok(code: str, found: str, remedy: str | None = None) -> Finding:
    return Finding(code, Level.OK, found, remedy)


def not_applicable(code: str, sentence: str) -> Finding:
    """A check that does not apply to this host, or whose result cannot be known."""
    return Finding(code, Level.OK, f"Not applicable: {sentence}")


def warning(code: str, found: str, remedy: str) -> Finding:
    return Finding(code, Level.WARNING, found, remedy)


def problem(code: str, found: str, remedy: str) -> Finding:
    return Finding(code, Level.PROBLEM, found, remedy)


def listed(names: list[str], most: int = 10) -> str:
    """`a, b, c and 12 more`."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def reason_of(error: OSError) -> str:
    """The system's reason for the error, without the path."""
    return (error.strerror or type(error).__name__).lower()
