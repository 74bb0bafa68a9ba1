"""Opens and prepares the database, loads plugins, creates the first key: a start without Flask."""

import importlib
import logging
import os
from collections.abc import Callable

import peewee

from taskmanager.access import keys
from taskmanager.access.caller import OPERATOR
from taskmanager.clock import utc_now
from taskmanager.config import Settings
from taskmanager.db import schema
from taskmanager.db.connection import connect_database
from taskmanager.db.errors import is_duplicate
from taskmanager.errors import ConfigurationError
from taskmanager.payloads import keys_in_use
from taskmanager.payloads.keyring import Keyring

log = logging.getLogger(__name__)


def load_plugins(settings: Settings) -> None:
    """Imports the modules that register format checkers. Raises ConfigurationError."""
    for module in settings.plugins:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigurationError(
                f"TASKMANAGER_PLUGINS names the module '{module}', which cannot be imported: "
                f"{error}."
            ) from error


def open_database(settings: Settings) -> peewee.Database:
    """Makes the configured database the current one and creates the instance folder.

    Raises ConfigurationError if the folder cannot be written, the URL cannot be understood, or the
    library for encryption is missing.
    """
    try:
        settings.instance_path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"The folder {settings.instance_path} cannot be created ({error.strerror}). Make it "
            "writable, or set TASKMANAGER_INSTANCE_PATH to a folder that is."
        ) from None
    if not os.access(settings.instance_path, os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"The folder {settings.instance_path} cannot be written by this user. Make it "
            "writable, or set TASKMANAGER_INSTANCE_PATH to a folder that is."
        )
    return connect_database(
        settings.effective_database_url,
        sqlite_synchronous=settings.sqlite_synchronous,
        idle_seconds=settings.database_idle_seconds,
        table_prefix=settings.table_prefix,
        keyring=Keyring(settings.payload_key) if settings.payload_key else None,
        wakeups_folder=settings.instance_path / "waiting",
    )


def prepare_database(
    settings: Settings,
    *,
    patience_seconds: int = schema.START_PATIENCE_SECONDS,
    report: Callable[[str], None] = log.info,
) -> schema.Preparation:
    """Makes or upgrades the tables, and makes the bootstrap key where missing; see `create_schema`.

    Raises DatabaseUnavailable, ConfigurationError.
    """
    done = schema.create_schema(patience_seconds=patience_seconds, report=report)
    keys_in_use.require_keys()
    if key := settings.bootstrap_admin_key:
        name, scopes = keys.BOOTSTRAP_KEY, keys.ROLES["admin"]
        try:
            keys.create_key(name=name, scopes=scopes, key=key, now=utc_now(), caller=OPERATOR)
        except peewee.IntegrityError as error:
            # Made by another process or an earlier start; one that was revoked stays revoked.
            if not is_duplicate(error):
                raise
    return done
