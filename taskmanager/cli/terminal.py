"""Opens the queue for a command and prints: results on stdout, messages on stderr."""

import json
from collections.abc import Callable
from typing import Any

import click

from taskmanager.bootstrap import load_plugins, open_database, prepare_database
from taskmanager.config import Settings, load_settings
from taskmanager.db import schema

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def number_option(name: str, low: int, high: int, what: str, **more: Any) -> Callable[..., Any]:
    """An option that is a whole number from `low` to `high`."""
    kind = click.IntRange(low, high)
    return click.option(name, type=kind, help=what, show_default="default" in more, **more)


def say(message: str) -> None:
    """Prints a message for the person at the terminal, on stderr."""
    click.echo(_escaped(message), err=True)


def show(line: str) -> None:
    """Prints one line of the command's result, on stdout."""
    click.echo(_escaped(line))


def show_json(content: Any) -> None:
    """Prints `content` as the command's result, on stdout."""
    text = json.dumps(content, ensure_ascii=False, indent=2)
    click.echo("\n".join(_escaped(line) for line in text.split("\n")))


def _escaped(line: str) -> str:
    """`line` with non-printing characters escaped as in JSON.

    Names, addresses and messages come from callers of the API. A character that
    moves the cursor, ends the line or reverses the direction of the text could
    falsify what the terminal shows.
    """
    return "".join(
        character if character.isprintable() else json.dumps(character)[1:-1] for character in line
    )


def open_queue(*, patience_seconds: int = schema.START_PATIENCE_SECONDS) -> Settings:
    """Reads the settings, opens the database, and creates or upgrades its tables if needed."""
    settings = load_settings()
    load_plugins(settings)
    open_database(settings)
    prepare_database(settings, patience_seconds=patience_seconds, report=say)
    return settings
