"""`taskmanager tasks …`: find tasks, see why they fail, and change many at once."""

import json
import sys
import time
from typing import Any

import click

from taskmanager.cli.overview import RATE_COLUMNS, RATES, rate_cells
from taskmanager.cli.queue_api import Call, with_api
from taskmanager.cli.terminal import json_option, number_option, say, show, show_json, show_table

PAGE = 100
MAX_FAILURES_SHOWN = 5

_task_id = click.argument("task_id", metavar="ID", type=click.IntRange(1, 2**63 - 1))
_filters = click.argument("filters", metavar="[NAME=VALUE]...", nargs=-1)
_which = click.argument("which", metavar="[ID]... [NAME=VALUE]...", nargs=-1)
_dry_run = click.option("--dry-run", is_flag=True, help="Only count what would be changed.")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group("tasks")
def tasks_group() -> None:
    """Find tasks, see why they fail, and change many at once.

    NAME=VALUE is a filter of GET /api/tasks, such as type=video.fetch,
    status=failed,cancelled, error=timeout or params.user=5.
    """


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise click.UsageError(f"'{text}' is no NAME=VALUE, such as status=failed.")
        pairs[name] = value
    return pairs


@tasks_group.command("list")
@_filters
@number_option("--limit", 1, 100_000, "Number of tasks.", default=20, metavar="N")
@json_option
@with_api
def list_tasks(api: Call, filters: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List the newest tasks that match every filter."""
    query: dict[str, Any] = _pairs(filters)
    found: list[Any] = []
    scanned = 0
    while len(found) < limit:
        page = api("GET", "/tasks", {**query, "limit": min(PAGE, limit - len(found))})
        found += page["tasks"]
        scanned += page.get("scanned", 0)
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
        if not page.get("is_complete", True) and sys.stderr.isatty():
            click.echo(f"\rsearching: {scanned} tasks", nl=False, err=True)
    else:
        say(f"There may be more: --limit {limit * 10}")
    if as_json:
        show_json(found)
        return
    show_table(
        ("id", "type", "status", "prio", "att", "created", "worker", "error"),
        (
            (
                task["id"],
                task["type"],
                task["status"],
                task["priority"],
                f"{task['attempts']}/{task['max_attempts']}",
                task["created_at"][:19],
                task["worker_id"],
                _error_of(task),
            )
            for task in found
        ),
    )


def _error_of(task: Any) -> str:
    parts = (task["error_code"], task["error_message"])
    return ": ".join(part for part in parts if part)


@tasks_group.command("show")
@_task_id
@json_option
@with_api
def show_task(api: Call, task_id: int, as_json: bool) -> None:
    """Show a task with its attempts and its history."""
    task = api("GET", f"/tasks/{task_id}")
    logs = api("GET", f"/tasks/{task_id}/logs")["logs"]
    if as_json:
        show_json({**task, "logs": logs})
        return
    shown = ("type", "status", "priority", "worker_id", "created_at", "completed_at")
    for name in shown:
        if task[name] is not None:
            show(f"{name + ':':<14}{task[name]}")
    show(f"{'attempts:':<14}{task['attempts']} of {task['max_attempts']}")
    if task["waiting_because"]:
        show(f"{'waits:':<14}{task['waiting_because']['message']}")
    for name in ("params", "result"):
        if task[name] is not None:
            show(f"{name + ':':<14}{json.dumps(task[name], ensure_ascii=False)}")
    show_table(
        ("at", "event", "attempt", "worker", "message"),
        (
            (log["created_at"], log["event"], log["attempt"], log["worker_id"], log["message"])
            for log in logs
        ),
    )


@tasks_group.command("create")
@click.argument("type_name", metavar="TYPE")
@click.argument("params", metavar="PARAMS", default="{}")
@click.argument("fields", metavar="[NAME=VALUE]...", nargs=-1)
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Tag of the task; repeatable.")
@click.option(
    "--depends-on",
    "depends_on",
    multiple=True,
    type=int,
    metavar="ID",
    help="Task that has to complete first; repeatable.",
)
@click.option("--concurrency-key", metavar="KEY", help="Of a type with a limit per key.")
@click.option("--group-key", metavar="KEY", help="The group of the task, for a fair type.")
@json_option
@with_api
def create_task(
    api: Call,
    type_name: str,
    params: str,
    fields: tuple[str, ...],
    tags: tuple[str, ...],
    depends_on: tuple[int, ...],
    concurrency_key: str | None,
    group_key: str | None,
    as_json: bool,
) -> None:
    """Create a task and print its id.

    PARAMS is a JSON object, NAME=VALUE a field of POST /api/tasks such as
    priority=5 or delay_seconds=60.
    """
    try:
        given = json.loads(params)
    except ValueError as error:
        raise click.BadParameter(f"is no JSON ({error})", param_hint="PARAMS") from None
    body = {name: _json_or_text(value) for name, value in _pairs(fields).items()}
    if tags:
        body["tags"] = list(tags)
    if depends_on:
        body["depends_on"] = list(depends_on)
    if concurrency_key is not None:
        body["concurrency_key"] = concurrency_key
    if group_key is not None:
        body["group_key"] = group_key
    task = api("POST", "/tasks", body={**body, "type": type_name, "params": given})
    if task["deduplicated"]:
        say(f"Task {task['id']} ({task['status']}) exists already.")
    if as_json:
        show_json(task)
    else:
        click.echo(task["id"])


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


@tasks_group.command("errors")
@_filters
@json_option
@with_api
def list_errors(api: Call, filters: tuple[str, ...], as_json: bool) -> None:
    """Group failed tasks by type, error code and message."""
    found = api("GET", "/tasks/errors", _pairs(filters))
    if as_json:
        show_json(found)
        return
    show_table(
        ("count", "type", "code", "last", "example", "message"),
        (
            (
                group["count"],
                group["type"],
                group["error_code"],
                group["last_at"][:19],
                group["example_task_id"],
                group["message"],
            )
            for group in found["groups"]
        ),
    )
    if not found["is_complete"]:
        say(f"Only the latest {found['scanned']} were looked at; cursor={found['next_cursor']}")


def _change(
    api: Call, action: str, which: tuple[str, ...], dry_run: bool, yes: bool, **values: Any
) -> dict[str, Any]:
    """Does it to the tasks named by id, or to all that a filter finds, and says how many.

    Returns what _until_done() returns.
    """
    ids = [int(one) for one in which if one.isdecimal()]
    filters = _pairs(tuple(one for one in which if not one.isdecimal()))
    if ids and filters:
        raise click.UsageError("Name the tasks either by their ids or by filters, not by both.")
    if not ids and not filters:
        raise click.UsageError("Name the tasks by their ids, or by filters such as type=job.")
    body = {"ids": ids} if ids else {"filter": filters}
    body |= {name: value for name, value in values.items() if value is not None}
    if not dry_run and not yes and not ids and sys.stdin.isatty():
        found = _until_done(api, action, {**body, "dry_run": True})
        click.confirm(f"{action} {found['changed']} tasks?", abort=True, err=True)
    done = _until_done(api, action, {**body, "dry_run": dry_run})
    skipped = "".join(f", {count} skipped: {why}" for why, count in done["skipped"].items())
    would_be = "would be changed" if dry_run else "changed"
    show(f"{done['changed']} of {done['matched']} tasks {would_be} ({action}){skipped}")
    return done


def _until_done(api: Call, action: str, body: dict[str, Any]) -> dict[str, Any]:
    """The call again and again until its filter finds no more; what it did altogether."""
    done: dict[str, Any] = {"matched": 0, "changed": 0, "skipped": {}}
    while True:
        answer = api("POST", f"/tasks/{action}", body=body)
        done["matched"] += answer["matched"]
        done["changed"] += answer["changed"]
        for why, count in answer["skipped"].items():
            done["skipped"][why] = done["skipped"].get(why, 0) + count
        if answer["next_cursor"] is None:
            return done
        body = {**body, "cursor": answer["next_cursor"]}


@tasks_group.command("retry")
@_which
@_dry_run
@_yes
@with_api
def retry(api: Call, which: tuple[str, ...], dry_run: bool, yes: bool) -> None:
    """Try failed or cancelled tasks again, with new attempts."""
    done = _change(api, "retry", which, dry_run, yes)
    is_one = len(which) == 1 and which[0].isdecimal()
    if is_one and not dry_run and "dependency_failed" in done["skipped"]:
        api("POST", f"/tasks/{which[0]}/retry")  # its refusal says which task comes first


@tasks_group.command("cancel")
@_which
@click.option("--reason", metavar="TEXT", help="For their history.")
@_dry_run
@_yes
@with_api
def cancel(api: Call, which: tuple[str, ...], reason: str | None, dry_run: bool, yes: bool) -> None:
    """Cancel tasks that are not finished."""
    _change(api, "cancel", which, dry_run, yes, reason=reason)


@tasks_group.command("release")
@_which
@_dry_run
@_yes
@with_api
def release(api: Call, which: tuple[str, ...], dry_run: bool, yes: bool) -> None:
    """Take claimed tasks from their workers."""
    _change(api, "release", which, dry_run, yes)


@tasks_group.command("delete")
@_which
@_dry_run
@_yes
@with_api
def delete(api: Call, which: tuple[str, ...], dry_run: bool, yes: bool) -> None:
    """Delete finished tasks with their history."""
    _change(api, "delete", which, dry_run, yes)


@tasks_group.command("update")
@_which
@number_option("--priority", -1_000_000, 1_000_000, "Their new priority.", metavar="N")
@number_option("--delay", 0, 315_360_000, "Seconds until they can be claimed.", metavar="SECONDS")
@_dry_run
@_yes
@with_api
def update(
    api: Call,
    which: tuple[str, ...],
    priority: int | None,
    delay: int | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Set the priority or the delay of tasks that wait."""
    if priority is None and delay is None:
        raise click.UsageError("Say what to set: --priority or --delay.")
    _change(api, "update", which, dry_run, yes, priority=priority, delay_seconds=delay)


@tasks_group.command("watch")
@number_option("--interval", 1, 3600, "Seconds between two looks.", default=2, metavar="SECONDS")
@with_api
def watch(api: Call, interval: int) -> None:
    """Show counts, rates and the newest failures, again and again, until Ctrl-C."""
    while True:
        figures = api("GET", "/stats")
        failed = api("GET", "/tasks", {"status": "failed", "limit": 5})["tasks"]
        if sys.stdout.isatty():
            click.clear()
        for line in _watched(figures):
            show(line)
        if figures["by_type"]:
            show_table(
                ("type", "pending", *RATE_COLUMNS),
                (
                    (name, counts["pending"], *_rates_of(figures, name))
                    for name, counts in sorted(figures["by_type"].items())
                ),
            )
        if failed:
            show_table(
                ("failed", "type", "attempts", "error"),
                ((task["id"], task["type"], task["attempts"], _error_of(task)) for task in failed),
            )
        time.sleep(interval)


def _rates_of(figures: Any, type_name: str) -> list[Any]:
    return rate_cells({name: figures[name].get(type_name) for name in RATES})


def _watched(figures: Any) -> list[str]:
    now = ", ".join(f"{count} {status}" for status, count in figures["by_status"].items() if count)
    lines = [f"{figures['counted_at'][:19]}  {now or 'no tasks'}"]
    lines += [
        f"last {period}: " + ", ".join(f"{count} {status}" for status, count in counts.items())
        for period, counts in figures["finished"].items()
    ]
    if (oldest := figures["oldest_pending_seconds"]) is not None:
        lines.append(f"oldest pending task: {oldest:.0f} s")
    failures = [
        f"{one['hour']} {one['type']} {one['error_code'] or 'without a code'}"
        for one in figures["failed_attempts"]
        if one["hour"]
    ]
    if failures:
        lines.append(f"failed attempts, last hour: {', '.join(failures[:MAX_FAILURES_SHOWN])}")
    return lines
