"""Whether the settings can be used, and who else may read them."""

import importlib
import stat
from collections.abc import Iterator

from taskmanager.doctor.case import SETTINGS, Case
from taskmanager.doctor.findings import Finding, not_applicable, ok, problem, reason_of, warning


def check_settings(case: Case) -> Iterator[Finding]:
    """Every complaint, not only the first one, which is all that a start tells."""
    if SETTINGS in case.missing:
        yield problem(
            "settings_unreadable",
            f"The settings could not be read: {case.complaints['']}.",
            "Mend that and run the doctor again; until then the program does not start.",
        )
        return
    for complaint in case.complaints.values():
        yield problem(
            "settings", complaint, "Correct it and restart; until then the program does not start."
        )
    if not case.complaints:
        yield ok("settings", "Every setting is known and can be used.")


def check_env_file(case: Case) -> Iterator[Finding]:
    """`.env` may hold the password of the database and the bootstrap key."""
    try:
        found = (case.root / ".env").stat()
    except FileNotFoundError:
        yield not_applicable("env_file", "there is no `.env`; settings come from the environment.")
        return
    except OSError as error:
        yield problem(
            "env_file",
            f"`.env` cannot be looked at: {reason_of(error)}.",
            "Give the file to the user who runs the program: chown, then chmod 600 .env",
        )
        return
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode):
        yield problem(
            "env_file",
            "`.env` is no file, so no setting is read from it.",
            "Put a file in its place: see .env.example",
        )
    elif mode & 0o022:
        yield problem(
            "env_file",
            f"`.env` may be written by other users (mode {mode:04o}), who could so run code here.",
            "chmod 600 .env",
        )
    elif mode & 0o044:
        yield warning(
            "env_file",
            f"`.env` may be read by other users (mode {mode:04o}), with all passwords in it. FTP "
            "programs upload it like that.",
            "chmod 600 .env (in an FTP program: File permissions)",
        )
    else:
        yield ok("env_file", f"`.env` is its owner's alone (mode {mode:04o}).")


def check_plugins(case: Case) -> Iterator[Finding]:
    """Imports them, as a start does."""
    plugins = case.known_settings.plugins
    if not plugins:
        yield not_applicable("plugins", "TASKMANAGER_PLUGINS names none.")
        return
    broken = []
    for module in plugins:
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - somebody else's code
            broken.append(f"{module} ({type(error).__name__})")
    if broken:
        yield problem(
            "plugins",
            f"Modules of TASKMANAGER_PLUGINS that cannot be imported: {', '.join(broken)}.",
            "Upload or install them, or take them out; until then the program does not start.",
        )
    else:
        yield ok("plugins", f"All {len(plugins)} modules of TASKMANAGER_PLUGINS can be imported.")


def check_bootstrap_key(case: Case) -> Iterator[Finding]:
    """It is a secret in a file that has done its service."""
    if case.known_settings.bootstrap_admin_key:
        yield warning(
            "bootstrap_key",
            "TASKMANAGER_BOOTSTRAP_ADMIN_KEY is still set: whoever reads it may do everything.",
            "Make an admin key over HTTP or by command, revoke the one named 'bootstrap', and take "
            "the setting out.",
        )
    else:
        yield ok("bootstrap_key", "No bootstrap key is set.")
