"""Checks that the settings are valid, and who can read them."""

import importlib
import stat
from collections.abc import Iterator

from taskmanager.doctor.case import SETTINGS, Case
from taskmanager.doctor.findings import Finding, not_applicable, ok, problem, reason_of, warning


def check_settings(case: Case) -> Iterator[Finding]:
    """Reports every invalid setting; a start reports only the first."""
    if SETTINGS in case.missing:
        yield problem(
            "settings_unreadable",
            f"The settings could not be read: {case.complaints['']}.",
            "Fix that and run the doctor again. Until then the program does not start.",
        )
        return
    for complaint in case.complaints.values():
        yield problem(
            "settings", complaint, "Correct it and restart. Until then the program does not start."
        )
    if not case.complaints:
        yield ok("settings", "Every setting is known and valid.")


def check_env_file(case: Case) -> Finding:
    """`.env` may contain the password of the database and the bootstrap key."""
    try:
        found = (case.root / ".env").stat()
    except FileNotFoundError:
        return not_applicable("env_file", "there is no `.env`; settings come from the environment.")
    except OSError as error:
        return problem(
            "env_file",
            f"`.env` cannot be accessed: {reason_of(error)}.",
            "Make the user who runs the program its owner: chown, then chmod 600 .env",
        )
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode):
        return problem(
            "env_file",
            "`.env` is not a file, so no setting is read from it.",
            "Replace it with a file. See .env.example",
        )
    if mode & 0o022:
        return problem(
            "env_file",
            f"Other users can write `.env` (mode {mode:04o}). They could run code as this user.",
            "chmod 600 .env",
        )
    if mode & 0o044:
        return warning(
            "env_file",
            f"Other users can read `.env` (mode {mode:04o}) and the passwords in it. FTP programs "
            "upload it with this mode.",
            "chmod 600 .env (in an FTP program: File permissions)",
        )
    return ok("env_file", f"Only its owner can access `.env` (mode {mode:04o}).")


def check_plugins(case: Case) -> Finding:
    """Imports the plugins, as a start does."""
    plugins = case.known_settings.plugins
    if not plugins:
        return not_applicable("plugins", "TASKMANAGER_PLUGINS is empty.")
    broken = []
    for module in plugins:
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - code of others may raise anything
            broken.append(f"{module} ({type(error).__name__})")
    if broken:
        return problem(
            "plugins",
            f"Modules of TASKMANAGER_PLUGINS that cannot be imported: {', '.join(broken)}.",
            "Upload or install them, or remove them from the setting. Until then the program does "
            "not start.",
        )
    return ok("plugins", f"All {len(plugins)} modules of TASKMANAGER_PLUGINS can be imported.")


def check_bootstrap_key(case: Case) -> Finding:
    """The bootstrap key is a secret in a file, and no longer needed after the first start."""
    if not case.known_settings.bootstrap_admin_key:
        return ok("bootstrap_key", "No bootstrap key is set.")
    return warning(
        "bootstrap_key",
        "TASKMANAGER_BOOTSTRAP_ADMIN_KEY is still set. Whoever reads it can do everything.",
        "Create another admin key, revoke the one named 'bootstrap', and remove the setting.",
    )
