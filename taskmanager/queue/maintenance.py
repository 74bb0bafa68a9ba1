"""Maintenance: expired leases, due schedules and delayed tasks, and pruning of old tasks.

It can run in three ways that share this code: the cron command, a URL for
hosts whose cron can only fetch one, and a small slice on ordinary claims. All
work is done in slices, each a short transaction of its own. So a run can be
stopped anywhere, two runs at once do no harm, and no lock is held for long.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from taskmanager.access import audit
from taskmanager.access.caller import Caller
from taskmanager.clock import format_time
from taskmanager.db.connection import cache, keeps_snapshot, skips_locked
from taskmanager.db.statements import Row, execute, fetch_all, fetch_value, update
from taskmanager.db.transactions import SnapshotTooOld, rest_since, write_transaction
from taskmanager.errors import DatabaseUnavailable
from taskmanager.payloads.sealing import with_sealed
from taskmanager.queue import clock_jumps, endings, history, maintenance_runs, retention
from taskmanager.queue.figures import counts, periods
from taskmanager.queue.flow import batches, deadlines, dependencies, lanes
from taskmanager.queue.holder import NO_PROGRESS, NOT_CLAIMED, finished
from taskmanager.queue.retention import DAY_MS
from taskmanager.queue.schedules import runs
from taskmanager.queue.task_types import TaskDefaults, with_type_name

SLICE_ROWS = 25
MAX_SLICE_ROWS = 50
SLICE_SECONDS = 0.005  # what a slice should take, and so hold its locks
CLAIM_SLICE_INTERVAL_MS = 1_000
DUE_RESOLUTION_MS = 500  # how late a task that another process delayed may be noticed
MAX_RUN_SECONDS = 50.0  # cron starts the next run after a minute
MAX_COUNTING_SECONDS = 10.0  # of these; after an upgrade there are the events of a month
COUNTED_EVERY_MS = 60_000  # on claims, where no other run has counted
COUNTED_ON_CLAIM = 100  # events

# What a task loses when it is pruned and its row is kept for its dedupe key.
EMPTIED: Row = {
    **NOT_CLAIMED,
    **NO_PROGRESS,
    "params": "{}",
    "result": None,
    "error_message": None,
    "error_code": None,
    "tags": None,
    "worker_id": None,
    "claimed_at": None,
    "payload_key": None,
}


def maintain(
    *,
    retention_days: int,
    defaults: TaskDefaults,
    caller: Caller,
    now: int,
    max_seconds: float = MAX_RUN_SECONDS,
) -> dict[str, int]:
    """Everything that is due, for `max_seconds` at the most; returns how many of each.

    What is left over is done by the next run. The pruning is recorded as the
    caller's action. What happened since the last run is counted before it is pruned.
    The statistics are counted anew where that takes long and was not done lately, so
    that no request has to.
    """
    started = time.monotonic()
    deadline = started + max_seconds
    corrected_at = fetch_value(clock_jumps.CORRECTED_AT)
    if clock_jumps.is_correction_due(clock_jumps.latest_time(), corrected_at, now=now):
        _until_done(lambda rows: clock_jumps.mend_slice(now=now, rows=rows), deadline)
    runs.reanchor_schedules(now=now)
    _until_done(lambda rows: clock_jumps.mend_ends_slice(now=now, rows=rows), deadline)
    done = {
        "created": runs.run_due_schedules(now=now, defaults=defaults, deadline=deadline),
        "requeued": requeue_expired_claims(now=now, deadline=deadline),
        "started": start_due_tasks(now=now, deadline=deadline),
        "expired": _until_done(
            lambda rows: deadlines.cancel_late_slice(now=now, rows=rows), deadline
        ),
    }
    _until_done(lambda rows: endings.follow_dependencies_slice(now=now, rows=rows), deadline)
    _until_done(lambda rows: batches.finish_stalled_slice(now=now, rows=rows), deadline)
    for type_id, kind in lanes.types_with_lanes():
        _adopt_stragglers(type_id, kind, deadline)
    count_events(now=now, deadline=min(deadline, time.monotonic() + MAX_COUNTING_SECONDS))
    done["pruned"] = prune_finished_tasks(
        retention_days=retention_days, caller=caller, now=now, deadline=deadline
    )
    passed = time.monotonic() - started
    if passed < max_seconds:
        # The work is done, whatever becomes of this.
        with contextlib.suppress(DatabaseUnavailable):
            counted_at = now + round(passed * 1000)
            counts.task_counts(now=counted_at, max_age_ms=counts.RENEWED_BY_MAINTENANCE_MS)
    return done


def _adopt_stragglers(type_id: int, kind: str, deadline: float) -> None:
    while lanes.walk_slice(type_id) and time.monotonic() < deadline:
        pass
    while lanes.adopt_slice(type_id, kind) and time.monotonic() < deadline:
        pass


def requeue_expired_claims(*, now: int, deadline: float) -> int:
    """Requeues every task whose lease has expired; returns how many.

    Stops at `deadline`, in seconds of time.monotonic().
    """
    return _until_done(lambda rows: _requeue_slice(now, rows), deadline)


def start_due_tasks(*, now: int, deadline: float) -> int:
    """Makes every scheduled task claimable whose time has come; returns how many."""
    return _until_done(lambda rows: _start_slice(now, rows), deadline)


def count_events(*, now: int, deadline: float) -> int:
    """Counts what happened into periods, and folds the old ones; returns how many events."""
    counted = periods.count_events(now=now, deadline=deadline)
    _until_done(lambda rows: periods.fold_slice(now=now, rows=rows), deadline)
    _until_done(lambda rows: periods.prune_minutes_slice(now=now, rows=rows), deadline)
    return counted


def prune_finished_tasks(*, retention_days: int, caller: Caller, now: int, deadline: float) -> int:
    """Prunes tasks that were finished `retention_days` ago, with their history; returns how many.

    The `retention_days` of a type count for its tasks instead; 0 days keep everything.
    A task that holds its dedupe key for the `dedupe_days` of its type keeps an empty
    row until then. Workers that nobody has seen for as long as the setting says and
    audit events as old go too.
    """
    cutoff = now - retention_days * DAY_MS if retention_days else None
    audit.prune(before=cutoff)
    groups = retention.groups(retention_days=retention_days, now=now)
    pruned = sum([_prune_group(group, caller, now, deadline) for group in groups])
    _until_done(lambda rows: _release_keys_slice(now, rows), deadline)
    if cutoff is not None:
        _until_done(lambda rows: _prune_workers_slice(cutoff, rows), deadline)
        _until_done(lambda rows: batches.prune_slice(before=cutoff, rows=rows), deadline)
        _until_done(lambda rows: periods.prune_hours_slice(before=cutoff, rows=rows), deadline)
    return pruned


def _prune_group(group: retention.Group, caller: Caller, now: int, deadline: float) -> int:
    search = retention.Search(group, deadline)
    key_ms = _key_ms_by_type()
    pruned = 0

    def run_slice(rows: int) -> int:
        nonlocal pruned
        ids = search.next_ids(rows)
        pruned += _prune_slice(ids, group.cutoff, key_ms, now) if ids else 0
        return len(ids)

    _until_done(run_slice, deadline)
    retention.remember(group, search.reached())
    if pruned:
        before = format_time(group.cutoff)
        message = f"{pruned} tasks finished before {before} pruned by {caller.name}"
        write_transaction(audit.record)(event="pruned", message=message, caller=caller, now=now)
    return pruned


def _key_ms_by_type() -> dict[int, int]:
    """How long after its end a task holds its key, by type, where that has `dedupe_days`."""
    rows = fetch_all("SELECT id, dedupe_days FROM {task_types} WHERE dedupe_days IS NOT NULL")
    return {row["id"]: row["dedupe_days"] * DAY_MS for row in rows}


def run_slice_if_due(*, defaults: TaskDefaults, now: int) -> None:
    """Part of a claim: runs one slice, once a second per process, or always while much is due.

    Counts events too. That waits for the next second even if many are left: it makes no task
    claimable, and every empty poll would write.
    """
    remembered = cache()
    if abs(now - remembered.maintenance_slice_at) < CLAIM_SLICE_INTERVAL_MS:
        return
    if run_slice(defaults=defaults, now=now) < SLICE_ROWS:
        remembered.maintenance_slice_at = now
        events_at = next_due(now=now).events_at
        if events_at is not None and events_at <= now:
            periods.count_slice(now=now, events=COUNTED_ON_CLAIM)


class NextDue(NamedTuple):
    """When the next schedule, lease, delayed task, deadline, end of a dependency and counting of
    events fall due; None: there is none of the kind.

    `latest` is the latest time that is stored, which shows whether the clock was set back, and
    `corrected_at` when that was last corrected.
    """

    schedule_at: int | None
    lease_at: int | None
    task_at: int | None
    deadline_at: int | None
    dependency_at: int | None
    events_at: int | None
    corrected_at: int | None
    latest: int

    def is_anything_due(self, now: int) -> bool:
        """Whether run_slice() has something to do."""
        due = [moment is not None and moment <= now for moment in self[:5]]
        return any(due) or self.is_correction_due(now)

    def is_correction_due(self, now: int) -> bool:
        return clock_jumps.is_correction_due(self.latest, self.corrected_at, now=now)


def next_due(*, now: int) -> NextDue:
    """What is due next; at most DUE_RESOLUTION_MS old, unless it is due by now."""
    remembered = cache()
    found: NextDue
    if remembered.next_due is not None:
        looked_at, found = remembered.next_due
        if abs(now - looked_at) < DUE_RESOLUTION_MS and not found.is_anything_due(now):
            return found
    # Looks at the first or last entries of indexes, and at the rows of maintenance_runs.
    row = execute(
        "SELECT (SELECT MIN(next_run_at) FROM {schedules}) AS schedule_at, "
        "(SELECT lease_expires_at FROM {tasks} WHERE lease_expires_at > 0 "
        "ORDER BY lease_expires_at LIMIT 1) AS lease_at, "
        "(SELECT available_at FROM {tasks} WHERE status = 'scheduled' "
        f"ORDER BY available_at LIMIT 1) AS task_at, ({deadlines.NEXT}), ({dependencies.NEXT}), "
        f"({periods.UNCOUNTED_SINCE}), ({clock_jumps.CORRECTED_AT}), "
        f"({clock_jumps.LATEST_SEEN}), ({clock_jumps.LATEST_RUN}), ({clock_jumps.LATEST_LEASE})"
    ).fetchone()
    events_at = row[5]
    if events_at is not None:
        # One in the future is from before the clock was set back.
        events_at = events_at + COUNTED_EVERY_MS if events_at <= now else now
    latest = max([moment or 0 for moment in row[7:]])
    found = NextDue(row[0], row[1], row[2], row[3], row[4], events_at, row[6], latest)
    remembered.next_due = (now, found)
    return found


def run_slice(*, defaults: TaskDefaults, now: int) -> int:
    """Requeues and starts at most SLICE_ROWS tasks each and runs a schedule or more that is due.

    Returns how many tasks that concerned; writes nothing where none is due.
    """
    due = next_due(now=now)
    if not due.is_anything_due(now):
        return 0
    started, moved = time.monotonic(), 0
    if due.is_correction_due(now):
        moved += clock_jumps.mend_slice(now=now, rows=SLICE_ROWS)
        cache().next_due = None
    if due.schedule_at is not None and due.schedule_at <= now:
        deadline = started + SLICE_SECONDS
        moved += runs.run_due_schedules(now=now, defaults=defaults, deadline=deadline)
    if due.lease_at is not None and due.lease_at <= now:
        moved += _requeue_slice(now, SLICE_ROWS)
    if due.task_at is not None and due.task_at <= now:
        moved += _start_slice(now, SLICE_ROWS)
    if due.deadline_at is not None and due.deadline_at <= now:
        moved += deadlines.cancel_late_slice(now=now, rows=SLICE_ROWS)
    if due.dependency_at is not None and due.dependency_at <= now:
        moved += endings.follow_dependencies_slice(now=now, rows=SLICE_ROWS)
    maintenance_runs.record_slice_of_claim(started_at=now, started=started, tasks_moved=moved)
    return moved


def _until_done(run_slice: Callable[[int], int], deadline: float) -> int:
    """Runs slices until nothing is left, each sized by how long the one before took."""
    total, rows = 0, SLICE_ROWS
    while True:
        started = time.monotonic()
        done = run_slice(rows)
        now = time.monotonic()
        total += done
        if done < rows or now > deadline:
            return total
        rest_since(started)
        rows = next_slice_rows(rows, now - started)


def next_slice_rows(rows: int, seconds: float) -> int:
    """How many rows the next slice takes, when one of `rows` took `seconds`."""
    fitting = round(rows * SLICE_SECONDS / max(seconds, 0.001))
    # Halved or doubled at the most, so that one slow moment does not decide.
    return max(1, rows // 2, min(fitting, rows * 2, MAX_SLICE_ROWS))


def _lock_slice(
    columns: str, condition: str, value: int, rows: int, *, by: str, order: str = ""
) -> list[Row]:
    """Locks the first `rows` tasks `by` a column that has an index and that meet the condition.

    `order` is another column of that index to read them by. Those that others have
    locked are skipped. A server without SKIP LOCKED is first asked without locks,
    and then for those tasks by their ids, in the order in which everybody locks tasks.
    """
    first = f"FROM {{tasks}} {{index tasks_by_{by}}} WHERE {condition} "
    first += f"ORDER BY {order or by} LIMIT ?"
    if skips_locked():
        return fetch_all(f"SELECT {columns} {first} {{lock_free_rows}}", (value, rows))
    while candidates := [row["id"] for row in fetch_all(f"SELECT id {first}", (value, rows))]:
        locked = fetch_all(
            f"SELECT {columns} FROM {{tasks}} {{by_id}} WHERE id IN ? AND {condition} "
            "ORDER BY id {lock_rows}",
            (candidates, value),
        )
        if locked:  # else others have dealt with all of them meanwhile
            return locked
        if keeps_snapshot():
            raise SnapshotTooOld
    return []


@write_transaction
def _requeue_slice(now: int, rows: int) -> int:
    """Requeues up to `rows` tasks whose lease has expired.

    Transition: claimed → pending, or → failed with `lease_expired` where no
    attempt is left. The claim token stays until another worker takes the task or
    a caller retries it, so that work finished late is not lost. An attempt that has
    run for `max_run_seconds` ends as its worker's report of a failure ends it.
    Commits together: the slice's transitions, their history rows and deliveries.
    Raises DatabaseUnavailable.
    A crash leaves the slice as it was.
    """
    columns = "id, task_type_id, status, attempts, max_attempts, worker_id, claim_token, notify, "
    columns += "batch_id, claimed_at, lease_expires_at, max_run_seconds, payload_key, dependents, "
    columns += lanes.COLUMNS
    over = _lock_slice(columns, "lease_expires_at <= ?", now, rows, by="lease_expires_at")
    deadlines.end_attempts([row for row in over if deadlines.is_timed_out(row)], now=now)
    expired = [row for row in over if not deadlines.is_timed_out(row)]
    exhausted = [row for row in expired if row["attempts"] >= row["max_attempts"]]
    again = [row for row in expired if row["attempts"] < row["max_attempts"]]
    error = {
        "error_code": "lease_expired",
        "error_message": "The worker sent no sign of life before its lease expired, and no "
        "attempt is left.",
    }
    requeued = {"status": "pending", "lease_expires_at": None, "available_at": now}
    _move(again, "claimed", {**requeued, "updated_at": now})
    lanes.record([{**row, "status": "pending"} for row in again])
    failed = {**finished("failed", now), **error}
    del failed["claim_token"]
    _move([row for row in exhausted if row["payload_key"] is None], "claimed", failed)
    for row in exhausted:
        if row["payload_key"] is not None:
            _move([row], "claimed", with_sealed(failed, of=row))
    history.record(again, "lease_expired", status="pending", now=now)
    history.record(exhausted, "lease_expired", status="failed", now=now)
    endings.record([with_type_name({**row, "status": "failed"}) for row in exhausted], now=now)
    return len(over)


def _move(rows: list[Row], status: str, changes: Row) -> None:
    """Changes these locked tasks, all of which have this status."""
    if rows:
        guard = (status, [row["id"] for row in rows])
        changed = update("tasks", changes, "status = ? AND id IN ?", guard, hint="{by_id}")
        if changed != len(rows):
            raise AssertionError(f"{changed} of {len(rows)} locked tasks were still {status}")


@write_transaction
def _start_slice(now: int, rows: int) -> int:
    """Makes up to `rows` due tasks claimable.

    Transition: scheduled → pending.
    Commits together: the slice's transitions and their history rows.
    Raises DatabaseUnavailable.
    A crash leaves the slice as it was.
    """
    condition = "status = 'scheduled' AND available_at <= ?"
    columns = f"id, task_type_id, {lanes.COLUMNS}"
    due = _lock_slice(columns, condition, now, rows, by="available_at")
    _move(due, "scheduled", {"status": "pending", "updated_at": now})
    lanes.record([{**row, "status": "pending"} for row in due])
    history.record(due, "due", status="pending", now=now)
    return len(due)


@write_transaction
def _prune_slice(ids: list[int], cutoff: int, key_ms: Mapping[int, int], now: int) -> int:
    """Prunes those of some tasks that were finished before `cutoff`; returns how many.

    Transition: completed, failed or cancelled → gone. A task that holds its dedupe
    key for longer, by `key_ms` of its type, keeps its status and an empty row.
    Commits together: the tasks and their history.
    Raises DatabaseUnavailable.
    A crash leaves the slice as it was.
    """
    # Waits for who changes one of them: it would not be looked at again.
    old = fetch_all(
        "SELECT id, task_type_id, completed_at, holds_key_forever FROM {tasks} {by_id} "
        "WHERE id IN ? AND dedupe_until IS NULL AND completed_at < ? ORDER BY id {lock_rows}",
        (ids, cutoff),
    )
    kept: dict[int, list[int]] = {}  # by type
    gone = []
    for task in old:
        type_id = task["task_type_id"]
        if task["holds_key_forever"] and task["completed_at"] + key_ms.get(type_id, 0) > now:
            kept.setdefault(type_id, []).append(task["id"])
        else:
            gone.append(task["id"])
    if old:
        history.delete([task["id"] for task in old])
    if gone:
        execute("DELETE FROM {tasks} WHERE id IN ?", (gone,))
    for type_id, ids in kept.items():
        _empty(ids, key_ms[type_id], now)
    return len(old)


def _empty(ids: list[int], key_ms: int, now: int) -> None:
    """Leaves of finished tasks what makes duplicates of them known."""
    execute("DELETE FROM {task_tags} WHERE task_id IN ?", (ids,))
    assignments = ", ".join([f"{column} = ?" for column in EMPTIED])
    execute(
        f"UPDATE {{tasks}} {{by_id}} SET {assignments}, pruned_at = ?, "
        "dedupe_until = completed_at + ? WHERE id IN ?",
        (*EMPTIED.values(), now, key_ms, ids),
    )


@write_transaction
def _release_keys_slice(now: int, rows: int) -> int:
    """Removes up to `rows` pruned tasks that have held their dedupe keys for long enough.

    Transition: completed, failed or cancelled, and pruned → gone.
    Commits together: the tasks.
    Raises DatabaseUnavailable.
    A crash leaves the slice as it was.
    """
    condition = "dedupe_until <= ? AND completed_at > 0"
    over = _lock_slice("id", condition, now, rows, by="completed_at", order="dedupe_until")
    if ids := [row["id"] for row in over]:
        execute("DELETE FROM {tasks} WHERE id IN ?", (ids,))
    return len(ids)


@write_transaction
def _prune_workers_slice(cutoff: int, rows: int) -> int:
    """Removes up to `rows` workers that were last seen before `cutoff`; returns how many."""
    old = fetch_all(
        "SELECT id FROM {workers} WHERE last_seen_at < ? ORDER BY last_seen_at LIMIT ?",
        (cutoff, rows),
    )
    if old:
        # One may have been seen meanwhile.
        execute(
            "DELETE FROM {workers} WHERE id IN ? AND last_seen_at < ?",
            ([row["id"] for row in old], cutoff),
        )
    return len(old)
