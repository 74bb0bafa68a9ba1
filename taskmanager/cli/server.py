"""`taskmanager serve` and `demo`: the commands that run a server."""

import logging
import sys
from pathlib import Path

import click

from taskmanager import __version__
from taskmanager.access import keys
from taskmanager.access.caller import OPERATOR
from taskmanager.cli.terminal import number_option, open_queue, say
from taskmanager.clock import utc_now
from taskmanager.config import load_settings
from taskmanager.db import schema
from taskmanager.db.connection import close_connection
from taskmanager.errors import DatabaseUnavailable
from taskmanager.logs import write_json_lines

log = logging.getLogger(__name__)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@number_option("--port", 1, 65_535, "Port to listen on.", default=8000)
@number_option("--workers", 1, 64, "Number of processes.", default=4)
@number_option("--threads", 1, 64, "Threads in each process.", default=2)
def serve(host: str, port: int, workers: int, threads: int) -> None:
    """Serve the API under gunicorn.

    Creates or upgrades the database first. If there are no keys yet, it also
    creates an admin key and prints it once. If the database cannot be reached,
    the server starts anyway and answers 503 until it can.
    """
    # Imported here because no other command needs gunicorn.
    from taskmanager.serving.server import address_of, require_free_address, run_server

    log_format = load_settings().log_format
    if log_format == "json":
        write_json_lines()
    tell = log.info if log_format == "json" else say
    host = host.removeprefix("[").removesuffix("]")
    require_free_address(host, port)
    try:
        open_queue(patience_seconds=schema.COMMAND_PATIENCE_SECONDS)
        if not keys.any_key_exists():
            _, key = keys.create_key(
                name=keys.FIRST_KEY, scopes=keys.ROLES["admin"], now=utc_now(), caller=OPERATOR
            )
            say("Your admin key. It is shown only once, so save it now:")
            click.echo(key)
    except DatabaseUnavailable as error:
        tell(f"Starting without the database: {error.message}")
    close_connection()  # each serving process opens its own
    tell(f"The queue is in {load_settings().database_place}")
    address = address_of(host, port)
    tell(f"TaskManager {__version__} is listening on http://{address} (press Ctrl-C to stop)")
    sys.stdout.flush()
    run_server(host=host, port=port, workers=workers, threads=threads, log_format=log_format)


@click.command()
@click.argument(
    "folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option(
    "--keep", is_flag=True, help="Keep the server running and print its address and a key."
)
def demo(folder: Path | None, keep: bool) -> None:
    """Try everything out on real files.

    Starts a server, creates a task for each file in FOLDER (default: Python's
    standard library), and lets two workers compute the checksums over HTTP. At
    the end it checks that all figures add up.
    """
    from taskmanager.demo.run import run_demo

    sys.exit(run_demo(folder, keep=keep))


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def worker(arguments: tuple[str, ...]) -> None:
    """Run a program for each task: --type TYPE -- COMMAND."""
    from taskmanager.clients import PYTHON

    sys.path.insert(0, str(PYTHON))
    from taskmanager_client.command import main

    sys.exit(main(arguments, program="taskmanager worker"))
