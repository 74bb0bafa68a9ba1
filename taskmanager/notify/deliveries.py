"""Sending what is in the outbox: each delivery at least once, tried again for three days.

Several processes may send at once: each claims a delivery for LEASE_MS by moving its next attempt,
so a process that dies costs that delivery a minute. No transaction is open while a message is sent.
"""

import random
import time
from collections.abc import Iterator

from taskmanager.access import audit
from taskmanager.access.caller import OPERATOR
from taskmanager.clock import utc_now
from taskmanager.config import Settings
from taskmanager.db.statements import Row, execute, fetch_all, update
from taskmanager.db.transactions import write_transaction
from taskmanager.notify.addresses import AddressRefused
from taskmanager.notify.sending import SECONDS, NotSent, Rules, post
from taskmanager.notify.signatures import signed_headers
from taskmanager.queue.outbox import RETRIED_MS

LEASE_MS = 60_000  # longer than an attempt takes, the resolving of the name included
FIRST_RETRY_SECONDS = 30
LONGEST_RETRY_SECONDS = 12 * 3_600
READ_AT_ONCE = 50
PRUNED_ROWS = 500


def rules_of(settings: Settings) -> Rules:
    """Which addresses the settings permit."""
    return Rules(
        is_http_allowed=bool(settings.webhooks_allow_http),
        allowed_networks=settings.webhooks_allow_networks,
    )


def send_due(*, rules: Rules, budget_seconds: float, post_seconds: float = SECONDS) -> int:
    """Sends what is due; returns how many receivers took theirs.

    No attempt begins after `budget_seconds`, and each ends within `post_seconds` once the name is
    resolved. An endpoint that fails is left alone for the rest of the run. Raises
    DatabaseUnavailable. A crash leaves a claimed delivery to a later run.
    """
    deadline = time.monotonic() + budget_seconds
    failed: set[int] = set()
    delivered = 0
    for row in _due(failed, deadline):
        if time.monotonic() >= deadline:
            break
        if row["webhook_id"] in failed or not _claim(row, utc_now()):
            continue
        if _send(row, rules, post_seconds):
            delivered += 1
        else:
            failed.add(row["webhook_id"])
    return delivered


def _due(failed: set[int], deadline: float) -> Iterator[Row]:
    """Due deliveries of active endpoints that are not among the failed, the oldest first."""
    while time.monotonic() < deadline:
        others = "AND webhook.id NOT IN ? " if failed else ""
        rows = fetch_all(
            "SELECT delivery.*, webhook.name, webhook.url, webhook.secret, webhook.old_secret, "
            "webhook.old_secret_until FROM {webhook_deliveries} AS delivery "
            "JOIN {webhooks} AS webhook ON webhook.id = delivery.webhook_id "
            "WHERE delivery.status = 'pending' AND delivery.next_attempt_at <= ? "
            f"AND webhook.is_active = 1 {others}"
            "ORDER BY delivery.next_attempt_at, delivery.id LIMIT ?",
            [utc_now(), *([sorted(failed)] if failed else []), READ_AT_ONCE],
        )
        if not rows:
            return
        yield from rows


@write_transaction
def _claim(row: Row, now: int) -> bool:
    """Whether this process may send the delivery: nobody has claimed it since it was read."""
    claimed = {"next_attempt_at": now + LEASE_MS, "attempts": row["attempts"] + 1}
    guard = (row["id"], row["attempts"], row["next_attempt_at"])
    where = "id = ? AND status = 'pending' AND attempts = ? AND next_attempt_at = ?"
    return update("webhook_deliveries", claimed, where, guard) == 1


def _send(row: Row, rules: Rules, post_seconds: float) -> bool:
    now = utc_now()
    keys = [row["secret"]]
    if row["old_secret"] and row["old_secret_until"] > now:
        keys.append(row["old_secret"])
    body = row["body"].encode()
    headers = signed_headers(
        message_id=row["message_id"], timestamp=now // 1000, body=body, secrets=keys
    )
    headers |= {"content-type": "application/json", "user-agent": "TaskManager"}
    status, error = None, None
    try:
        status = post(row["url"], body, headers, rules=rules, seconds=post_seconds).status
        if not 200 <= status < 300:
            error = f"The receiver answered {status}."
    except (AddressRefused, NotSent) as fault:
        error = str(fault)
    answer = {"response_status": status, "error": error}
    if error is None:
        _record_success(row, answer, utc_now())
    else:
        _record_failure(row, answer, utc_now())
    return error is None


# Of the attempt that was claimed: nobody has sent the delivery again or asked for it since.
_OF_ATTEMPT = "id = ? AND attempts = ?"


@write_transaction
def _record_success(row: Row, answer: Row, now: int) -> None:
    done = {**answer, "status": "delivered", "finished_at": now}
    update("webhook_deliveries", done, _OF_ATTEMPT, (row["id"], row["attempts"] + 1))
    works = {"failing_since": None}
    update("webhooks", works, "id = ? AND failing_since IS NOT NULL", (row["webhook_id"],))


@write_transaction
def _record_failure(row: Row, answer: Row, now: int) -> None:
    """Tries again later, or gives up; switches off an endpoint that has failed for three days."""
    if now >= row["give_up_at"]:
        changes = {**answer, "status": "failed", "finished_at": now}
    else:
        changes = {**answer, "next_attempt_at": now + _pause_ms(row["attempts"])}
    update("webhook_deliveries", changes, _OF_ATTEMPT, (row["id"], row["attempts"] + 1))
    failing = {"failing_since": now}
    update("webhooks", failing, "id = ? AND failing_since IS NULL", (row["webhook_id"],))
    off = {"is_active": 0, "updated_at": now}
    too_long = "id = ? AND is_active = 1 AND failing_since <= ?"
    if update("webhooks", off, too_long, (row["webhook_id"], now - RETRIED_MS)):
        message = f"webhook {row['webhook_id']} ({row['name']}) switched off after three days"
        audit.record(event="webhook_switched_off", message=message, caller=OPERATOR, now=now)


def _pause_ms(failed_before: int) -> int:
    """Doubles from FIRST_RETRY_SECONDS on; jitter takes up to half of it away."""
    seconds: float = min(FIRST_RETRY_SECONDS * 2 ** min(failed_before, 20), LONGEST_RETRY_SECONDS)
    return int(seconds * 1000 * random.uniform(0.5, 1))  # noqa: S311


def prune(*, retention_days: int, now: int) -> None:
    """Deletes up to PRUNED_ROWS deliveries that are over and older than tasks are kept."""
    if not retention_days:
        return
    old = fetch_all(
        "SELECT id FROM {webhook_deliveries} WHERE give_up_at < ? ORDER BY give_up_at LIMIT ?",
        (now - retention_days * 86_400_000, PRUNED_ROWS),
    )
    if old:
        _delete([row["id"] for row in old])


@write_transaction
def _delete(ids: list[int]) -> None:
    execute("DELETE FROM {webhook_deliveries} WHERE id IN ?", (ids,))
