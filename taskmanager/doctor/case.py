"""What a check is given to look at, and what earlier checks found out for later ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskmanager.config import Settings

ROOT = Path(__file__).resolve().parent.parent.parent

# What a check may need: see Check.needs.
SETTINGS = "settings"  # they could be read
PLACE = "place"  # TASKMANAGER_INSTANCE_PATH and TASKMANAGER_DATABASE_URL have usable values
FOLDER = "folder"  # the instance folder is there and can be written
DATABASE = "database"  # it answers
TABLES = "tables"  # they are there, of this version

DECISIVE = ("TASKMANAGER_INSTANCE_PATH", "TASKMANAGER_DATABASE_URL")


@dataclass(frozen=True, kw_only=True)
class CallFacts:
    """What the server saw of the HTTP call that asks; headers as they came, `trusted` or not."""

    is_secure: bool
    is_from_this_machine: bool
    forwarded_for: str | None
    forwarded_proto: str | None
    document_root: str | None  # the web server's own word, never the caller's
    counts_are_shared: bool


@dataclass(kw_only=True)
class Case:
    """`call` is None on the command line, `url` is None unless it was given there.

    `missing` holds what later checks need and will not find, with the reason.
    """

    root: Path = field(default_factory=lambda: ROOT)
    settings: "Settings | None" = None
    complaints: Mapping[str, str] = field(default_factory=dict)
    url: str | None = None
    call: CallFacts | None = None
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def known_settings(self) -> "Settings":
        """For checks that need SETTINGS."""
        if self.settings is None:
            raise AssertionError("a check uses settings without saying that it needs them")
        return self.settings


def case_of_command(url: str | None) -> Case:
    """The host as the command line finds it: settings from the environment and `.env`."""
    case = Case(url=url)
    try:
        from taskmanager.config import read_settings

        case.settings, case.complaints = read_settings()
    except Exception as error:  # noqa: BLE001 - a library, the program, .env: whatever it is
        case.complaints = {"": _why(error)}
        case.missing[SETTINGS] = case.missing[PLACE] = "the settings could not be read"
    if any(name in case.complaints for name in DECISIVE):
        case.missing[PLACE] = "it is not known which database and folder are meant"
    return case


def _why(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"the module {error.name} is missing"
    if isinstance(error, UnicodeDecodeError):
        return ".env is not written in UTF-8"
    if isinstance(error, OSError):
        return f".env cannot be read ({(error.strerror or '').lower()})"
    return f"{type(error).__name__}: {error}"
