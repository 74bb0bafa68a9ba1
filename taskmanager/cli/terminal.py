"""Opens the queue for a command and prints: results on stdout, messages on stderr."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
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


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Prints rows under their headings. Numbers are aligned right, and a last column of text is
    cut at the edge of the terminal.
    """
    lines = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *lines, strict=True)]
    numbers = [all(map(_is_number, cells)) for cells in zip(*lines, strict=True)]
    edge = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in (columns, *lines):
        cells = [
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip_longest(line, widths, numbers)
        ]
        text = "  ".join(cells).rstrip()[:edge]
        click.echo(_coloured(text) if edge else text)


def _cell(value: Any) -> str:
    return "-" if value is None else _escaped(str(value))


def _is_number(cell: str) -> bool:
    return cell.replace(".", "", 1).isdecimal() or cell == "-"


COLOURS = {
    "failed": "red",
    "disabled": "red",
    "failing": "yellow",
    "stale": "yellow",
    "paused": "yellow",
    "claimed": "cyan",
    "completed": "green",
    "active": "green",
}


def _coloured(line: str) -> str:
    """The line with the words that name a state in their colour."""
    return re.sub(
        rf"(?<=  )({'|'.join(COLOURS)})(?=  |$)",
        lambda word: click.style(word[0], fg=COLOURS[word[0]]),
        line,
    )


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
