"""Webhook endpoints: where messages may be sent, and the secrets that sign them.

Secrets are stored as they are, because signing needs them. No answer shows one again.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import peewee

from taskmanager.access import audit
from taskmanager.access.caller import Caller
from taskmanager.db.errors import is_duplicate
from taskmanager.db.queries import require_unchanged
from taskmanager.db.statements import Row, execute, fetch_all, fetch_one, insert, update
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import Conflict, InvalidRequest, NotFound
from taskmanager.notify.addresses import AddressRefused, NotResolved, permitted_addresses
from taskmanager.notify.sending import Rules, check_url
from taskmanager.notify.signatures import new_secret
from taskmanager.queue.outbox import RETRIED_MS

DEFAULT_OVERLAP_SECONDS = 86_400
MAX_OVERLAP_SECONDS = 30 * 86_400
MAX_URL_LENGTH = 2_000
DELETED_AT_ONCE = 500


def create_webhook(
    fields: Mapping[str, Any], *, rules: Rules, caller: Caller, now: int
) -> tuple[Row, str]:
    """Creates an endpoint from `name`, `url` and `is_active`; returns its row and its secret.

    Resolves the host. Raises InvalidRequest for an address that `rules` refuse, and Conflict if
    the name is taken.
    """
    _require_permitted(fields["url"], rules)
    secret = new_secret()
    row = {
        "name": fields["name"],
        "url": fields["url"],
        "secret": secret,
        "is_active": int(fields.get("is_active", True)),
        "created_at": now,
        "updated_at": now,
    }
    return get_webhook(webhook_id=_insert(row, caller, now)), secret


@write_transaction
def _insert(row: Row, caller: Caller, now: int) -> int:
    with _unless_name_is_taken(row["name"]):
        webhook_id = insert("webhooks", row)
    _record("webhook_created", {**row, "id": webhook_id}, "created", caller, now)
    return webhook_id


@contextlib.contextmanager
def _unless_name_is_taken(name: str) -> Iterator[None]:
    try:
        yield
    except peewee.IntegrityError as error:
        if not is_duplicate(error):
            raise
        raise Conflict(
            f"There is a webhook named '{name}' already; change it with PATCH, or choose another "
            "name.",
            code="webhook_exists",
        ) from None


def list_webhooks() -> list[Row]:
    """Every endpoint, by name."""
    return fetch_all("SELECT * FROM {webhooks} ORDER BY name")


def get_webhook(*, webhook_id: int) -> Row:
    """One endpoint. Raises NotFound."""
    row = fetch_one("SELECT * FROM {webhooks} WHERE id = ?", (webhook_id,))
    if row is None:
        raise NotFound(f"There is no webhook {webhook_id}.", code="webhook_not_found")
    return row


def change_webhook(
    *,
    webhook_id: int,
    changes: Mapping[str, Any],
    rules: Rules,
    caller: Caller,
    now: int,
    updated_at: int | None = None,
) -> Row:
    """Sets `url` or `is_active`; returns the row. An endpoint keeps its name, which tasks store.

    Whoever changes it gives it three days again, except one that was switched off for its
    failures: that has to be switched on. `updated_at`: see db/queries.require_unchanged. Raises
    NotFound, InvalidRequest and ChangedMeanwhile.
    """
    if "url" in changes:
        _require_permitted(changes["url"], rules)  # takes as long as a name server: no lock is held
    return _change(webhook_id, changes, caller, now, updated_at)


@write_transaction
def _change(
    webhook_id: int,
    changes: Mapping[str, Any],
    caller: Caller,
    now: int,
    updated_at: int | None,
) -> Row:
    require_unchanged("webhooks", webhook_id, updated_at)
    before = get_webhook(webhook_id=webhook_id)
    columns: Row = {**changes, "updated_at": now}
    if "is_active" in changes:
        columns |= {"is_active": int(changes["is_active"])}
        columns |= {"disabled_at": None, "disabled_reason": None}
    if "is_active" in changes or before["disabled_at"] is None:
        columns["failing_since"] = None
    update("webhooks", columns, "id = ?", [webhook_id])
    _record("webhook_changed", before, f"changed ({', '.join(sorted(changes))})", caller, now)
    return get_webhook(webhook_id=webhook_id)


@write_transaction
def rotate_secret(
    *, webhook_id: int, overlap_seconds: int, caller: Caller, now: int
) -> tuple[Row, str]:
    """Gives an endpoint a new secret; returns its row and the secret. Raises NotFound.

    For `overlap_seconds` messages are signed with the old secret too.
    """
    before = get_webhook(webhook_id=webhook_id)
    secret = new_secret()
    columns = {
        "secret": secret,
        "old_secret": before["secret"],
        "old_secret_until": now + overlap_seconds * 1000,
        "updated_at": now,
    }
    update("webhooks", columns, "id = ?", [webhook_id])
    _record("webhook_rotated", before, "got a new secret", caller, now)
    return get_webhook(webhook_id=webhook_id), secret


def delete_webhook(*, webhook_id: int, caller: Caller, now: int) -> Row:
    """Deletes an endpoint and its deliveries; returns what it was.

    Tasks that name it notify nobody. Raises NotFound, and Conflict while a type or a schedule
    names it. A crash may leave deliveries, which nobody sends and maintenance prunes.
    """
    row = _delete(webhook_id, caller, now)
    while _delete_deliveries(webhook_id) == DELETED_AT_ONCE:
        pass
    return row


@write_transaction
def _delete(webhook_id: int, caller: Caller, now: int) -> Row:
    row = get_webhook(webhook_id=webhook_id)
    for table, kind in (("task_types", "Task type"), ("schedules", "Schedule")):
        used = fetch_one(f"SELECT name FROM {{{table}}} WHERE notify = ? LIMIT 1", (row["name"],))
        if used is not None:
            raise Conflict(
                f"{kind} '{used['name']}' notifies this webhook; set its notify to null first.",
                code="webhook_in_use",
            )
    execute("DELETE FROM {webhooks} WHERE id = ?", (webhook_id,))
    _record("webhook_deleted", row, "deleted", caller, now)
    return row


@write_transaction
def _delete_deliveries(webhook_id: int) -> int:
    """Deletes up to DELETED_AT_ONCE deliveries of an endpoint; returns how many."""
    some = fetch_all(
        "SELECT id FROM {webhook_deliveries} WHERE webhook_id = ? LIMIT ?",
        (webhook_id, DELETED_AT_ONCE),
    )
    if ids := [row["id"] for row in some]:
        execute("DELETE FROM {webhook_deliveries} WHERE id IN ?", (ids,))
    return len(ids)


def list_deliveries(*, webhook_id: int, limit: int, before_id: int | None) -> list[Row]:
    """Deliveries of an endpoint, newest first; with `before_id`, older ones. Raises NotFound."""
    get_webhook(webhook_id=webhook_id)
    bound, values = ("AND id < ? ", [before_id]) if before_id is not None else ("", [])
    return fetch_all(
        "SELECT * FROM {webhook_deliveries} WHERE webhook_id = ? "
        f"{bound}ORDER BY id DESC LIMIT ?",
        [webhook_id, *values, limit],
    )


@write_transaction
def resend(*, webhook_id: int, delivery_id: int, caller: Caller, now: int) -> Row:
    """Makes a delivery due again, for three days; returns its row. Raises NotFound."""
    webhook = get_webhook(webhook_id=webhook_id)
    again = {
        "status": "pending",
        "attempts": 0,
        "next_attempt_at": now,
        "give_up_at": now + RETRIED_MS,
        "finished_at": None,
    }
    where = "id = ? AND webhook_id = ?"
    if not update("webhook_deliveries", again, where, [delivery_id, webhook_id]):
        raise NotFound(
            f"Webhook {webhook_id} has no delivery {delivery_id}.", code="delivery_not_found"
        )
    _record("delivery_resent", webhook, f"sends delivery {delivery_id} again", caller, now)
    row = fetch_one("SELECT * FROM {webhook_deliveries} WHERE id = ?", (delivery_id,))
    assert row is not None  # noqa: S101 - updated in this transaction
    return row


def _require_permitted(url: str, rules: Rules) -> None:
    """Raises InvalidRequest where no message would be sent.

    A name that cannot be resolved yet is accepted: it is resolved again before each attempt.
    """
    try:
        _, host, _ = check_url(url, rules)
        permitted_addresses(host, allowed=rules.allowed_networks, resolver=rules.resolver)
    except NotResolved:
        return
    except AddressRefused as error:
        raise InvalidRequest(f"url: {error}") from None


def _record(event: str, row: Row, what: str, caller: Caller, now: int) -> None:
    message = f"webhook {row['id']} ({row['name']}) {what} by {caller.name}"
    audit.record(event=event, message=message, caller=caller, now=now)
