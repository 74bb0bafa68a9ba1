"""How fast the queue works: waits and runs, when a backlog ends, what fails, what each worker does.

All of it is read from what periods.py has counted, so it is of the time up to which events were
counted: about a minute ago while maintenance runs.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from taskmanager.access.caller import Caller
from taskmanager.db.statements import Row, fetch_all
from taskmanager.queue import task_types
from taskmanager.queue.figures import periods
from taskmanager.queue.figures.periods import DAY_MS, HOUR_MS, MINUTE_MS, Durations

RATE_MS = 10 * MINUTE_MS
# Rates of so long ago say nothing about now.
STALE_MS = 10 * MINUTE_MS
MAX_DRAIN_MS = 3_650 * DAY_MS
MAX_FAILURES = 100


class Failure(NamedTuple):
    """How many attempts of a type failed with an error code, None where none was given."""

    type: str
    error_code: str | None
    hour: int
    day: int


class Rates(NamedTuple):
    """By the type's name, of the last hour: `waits` and `runs`; `drains_at` in milliseconds.

    `failures` has the most frequent first. All is of `measured_until`.
    """

    waits: Mapping[str, Durations]
    runs: Mapping[str, Durations]
    drains_at: Mapping[str, int | None]
    failures: Sequence[Failure]
    measured_until: int | None


def queue_rates(*, names: Mapping[int, str], backlog: Mapping[str, int], now: int) -> Rates:
    """The rates of the types in `names`, by id. `backlog` is how many tasks each has to do."""
    until = periods.read_until()
    if until is None:
        return Rates({}, {}, dict.fromkeys(backlog), [], None)
    durations = periods.durations_since(until - HOUR_MS)
    waits, runs = (
        {names[each]: found for each, found in durations[measure].items() if each in names}
        for measure in periods.DURATIONS
    )
    drains_at = _drains_at(names, backlog, until, now)
    return Rates(waits, runs, drains_at, failed_attempts(names=names, until=until), until)


def _drains_at(
    names: Mapping[int, str], backlog: Mapping[str, int], until: int, now: int
) -> dict[str, int | None]:
    """When each backlog ends if it goes on shrinking as in the last ten minutes.

    None where there is none, where it grows, and where too little is known.
    """
    found: dict[str, int | None] = dict.fromkeys(backlog)
    if abs(now - until) > STALE_MS:
        return found
    end = until - until % MINUTE_MS
    came = periods.counts_between(periods.CREATED, end - RATE_MS, end)
    went: Counter[int] = Counter()
    for (type_id, _), events in periods.counts_between(
        periods.FINISHED, end - RATE_MS, end
    ).items():
        went[type_id] += events
    for type_id, name in names.items():
        shrunk_by = went[type_id] - came[type_id, ""]
        if backlog.get(name) and shrunk_by > 0:
            duration = backlog[name] * RATE_MS // shrunk_by
            found[name] = now + duration if duration <= MAX_DRAIN_MS else None
    return found


def failed_attempts(*, names: Mapping[int, str], until: int) -> list[Failure]:
    """The MAX_FAILURES most frequent kinds of failures of the last day, by type and error code."""
    end = until - until % MINUTE_MS + MINUTE_MS
    of_day = periods.counts_between(periods.FAILED, end - DAY_MS, end)
    of_hour = periods.counts_between(periods.FAILED, end - HOUR_MS, end)
    found = [
        Failure(names[type_id], code or None, of_hour[type_id, code], count)
        for (type_id, code), count in of_day.most_common()
        if type_id in names
    ]
    return found[:MAX_FAILURES]


def with_rates(rows: Sequence[Row], *, caller: Caller, now: int) -> list[Row]:
    """The rows of workers with `done_per_minute`.

    That is how many attempts at tasks of the caller's types a worker reported a minute, in the
    last `ten_minutes` and the last `hour`; None where nothing was counted lately.
    """
    type_ids = None
    if caller.task_types is not None:
        type_ids = [row["id"] for row in task_types.find_task_types(caller=caller)]
    done = _done_per_minute([row["id"] for row in rows], type_ids, now)
    return [{**row, "done_per_minute": done[row["id"]]} for row in rows]


def _done_per_minute(
    worker_ids: list[str], type_ids: list[int] | None, now: int
) -> dict[str, dict[str, float] | None]:
    until = periods.read_until()
    if until is None or abs(now - until) > STALE_MS:
        return dict.fromkeys(worker_ids)
    end = until - until % MINUTE_MS
    rows: list[Row] = []
    if worker_ids and type_ids != []:
        of_types = "" if type_ids is None else "AND task_type_id IN ? "
        rows = fetch_all(
            "SELECT label, SUM(CASE WHEN period_at >= ? THEN events ELSE 0 END) AS lately, "
            "SUM(events) AS events FROM {period_counts} {unique period_counts_period} "
            "WHERE measure = ? AND period_seconds = ? "
            f"AND period_at >= ? AND period_at < ? {of_types}AND label IN ? GROUP BY label",
            (
                end - RATE_MS,
                *(periods.REPORTED, periods.MINUTE, end - HOUR_MS, end),
                *([] if type_ids is None else [type_ids]),
                worker_ids,
            ),
        )
    counted = {row["label"]: (int(row["lately"]), int(row["events"])) for row in rows}
    return {
        worker_id: {"ten_minutes": round(lately / 10, 2), "hour": round(events / 60, 2)}
        for worker_id in worker_ids
        for lately, events in [counted.get(worker_id, (0, 0))]
    }
