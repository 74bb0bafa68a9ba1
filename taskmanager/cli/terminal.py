"""What every command needs: the queue opened, and a voice on each of the two streams.

What a script reads goes to stdout, what a person reads to stderr.
"""

import json
from typing import Any

import click

from taskmanager.bootstrap import load_plugins, open_database, prepare_database
from taskmanager.config import Settings, load_settings
from taskmanager.db import schema


def say(message: str) -> None:
    """Tells the person at the terminal something that is not the command's result."""
    click.echo(_harmless(message), err=True)


def show(line: str) -> None:
    """Prints one line of the command's result."""
    click.echo(_harmless(line))


def show_json(content: Any) -> None:
    text = json.dumps(content, ensure_ascii=False, indent=2)
    click.echo("\n".join(_harmless(line) for line in text.split("\n")))


def _harmless(line: str) -> str:
    """`line` with what does not print written as in JSON.

    Names, addresses and messages come from callers of the API; what would move
    the cursor, end the line or turn its direction round could make the
    terminal show something else than what is there.
    """
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in line)


def open_queue(*, patience_seconds: int = schema.START_PATIENCE_SECONDS) -> Settings:
    """Reads the settings, opens the database and makes or upgrades its tables where needed."""
    settings = load_settings()
    load_plugins(settings)
    open_database(settings)
    prepare_database(settings, patience_seconds=patience_seconds, report=say)
    return settings
