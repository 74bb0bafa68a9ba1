"""The input of every check, with what earlier checks found out for later ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskmanager.config import Settings

ROOT = Path(__file__).resolve().parent.parent.parent

# What a check can need. A later one is missing too if it depends on an earlier one.
SETTINGS = "settings"  # could be read
PLACE = "place"  # the settings in DECISIVE are valid
FOLDER = "folder"  # the instance folder exists and is writable
DATABASE = "database"  # answers
TABLES = "tables"  # exist, in the version of this program

DECISIVE = (
    "TASKMANAGER_INSTANCE_PATH",
    "TASKMANAGER_DATABASE_URL",
    "TASKMANAGER_TABLE_PREFIX",
)


@dataclass(kw_only=True)
class Case:
    """`call` is the WSGI environment of the HTTP call, or None on the command line.

    With a call, `counts_are_shared` says whether the processes share the counters of the rate
    limits. `url` is the command's --url, else None.
    `missing` maps each need that is not met (SETTINGS, PLACE, …) to the reason.
    """

    root: Path = field(default_factory=lambda: ROOT)
    env_file: Path = field(default_factory=lambda: ROOT / ".env")
    settings: "Settings" = None  # type: ignore[assignment]  # None if SETTINGS is missing
    complaints: Mapping[str, str] = field(default_factory=dict)
    url: str | None = None
    call: Mapping[str, Any] | None = None
    counts_are_shared: bool = False
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def sqlite_file(self) -> Path | None:
        """The database file, for checks that require PLACE; None with MySQL and MariaDB."""
        return self.settings.sqlite_file


def case_of_command(url: str | None) -> Case:
    """The case of a command: settings from the environment and `.env`."""
    case = Case(url=url)
    try:
        from taskmanager.config import UNREADABLE, env_file, read_settings

        case.env_file = env_file()
        settings, case.complaints = read_settings()
        is_readable = not any(name.startswith(UNREADABLE) for name in case.complaints)
    except Exception as error:  # noqa: BLE001 - a library, the program or .env may be broken
        case.complaints = {"": f"The settings could not be read: {_reason(error)}."}
        is_readable = False
    if is_readable:
        case.settings = settings
    else:
        reason = "the settings could not be read"
        case.missing = dict.fromkeys((SETTINGS, PLACE, FOLDER, DATABASE, TABLES), reason)
    if is_readable and any(name in case.complaints for name in DECISIVE):
        reason = "the settings do not say which database and folder to use"
        case.missing = dict.fromkeys((PLACE, FOLDER, DATABASE, TABLES), reason)
    return case


def _reason(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"the module {error.name} is missing"
    return f"{type(error).__name__}: {error}"
