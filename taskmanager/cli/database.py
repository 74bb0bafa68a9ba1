"""`taskmanager init-db` and `migrate`: the commands that look after the tables."""

import click

from taskmanager.bootstrap import open_database, prepare_database
from taskmanager.cli.terminal import say
from taskmanager.config import load_settings
from taskmanager.db import schema


@click.command("init-db")
def init_db() -> None:
    """Make the database's tables, or bring them up to date.

    Safe to repeat, and from several processes at once.
    """
    _bring_up_to_date()


@click.command()
def migrate() -> None:
    """Bring the database's tables up to date after an upgrade; what is in them is kept.

    Safe to repeat, and from several processes at once. A run that was cut short
    is taken up again.
    """
    _bring_up_to_date()


def _bring_up_to_date() -> None:
    settings = load_settings()
    open_database(settings)
    done = prepare_database(settings, patience_seconds=schema.COMMAND_PATIENCE_SECONDS, report=say)
    what = {
        schema.Preparation.NOTHING: "are up to date",
        schema.Preparation.MADE: "have been made",
        schema.Preparation.UPGRADED: "have been brought up to date",
    }[done]
    say(f"The tables {what} (schema version {schema.SCHEMA_VERSION}).")
