"""What happened in each period: how long tasks waited and ran, what came and went, what failed.

Owns the table period_counts. Maintenance fills it from the history of the tasks, one slice after
the other; no request does. So the figures are those of `read_until`. Refuses to know who may see
which figure.

Durations are counted in buckets that grow by a quarter: bucket n has what took more than
1.25**(n-1) and at most 1.25**n milliseconds, and bucket 0 what took one at most. See
docs/decisions/0022.
"""

import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import peewee

from taskmanager.db.statements import (
    Row,
    execute,
    fetch_all,
    fetch_one,
    fetch_value,
    insert,
    insert_many,
    parts_of,
    update,
)
from taskmanager.db.transactions import rest_since, write_transaction
from taskmanager.queue import feed
from taskmanager.queue.read import FINISHED_STATUSES

READER = "figures"
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
MINUTE, HOUR, ALL = 60, 3_600, 0  # period_seconds; ALL: since counting began
BUCKET_FACTOR = 1.25

# measure → what one event of it is. Only the first two have durations, and totals of all time.
DURATIONS = ("wait", "run")  # from pending to claimed; from claimed to the worker's report
FAILED = "failed"  # an attempt failed; by error code
CREATED = "created"  # a task came, or came back by a retry from outside
FINISHED = "finished"  # a task ended; by status
REPORTED = "reported"  # a worker reported the end of an attempt; by worker
SHORT_LIVED = (CREATED, REPORTED)
SHORT_LIVED_MS = 2 * HOUR_MS
# measure → how old its minutes are when they are folded into hours
FOLDED = {"wait": DAY_MS, "run": DAY_MS, FAILED: DAY_MS, FINISHED: SHORT_LIVED_MS}

REPORTS = ("completed", "failed", "retry_scheduled")
NO_CODE = ""  # of a failure that was reported without one

# A transaction that stores what so many events add up to takes 6 ms on SQLite, 14 on MariaDB.
SLICE_EVENTS = 250
ROWS_ADDED = 100  # by one statement

# MySQL would read the whole table while it is small.
_COUNTS = "{period_counts} {unique period_counts_period}"
# (measure, period_seconds, period_at, task_type_id, label, bucket)
Key = tuple[str, int, int, int, str, int]
_KEY = ("measure", "period_seconds", "period_at", "task_type_id", "label", "bucket")


# For a scalar subquery: up to when events were counted, NULL where all of them were. Looks at the
# ends of the primary key and at one row.
_COUNTED = "FROM {task_log_readers} WHERE name = 'figures'"
UNCOUNTED_SINCE = (
    "SELECT CASE WHEN (SELECT MAX(id) FROM {task_logs}) "
    f"> COALESCE((SELECT last_log_id {_COUNTED}), 0) "
    f"THEN COALESCE((SELECT read_until {_COUNTED}), "
    "(SELECT created_at FROM {task_logs} ORDER BY id LIMIT 1)) END"
)


def bucket_of(milliseconds: int) -> int:
    """The bucket that counts a duration."""
    if milliseconds <= 1:
        return 0
    bucket = math.ceil(math.log(milliseconds, BUCKET_FACTOR))
    # The logarithm may be a little off.
    return (
        bucket - (milliseconds <= bucket_bound(bucket - 1)) + (milliseconds > bucket_bound(bucket))
    )


def bucket_bound(bucket: int) -> float:
    """The longest duration of a bucket in milliseconds."""
    return BUCKET_FACTOR**bucket


class _Tally:
    """Counts by key: how many events, and the sum of their durations."""

    def __init__(self) -> None:
        self.events: Counter[Key] = Counter()
        self.total_ms: Counter[Key] = Counter()

    def add(self, key: Key, events: int = 1, total_ms: int = 0) -> None:
        self.events[key] += events
        self.total_ms[key] += total_ms

    def add_event(self, measure: str, row: Row, label: str = "") -> None:
        period_at = row["created_at"] - row["created_at"] % MINUTE_MS
        self.add((measure, MINUTE, period_at, row["task_type_id"], label, 0))

    def add_duration(self, measure: str, row: Row) -> None:
        """Where the history no longer has the beginning, nothing is counted."""
        if row["began_at"] is None:
            return
        duration = max(row["created_at"] - row["began_at"], 0)
        period_at = row["created_at"] - row["created_at"] % MINUTE_MS
        bucket = bucket_of(duration)
        self.add((measure, MINUTE, period_at, row["task_type_id"], "", bucket), 1, duration)
        self.add((measure, ALL, 0, row["task_type_id"], "", bucket), 1, duration)


def count_events(*, now: int, deadline: float) -> int:
    """Counts what was not counted yet, until `deadline`, in seconds of time.monotonic().

    Returns how many events that were. After each slice it rests as long as the slice took, so that
    waiting writers get their turn.
    """
    total = 0
    while True:
        started = time.monotonic()
        counted = count_slice(now=now, events=SLICE_EVENTS)
        total += counted
        if counted < SLICE_EVENTS or time.monotonic() > deadline:
            return total
        rest_since(started)


def count_slice(*, now: int, events: int) -> int:
    """Counts up to `events` events that were not counted yet; returns how many.

    Transition: none.
    Commits together: the counts, and how far the history was read.
    Raises DatabaseUnavailable.
    A crash leaves the slice uncounted. What another process has counted meanwhile is left as it is.
    """
    reader = _reader()
    # A cut moves the reader with it, so its position is always one of the present numbering.
    position = feed.Position(reader["cut"], reader["last_log_id"])
    part = feed.read_after(position, events, now=now)
    until = reader["read_until"]
    if part.is_at_end and not part.is_held_back:
        until = now
    elif part.rows:
        until = part.rows[-1]["created_at"]
    if not part.rows and until == reader["read_until"]:
        return 0
    is_stored = _store(reader, part.position.log_id, until, _tally(part.rows))
    return len(part.rows) if is_stored else 0


def _reader() -> Row:
    found = fetch_one(
        "SELECT last_log_id, slices, read_until, "
        "(SELECT COALESCE(MAX(id), 0) FROM {task_log_cuts}) AS cut "
        "FROM {task_log_readers} WHERE name = ?",
        (READER,),
    )
    if found is None:
        new = {"name": READER, "last_log_id": 0, "slices": 0, "read_until": 0}
        with contextlib.suppress(peewee.IntegrityError):  # another process has just created it
            write_transaction(insert)("task_log_readers", new)
        return _reader()
    return found


def _tally(rows: Sequence[Row]) -> _Tally:
    tally = _Tally()
    types = {row["id"]: row["task_type_id"] for row in rows}
    if not rows:
        return tally
    for found in fetch_all(_EVENTS, (list(types),)):
        row = {**found, "task_type_id": types[found["id"]]}
        event = row["event"]
        if event == "claimed":
            tally.add_duration("wait", row)
        if event in REPORTS:
            tally.add_duration("run", row)
            tally.add_event(REPORTED, row, row["worker_id"] or "")
        if event in ("failed", "retry_scheduled", "lease_expired"):
            tally.add_event(FAILED, row, _error_code(row))
        if event in ("created", "retried"):
            tally.add_event(CREATED, row)
        elif row["status"] in FINISHED_STATUSES:
            tally.add_event(FINISHED, row, row["status"])
    return tally


# Each subquery walks back from the event through the history of its task to where the wait or
# the run began: the first of the events since when the task is pending, or its latest claim.
_EVENTS = (
    "SELECT id, event, status, worker_id, created_at, "
    "CASE WHEN event IN ('failed', 'retry_scheduled') THEN metadata END AS metadata, "
    "CASE WHEN event = 'claimed' THEN "
    "(SELECT created_at FROM {task_logs} AS first {index task_logs_by_task} "
    "WHERE first.task_id = log.task_id AND first.id < log.id AND first.status = 'pending' "
    "AND first.id > COALESCE((SELECT id FROM {task_logs} AS other {index task_logs_by_task} "
    "WHERE other.task_id = log.task_id AND other.id < log.id "
    "AND (other.status IS NULL OR other.status <> 'pending') ORDER BY other.id DESC LIMIT 1), 0) "
    "ORDER BY first.id LIMIT 1) "
    "WHEN event IN ('completed', 'failed', 'retry_scheduled') THEN "
    "(SELECT created_at FROM {task_logs} AS claim {index task_logs_by_task} "
    "WHERE claim.task_id = log.task_id AND claim.id < log.id AND claim.event = 'claimed' "
    "ORDER BY claim.id DESC LIMIT 1) END AS began_at "
    "FROM {task_logs} AS log WHERE id IN ?"
)


def _error_code(row: Row) -> str:
    if row["event"] == "lease_expired":
        return "lease_expired"
    metadata = json.loads(row["metadata"] or "{}")
    return metadata.get("error_code") or NO_CODE


@write_transaction
def _store(reader: Row, last_log_id: int, until: int, tally: _Tally) -> bool:
    """Adds the counts, unless the history was read further meanwhile; returns whether it did."""
    read = {"last_log_id": last_log_id, "slices": reader["slices"] + 1, "read_until": until}
    guard = (READER, reader["slices"])
    if not update("task_log_readers", read, "name = ? AND slices = ?", guard):
        return False
    _add(tally)
    return True


def _add(tally: _Tally) -> None:
    """Part of a transaction that has locked the row of the reader."""
    known = _ids_of(tally.events)
    new = [
        {**dict(zip(_KEY, key, strict=True)), "events": events, "total_ms": tally.total_ms[key]}
        for key, events in tally.events.items()
        if key not in known
    ]
    insert_many("period_counts", new)
    for some in parts_of(list(known.items()), ROWS_ADDED):
        events, total_ms = (
            [value for key, row_id in some for value in (row_id, counts[key])]
            for counts in (tally.events, tally.total_ms)
        )
        cases = f"CASE id {'WHEN ? THEN ? ' * len(some)}END"
        execute(
            f"UPDATE {{period_counts}} SET events = events + {cases}, "
            f"total_ms = total_ms + {cases} WHERE id IN ?",
            (*events, *total_ms, [row_id for _, row_id in some]),
        )


def _ids_of(keys: Iterable[Key]) -> dict[Key, int]:
    """The rows that these keys have already."""
    wanted = set(keys)
    if not wanted:
        return {}
    parts = [list(set(values)) for values in list(zip(*wanted, strict=True))[:4]]
    rows = fetch_all(
        f"SELECT id, {', '.join(_KEY)} FROM {_COUNTS} WHERE measure IN ? "
        "AND period_seconds IN ? AND period_at IN ? AND task_type_id IN ?",
        parts,
    )
    found = {tuple(row[column] for column in _KEY): row["id"] for row in rows}
    return {key: found[key] for key in wanted & found.keys()}


@write_transaction
def fold_slice(*, now: int, rows: int) -> int:
    """Adds up to `rows` counts of old minutes to those of their hours, per measure of FOLDED.

    Transition: none.
    Commits together: the counts of the minutes and of the hours.
    Raises DatabaseUnavailable.
    A crash leaves the slice as it was.
    """
    # Whoever adds counts holds this row, so nobody else adds the same hour.
    fetch_one("SELECT slices FROM {task_log_readers} WHERE name = ? {lock_rows}", (READER,))
    tally, ids, most = _Tally(), [], 0
    for measure, age in FOLDED.items():
        old = _oldest(measure, MINUTE, (now - age) // HOUR_MS * HOUR_MS, rows)
        most = max(most, len(old))
        for row in old:
            hour_at = row["period_at"] - row["period_at"] % HOUR_MS
            key = (measure, HOUR, hour_at, row["task_type_id"], row["label"], row["bucket"])
            tally.add(key, row["events"], row["total_ms"])
            ids.append(row["id"])
    if ids:
        # Locks are local to a node of a cluster, which compares what was written.
        execute("UPDATE {task_log_readers} SET slices = slices + 1 WHERE name = ?", (READER,))
        execute("DELETE FROM {period_counts} WHERE id IN ?", (ids,))
        _add(tally)
    return most


def prune_minutes_slice(*, now: int, rows: int) -> int:
    """Deletes up to `rows` counts per measure of which only the last hour is asked.

    Transition, commits, raises, crash: as in `prune_hours_slice`.
    """
    return _prune_slice(SHORT_LIVED, MINUTE, now - SHORT_LIVED_MS, rows)


def prune_hours_slice(*, before: int, rows: int) -> int:
    """Deletes up to `rows` counts per measure of hours that began before `before`.

    Totals of all time stay.
    Transition: none.
    Commits together: the slice.
    Raises DatabaseUnavailable.
    A crash leaves the slice as it was.
    """
    return _prune_slice(list(FOLDED), HOUR, before, rows)


@write_transaction
def _prune_slice(measures: Sequence[str], period_seconds: int, before: int, rows: int) -> int:
    old = [_oldest(measure, period_seconds, before, rows) for measure in measures]
    if ids := [row["id"] for some in old for row in some]:
        execute("DELETE FROM {period_counts} WHERE id IN ?", (ids,))
    return max(len(some) for some in old)


def _oldest(measure: str, period_seconds: int, before: int, rows: int) -> list[Row]:
    return fetch_all(
        f"SELECT * FROM {_COUNTS} WHERE measure = ? AND period_seconds = ? AND period_at < ? "
        "ORDER BY period_at LIMIT ?",
        (measure, period_seconds, before, rows),
    )


class Durations(NamedTuple):
    """How many durations each bucket has counted, and their sum."""

    buckets: Mapping[int, int]
    total_ms: int

    @property
    def events(self) -> int:
        return sum(self.buckets.values())

    def quantile_ms(self, share: float) -> float:
        """The duration that this share did not exceed, at most an eighth too short or too long."""
        left = math.ceil(share * self.events)
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left <= 0:
                return bucket_bound(bucket) / math.sqrt(BUCKET_FACTOR)
        raise ValueError("no duration was counted")


ByType = dict[int, Durations]


def read_until() -> int | None:
    """Up to when events were counted; None before the first run of maintenance."""
    found: int | None = fetch_value(f"SELECT read_until {_COUNTED}")
    return found


def durations_since(moment: int) -> dict[str, ByType]:
    """`wait` and `run` of what was counted since the minute of `moment`, by type."""
    return _durations("period_seconds = ? AND period_at > ?", (MINUTE, moment - MINUTE_MS))


def durations_of_all_time() -> dict[str, ByType]:
    """`wait` and `run` since counting began, by type."""
    return _durations("period_seconds = ? AND period_at = 0", (ALL,))


def _durations(condition: str, values: Sequence[int]) -> dict[str, ByType]:
    found: dict[str, ByType] = {}
    for measure in DURATIONS:
        rows = fetch_all(
            "SELECT task_type_id, bucket, SUM(events) AS events, SUM(total_ms) AS total_ms "
            f"FROM {_COUNTS} WHERE measure = ? AND {condition} "
            "GROUP BY task_type_id, bucket",
            (measure, *values),
        )
        buckets: dict[int, dict[int, int]] = {}
        totals: Counter[int] = Counter()
        for row in rows:
            # MySQL adds whole numbers up to a Decimal.
            buckets.setdefault(row["task_type_id"], {})[row["bucket"]] = int(row["events"])
            totals[row["task_type_id"]] += int(row["total_ms"])
        found[measure] = {each: Durations(buckets[each], totals[each]) for each in buckets}
    return found


def counts_between(measure: str, begin: int, end: int) -> Counter[tuple[int, str]]:
    """Events of the minutes from `begin` on and before `end`, by type and label."""
    rows = fetch_all(
        "SELECT task_type_id, label, SUM(events) AS events FROM {period_counts} "
        "WHERE measure = ? AND period_seconds = ? AND period_at >= ? AND period_at < ? "
        "GROUP BY task_type_id, label",
        (measure, MINUTE, begin, end),
    )
    return Counter({(row["task_type_id"], row["label"]): int(row["events"]) for row in rows})


def counts_by_time(measure: str, begin: int, end: int, step: int) -> Counter[tuple[int, int, str]]:
    """Events from `begin` on and before `end`, by the step's beginning, type and label.

    Of a measure of FOLDED. Before its age, a `step` of less than an hour has its events in the
    first step of each hour.
    """
    rows = fetch_all(
        "SELECT period_at - period_at {modulo} ? AS step_at, task_type_id, label, "
        "SUM(events) AS events FROM {period_counts} {unique period_counts_period} "
        "WHERE measure = ? AND period_seconds IN ? AND period_at >= ? AND period_at < ? "
        "GROUP BY step_at, task_type_id, label",
        (step, measure, [MINUTE, HOUR], begin, end),
    )
    return Counter(
        {(row["step_at"], row["task_type_id"], row["label"]): int(row["events"]) for row in rows}
    )
