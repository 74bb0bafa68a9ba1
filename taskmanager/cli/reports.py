"""`taskmanager stats`, `audit`, `openapi` and `doctor`: the commands that change nothing."""

import sys

import click

from taskmanager.access import audit as audit_trail
from taskmanager.access.caller import OPERATOR
from taskmanager.cli.terminal import json_option, number_option, open_queue, show, show_json
from taskmanager.clock import format_time, utc_now
from taskmanager.queue.figures import statistics


@click.command()
@json_option
def stats(as_json: bool) -> None:
    """Show the number of tasks by status and type."""
    open_queue()
    figures = statistics.queue_statistics(caller=OPERATOR, now=utc_now())
    if as_json:
        from taskmanager.api.serializers import statistics_json

        show_json(statistics_json(figures))
        return
    for status, count in figures["by_status"].items():
        click.echo(f"{status:<12} {count:>10}")
    for name, counts in sorted(figures["by_type"].items()):
        shown = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        show(f"{name}: {shown}")
    for period, counts in figures["finished"].items():
        click.echo(f"last {period}: " + ", ".join(f"{n} {status}" for status, n in counts.items()))
    click.echo(f"counted at {format_time(figures['counted_at'])}")


@click.command()
@json_option
@number_option("--limit", 1, 100_000, "Number of events.", default=50, metavar="N")
def audit(as_json: bool, limit: int) -> None:
    """Show who did what, and who failed to authenticate. The newest event is last."""
    open_queue()
    rows = audit_trail.list_events(limit=limit)[::-1]
    if as_json:
        from taskmanager.api.serializers import AUDIT_EVENT

        show_json([AUDIT_EVENT.of(row) for row in rows])
        return
    for row in rows:
        key = "-" if row["api_key_id"] is None else f"key {row['api_key_id']}"
        show(
            f"{format_time(row['created_at'])}  {row['event']:<22} {key:<8} "
            f"{row['address'] or '-':<15} {row['request_id'] or '-'}  {row['message']}"
        )


@click.command()
def openapi() -> None:
    """Print the OpenAPI 3.1 document of the API."""
    from flask import Flask

    from taskmanager.api import register_api
    from taskmanager.api.documentation import document_text

    app = Flask("taskmanager", static_folder=None)
    register_api(app)
    click.echo(document_text(app, indent=2))


@click.command()
@json_option
@click.option(
    "--url",
    metavar="ADDRESS",
    help="Address of the API. Also checks which files anybody can fetch from it.",
)
def doctor(as_json: bool, url: str | None) -> None:
    """Test the host and say how to fix what is wrong.

    Changes nothing. The exit status is 1 if there is a problem, else 0, even
    with warnings.
    """
    from taskmanager.doctor.report import NO_ADDRESS, is_address, run_doctor

    if url is not None and not is_address(url):
        raise click.BadParameter(NO_ADDRESS, param_hint="--url")
    sys.exit(run_doctor(as_json=as_json, url=url))
