"""`taskmanager types`, `workers`, `schedules` and `webhooks`: what is registered, who works, what
runs when, and who is notified."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import click

from taskmanager.cli.queue_api import Call, all_pages, with_api
from taskmanager.cli.terminal import (
    json_option,
    number_option,
    say,
    show,
    show_json,
    show_table,
)

_name = click.argument("name")

# What the statistics have for each type, and how it is shown.
RATES = ("wait_seconds", "run_seconds", "drains_at")
RATE_COLUMNS = ("wait p50", "wait p95", "run p50", "run p95", "drained at")


def rate_cells(rates: Mapping[str, Any]) -> list[Any]:
    """The cells of RATE_COLUMNS: seconds, and a time in UTC."""
    cells = [
        None if rates[name] is None else rates[name][share]
        for name in ("wait_seconds", "run_seconds")
        for share in ("p50", "p95")
    ]
    return [*cells, rates["drains_at"] and rates["drains_at"][:19]]


@click.group("types")
def types_group() -> None:
    """List task types, and pause or resume them."""


@types_group.command("list")
@json_option
@with_api
def list_types(api: Call, as_json: bool) -> None:
    """List the task types, with how long their tasks waited and ran in the last hour."""
    figures = api("GET", "/stats")
    types = [
        {**one, **{name: figures[name].get(one["name"]) for name in RATES}}
        for one in api("GET", "/task-types")["task_types"]
    ]
    if as_json:
        show_json(types)
        return
    show_table(
        ("name", "version", "state", "open tasks", *RATE_COLUMNS, "kept days", "encrypted"),
        (
            (
                one["name"],
                one["version"],
                _state(one),
                one["open_tasks"],
                *rate_cells(one),
                one["retention_days"],
                "yes" if one["is_encrypted"] else "no",
            )
            for one in types
        ),
    )


def _state(task_type: Any) -> str:
    if task_type["is_paused"]:
        return "paused"
    return "active" if task_type["is_active"] else "inactive"


@types_group.command("show")
@_name
@with_api
def show_type(api: Call, name: str) -> None:
    """Show a task type and its schema as JSON."""
    show_json(api("GET", f"/task-types/{quote(name)}"))


@types_group.command("pause")
@_name
@with_api
def pause_type(api: Call, name: str) -> None:
    """Stop handing out tasks of a type."""
    _switch(api, name, is_paused=True)


@types_group.command("resume")
@_name
@with_api
def resume_type(api: Call, name: str) -> None:
    """Hand out tasks of a paused type again."""
    _switch(api, name, is_paused=False)


def _switch(api: Call, name: str, is_paused: bool) -> None:
    changed = api("PATCH", f"/task-types/{quote(name)}", body={"is_paused": is_paused})
    show(f"{changed['name']} is {_state(changed)}")


@click.group("workers")
def workers_group() -> None:
    """See who works."""


@workers_group.command("list")
@json_option
@with_api
def list_workers(api: Call, as_json: bool) -> None:
    """List the workers, the one seen last first."""
    workers = all_pages(api, "/workers", "workers")
    if as_json:
        show_json(workers)
        return
    show_table(
        ("worker", "state", "held", "completed", "failed", "done/min", "last hour", "last seen"),
        (
            (
                one["id"],
                one["status"],
                one["tasks_held"],
                one["tasks_completed"],
                one["tasks_failed"],
                *_per_minute(one["done_per_minute"]),
                one["last_seen_at"][:19],
            )
            for one in workers
        ),
    )


def _per_minute(done: Mapping[str, float] | None) -> tuple[float | None, float | None]:
    """In the last ten minutes and in the last hour."""
    return (None, None) if done is None else (done["ten_minutes"], done["hour"])


@click.group("schedules")
def schedules_group() -> None:
    """List schedules, and run one now."""


@schedules_group.command("list")
@json_option
@with_api
def list_schedules(api: Call, as_json: bool) -> None:
    """List the schedules."""
    schedules = all_pages(api, "/schedules", "schedules")
    if as_json:
        show_json(schedules)
        return
    show_table(
        ("id", "name", "type", "when", "next run", "last outcome", "tags"),
        (
            (
                one["id"],
                one["name"],
                one["type"],
                one["cron"] or f"every {one['interval_seconds']} s",
                (one["next_run_at"] or "paused")[:19],
                one["last_outcome"],
                ", ".join(one["tags"]),
            )
            for one in schedules
        ),
    )


@schedules_group.command("run")
@click.argument("schedule_id", metavar="ID", type=click.IntRange(1, 2**63 - 1))
@with_api
def run_schedule(api: Call, schedule_id: int) -> None:
    """Create the task of a schedule now, and print its id."""
    task = api("POST", f"/schedules/{schedule_id}/run", body={})
    if task["deduplicated"]:
        say("The last task of this schedule is unfinished.")
    click.echo(task["id"])


_webhook = click.argument("webhook_id", metavar="ID", type=click.IntRange(1, 2**63 - 1))


@click.group("webhooks")
def webhooks_group() -> None:
    """List webhooks and what was sent to them, and send something again."""


@webhooks_group.command("list")
@json_option
@with_api
def list_webhooks(api: Call, as_json: bool) -> None:
    """List the webhooks."""
    webhooks = api("GET", "/webhooks")["webhooks"]
    if as_json:
        show_json(webhooks)
        return
    show_table(
        ("id", "name", "state", "since", "url"),
        ((one["id"], one["name"], *_state_of_webhook(one), one["url"]) for one in webhooks),
    )


def _state_of_webhook(webhook: Mapping[str, Any]) -> tuple[str, str | None]:
    """The state and since when; `disabled` is one that was switched off for its failures."""
    for state, name in (("disabled", "disabled_at"), ("failing", "failing_since")):
        if webhook[name]:
            return state, webhook[name][:19]
    return ("active" if webhook["is_active"] else "inactive"), None


@webhooks_group.command("deliveries")
@_webhook
@number_option("--limit", 1, 100, "How many.", default=50)
@json_option
@with_api
def list_deliveries(api: Call, webhook_id: int, limit: int, as_json: bool) -> None:
    """List what was sent to a webhook or is to be sent, the newest first."""
    found = api("GET", f"/webhooks/{webhook_id}/deliveries", {"limit": limit})["deliveries"]
    if as_json:
        show_json(found)
        return
    show_table(
        ("id", "status", "event", "task", "attempts", "stored", "answer"),
        (
            (
                one["id"],
                one["status"],
                one["event"],
                one["task_id"],
                one["attempts"],
                one["created_at"][:19],
                one["error"] or one["response_status"],
            )
            for one in found
        ),
    )


@webhooks_group.command("resend")
@_webhook
@click.argument("delivery_id", metavar="DELIVERY", type=click.IntRange(1, 2**63 - 1))
@with_api
def resend_delivery(api: Call, webhook_id: int, delivery_id: int) -> None:
    """Send a delivery again."""
    found = api("POST", f"/webhooks/{webhook_id}/deliveries/{delivery_id}/resend", body={})
    show(f"delivery {found['id']} is due again")
