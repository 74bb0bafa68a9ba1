"""`taskmanager serve` and `demo`: the commands that run a server."""

import sys
from pathlib import Path

import click

from taskmanager import __version__
from taskmanager.access import keys
from taskmanager.access.caller import OPERATOR
from taskmanager.cli.terminal import open_queue, say
from taskmanager.clock import utc_now
from taskmanager.db import schema
from taskmanager.db.connection import close_connection
from taskmanager.errors import DatabaseUnavailable


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--workers", default=4, show_default=True, type=click.IntRange(1, 64))
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 64))
def serve(host: str, port: int, workers: int, threads: int) -> None:
    """Serve the API under gunicorn.

    Makes the database first; where no key exists yet, makes an admin key and
    prints it once. A database that cannot be reached yet is waited for: until
    it is there every call is answered with 503.
    """
    # Lazily: no other command needs gunicorn.
    from taskmanager.serving import require_free_address, run_server

    require_free_address(host, port)
    try:
        open_queue(patience_seconds=schema.COMMAND_PATIENCE_SECONDS)
        _make_first_key()
    except DatabaseUnavailable as error:
        say(f"Starting without the database. {error.message}")
    close_connection()  # the processes that serve open their own
    say(f"TaskManager {__version__} listens on http://{host}:{port} (stop with Ctrl-C)")
    sys.stdout.flush()
    run_server(host=host, port=port, workers=workers, threads=threads)


def _make_first_key() -> None:
    if keys.any_key_exists():
        return
    _, key = keys.create_key(
        name=keys.FIRST_KEY, scopes=keys.ROLES["admin"], now=utc_now(), caller=OPERATOR
    )
    say("Your admin key. It is shown this once, so keep it:")
    click.echo(key)


@click.command()
@click.argument(
    "folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--keep", is_flag=True, help="Leave the server up; print its address and a key.")
def demo(folder: Path | None, keep: bool) -> None:
    """Run the whole loop on real input: fingerprint every file under FOLDER.

    FOLDER defaults to Python's own standard library.
    """
    from taskmanager.demo import run_demo

    sys.exit(run_demo(folder, keep=keep))
