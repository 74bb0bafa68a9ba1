"""What maintenance counts of the history, against a count of the whole history in plain Python."""

import math
import random
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from taskmanager.clock import format_time
from taskmanager.db.connection import database, dialect
from taskmanager.db.dialect import SQLITE
from taskmanager.db.statements import execute, fetch_all, fetch_value
from taskmanager.queue import feed, maintenance
from taskmanager.queue.figures import periods
from taskmanager.queue.figures.periods import Durations, bucket_bound, bucket_of
from tests.conftest import Api, Clock, make_key

DAY = 86_400
# measure, type, label, bucket
Kind = tuple[str, int, str, int]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids that a server has left out are known to stay empty when it is asked again."""
    monkeypatch.setattr(feed, "STORED_SECONDS", 0.0)


def maintain(api: Api) -> None:
    for _ in range(2):
        api.post("/api/maintenance/run")


def expected() -> tuple[Counter[tuple[Kind, int]], Counter[Kind]]:
    """By kind and minute how many events there are, and by kind the sum of their milliseconds."""
    counts: Counter[tuple[Kind, int]] = Counter()
    sums: Counter[Kind] = Counter()
    rows = fetch_all(
        "SELECT log.*, task.task_type_id FROM {task_logs} AS log "
        "JOIN {tasks} AS task ON task.id = log.task_id ORDER BY log.id"
    )
    pending_since: dict[int, int | None] = {}
    claimed_at: dict[int, int] = {}

    def add(row: Any, measure: str, label: str = "", since: int | None = None) -> None:
        bucket, took = 0, 0
        if since is not None:
            took = row["created_at"] - since
            bucket = next(n for n in range(200) if took <= 1.25**n)
        kind = (measure, row["task_type_id"], label, bucket)
        counts[kind, row["created_at"] // 60_000 * 60_000] += 1
        sums[kind] += took

    for row in rows:
        task, event = row["task_id"], row["event"]
        if event == "claimed":
            add(row, "wait", since=pending_since[task])
            claimed_at[task] = row["created_at"]
        if event in ("completed", "failed", "retry_scheduled"):
            add(row, "run", since=claimed_at[task])
            add(row, "reported", row["worker_id"])
        if event in ("failed", "retry_scheduled"):
            add(row, "failed", "E1" if "E1" in row["metadata"] else "")
        if event == "lease_expired":
            add(row, "failed", "lease_expired")
        if event in ("created", "retried"):
            add(row, "created")
        elif row["status"] in ("completed", "failed", "cancelled"):
            add(row, "finished", row["status"])
        if row["status"] != "pending":
            pending_since[task] = None
        elif pending_since.get(task) is None:
            pending_since[task] = row["created_at"]
    return counts, sums


def counted(period_seconds: int) -> tuple[Counter[tuple[Kind, int]], Counter[Kind]]:
    counts: Counter[tuple[Kind, int]] = Counter()
    sums: Counter[Kind] = Counter()
    for row in fetch_all(
        "SELECT * FROM {period_counts} WHERE period_seconds = ?", (period_seconds,)
    ):
        kind = (row["measure"], row["task_type_id"], row["label"], row["bucket"])
        assert (kind, row["period_at"]) not in counts
        counts[kind, row["period_at"]] = row["events"]
        sums[kind] += row["total_ms"]
    return counts, sums


class History:
    """Tasks that come, run, fail, expire and come back, in an order that chance decides."""

    def __init__(self, api: Api, clock: Clock, seed: int) -> None:
        self._api, self._clock, self._chance = api, clock, random.Random(seed)
        self._held: list[Any] = []
        self._ids: list[int] = []

    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            self._clock.advance(self._chance.choice([0, 0.001, 0.4, 7, 50]))
            step = self._chance.choice(
                [
                    *[self._create, self._claim, self._report] * 2,
                    self._intervene,
                    self._maintain,
                ]
            )
            step()

    def _create(self) -> None:
        name = self._chance.choice(["a", "b"])
        delay = self._chance.choice([0, 0, 0, 20])
        self._ids.append(self._api.create(name, delay_seconds=delay)["id"])

    def _claim(self) -> None:
        body = {"worker_id": self._chance.choice(["w1", "w2"])}
        response = self._api.call("POST", "/api/tasks/claim", {**body, "lease_seconds": 30})
        if response.status_code == 200:
            self._held.append(response.get_json()["data"])

    def _report(self) -> None:
        if not self._held:
            return
        task = self._held.pop(self._chance.randrange(len(self._held)))
        report = self._chance.choice(
            [
                {"success": True},
                {"success": False, "error": "x", "error_code": "E1"},
                {"success": False, "error": "x", "retry_after_seconds": 10},
                {"success": False, "error": "x", "is_retryable": False},
            ]
        )
        body = {"worker_id": task["worker_id"], "claim_token": task["claim_token"], **report}
        self._api.call("POST", f"/api/tasks/{task['id']}/complete", body)

    def _intervene(self) -> None:
        if self._ids:
            task_id = self._chance.choice(self._ids)
            what = self._chance.choice(["retry", "cancel", "update"])
            if what == "update":
                body = {"ids": [task_id], "priority": self._chance.randrange(9)}
                self._api.call("POST", "/api/tasks/update", body)
            else:
                self._api.call("POST", f"/api/tasks/{task_id}/{what}")

    def _maintain(self) -> None:
        self._api.post("/api/maintenance/run")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_the_counts_are_those_of_the_history(
    api: Api, clock: Clock, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(periods, "SLICE_EVENTS", 7)
    for name in ("a", "b"):
        api.register(name, max_attempts=3, retry={"strategy": "immediate"})
    clock.now -= clock.now % 60_000
    history = History(api, clock, seed)
    history.go_on(250)
    clock.advance(60)  # whatever is still held expires
    maintain(api)
    counts, sums = expected()
    assert clock.now - min(minute for _, minute in counts) < 2 * 3_600_000
    assert {measure for (measure, *_), _ in counts} == {
        *("wait", "run", "failed", "created", "finished", "reported")
    }
    assert counted(60) == (counts, sums)

    totals, total_sums = counted(0)
    durations = {kind for kind, _ in counts if kind[0] in ("wait", "run")}
    assert totals == Counter(
        {(kind, 0): sum(n for (k, _), n in counts.items() if k == kind) for kind in durations}
    )
    assert total_sums == Counter({kind: sums[kind] for kind in durations})

    clock.advance(DAY + 3_600)  # what is a day old is folded
    maintain(api)
    folded: Counter[tuple[Kind, int]] = Counter()
    for (kind, minute), count in counts.items():
        if kind[0] in ("wait", "run", "failed", "finished"):
            folded[kind, minute // 3_600_000 * 3_600_000] += count
    assert counted(60) == (Counter(), Counter())
    assert counted(3_600)[0] == folded
    assert counted(0) == (totals, total_sums)

    clock.advance(30 * DAY)
    maintain(api)
    assert counted(3_600) == (Counter(), Counter())
    assert counted(0) == (totals, total_sums)


def test_a_bucket_has_what_is_at_most_as_long_as_its_bound() -> None:
    for milliseconds in [*range(5_000), *(10**n + d for n in range(4, 13) for d in (-1, 0, 1))]:
        bucket = bucket_of(milliseconds)
        assert milliseconds <= bucket_bound(bucket)
        assert bucket == 0 or milliseconds > bucket_bound(bucket - 1)
    for bucket in range(8, 120):  # right at the bounds
        assert bucket_of(math.floor(bucket_bound(bucket))) == bucket
        assert bucket_of(math.floor(bucket_bound(bucket)) + 1) == bucket + 1


def test_a_quantile_is_at_most_an_eighth_off() -> None:
    chance = random.Random(1)
    for size in (1, 2, 19, 20, 21, 1_000):
        durations = sorted(round(10 ** chance.uniform(1, 7)) for _ in range(size))
        found = Durations(Counter(map(bucket_of, durations)), sum(durations))
        for share in (0.5, 0.95):
            exact = durations[math.ceil(share * size) - 1]
            assert exact / 1.125 <= found.quantile_ms(share) <= exact * 1.125


def test_claims_count_where_nobody_runs_maintenance(api: Api, clock: Clock) -> None:
    api.register()
    api.create()
    api.complete(api.claim())
    assert fetch_value("SELECT COUNT(*) FROM {period_counts}") == 0
    for _ in range(2):
        clock.advance(maintenance.COUNTED_EVERY_MS / 1000)
        api.claim(status=404)
    assert counted(60) == expected()


def test_empty_polls_count_once_a_second_however_much_is_left(api: Api, clock: Clock) -> None:
    api.register()
    for n in range(maintenance.COUNTED_ON_CLAIM):  # each task leaves three events
        api.create(params={"n": n})
        api.complete(api.claim())
    clock.advance(maintenance.COUNTED_EVERY_MS / 1000)
    slices = []
    for _ in range(3):
        api.claim(status=404)
        slices.append(fetch_value("SELECT slices FROM {task_log_readers}"))
    clock.advance(maintenance.CLAIM_SLICE_INTERVAL_MS / 1000)
    api.claim(status=404)
    slices.append(fetch_value("SELECT slices FROM {task_log_readers}"))
    first = slices[0]
    assert slices == [first, first, first, first + 1]


def test_claims_leave_the_counting_to_maintenance_that_runs(
    api: Api, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.register()
    api.create()
    maintain(api)
    slices: list[Any] = []
    monkeypatch.setattr(periods, "count_slice", lambda **values: slices.append(values) or 0)
    clock.advance(maintenance.COUNTED_EVERY_MS / 1000 - 1)
    api.complete(api.claim())
    assert slices == []


def test_counting_goes_on_after_the_clock_was_set_back(api: Api, clock: Clock) -> None:
    api.register()
    clock.advance(DAY)
    api.create()
    maintain(api)
    clock.advance(-DAY)
    api.complete(api.claim())
    clock.advance(2)
    api.claim(status=404)
    assert fetch_value("SELECT COUNT(*) FROM {period_counts} WHERE measure = 'run'") == 2
    maintain(api)
    assert abs(fetch_value("SELECT read_until FROM {task_log_readers}") - clock.now) < 10


def test_what_was_deleted_is_not_counted_twice_nor_what_follows_left_out(
    api: Api, clock: Clock
) -> None:
    """On SQLite the next events get the ids of those that were deleted."""
    api.register()
    for _ in range(3):
        task = api.create()
        api.complete(api.claim())
        maintain(api)
        assert api.post("/api/tasks/delete", {"ids": [task["id"]]})["changed"] == 1
    maintain(api)
    found: Counter[str] = Counter()
    for (kind, _), count in counted(60)[0].items():
        found[kind[0]] += count
    assert found == Counter(wait=3, run=3, created=3, finished=3, reported=3)


# What is shown


@pytest.fixture
def busy(api: Api, clock: Clock) -> Iterator[Api]:
    """Ten tasks of which the first six end in ten minutes, one of them after a failure."""
    api.register(max_attempts=2, retry={"strategy": "immediate"})
    clock.now += 60_000 - clock.now % 60_000
    for _ in range(10):
        api.create()
    clock.advance(600)
    for number in range(6):
        task = api.claim("fast" if number < 5 else "slow")
        clock.advance(30)
        if number == 0:
            api.complete(task, success=False, error="no", error_code="timeout")
            task = api.claim("fast")
            clock.advance(30)
        api.complete(task)
    clock.advance(90)
    maintain(api)
    return api


def test_statistics_show_waits_runs_failures_and_when_the_backlog_ends(
    busy: Api, clock: Clock
) -> None:
    stats = busy.get("/api/stats")
    run = stats["run_seconds"]["job"]
    assert run["count"] == 7
    assert run["p50"] == pytest.approx(30, rel=0.125)
    wait = stats["wait_seconds"]["job"]
    assert wait["count"] == 7
    assert wait["p95"] == pytest.approx(600 + 180, rel=0.125)
    assert stats["failed_attempts"] == [
        {"type": "job", "error_code": "timeout", "hour": 1, "day": 1}
    ]
    # Six of ten tasks in the last ten minutes: the other four take six minutes and 40 seconds.
    until = clock.now + 400_000
    assert stats["drains_at"] == {"job": format_time(until)}
    assert stats["measured_until"] is not None


def test_a_backlog_that_grows_or_of_which_nothing_is_known_ends_at_no_time(
    busy: Api, clock: Clock
) -> None:
    for _ in range(7):
        busy.create()
    clock.advance(60)
    maintain(busy)
    assert busy.get("/api/stats")["drains_at"] == {"job": None}
    clock.advance(601)
    assert busy.get("/api/stats")["drains_at"] == {"job": None}
    maintain(busy)
    assert busy.get("/api/stats")["drains_at"] == {"job": None}


def test_a_worker_has_its_rates(busy: Api, clock: Clock) -> None:
    rates = {row["id"]: row["done_per_minute"] for row in busy.get("/api/workers")["workers"]}
    assert rates == {
        "fast": {"ten_minutes": 0.6, "hour": 0.1},
        "slow": {"ten_minutes": 0.1, "hour": 0.02},
    }
    clock.advance(300)
    maintain(busy)
    assert busy.get("/api/workers/slow")["done_per_minute"] == {"ten_minutes": 0.1, "hour": 0.02}
    clock.advance(601)
    assert busy.get("/api/workers/slow")["done_per_minute"] is None


def test_a_key_sees_the_rates_of_its_types_alone(busy: Api, clock: Clock) -> None:
    busy.register("mine")
    busy.create("mine")
    busy.complete(busy.claim("fast", type="mine"))
    clock.advance(60)
    maintain(busy)
    mine = busy.with_key(make_key("viewer", task_types=["mine"]))
    stats = mine.get("/api/stats")
    assert set(stats["run_seconds"]) == set(stats["wait_seconds"]) == {"mine"}
    assert (stats["failed_attempts"], stats["drains_at"]) == ([], {"mine": None})
    assert mine.get("/api/workers/fast")["done_per_minute"] == {"ten_minutes": 0.1, "hour": 0.02}


def test_prometheus_gets_histograms(busy: Api) -> None:
    text = busy.call("GET", "/api/metrics").get_data(as_text=True)
    assert "# TYPE taskmanager_run_seconds histogram" in text
    up_to = {
        float(bound): int(count)
        for bound, count in re.findall(
            r'taskmanager_run_seconds_bucket{type="job",le="([^"]+)"} (\d+)', text
        )
    }
    assert {bound: count for bound, count in up_to.items() if bound < 110} == {
        bound: 7 if bound > 30 else 0 for bound in up_to if bound < 110
    }
    assert len(up_to) == 14
    assert up_to[math.inf] == 7
    assert 'taskmanager_run_seconds_sum{type="job"} 210.0' in text
    assert 'taskmanager_run_seconds_count{type="job"} 7' in text
    assert 'taskmanager_failed_attempts_last_hour{type="job",error_code="timeout"} 1' in text


# Plans


def statements_of(call: Any) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    database.query_hooks.append(lambda event: found.append((event.sql, event.params)))
    try:
        call()
    finally:
        database.query_hooks.pop()
    return found


def test_no_statement_reads_the_whole_history_or_all_counts(busy: Api, clock: Clock) -> None:
    busy.complete(busy.claim())
    position = feed.Position(0, fetch_value("SELECT MAX(id) - 3 FROM {task_logs}"))

    def read_all() -> None:
        feed.read_after(position, 100, now=clock.now)
        periods.count_slice(now=clock.now, events=100)
        periods.fold_slice(now=clock.now, rows=10)
        periods.prune_minutes_slice(now=clock.now, rows=10)
        periods.durations_since(clock.now - periods.HOUR_MS)
        periods.durations_of_all_time()
        periods.counts_between(periods.FAILED, 0, clock.now)
        periods.counts_by_time(periods.FINISHED, 0, clock.now, periods.HOUR_MS)

    for sql, values in statements_of(read_all):
        if not re.match(r"SELECT|DELETE|UPDATE", sql) or "cut" in sql.split("FROM")[-1]:
            continue
        for step in plan(sql, values):
            assert "task_logs" not in step or "SEARCH" in step, (sql, step)
            assert "period_counts" not in step or "SEARCH" in step, (sql, step)


def plan(sql: str, values: Any) -> list[str]:
    """`SEARCH table …` or `SCAN table …` for each table."""
    if dialect() is SQLITE:
        return [row[3] for row in execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()]
    rows = fetch_all(f"EXPLAIN {sql}", values)
    return [
        f"{'SCAN' if row['type'] in ('ALL', 'index') else 'SEARCH'} {row['table']}" for row in rows
    ]
