"""A host's clock jumps ahead, something runs, and the clock comes back.

Every test moves the clock, lets one thing happen there, moves it back, and looks at
what was stored by the wrong clock.
"""

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from taskmanager.access import keys
from taskmanager.clock import parse_time
from taskmanager.db.connection import cache
from taskmanager.db.statements import execute, fetch_one, fetch_value
from taskmanager.queue import clock_jumps
from taskmanager.queue.maintenance_runs import last_runs, record_run
from tests.conftest import Api, Clock

DAY = 86_400
TEN_DAYS, YEARS = 10 * DAY, 10 * 365 * DAY
NOON = "2026-01-15T12:00:00.000Z"

jumps = pytest.mark.parametrize("jump", [TEN_DAYS, YEARS])


def claim_nothing(api: Api, worker_id: str) -> None:
    api.call("POST", "/api/tasks/claim", {"worker_id": worker_id, "type": "nothing"})


# What brings maintenance about: cron, and on a host without cron the next claim.
WAYS: dict[str, Callable[[Api], Any]] = {
    "maintenance": lambda api: api.post("/api/maintenance/run", {}),
    "claim": lambda api: claim_nothing(api, "other"),
}
ways = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(autouse=True)
def job(api: Api, clock: Clock) -> None:
    clock.now = parse_time(NOON)
    api.register(max_attempts=3)


def times(task: Any) -> Any:
    return fetch_one("SELECT * FROM {tasks} WHERE id = ?", (task["id"],))


@ways
@jumps
def test_a_lease_of_the_wrong_time_is_cut_to_its_length(
    api: Api, clock: Clock, jump: int, way: str
) -> None:
    api.create()
    clock.advance(jump)
    task = api.claim(lease_seconds=120)
    clock.advance(-jump)
    WAYS[way](api)
    assert times(task)["status"] == "claimed"
    assert times(task)["lease_expires_at"] == clock.now + 120_000
    # The holder is alive and loses nothing; without a sign of life it would be over by now.
    holder = {"worker_id": "worker-1", "claim_token": task["claim_token"], "progress": 5}
    api.post(f"/api/tasks/{task['id']}/progress", holder)
    clock.advance(121)
    WAYS["maintenance"](api)
    assert times(task)["status"] == "pending"


def test_a_lease_taken_before_the_clock_was_set_back_is_cut_too(api: Api, clock: Clock) -> None:
    api.create()
    task = api.claim(lease_seconds=120)
    clock.advance(-YEARS)
    WAYS["claim"](api)
    assert times(task)["lease_expires_at"] == clock.now + 120_000


@jumps
def test_an_attempt_that_began_in_the_future_has_an_end(api: Api, clock: Clock, jump: int) -> None:
    task = api.create(max_run_seconds=300)
    clock.advance(jump)
    held = api.claim(lease_seconds=120)
    clock.advance(-jump)
    holder = {"worker_id": "worker-1", "claim_token": held["claim_token"]}
    for _ in range(3):
        api.post(f"/api/tasks/{task['id']}/heartbeat", holder)
        clock.advance(100)
    assert times(task)["claimed_at"] == clock.now - 300_000
    api.post(f"/api/tasks/{task['id']}/heartbeat", holder, 409)
    WAYS["maintenance"](api)
    assert times(task)["error_code"] == "timed_out"


@jumps
def test_a_batch_that_finished_in_the_future_finished_now(
    api: Api, clock: Clock, jump: int
) -> None:
    batch = api.post("/api/batches", {"tasks": [{"type": "job", "params": {}}]}, 201)
    clock.advance(jump)
    api.complete(api.claim())
    clock.advance(-jump)
    assert clock_jumps.count_ahead(now=clock.now)["batches"] == 1
    WAYS["maintenance"](api)
    assert parse_time(api.get(f"/api/batches/{batch['id']}")["finished_at"]) == clock.now


@ways
def test_a_lease_that_was_committed_late_is_found_by_itself(
    api: Api, clock: Clock, way: str
) -> None:
    """After everything else that shows the jump has been corrected."""
    api.create()
    clock.advance(TEN_DAYS)
    task = api.claim(lease_seconds=120)
    clock.advance(-TEN_DAYS)
    execute("UPDATE {workers} SET last_seen_at = ?", (clock.now,))
    WAYS[way](api)
    assert times(task)["lease_expires_at"] == clock.now + 120_000


@ways
@jumps
def test_what_a_late_request_stores_in_the_future_is_corrected_too(
    api: Api, clock: Clock, jump: int, way: str
) -> None:
    """Both requests have read the wrong clock, and commit after everything has been corrected."""
    clock.advance(jump)
    api.create()
    api.create(params={"n": 2})
    ended, failed = api.claim(limit=2)["tasks"]
    clock.advance(-jump)
    WAYS["claim"](api)
    clock.advance(jump)
    api.complete(ended)
    api.complete(failed, success=False, retry_after_seconds=600)
    execute("UPDATE {workers} SET last_seen_at = ?", (clock.now - jump * 1000,))
    clock.advance(2 - jump)
    assert clock_jumps.seconds_ahead(now=clock.now) == 0
    WAYS[way](api)
    assert times(ended)["completed_at"] == clock.now
    assert times(failed)["available_at"] == clock.now + 600_000


def test_long_leases_of_the_right_time_stay(api: Api, clock: Clock) -> None:
    api.create()
    api.create()
    long = api.claim(lease_seconds=86_400)
    clock.advance(TEN_DAYS / 100)  # less than the long lease
    short = api.claim(lease_seconds=60, worker_id="later")
    clock.advance(-TEN_DAYS / 100)
    before = times(long)["lease_expires_at"]
    WAYS["maintenance"](api)
    assert times(long)["lease_expires_at"] == before
    assert times(short)["lease_expires_at"] == clock.now + 60_000


def test_clocks_that_differ_by_seconds_change_nothing(api: Api, clock: Clock) -> None:
    api.create()
    clock.advance(50)
    task = api.claim(lease_seconds=120)
    clock.advance(-50)
    before = times(task)
    WAYS["maintenance"](api)
    assert times(task) == before


@ways
@jumps
def test_a_retry_waits_for_its_delay_and_no_longer(
    api: Api, clock: Clock, jump: int, way: str
) -> None:
    asked = api.create(delay_seconds=30 * DAY)
    api.create()
    clock.advance(jump)
    task = api.claim(type="job")
    while task["id"] == asked["id"]:  # ten years later it is due as well
        api.complete(task)
        task = api.claim(type="job")
    api.complete(task, success=False, retry_after_seconds=600)
    clock.advance(-jump)
    WAYS[way](api)
    assert times(task)["status"] == "scheduled"
    assert times(task)["available_at"] == clock.now + 600_000
    if jump == TEN_DAYS:
        assert times(asked)["available_at"] == parse_time(NOON) + 30 * DAY * 1000


def test_a_delay_that_was_asked_for_stays(api: Api, clock: Clock) -> None:
    clock.advance(TEN_DAYS)
    task = api.create(delay_seconds=600)
    before = times(task)["available_at"]
    api.create()
    api.claim()
    clock.advance(-TEN_DAYS)
    WAYS["maintenance"](api)
    assert times(task)["available_at"] == before


@ways
@jumps
def test_an_end_in_the_future_is_moved_to_now(api: Api, clock: Clock, jump: int, way: str) -> None:
    api.create()
    clock.advance(jump)
    task = api.complete(api.claim())
    clock.advance(-jump)
    WAYS[way](api)
    row = times(task)
    assert (row["status"], row["completed_at"]) == ("completed", clock.now)
    clock.advance(3_601)
    metrics = api.call("GET", "/api/metrics").text
    assert 'taskmanager_finished_last_hour{type="job",status="completed"} 0' in metrics


@ways
@jumps
@pytest.mark.parametrize("overlap", ["allow", "skip"])
@pytest.mark.parametrize("timing", [{"cron": "0 * * * *"}, {"interval_seconds": 3600}])
def test_a_schedule_goes_on_with_its_first_due_time(
    api: Api, clock: Clock, jump: int, way: str, overlap: str, timing: Any
) -> None:
    body = {"name": "hourly", "type": "job", "params": {}, "overlap": overlap, **timing}
    schedule = api.post("/api/schedules", body, 201)
    clock.advance(jump)
    WAYS[way](api)
    assert fetch_value("SELECT COUNT(*) FROM {tasks}") == 1
    api.complete(api.claim())
    clock.advance(-jump)
    WAYS[way](api)
    assert fetch_value("SELECT COUNT(*) FROM {tasks}") == 1
    shown = api.get(f"/api/schedules/{schedule['id']}")
    assert shown["next_run_at"] == "2026-01-15T13:00:00.000Z"
    for hour in (1, 2):
        clock.advance(3_600)
        WAYS[way](api)
        WAYS[way](api)
        assert fetch_value("SELECT COUNT(*) FROM {tasks}") == 1 + hour
        api.complete(api.claim())


@pytest.mark.parametrize("overlap", ["allow", "skip"])
@pytest.mark.parametrize("timing", [{"cron": "0 * * * *"}, {"interval_seconds": 3600}])
def test_a_due_time_that_was_acted_upon_is_not_acted_upon_again(
    api: Api, clock: Clock, overlap: str, timing: Any
) -> None:
    body = {"name": "hourly", "type": "job", "params": {}, "overlap": overlap, **timing}
    schedule = api.post("/api/schedules", body, 201)
    clock.advance(3_700)  # 13:01:40
    WAYS["maintenance"](api)
    api.complete(api.claim())
    clock.advance(-3_000)  # 12:11:40
    WAYS["maintenance"](api)
    shown = api.get(f"/api/schedules/{schedule['id']}")
    assert shown["next_run_at"] == "2026-01-15T14:00:00.000Z"


@jumps
def test_a_schedule_created_in_the_wrong_time_is_due_by_the_right_one(
    api: Api, clock: Clock, jump: int
) -> None:
    clock.advance(jump)
    body = {"name": "daily", "type": "job", "params": {}, "cron": "0 6 * * *"}
    schedule = api.post("/api/schedules", body, 201)
    clock.advance(-jump)
    WAYS["maintenance"](api)
    shown = api.get(f"/api/schedules/{schedule['id']}")
    assert shown["next_run_at"] == "2026-01-16T06:00:00.000Z"


@ways
@jumps
def test_a_worker_that_was_seen_in_the_future_grows_stale(
    api: Api, clock: Clock, jump: int, way: str
) -> None:
    api.create()
    clock.advance(jump)
    api.complete(api.claim())
    clock.advance(-jump)
    WAYS[way](api)
    clock.advance(3_600)
    assert api.get("/api/workers/worker-1")["status"] == "inactive"


@ways
@jumps
def test_maintenance_of_the_wrong_time_is_forgotten(
    api: Api, clock: Clock, jump: int, way: str
) -> None:
    clock.advance(jump)
    record_run("command", started_at=clock.now, started=time.monotonic(), tasks_moved=0)
    clock.advance(-jump)
    assert clock_jumps.seconds_ahead(now=clock.now) == jump
    WAYS[way](api)
    assert clock_jumps.seconds_ahead(now=clock.now) == 0
    assert "command" not in last_runs()


@jumps
def test_a_keys_last_use_follows_the_clock_back(api: Api, clock: Clock, jump: int) -> None:
    for moved in (jump, -jump, 61):
        clock.advance(moved)
        api.get("/api/stats")
        assert max(key["last_used_at"] or 0 for key in keys.list_keys()) == clock.now


def test_without_a_jump_nothing_is_written(app: Flask, api: Api, clock: Clock) -> None:
    api.create()
    api.complete(api.claim())
    assert clock_jumps.seconds_ahead(now=clock.now) == 0
    assert not clock_jumps.is_set_back(clock_jumps.latest_time(), now=clock.now)


@ways
def test_more_rows_than_one_slice_holds_are_mended(api: Api, clock: Clock, way: str) -> None:
    for n in range(70):
        api.create(params={"n": n})
    clock.advance(TEN_DAYS)
    for task in api.claim(limit=70)["tasks"]:
        api.complete(task)
    clock.advance(-TEN_DAYS)
    late = "SELECT COUNT(*) FROM {tasks} WHERE completed_at > ?"
    for _ in range(10):
        WAYS[way](api)
        if not fetch_value(late, (clock.now + 600_000,)):
            break
        clock.advance(1)
        cache().next_due = None
    assert fetch_value(late, (clock.now + 600_000,)) == 0
    assert clock_jumps.seconds_ahead(now=clock.now) == 0


def test_the_only_worker_does_not_hide_by_its_calls_what_is_left_to_correct(
    api: Api, clock: Clock
) -> None:
    for n in range(70):
        api.create(params={"n": n})
    clock.advance(TEN_DAYS)
    for task in api.claim(limit=70)["tasks"]:
        api.complete(task)
    clock.advance(-TEN_DAYS)
    for _ in range(10):
        api.call("POST", "/api/workers/heartbeat", {"worker_id": "worker-1"})
        claim_nothing(api, "worker-1")
        clock.advance(1)
    assert clock_jumps.count_ahead(now=clock.now) == {}


def test_metrics_show_how_far_stored_times_lie_ahead(api: Api, clock: Clock) -> None:
    api.create()
    clock.advance(TEN_DAYS)
    api.claim()
    clock.advance(-TEN_DAYS)
    ahead = f"taskmanager_stored_times_ahead_seconds {float(TEN_DAYS)}"
    assert ahead in api.call("GET", "/api/metrics").text
    WAYS["maintenance"](api)
    assert "taskmanager_stored_times_ahead_seconds 0\n" in api.call("GET", "/api/metrics").text


def test_metrics_show_how_far_the_clock_of_the_database_differs(
    api: Api, clock: Clock, engine: str
) -> None:
    clock.now = int(time.time() * 1000) - 120_000
    shown = re.findall(
        r"(?m)^taskmanager_database_clock_skew_seconds (\S+)", api.call("GET", "/api/metrics").text
    )
    if engine == "sqlite":
        assert shown == []
    else:
        [skew] = shown
        assert float(skew) == pytest.approx(120, abs=60)
