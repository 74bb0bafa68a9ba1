"""Checks that the settings are valid, and who can read them."""

import importlib
import stat
from collections.abc import Iterator

from taskmanager.doctor.case import SETTINGS, Case
from taskmanager.doctor.findings import Finding, not_applicable, ok, problem, reason_of, warning


def check_settings(case: Case) -> Iterator[Finding]:
    """Reports every invalid setting; a start reports only the first."""
    if SETTINGS in case.missing:
        for complaint in case.complaints.values():
            yield problem(
                complaint,
                "Fix that and run the doctor again. Until then the program does not start.",
                code="settings_unreadable",
            )
        return
    for complaint in case.complaints.values():
        yield problem(complaint, "Correct it and restart. Until then the program does not start.")
    if not case.complaints:
        yield ok("Every setting is known and valid.")


def check_env_file(case: Case) -> Finding:
    """`.env` may contain the password of the database and the bootstrap key."""
    try:
        found = case.env_file.stat()
    except FileNotFoundError:
        return not_applicable("there is no `.env`; settings come from the environment.")
    except OSError as error:
        return problem(
            f"`.env` cannot be accessed: {reason_of(error)}.",
            "Make the user who runs the program its owner: chown, then chmod 600 .env",
        )
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode):
        return problem(
            "`.env` is not a file, so no setting is read from it.",
            "Replace it with a file. See .env.example",
        )
    if mode & 0o022:
        return problem(
            f"Other users can write `.env` (mode {mode:04o}). They could run code as this user.",
            "chmod 600 .env",
        )
    if mode & 0o044:
        return warning(
            f"Other users can read `.env` (mode {mode:04o}) and the passwords in it. FTP programs "
            "upload it with this mode.",
            "chmod 600 .env (in an FTP program: File permissions)",
        )
    return ok(f"Only its owner can access `.env` (mode {mode:04o}).")


def check_plugins(case: Case) -> Finding:
    """Imports the plugins, as a start does."""
    plugins = case.settings.plugins
    if not plugins:
        return not_applicable("TASKMANAGER_PLUGINS is empty.")
    broken = []
    for module in plugins:
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - code of others may raise anything
            broken.append(f"{module} ({type(error).__name__})")
    if broken:
        return problem(
            f"Modules of TASKMANAGER_PLUGINS that cannot be imported: {', '.join(broken)}.",
            "Upload or install them, or remove them from the setting. Until then the program does "
            "not start.",
        )
    return ok(f"All {len(plugins)} modules of TASKMANAGER_PLUGINS can be imported.")


def check_bootstrap_key(case: Case) -> Finding:
    """The bootstrap key is a secret in a file, and no longer needed after the first start."""
    if not case.settings.bootstrap_admin_key:
        return ok("No bootstrap key is set.")
    return warning(
        "TASKMANAGER_BOOTSTRAP_ADMIN_KEY is still set. Whoever reads it can do everything.",
        "Create another admin key, revoke the one named 'bootstrap', and remove the setting.",
    )
