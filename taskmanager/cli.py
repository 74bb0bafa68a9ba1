"""`taskmanager …`, also `python -m taskmanager …`.

Exit status: 0 done, 1 failed, 2 wrong usage. What a script reads goes to
stdout, what a person reads to stderr.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from taskmanager import __version__
from taskmanager.app import load_plugins, open_database, prepare_database
from taskmanager.clock import format_time, utc_now
from taskmanager.config import Settings, load_settings
from taskmanager.database import close_connection
from taskmanager.exceptions import DatabaseUnavailable, TaskManagerError
from taskmanager.file_locks import try_file_lock
from taskmanager.rates import parse_rate
from taskmanager.services import audit as audit_trail
from taskmanager.services import key_changes, keys, maintenance, statistics
from taskmanager.services.tasks import TaskDefaults


def say(message: str) -> None:
    """Tells the person at the terminal something that is not the command's result."""
    click.echo(message, err=True)


def open_queue() -> Settings:
    """Reads the settings, opens the database and makes its tables where they are missing."""
    settings = load_settings()
    load_plugins(settings)
    open_database(settings)
    prepare_database(settings)
    return settings


def show_json(content: Any) -> None:
    click.echo(json.dumps(content, ensure_ascii=False, indent=2))


class _Group(click.Group):
    """Reports our own errors as one sentence and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TaskManagerError as error:
            say(f"taskmanager: {error.message}")
            sys.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="taskmanager")
def main() -> None:
    """A task queue behind an HTTP JSON API. Settings: TASKMANAGER_* or a .env file."""


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64))
@click.option("--threads", default=4, show_default=True, type=click.IntRange(1, 64))
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
        open_queue()
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
        name="first admin key", scopes=keys.ROLES["admin"], now=utc_now(), caller=keys.OPERATOR
    )
    say("Your admin key. It is shown this once, so keep it:")
    click.echo(key)


@main.command("init-db")
def init_db() -> None:
    """Make the database's tables. Safe to repeat, and from several processes at once."""
    settings = load_settings()
    open_database(settings)
    made = prepare_database(settings)
    say("The tables have been made." if made else "The tables are there already.")


@main.group("keys")
def keys_group() -> None:
    """Make, list, rotate and revoke API keys."""


def _rate_limit(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    if text is not None:
        try:
            parse_rate(text)
        except ValueError as error:
            raise click.BadParameter(f"write {error}") from None
    return text


@keys_group.command("create")
@click.option("--name", required=True, help="What you will know it by.")
@click.option("--role", required=True, type=click.Choice(list(keys.ROLES)))
@click.option("--types", multiple=True, metavar="PATTERN", help="Task types it may touch: PrismQ.%")
@click.option(
    "--rate-limit",
    metavar="N",
    callback=_rate_limit,
    help="Requests a minute, or N/second, N/hour, N/day; 0: unlimited.",
)
@click.option("--expires", metavar="DAYS", type=click.IntRange(1, 36_500), help="Valid this long.")
def create_key(
    name: str, role: str, types: tuple[str, ...], rate_limit: str | None, expires: int | None
) -> None:
    """Make a key and print it, alone, on stdout. It cannot be shown again."""
    open_queue()
    now = utc_now()
    row, key = keys.create_key(
        name=name,
        scopes=keys.ROLES[role],
        task_types=types or None,
        rate_limit=rate_limit,
        expires_at=now + expires * 86_400_000 if expires else None,
        now=now,
        caller=keys.OPERATOR,
    )
    say(f"Key {row['id']} ({role}). It is shown this once:")
    click.echo(key)


@keys_group.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_keys(as_json: bool) -> None:
    """List the keys: never the keys themselves."""
    open_queue()
    rows = keys.list_keys()
    if as_json:
        from taskmanager.api.serializers import key_json

        show_json([key_json(row) for row in rows])
        return
    for row in rows:
        state = "revoked" if row["revoked_at"] else "active"
        if not row["revoked_at"] and row["expires_at"] and row["expires_at"] <= utc_now():
            state = "expired"
        used = format_time(row["last_used_at"]) or "never"
        click.echo(
            f"{row['id']:>4}  {state:<8} {row['prefix']:<12} {row['name']:<24} last used {used}  "
            f"{' '.join(json.loads(row['scopes']))}"
        )
    if not rows:
        say("There is no key yet. Make one: taskmanager keys create --name me --role admin")


@keys_group.command("rotate")
@click.argument("key_id", metavar="ID", type=click.IntRange(1, 2**63 - 1))
@click.option(
    "--overlap",
    metavar="SECONDS",
    default=key_changes.DEFAULT_OVERLAP_SECONDS,
    show_default=True,
    type=click.IntRange(0, key_changes.MAX_OVERLAP_SECONDS),
    help="How long the old key stays valid.",
)
def rotate_key(key_id: int, overlap: int) -> None:
    """Replace a key by a new one with the same rights and print it, alone, on stdout."""
    open_queue()
    row, key = key_changes.rotate_key(
        key_id=key_id, overlap_seconds=overlap, caller=keys.OPERATOR, now=utc_now()
    )
    ends = format_time(keys.get_key(key_id=key_id)["expires_at"])
    say(f"Key {row['id']} replaces key {key_id}, which is valid until {ends}. Shown this once:")
    click.echo(key)


@keys_group.command("revoke")
@click.argument("key_id", metavar="ID", type=click.IntRange(1, 2**63 - 1))
def revoke_key(key_id: int) -> None:
    """Revoke a key for good."""
    open_queue()
    row = key_changes.revoke_key(key_id=key_id, force=True, caller=keys.OPERATOR, now=utc_now())
    say(f"Key {key_id} ({row['name']}) is revoked; every process refuses it within 5 seconds.")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def stats(as_json: bool) -> None:
    """Show how many tasks there are, by status and type."""
    open_queue()
    figures = statistics.queue_statistics(caller=keys.OPERATOR, now=utc_now())
    if as_json:
        show_json(figures)
        return
    for status, count in figures["by_status"].items():
        click.echo(f"{status:<12} {count:>10}")
    for name, counts in sorted(figures["by_type"].items()):
        shown = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        click.echo(f"{name}: {shown}")
    for period, counts in figures["finished"].items():
        click.echo(f"last {period}: " + ", ".join(f"{n} {status}" for status, n in counts.items()))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--limit", metavar="N", default=50, show_default=True, type=click.IntRange(1, 100_000)
)
def audit(as_json: bool, limit: int) -> None:
    """Show who did what and who failed to get in: the last N events, the newest last."""
    open_queue()
    rows = audit_trail.list_events(limit=limit)[::-1]
    if as_json:
        from taskmanager.api.serializers import audit_event_json

        show_json([audit_event_json(row) for row in rows])
        return
    for row in rows:
        key = "-" if row["api_key_id"] is None else f"key {row['api_key_id']}"
        click.echo(
            f"{format_time(row['created_at'])}  {row['event']:<22} {key:<8} "
            f"{row['address'] or '-':<15} {row['request_id'] or '-'}  {row['message']}"
        )


@main.command()
def openapi() -> None:
    """Print the API as an OpenAPI 3.1 document."""
    from flask import Flask

    from taskmanager.api import register_api
    from taskmanager.api.documentation import document_text

    app = Flask("taskmanager", static_folder=None)
    register_api(app)
    click.echo(document_text(app, indent=2))


def _alone(settings: Settings, work: Callable[[], dict[str, int]]) -> None:
    """Runs maintenance unless another run is under way, and reports only what was done."""
    with try_file_lock(settings.instance_path / "maintenance.lock") as locked:
        done = work() if locked else {}
    for what, count in done.items():
        if count:
            say(f"{what}: {count}")


@main.command("requeue-stale")
def requeue_stale() -> None:
    """Take back tasks whose worker went silent, and start those whose time has come. For cron."""
    settings = open_queue()
    deadline = time.monotonic() + maintenance.MAX_RUN_SECONDS
    now = utc_now()
    _alone(
        settings,
        lambda: {
            "requeued": maintenance.requeue_expired_claims(now=now, deadline=deadline),
            "started": maintenance.start_due_tasks(now=now, deadline=deadline),
        },
    )


@main.command()
def prune() -> None:
    """Remove tasks that were finished TASKMANAGER_RETENTION_DAYS ago. For cron."""
    settings = open_queue()
    deadline = time.monotonic() + maintenance.MAX_RUN_SECONDS
    _alone(
        settings,
        lambda: {
            "pruned": maintenance.prune_finished_tasks(
                retention_days=settings.retention_days,
                caller=keys.OPERATOR,
                now=utc_now(),
                deadline=deadline,
            )
        },
    )


@main.command()
def maintain() -> None:
    """Do all maintenance that is due. One cron line a minute is enough."""
    settings = open_queue()
    _alone(
        settings,
        lambda: maintenance.maintain(
            retention_days=settings.retention_days,
            defaults=TaskDefaults.of(settings),
            caller=keys.OPERATOR,
            now=utc_now(),
        ),
    )


@main.command()
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
