"""`taskmanager init-db`: the commands that look after the tables."""

import click

from taskmanager.app import open_database, prepare_database
from taskmanager.cli.terminal import say
from taskmanager.config import load_settings


@click.command("init-db")
def init_db() -> None:
    """Make the database's tables. Safe to repeat, and from several processes at once."""
    settings = load_settings()
    open_database(settings)
    made = prepare_database(settings)
    say("The tables have been made." if made else "The tables are there already.")
