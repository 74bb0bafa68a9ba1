"""`taskmanager init-db` and `migrate`: create and upgrade the tables."""

import click

from taskmanager.bootstrap import open_database, prepare_database
from taskmanager.cli.terminal import say
from taskmanager.config import load_settings
from taskmanager.db import schema


@click.command("init-db")
def init_db() -> None:
    """Create the database tables, or upgrade them.

    You can repeat this, and run it from several processes at once.
    """
    _create_or_upgrade_tables()


@click.command()
def migrate() -> None:
    """Upgrade the database tables and keep your data.

    You can repeat this, and run it from several processes at once. An
    interrupted run is continued by the next one.
    """
    _create_or_upgrade_tables()


def _create_or_upgrade_tables() -> None:
    settings = load_settings()
    open_database(settings)
    done = prepare_database(settings, patience_seconds=schema.COMMAND_PATIENCE_SECONDS, report=say)
    what = {
        schema.Preparation.NOTHING: "are up to date",
        schema.Preparation.MADE: "have been created",
        schema.Preparation.UPGRADED: "have been upgraded",
    }[done]
    say(f"The tables {what} (schema version {schema.SCHEMA_VERSION}).")
