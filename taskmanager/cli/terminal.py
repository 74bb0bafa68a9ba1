"""What every command needs: the queue opened, and a voice on each of the two streams.

What a script reads goes to stdout, what a person reads to stderr.
"""

import json
from typing import Any

import click

from taskmanager import schema
from taskmanager.app import load_plugins, open_database, prepare_database
from taskmanager.config import Settings, load_settings


def say(message: str) -> None:
    """Tells the person at the terminal something that is not the command's result."""
    click.echo(message, err=True)


def show_json(content: Any) -> None:
    click.echo(json.dumps(content, ensure_ascii=False, indent=2))


def open_queue(*, patience_seconds: int = schema.START_PATIENCE_SECONDS) -> Settings:
    """Reads the settings, opens the database and makes or upgrades its tables where needed."""
    settings = load_settings()
    load_plugins(settings)
    open_database(settings)
    prepare_database(settings, patience_seconds=patience_seconds, report=say)
    return settings
