"""Sending what is in the outbox: each delivery at least once, tried again for three days.

Several processes may send at once: each claims a delivery for LEASE_MS by moving its next attempt,
so a process that dies costs that delivery a minute. No transaction is open while a message is sent.
"""

import random
import time
from collections.abc import Callable, Mapping

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
TURN_SECONDS = 1.0
REST_FACTOR = 10
SHORTEST_REST_SECONDS = 1.0
PRUNED_AT_ONCE = 500
MAX_PRUNING_SECONDS = 5.0


def rules_of(settings: Settings) -> Rules:
    """Which addresses the settings permit."""
    return Rules(
        is_http_allowed=bool(settings.webhooks_allow_http),
        allowed_networks=settings.webhooks_allow_networks,
    )


def send_due(
    *,
    rules: Rules,
    budget_seconds: float,
    post_seconds: float = SECONDS,
    is_stopping: Callable[[], bool] = lambda: False,
    resting: dict[int, float] | None = None,
) -> int:
    """Sends what is due; returns how many receivers took theirs.

    No attempt begins after `budget_seconds` or once `is_stopping()`, and each ends within
    `post_seconds` once the name is resolved. Endpoints take turns in random order, so that a slow
    one holds up no other for ever. One that fails rests: `resting` says until when, by its id, in
    seconds of time.monotonic(); whoever calls again passes the same dictionary.
    Raises DatabaseUnavailable. A crash leaves a claimed delivery to a later run.
    """
    run = _Run(rules, post_seconds, time.monotonic() + budget_seconds, is_stopping)
    resting = {} if resting is None else resting
    while not run.is_over() and (endpoints := _endpoints_due(resting)):
        random.shuffle(endpoints)
        for endpoint in endpoints:
            if rest_seconds := run.give_turn(endpoint):
                resting[endpoint["id"]] = time.monotonic() + rest_seconds
    return run.delivered


def _endpoints_due(resting: Mapping[int, float]) -> list[Row]:
    """Active endpoints with due deliveries; one look into an index for each that exists."""
    now = time.monotonic()
    due = fetch_all(
        "SELECT * FROM {webhooks} WHERE is_active = 1 AND ("
        "SELECT next_attempt_at FROM {webhook_deliveries} "
        "WHERE webhook_id = {webhooks}.id AND status = 'pending' "
        "ORDER BY next_attempt_at LIMIT 1) <= ?",
        (utc_now(),),
    )
    return [row for row in due if resting.get(row["id"], now) <= now]


class _Run:
    """One run of send_due, until `deadline` in seconds of time.monotonic()."""

    def __init__(
        self, rules: Rules, post_seconds: float, deadline: float, is_stopping: Callable[[], bool]
    ) -> None:
        self._rules, self._post_seconds = rules, post_seconds
        self._deadline, self._is_stopping = deadline, is_stopping
        self.delivered = 0

    def is_over(self) -> bool:
        return time.monotonic() >= self._deadline or self._is_stopping()

    def give_turn(self, endpoint: Row) -> float:
        """Sends to one endpoint for TURN_SECONDS, the oldest first; returns how long it is to rest.

        That follows the time that a failed attempt took, so a receiver that never answers takes
        a small part of the sender's time, and one that refuses at once is soon tried again.
        """
        ends_at = time.monotonic() + TURN_SECONDS
        for delivery in _due(endpoint):
            started = time.monotonic()
            if started >= ends_at or self.is_over():
                break
            if not _claim(delivery, utc_now()):
                continue
            if not _send(endpoint, delivery, self._rules, self._post_seconds):
                return max(REST_FACTOR * (time.monotonic() - started), SHORTEST_REST_SECONDS)
            self.delivered += 1
        return 0


def _due(endpoint: Row) -> list[Row]:
    """Due deliveries of an endpoint, the oldest first."""
    return fetch_all(
        "SELECT * FROM {webhook_deliveries} WHERE webhook_id = ? AND status = 'pending' "
        "AND next_attempt_at <= ? ORDER BY next_attempt_at, id LIMIT ?",
        (endpoint["id"], utc_now(), READ_AT_ONCE),
    )


@write_transaction
def _claim(row: Row, now: int) -> bool:
    """Whether this process may send the delivery: nobody has claimed it since it was read."""
    claimed = {"next_attempt_at": now + LEASE_MS, "attempts": row["attempts"] + 1}
    guard = (row["id"], row["attempts"], row["next_attempt_at"])
    where = "id = ? AND status = 'pending' AND attempts = ? AND next_attempt_at = ?"
    return update("webhook_deliveries", claimed, where, guard) == 1


def _send(endpoint: Row, row: Row, rules: Rules, post_seconds: float) -> bool:
    """One attempt at the delivery `row`, which was claimed; whether the receiver took it."""
    now = utc_now()
    keys = [endpoint["secret"]]
    if endpoint["old_secret"] and endpoint["old_secret_until"] > now:
        keys.append(endpoint["old_secret"])
    body = row["body"].encode()
    headers = signed_headers(
        message_id=row["message_id"], timestamp=now // 1000, body=body, secrets=keys
    )
    headers |= {"content-type": "application/json", "user-agent": "TaskManager"}
    status, error = None, None
    try:
        status = post(endpoint["url"], body, headers, rules=rules, seconds=post_seconds).status
        if not 200 <= status < 300:
            error = f"The receiver answered {status}."
    except (AddressRefused, NotSent) as fault:
        error = str(fault)
    answer = {"response_status": status, "error": error}
    if error is None:
        _record_success(row, answer, utc_now())
    else:
        _record_failure(endpoint, row, answer, utc_now())
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
def _record_failure(endpoint: Row, row: Row, answer: Row, now: int) -> None:
    """Tries again later, or gives up; switches off an endpoint that has failed for three days."""
    if now >= row["give_up_at"]:
        changes = {**answer, "status": "failed", "finished_at": now}
    else:
        changes = {**answer, "next_attempt_at": now + _pause_ms(row["attempts"])}
    update("webhook_deliveries", changes, _OF_ATTEMPT, (row["id"], row["attempts"] + 1))
    failing = {"failing_since": now}
    update("webhooks", failing, "id = ? AND failing_since IS NULL", (row["webhook_id"],))
    off = {"is_active": 0, "updated_at": now}
    off |= {"disabled_at": now, "disabled_reason": answer["error"]}
    too_long = "id = ? AND is_active = 1 AND failing_since <= ?"
    if update("webhooks", off, too_long, (row["webhook_id"], now - RETRIED_MS)):
        message = f"webhook {row['webhook_id']} ({endpoint['name']}) switched off after three days"
        audit.record(event="webhook_switched_off", message=message, caller=OPERATOR, now=now)


def _pause_ms(failed_before: int) -> int:
    """Doubles from FIRST_RETRY_SECONDS on; jitter takes up to half of it away."""
    seconds: float = min(FIRST_RETRY_SECONDS * 2 ** min(failed_before, 20), LONGEST_RETRY_SECONDS)
    return int(seconds * 1000 * random.uniform(0.5, 1))  # noqa: S311


def correct_times(*, now: int) -> None:
    """Makes deliveries due whose pause is longer than any: the clock was ahead and was set back."""
    for endpoint in fetch_all("SELECT id FROM {webhooks}"):
        _correct_times(endpoint["id"], now)


@write_transaction
def _correct_times(webhook_id: int, now: int) -> None:
    of_endpoint = "webhook_id = ? AND status = 'pending' AND next_attempt_at > ?"
    latest = now + LONGEST_RETRY_SECONDS * 1000
    update("webhook_deliveries", {"next_attempt_at": now}, of_endpoint, (webhook_id, latest))


def prune(*, retention_days: int, now: int) -> None:
    """Deletes deliveries that are over and older than tasks are kept, for MAX_PRUNING_SECONDS."""
    deadline = time.monotonic() + MAX_PRUNING_SECONDS
    while retention_days and time.monotonic() < deadline:
        old = fetch_all(
            "SELECT id FROM {webhook_deliveries} WHERE give_up_at < ? ORDER BY give_up_at LIMIT ?",
            (now - retention_days * 86_400_000, PRUNED_AT_ONCE),
        )
        if old:
            _delete([row["id"] for row in old])
        if len(old) < PRUNED_AT_ONCE:
            return


@write_transaction
def _delete(ids: list[int]) -> None:
    execute("DELETE FROM {webhook_deliveries} WHERE id IN ?", (ids,))
