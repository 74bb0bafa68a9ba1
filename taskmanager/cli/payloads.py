"""`taskmanager payloads`: keys for encrypted tasks, and encrypting them with a new one."""

import secrets
from base64 import urlsafe_b64encode

import click

from taskmanager.cli.terminal import open_queue, say
from taskmanager.payloads import rotation

KEY_BYTES = 32


@click.group("payloads")
def payloads_group() -> None:
    """Encryption of what tasks carry. See docs/security.md."""


@payloads_group.command("new-key")
def new_key() -> None:
    """Print a new key for TASKMANAGER_PAYLOAD_KEY."""
    click.echo(urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode())


@payloads_group.command("rotate")
def rotate() -> None:
    """Encrypt everything with the first key of TASKMANAGER_PAYLOAD_KEY.

    Also what was stored before its type was encrypted. Can be stopped and run again, while the
    server runs. Afterwards the other keys are not needed.
    """
    open_queue()
    total = rotation.rotate(report=lambda table, done: say(f"{table}: {done}"))
    say(f"{total} rows encrypted with the first key; the other keys are not needed any more.")
