"""What was wrong and since when, who was told of it, and when a channel may tell again.

Owns the tables `alerts` and `alert_channels`. An alert is one row from its beginning to its end.
Each channel marks in a column of its own how much of that it has told.
"""

import contextlib
from collections.abc import Sequence

import peewee

from taskmanager.alerts.findings import Finding
from taskmanager.db.statements import (
    Row,
    execute,
    fetch_all,
    fetch_one,
    fetch_value,
    insert,
    update,
)
from taskmanager.db.transactions import write_transaction

EVERY_MS = 55_000  # cron's runs are a minute apart, give or take
LOOK = "alerts"  # what the last look is called among the runs of maintenance
# An alert ends when it was absent for so long, so that what comes and goes is one alert.
ENDS_AFTER_MS = 5 * 60_000
DAY_MS = 86_400_000
# What began and ended while a channel could not be used is told for so long.
TOLD_LATE_MS = DAY_MS
LEASE_MS = 60_000  # longer than sending takes
AT_ONCE = 6  # so many messages of a day are sent as it happens, and then
PAUSE_MS = 3_600_000  # one an hour
MAX_RETRY_MS = 15 * 60_000
TOLERANCE_MS = 60_000  # a time further ahead is from before the clock was set back
ROWS = 500

# What a channel has told of an alert.
NOTHING, BEGINNING, END = 0, 1, 2


@write_transaction
def begin_look(*, now: int) -> bool:
    """Whether this process is to look at the rules now: nobody has within EVERY_MS."""
    seen = {"last_run_at": now}
    where = "road = ? AND (last_run_at <= ? OR last_run_at > ?)"
    if update("maintenance_runs", seen, where, (LOOK, now - EVERY_MS, now + TOLERANCE_MS)):
        return True
    if fetch_one("SELECT road FROM {maintenance_runs} WHERE road = ?", (LOOK,)):
        return False
    try:
        insert("maintenance_runs", {"road": LOOK, **seen, "duration_ms": 0, "tasks_moved": 0})
    except peewee.IntegrityError:  # another process has just begun
        return False
    return True


def looked_at() -> int | None:
    """When the rules were last looked at; None before the first time."""
    found: int | None = fetch_value(
        "SELECT last_run_at FROM {maintenance_runs} WHERE road = ?", (LOOK,)
    )
    return found


def record(findings: Sequence[Finding], *, now: int) -> None:
    """Begins an alert for each new finding, and ends those that were absent for ENDS_AFTER_MS.

    Commits together: all of it. Writes nothing where nothing is wrong and no alert is open.
    Raises DatabaseUnavailable.
    A crash leaves it to the next look.
    """
    if findings or _open_alerts():
        _record({(it.rule.name, it.subject[:255]): it for it in findings}, now)


def _open_alerts() -> list[Row]:
    return fetch_all("SELECT * FROM {alerts} WHERE ended_at IS NULL ORDER BY id")


@write_transaction
def _record(found: dict[tuple[str, str], Finding], now: int) -> None:
    new = dict(found)
    for row in _open_alerts():
        finding = new.pop((row["rule"], row["subject"]), None)
        if finding is not None:
            changes: Row = {"message": finding.sentence, "last_seen_at": now}
        elif abs(now - row["last_seen_at"]) >= ENDS_AFTER_MS:
            changes = {"ended_at": now, "is_open": None}
        else:
            continue
        update("alerts", changes, "id = ? AND is_open = 1", (row["id"],))
    for (rule, subject), finding in new.items():
        row = {"rule": rule, "subject": subject, "message": finding.sentence, "is_open": 1}
        times = {"began_at": now, "last_seen_at": now}
        with contextlib.suppress(peewee.IntegrityError):  # another process has just begun it
            insert("alerts", {**row, **times, "emailed": NOTHING, "posted": NOTHING})


def list_alerts(*, ended_since: int, limit: int = ROWS) -> list[Row]:
    """Open alerts, the newest first, and after them those that ended since, the last one first."""
    ended = fetch_all(
        "SELECT * FROM {alerts} WHERE ended_at >= ? ORDER BY ended_at DESC, id DESC LIMIT ?",
        (ended_since, limit),
    )
    return (_open_alerts()[::-1] + ended)[:limit]


def due(mark: str, *, now: int) -> list[Row]:
    """The alerts of which the channel with the column `mark` has something to tell."""
    return fetch_all(
        f"SELECT * FROM {{alerts}} WHERE (ended_at IS NULL AND {mark} = {NOTHING}) "
        f"OR (ended_at IS NOT NULL AND {mark} = {BEGINNING}) "
        f"OR (ended_at >= ? AND {mark} = {NOTHING}) ORDER BY id LIMIT ?",
        (now - TOLD_LATE_MS, ROWS),
    )


@write_transaction
def claim(channel: str, *, now: int) -> bool:
    """Whether this process may send by the channel now: no other does, and no pause is due.

    A crash leaves the channel alone for LEASE_MS.
    """
    leased = {"next_attempt_at": now + LEASE_MS}
    where = "name = ? AND (next_attempt_at <= ? OR next_attempt_at > ?)"
    latest = now + PAUSE_MS + TOLERANCE_MS
    if update("alert_channels", leased, where, (channel, now, latest)):
        return True
    if fetch_one("SELECT name FROM {alert_channels} WHERE name = ?", (channel,)):
        return False
    new = {"name": channel, **leased, "attempts": 0, "day_began_at": now, "sent_of_day": 0}
    try:
        insert("alert_channels", new)
    except peewee.IntegrityError:  # another process has just claimed it
        return False
    return True


@write_transaction
def record_sent(channel: str, mark: str, rows: Sequence[Row], *, now: int) -> None:
    """Marks what was told of these alerts, and counts the message.

    Commits together: all of it. A crash before lets the message be sent again.
    """
    for row in rows:
        told = BEGINNING if row["ended_at"] is None else END
        notified_at = now if row["notified_at"] is None else row["notified_at"]
        update(
            "alerts",
            {mark: told, "notified_at": notified_at},
            f"id = ? AND {mark} < ?",
            (row["id"], told),
        )
    state = _channel(channel)
    is_same_day = state["day_began_at"] <= now < state["day_began_at"] + DAY_MS
    sent = state["sent_of_day"] + 1 if is_same_day else 1
    changes = {
        "attempts": 0,
        "error": None,
        "last_sent_at": now,
        "sent_of_day": sent,
        "day_began_at": state["day_began_at"] if is_same_day else now,
        "next_attempt_at": now if sent < AT_ONCE else now + PAUSE_MS,
    }
    update("alert_channels", changes, "name = ?", (channel,))


@write_transaction
def record_failure(channel: str, error: str, *, now: int) -> None:
    """The channel is tried again by the next run, and after each failure a minute later."""
    failed_before = _channel(channel)["attempts"]
    changes = {
        "attempts": failed_before + 1,
        "error": error,
        "next_attempt_at": now + min(failed_before * EVERY_MS, MAX_RETRY_MS),
    }
    update("alert_channels", changes, "name = ?", (channel,))


@write_transaction
def release(channel: str, *, now: int) -> None:
    """Gives a claim back: another process has told everything meanwhile."""
    update("alert_channels", {"next_attempt_at": now}, "name = ?", (channel,))


def _channel(name: str) -> Row:
    rows = fetch_all("SELECT * FROM {alert_channels} WHERE name = ? {lock_rows}", (name,))
    return rows[0]


def channels() -> dict[str, Row]:
    """The channels that were ever used, by name."""
    return {row["name"]: row for row in fetch_all("SELECT * FROM {alert_channels}")}


def prune(*, retention_days: int, now: int) -> None:
    """Deletes up to ROWS alerts that ended longer ago than finished tasks are kept."""
    if not retention_days:
        return
    old = fetch_all(
        "SELECT id FROM {alerts} WHERE ended_at < ? ORDER BY ended_at LIMIT ?",
        (now - retention_days * DAY_MS, ROWS),
    )
    if old:
        write_transaction(execute)(
            "DELETE FROM {alerts} WHERE id IN ?", ([row["id"] for row in old],)
        )
