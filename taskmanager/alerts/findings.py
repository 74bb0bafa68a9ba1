"""What is wrong now, by the rules of alert_rules.py. Reads only; keeps nothing.

Nothing here reads more than the ends of indexes, counts of minutes and small tables, so it costs
the same however many tasks there are.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from taskmanager.access.caller import OPERATOR, Caller
from taskmanager.alert_rules import Rule
from taskmanager.clock import format_duration
from taskmanager.config import Settings
from taskmanager.db.connection import dialect
from taskmanager.db.dialect import SQLITE
from taskmanager.db.models import MODELS
from taskmanager.db.statements import MAX_ROWS, execute, fetch_all, fetch_one, fetch_value, parts_of
from taskmanager.files.space import free_space
from taskmanager.queue import maintenance_runs, task_types
from taskmanager.queue.claim_sql import claim_order, find_heads
from taskmanager.queue.figures import periods
from taskmanager.queue.figures.periods import DAY_MS, HOUR_MS, MINUTE_MS
from taskmanager.queue.read import WITH_WORKER_STATUSES

log = logging.getLogger(__name__)

# The oldest task of a type has one of the lowest ids, unless so many have just been tried again.
HEADS = 10
MIN_FAILURES = 5  # in an hour, so that one failure of two tasks raises no alarm
MIN_FILES = 500
MB = 1024 * 1024


class Finding(NamedTuple):
    """`subject` and `sentence`, read one after the other, say what is wrong."""

    rule: Rule
    subject: str
    sentence: str


# What a rule has found: the subject, and what its sentence has in braces.
Found = Iterator[tuple[str, Mapping[str, Any]]]


@dataclass
class Look:
    """One look at the queue, for all rules; what several of them read is read once."""

    settings: Settings
    caller: Caller
    now: int

    @cached_property
    def names(self) -> Mapping[int, str]:
        """The types that the caller may use and that are not paused, by id."""
        types = task_types.find_task_types(caller=self.caller, columns="id, name, is_paused")
        return {row["id"]: row["name"] for row in types if not row["is_paused"]}

    @cached_property
    def waiting_since(self) -> Mapping[int, int]:
        """Since when the oldest waiting task of each type could be claimed, in milliseconds."""
        heads = find_heads(list(self.names), order=claim_order("id", "ASC"), count=HEADS)
        since: dict[int, int] = {}
        for some in parts_of([head["id"] for head in heads], MAX_ROWS):
            for row in fetch_all(
                "SELECT task_type_id, available_at FROM {tasks} WHERE id IN ?", (some,)
            ):
                type_id, at = row["task_type_id"], row["available_at"]
                since[type_id] = min(at, since.get(type_id, at))
        return since


def find_all(*, settings: Settings, now: int, caller: Caller = OPERATOR) -> list[Finding]:
    """Everything that the rules find and that the caller may know. Raises DatabaseUnavailable."""
    look = Look(settings, caller, now)
    found: list[Finding] = []
    for rule, threshold in settings.alert_rules.rules():
        if _may_see(caller, rule):
            found += _found_by(rule, threshold, look)
    idle = {finding.subject for finding in found if finding.rule.name == "no_worker"}
    # That its tasks wait is said already.
    return [it for it in found if it.rule.name != "oldest_pending" or it.subject not in idle]


def _found_by(rule: Rule, threshold: float, look: Look) -> list[Finding]:
    """What one rule finds. If a file system does not answer, the other rules still count."""
    try:
        return [
            Finding(rule, subject, rule.sentence.format(**values))
            for subject, values in QUERIES[rule.name](look, threshold)
        ]
    except OSError as error:
        log.warning("the rule %s finds nothing: %s", rule.name, error.strerror)
        return []


def _may_see(caller: Caller, rule: Rule) -> bool:
    if rule.seen_by == "type":
        return True
    return caller.task_types is None and (rule.seen_by == "all types" or caller.may("admin"))


def _ago(moment: int, look: Look) -> str:
    return format_duration(look.now - moment)


def _no_worker(look: Look, seconds: float) -> Found:
    before = look.now - round(seconds * 1000)
    long_ago = {type_id: at for type_id, at in look.waiting_since.items() if at <= before}
    if long_ago:
        claims = periods.counts_between("wait", before, look.now + MINUTE_MS)
        for type_id, at in long_ago.items():
            if not claims[type_id, ""] and _last_worked_on(type_id, look.now) <= before:
                yield look.names[type_id], {"age": _ago(at, look)}


# Of one type: a task that is held, and when the newest task of each status was claimed.
_WORK = ", ".join(
    [
        "(SELECT id FROM {tasks} {index tasks_claim_by_id} WHERE task_type_id = ? "
        "AND status = 'claimed' AND lease_expires_at > ? LIMIT 1)",
        *(
            "(SELECT claimed_at FROM {tasks} {index tasks_claim_by_id} "
            f"WHERE task_type_id = ? AND status = '{status}' ORDER BY id DESC LIMIT 1)"
            for status in WITH_WORKER_STATUSES
        ),
    ]
)


def _last_worked_on(type_id: int, now: int) -> int:
    """When a task of the type was last claimed, as far as its newest tasks show; now if one is."""
    values = (type_id, now, *[type_id] * len(WITH_WORKER_STATUSES))
    held, *newest = execute(f"SELECT {_WORK}", values).fetchone()
    if held is not None:
        return now
    # One in the future is from before the clock was set back.
    return max(at if at and at <= now + MINUTE_MS else 0 for at in newest)


def _oldest_pending(look: Look, seconds: float) -> Found:
    for type_id, at in look.waiting_since.items():
        if look.now - at >= seconds * 1000:
            yield look.names[type_id], {"age": _ago(at, look)}


def _failure_share(look: Look, share: float) -> Found:
    end = look.now - look.now % MINUTE_MS + MINUTE_MS
    counted = periods.counts_between(periods.FINISHED, end - HOUR_MS, end)
    for type_id, name in look.names.items():
        failed, completed = counted[type_id, "failed"], counted[type_id, "completed"]
        if failed >= MIN_FAILURES and failed > share * (failed + completed):
            yield name, {"failed": failed, "ended": failed + completed}


def _maintenance_silent(look: Look, seconds: float) -> Found:
    since = maintenance_runs.expected_since()
    if since is not None and look.now - since > seconds * 1000:
        latest = maintenance_runs.last_full_run()
        said = "has never run" if latest is None else f"last ran {_ago(latest, look)} ago"
        yield "Maintenance", {"said": said}


def _disk_space(look: Look, megabytes: float) -> Found:
    folders = {"instance folder": look.settings.instance_path}
    if look.settings.sqlite_file:
        folders = {"database": look.settings.sqlite_file.parent, **folders}
    for space in free_space(folders):
        left = None
        if space.free_bytes < megabytes * MB:
            left = f"{space.free_bytes // MB:,} MB left"
        elif space.files is not None and space.files < MIN_FILES:
            left = f"room for {space.files:,} more files"
        if left:
            yield f"The disk of the {space.name}", {"left": left}


def _database_size(look: Look, megabytes: float) -> Found:
    size = _database_bytes() / MB
    if size >= megabytes:
        yield "The database", {"size": round(size)}


def _database_bytes() -> int:
    """Of all tables of the queue; MySQL and MariaDB know it roughly."""
    if dialect() is SQLITE:
        pages, size = fetch_value("PRAGMA page_count"), fetch_value("PRAGMA page_size")
        return int(pages * size)
    tables = [model._meta.table_name for model in MODELS]
    row = fetch_one(
        "SELECT SUM(data_length + index_length) AS size FROM information_schema.tables "
        "WHERE table_schema = DATABASE() AND table_name IN ?",
        (tables,),
    )
    return int(row["size"] or 0) if row else 0


def _key_expiry(look: Look, days: float) -> Found:
    within = round(days * DAY_MS)
    for row in fetch_all(
        # One that was given less than that expires as somebody has just decided.
        "SELECT name, prefix, expires_at FROM {api_keys} WHERE revoked_at IS NULL "
        "AND expires_at > ? AND expires_at <= ? AND expires_at - updated_at > ? ORDER BY id",
        (look.now, look.now + within, within),
    ):
        left = format_duration(row["expires_at"] - look.now)
        name = f"{row['name']} ({row['prefix']}…)" if row["prefix"] else row["name"]
        yield name, {"left": left}


def _webhook_failing(look: Look, seconds: float) -> Found:
    for row in fetch_all(
        "SELECT name, failing_since FROM {webhooks} WHERE is_active = 1 AND failing_since <= ? "
        "ORDER BY id",
        (look.now - round(seconds * 1000),),
    ):
        yield row["name"], {"age": _ago(row["failing_since"], look)}


def _webhook_off(look: Look, _: float) -> Found:
    """One that somebody has switched off has no `disabled_at`."""
    for row in fetch_all(
        "SELECT name, disabled_at FROM {webhooks} WHERE disabled_at IS NOT NULL ORDER BY id"
    ):
        yield row["name"], {"age": _ago(row["disabled_at"], look)}


QUERIES: Mapping[str, Callable[[Look, float], Found]] = {
    "no_worker": _no_worker,
    "oldest_pending": _oldest_pending,
    "failure_share": _failure_share,
    "maintenance_silent": _maintenance_silent,
    "disk_space": _disk_space,
    "database_size": _database_size,
    "key_expiry": _key_expiry,
    "webhook_failing": _webhook_failing,
    "webhook_off": _webhook_off,
}
