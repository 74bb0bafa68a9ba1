"""`taskmanager keys …`: create, list, rotate and revoke API keys."""

import json

import click

from taskmanager.access import key_changes, keys
from taskmanager.access.caller import OPERATOR
from taskmanager.cli.terminal import (
    json_option,
    number_option,
    open_queue,
    say,
    show_json,
    show_table,
)
from taskmanager.clock import format_time, utc_now
from taskmanager.db.statements import Row
from taskmanager.rates import parse_rate


@click.group("keys")
def keys_group() -> None:
    """Create, list, rotate and revoke API keys."""


def _rate_limit(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    if text is not None:
        try:
            parse_rate(text)
        except ValueError as error:
            raise click.BadParameter(f"write {error}") from None
    return text


@keys_group.command("create")
@click.option("--name", required=True, help="A name of your choice.")
@click.option("--role", type=click.Choice(list(keys.ROLES)), help="What the key may do.")
@click.option(
    "--scopes",
    metavar="SCOPES",
    help="What it may do, instead of --role: names with commas between, such as "
    "tasks:read,metrics:read.",
)
@click.option(
    "--types",
    multiple=True,
    metavar="PATTERN",
    help="Task types that it may use, such as PrismQ.%. Repeatable. Default: all.",
)
@click.option(
    "--rate-limit",
    metavar="N",
    callback=_rate_limit,
    help="Requests a minute, or N/second, N/hour, N/day. 0: unlimited.",
)
@number_option("--expires", 1, 36_500, "Days until it expires. Default: never.", metavar="DAYS")
def create_key(
    name: str,
    role: str | None,
    scopes: str | None,
    types: tuple[str, ...],
    rate_limit: str | None,
    expires: int | None,
) -> None:
    """Create a key and print it on stdout.

    Nothing else is printed there. The key is shown only once.
    """
    if (role is None) == (scopes is None):
        raise click.UsageError("Say what the key may do: either --role or --scopes.")
    open_queue()
    now = utc_now()
    given = [scope.strip() for scope in (scopes or "").split(",") if scope.strip()]
    row, key = keys.create_key(
        name=name,
        scopes=keys.scopes_of_role(role, task_types=types) if role else given,
        task_types=types or None,
        rate_limit=rate_limit,
        expires_at=now + expires * 86_400_000 if expires else None,
        now=now,
        caller=OPERATOR,
    )
    say(f"Key {row['id']} ({role or ', '.join(given)}). It is shown only once, so save it now:")
    click.echo(key)


@keys_group.command("list")
@json_option
def list_keys(as_json: bool) -> None:
    """List the names and rights of all keys.

    The secret keys themselves are never shown.
    """
    open_queue()
    rows = keys.list_keys()
    if as_json:
        from taskmanager.api.serializers import KEY

        show_json([KEY.of(row) for row in rows])
        return
    if not rows:
        say("There are no keys yet. Create one: taskmanager keys create --name me --role admin")
        return
    show_table(
        ("id", "state", "key", "name", "last used", "expires", "rate limit", "types", "scopes"),
        (
            (
                row["id"],
                _state(row),
                row["prefix"],
                row["name"],
                (format_time(row["last_used_at"]) or "never")[:19],
                (format_time(row["expires_at"]) or "never")[:19],
                row["rate_limit"] or "default",
                " ".join(json.loads(row["task_types"])) if row["task_types"] else "all",
                " ".join(json.loads(row["scopes"])),
            )
            for row in rows
        ),
    )


def _state(row: Row) -> str:
    if row["revoked_at"]:
        return "revoked"
    return "expired" if row["expires_at"] and row["expires_at"] <= utc_now() else "active"


_key_id = click.argument("key_id", metavar="ID", type=click.IntRange(1, 2**63 - 1))


@keys_group.command("rotate")
@_key_id
@number_option(
    "--overlap",
    0,
    key_changes.MAX_OVERLAP_SECONDS,
    "Seconds that the old key stays valid.",
    default=key_changes.DEFAULT_OVERLAP_SECONDS,
    metavar="SECONDS",
)
def rotate_key(key_id: int, overlap: int) -> None:
    """Replace a key with a new one.

    The new key has the same rights and is printed on stdout, with nothing else.
    """
    open_queue()
    row, key = key_changes.rotate_key(
        key_id=key_id, overlap_seconds=overlap, caller=OPERATOR, now=utc_now()
    )
    ends = format_time(keys.get_key(key_id=key_id)["expires_at"])
    say(f"Key {row['id']} replaces key {key_id}, which stays valid until {ends}.")
    say("The new key is shown only once, so save it now:")
    click.echo(key)


@keys_group.command("revoke")
@_key_id
def revoke_key(key_id: int) -> None:
    """Revoke a key permanently."""
    open_queue()
    row = key_changes.revoke_key(key_id=key_id, force=True, caller=OPERATOR, now=utc_now())
    say(f"Key {key_id} ({row['name']}) is revoked. All processes refuse it within 5 seconds.")
