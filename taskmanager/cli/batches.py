"""`taskmanager batches …`: see how far batches are, and close, cancel or retry one."""

import json
import sys
from collections.abc import Callable
from typing import Any

import click

from taskmanager.cli.queue_api import Call, all_pages, with_api
from taskmanager.cli.terminal import json_option, show, show_json, show_table

SHOWN = ("name", "status", "parent_batch_id", "created_at", "closed_at", "finished_at")
CALLBACK_TASKS = ("on_finished_task_id", "on_completed_task_id", "on_failed_task_id")

_batch_id = click.argument("batch_id", metavar="ID", type=click.IntRange(1, 2**63 - 1))
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group("batches")
def batches_group() -> None:
    """See how far batches are, and close, cancel or retry one."""


@batches_group.command("list")
@json_option
@with_api
def list_batches(api: Call, as_json: bool) -> None:
    """List the batches, the newest first."""
    batches = all_pages(api, "/batches", "batches")
    if as_json:
        show_json(batches)
        return
    show_table(
        ("id", "name", "status", "%", "tasks", "completed", "failed", "cancelled", "created"),
        (
            (
                one["id"],
                one["name"],
                one["status"],
                one["progress"],
                one["tasks"],
                *(one["counts"][status] for status in ("completed", "failed", "cancelled")),
                one["created_at"][:19],
            )
            for one in batches
        ),
    )


@batches_group.command("show")
@_batch_id
@json_option
@with_api
def show_batch(api: Call, batch_id: int, as_json: bool) -> None:
    """Show a batch. Its tasks: taskmanager tasks list batch_id=ID."""
    batch = api("GET", f"/batches/{batch_id}")
    if as_json:
        show_json(batch)
        return
    for name in (*SHOWN, *CALLBACK_TASKS):
        if batch[name] is not None:
            show(f"{name + ':':<22}{batch[name]}")
    show(f"{'progress:':<22}{batch['progress']} % of {batch['tasks']} tasks")
    show(f"{'counts:':<22}{_counts(batch)}")
    if batch["metadata"] is not None:
        show(f"{'metadata:':<22}{json.dumps(batch['metadata'], ensure_ascii=False)}")


@batches_group.command("close")
@_batch_id
@with_api
def close_batch(api: Call, batch_id: int) -> None:
    """Let a batch take no more tasks, so that it can finish."""
    _say_how_far(api("POST", f"/batches/{batch_id}/close", body={}))


@batches_group.command("cancel")
@_batch_id
@click.option("--reason", metavar="TEXT", help="For the history of its tasks.")
@_yes
@with_api
def cancel_batch(api: Call, batch_id: int, reason: str | None, yes: bool) -> None:
    """Close a batch and those in it, and cancel their unfinished tasks."""
    body = {} if reason is None else {"reason": reason}
    _change(api, batch_id, "cancel", body, yes, lambda counts: counts["unfinished"])


@batches_group.command("retry")
@_batch_id
@_yes
@with_api
def retry_batch(api: Call, batch_id: int, yes: bool) -> None:
    """Try the failed and cancelled tasks of a batch again."""
    _change(api, batch_id, "retry", {}, yes, lambda counts: counts["failed"] + counts["cancelled"])


def _change(
    api: Call,
    batch_id: int,
    action: str,
    body: Any,
    yes: bool,
    count: Callable[[dict[str, int]], int],
) -> None:
    """Asks on a terminal, repeats the call until it finds no more tasks, and says how many."""
    if not yes and sys.stdin.isatty():
        found = count(api("GET", f"/batches/{batch_id}")["counts"])
        too = " and those of batches in it" if action == "cancel" else ""
        click.confirm(f"{action} {found} tasks{too}?", abort=True, err=True)
    changed, is_done = 0, False
    while not is_done:
        batch = api("POST", f"/batches/{batch_id}/{action}", body=body)
        changed += batch["changed"]
        is_done = batch["next_cursor"] is None
    show(f"{changed} tasks changed ({action})")
    _say_how_far(batch)


def _say_how_far(batch: Any) -> None:
    show(f"batch {batch['id']} is {batch['status']}: {_counts(batch)}")


def _counts(batch: Any) -> str:
    return ", ".join(f"{count} {status}" for status, count in batch["counts"].items())
