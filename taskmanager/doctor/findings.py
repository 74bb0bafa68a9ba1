"""What the doctor says: one finding about one thing, under a code that programs may rely on."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """`warning` works but is not as it should be; `problem` does not work, or is not safe."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


# Every code and what it is about; docs/operations.md lists the same.
CODES = {
    "python_version": "whether this Python runs the program, and Passenger runs this Python",
    "libraries": "the installed libraries against what `requirements.txt` asks for",
    "program_loads": "whether every part of the program can be imported",
    "release_files": "the files against the manifest of the release that was uploaded",
    "files_missing": "files of the release that are not there",
    "files_damaged": "files that were cut short, cannot be read, or are of another version",
    "files_text_mode": "files whose line ends an FTP program has changed",
    "files_left_over": "files in the package that the release does not have",
    "htaccess_changed": "an `.htaccess` that is not the one of the release",
    "settings": "whether every setting is known and can be used",
    "settings_unreadable": "settings that could not be read at all",
    "plugins": "whether the modules of `TASKMANAGER_PLUGINS` can be imported",
    "bootstrap_key": "a bootstrap key that is still set",
    "env_file": "who may read and write `.env`",
    "instance_folder": "whether the instance folder is there and can be written",
    "instance_mode": "who may look into the instance folder, and whose it is",
    "disk_space": "free space where the queue writes",
    "disk_sync": "how long the disk takes to make a write safe: the median of several",
    "rate_limits": "whether all processes count requests together",
    "database": "whether the database can be reached",
    "database_version": "its kind and version, and whether they are new enough",
    "claim_path": "how claims pass by the rows of others: with or without SKIP LOCKED",
    "sqlite_journal": "SQLite's write-ahead log: whether it is in use, and why not",
    "sqlite_file": "whether the database file can be written, and lies on this machine",
    "clock": "the clock of the database server against the one here",
    "connections": "connections to the database against what the server allows",
    "processes": "how many processes have the database open",
    "schema_version": "whether the tables are of the version that this program knows",
    "tables": "whether every table is there",
    "admin_key": "whether there is a key that may administer",
    "maintenance": "whether cron has run lately, and by which road",
    "encryption": "whether the call came by https",
    "proxies": "`TASKMANAGER_TRUSTED_PROXIES` against what came with the call",
    "document_root": "whether the program lies where the web server serves files from",
    "service_reached": "what answers at the address given with `--url`",
    "files_exposed": "whether `.env`, the database and the program can be fetched from there",
    "not_checked": "checks that were left out, and why",
    "check_failed": "a check that failed itself",
}


@dataclass(frozen=True)
class Finding:
    """A sentence about what was found and, unless all is well, one about what to do.

    Neither holds a secret or an absolute path. `group` is filled in by whoever runs the checks.
    """

    code: str
    level: Level
    found: str
    remedy: str | None = None
    group: str = ""

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise AssertionError(f"the code {self.code} is missing in CODES")
        if self.level is not Level.OK and not self.remedy:
            raise AssertionError(f"the finding {self.code} does not say what to do")


def ok(code: str, found: str, remedy: str | None = None) -> Finding:
    return Finding(code, Level.OK, found, remedy)


def not_applicable(code: str, sentence: str) -> Finding:
    """A thing that does not arise here, or cannot be known."""
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
    """Why the system refused, in its own words without the path."""
    return (error.strerror or type(error).__name__).lower()
