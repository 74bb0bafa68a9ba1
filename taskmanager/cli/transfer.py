"""`taskmanager export`, `import` and `import-php`: move a whole queue between databases."""

import contextlib
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, cast

import click

from taskmanager.access.caller import OPERATOR
from taskmanager.cli.terminal import json_option, open_queue, say, show_json
from taskmanager.clock import utc_now
from taskmanager.errors import TransferFailed
from taskmanager.payloads import rotation
from taskmanager.transfer.exporting import export_queue
from taskmanager.transfer.files import new_file, reading, unpacked
from taskmanager.transfer.format import PAYLOAD_FORMS
from taskmanager.transfer.importing import import_queue
from taskmanager.transfer.php.conversion import Conversion
from taskmanager.transfer.php.importing import import_php

DAY_MS = 86_400_000

SHOWN_EVERY_SECONDS = 0.2
STANDARD_STREAM = Path("-")


@click.command("export")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option(
    "--payloads",
    type=click.Choice(PAYLOAD_FORMS),
    default=PAYLOAD_FORMS[0],
    help="How what encrypted types have stored is written; encrypted by default.",
)
@json_option
def export(file: Path, payloads: str, as_json: bool) -> None:
    """Write the whole queue to FILE. The queue may be in use.

    A FILE that ends in .gz is compressed. - means standard output. The file
    contains all params and results, so protect it like the database. Those of
    encrypted types stay encrypted, and an import needs the same
    TASKMANAGER_PAYLOAD_KEY, unless --payloads is plain.
    """
    to_stdout = file == STANDARD_STREAM
    if to_stdout and as_json:
        raise click.UsageError("With - the queue is written to standard output. Leave out --json.")
    open_queue()
    progress = _Progress()
    with _stdout() if to_stdout else new_file(file) as stream:
        rows = export_queue(stream, now=utc_now(), report=progress.show, payloads=payloads)
    where = "standard output" if to_stdout else str(file)
    progress.close("Exported", "to", where, rows, as_json=as_json)


@click.command("import")
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
)
@click.option("--replace-keys", is_flag=True, help="Replace keys that were created in this queue.")
@json_option
def import_(file: Path, replace_keys: bool, as_json: bool) -> None:
    """Fill this queue from FILE. The queue must be empty.

    If the import fails, nothing is imported. FILE was written by export,
    compressed or not. - means standard input.
    """
    open_queue()
    progress = _Progress()
    with reading(), contextlib.closing(_streams(file)) as streams:
        imported = import_queue(
            streams,
            replace_keys=replace_keys,
            caller=OPERATOR,
            now=utc_now(),
            report=progress.show,
        )
    where = "standard input" if file == STANDARD_STREAM else str(file)
    progress.close("Imported", "from", where, imported.rows, as_json=as_json)
    if sealed := rotation.seal_plain(report=lambda table, done: None):
        say(f"{sealed} rows that were not encrypted in the file are encrypted now.")
    if imported.lost_keys:
        say(
            "The keys from the file are valid now. These keys were replaced: "
            f"{', '.join(imported.lost_keys)}."
        )


@click.command("import-php")
@click.argument("url")
@json_option
def import_php_(url: str, as_json: bool) -> None:
    """Fill this queue from a PHP TaskManager. The queue must be empty.

    URL is its database, such as mysql://user:password@host/name. It is only
    read. Task types, tasks and history keep their ids; keys of this queue stay.
    If the import fails, nothing is imported. What could not be taken over as it
    was is listed at the end.
    """
    settings = open_queue()
    progress = _Progress()
    now = utc_now()
    conversion = Conversion(
        max_attempts=settings.max_attempts,
        retention_ms=settings.retention_days * DAY_MS,
        now=now,
    )
    try:
        with tempfile.TemporaryFile(dir=settings.instance_path) as file:
            rows = import_php(
                url,
                cast(BinaryIO, file),
                conversion=conversion,
                caller=OPERATOR,
                now=now,
                report=progress.show,
            )
    except OSError as error:
        raise TransferFailed(
            f"The rows could not be written to {settings.instance_path}: "
            f"{error.strerror or error}. Nothing was imported."
        ) from error
    notes = {"notes": conversion.notes.as_json()}
    where = f"the PHP TaskManager in {url.rpartition('@')[2].partition('?')[0]}"
    progress.close("Imported", "from", where, rows, as_json=as_json, more=notes)
    if not as_json:
        for line in conversion.notes.as_lines():
            say(f"- {line}")


@contextlib.contextmanager
def _stdout() -> Iterator[BinaryIO]:
    """stdout with a buffer of its own, so that a failed write is not repeated at exit."""
    try:
        with open(sys.stdout.fileno(), "wb", closefd=False) as stream:
            yield stream
    except OSError as error:
        raise TransferFailed(
            f"Cannot write to standard output: {error.strerror or error}."
        ) from error


def _streams(file: Path) -> Generator[BinaryIO, None, None]:
    """Opens the file again for each try."""
    if file == STANDARD_STREAM:
        yield unpacked(cast(BufferedReader, sys.stdin.buffer))
        raise TransferFailed(
            "The database has rolled back the import, and standard input cannot be read twice. "
            "Nothing was imported. Try again, preferably from a file."
        )
    while True:
        with file.open("rb") as plain:
            yield unpacked(plain)


class _Progress:
    """Measures the time, and shows the progress if stderr is a terminal."""

    def __init__(self) -> None:
        self._started = self._shown = time.monotonic()
        self._shows = sys.stderr.isatty()

    def show(self, table: str, rows: int) -> None:
        now = time.monotonic()
        if self._shows and now - self._shown > SHOWN_EVERY_SECONDS:
            self._shown = now
            click.echo(f"\r{table}: {rows:,}\x1b[K", err=True, nl=False)

    def close(
        self,
        done: str,
        to_or_from: str,
        where: str,
        rows: dict[str, int],
        *,
        as_json: bool,
        more: dict[str, Any] | None = None,
    ) -> None:
        seconds = time.monotonic() - self._started
        if self._shows:
            click.echo("\r\x1b[K", err=True, nl=False)
        if as_json:
            name = {"file": where} if more is None else {}
            show_json({**name, "rows": rows, "seconds": round(seconds, 3), **(more or {})})
        else:
            say(
                f"{done} {sum(rows.values()):,} rows, {rows.get('tasks', 0):,} of them tasks, "
                f"{to_or_from} {where} in {seconds:.1f} seconds."
            )
