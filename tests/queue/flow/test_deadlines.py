"""`expires_at`: claimed by then or cancelled. `max_run_seconds`: an attempt's end."""

from typing import Any

import pytest

from taskmanager.clock import format_time
from taskmanager.db.statements import fetch_value
from taskmanager.queue.flow import deadlines
from tests.conftest import Api, Clock


@pytest.fixture
def job(api: Api, clock: Clock) -> Api:
    api.register()
    return api


def maintain(api: Api) -> Any:
    return api.post("/api/maintenance/run", {})


def task_of(api: Api, task_id: int) -> Any:
    return api.get(f"/api/tasks/{task_id}")


def test_a_task_that_nobody_claims_in_time_is_cancelled(job: Api, clock: Clock) -> None:
    task = job.create(expires_in_seconds=60)
    assert task["expires_at"] == format_time(clock.now + 60_000)
    clock.advance(59)
    assert maintain(job)["expired"] == 0
    clock.advance(1)
    assert maintain(job)["expired"] == 1
    found = task_of(job, task["id"])
    assert (found["status"], found["error_code"]) == ("cancelled", "expired")
    assert "deadline" in found["error_message"]
    assert job.events(task["id"]) == ["created", "expired"]
    assert fetch_value("SELECT COUNT(*) FROM {task_deadlines}") == 0


def test_a_claim_hands_out_no_late_task_but_the_next_one(job: Api, clock: Clock) -> None:
    late = [job.create(expires_in_seconds=1, priority=9) for _ in range(3)]
    good = job.create()
    job.claim(status=404, type="job2")  # has just run the maintenance of this second
    clock.advance(1)
    assert job.claim()["id"] == good["id"]
    assert {task_of(job, task["id"])["status"] for task in late} == {"cancelled"}
    job.claim(status=404)


def test_a_claim_gets_past_more_late_tasks_than_it_clears_at_a_time(job: Api, clock: Clock) -> None:
    count = 3 * deadlines.CANCELLED_BY_A_CLAIM
    bodies = [
        {"type": "job", "params": {"n": n}, "expires_in_seconds": 1, "priority": 9}
        for n in range(count)
    ]
    job.post("/api/tasks/batch", {"tasks": bodies}, 201)
    good = job.create()
    clock.advance(1)
    assert job.claim()["id"] == good["id"]


def test_a_task_that_was_claimed_in_time_does_not_expire(job: Api, clock: Clock) -> None:
    task = job.create(expires_in_seconds=60)
    held = job.claim()
    assert held["expires_at"] is None
    clock.advance(61)
    job.complete(held, success=False)
    assert maintain(job)["expired"] == 1  # the deadline is over, the task is not
    assert job.claim()["id"] == task["id"]


def test_a_task_that_expired_can_be_tried_again_and_then_has_no_deadline(
    job: Api, clock: Clock
) -> None:
    task = job.create(expires_in_seconds=1)
    clock.advance(1)
    maintain(job)
    job.post(f"/api/tasks/{task['id']}/retry", {})
    clock.advance(60)
    maintain(job)
    assert task_of(job, task["id"])["expires_at"] is None
    assert job.claim()["id"] == task["id"]


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"expires_in_seconds": 60, "delay_seconds": 60}, "no worker can claim it before"),
        ({"expires_in_seconds": 0}, "no worker can claim it before"),
        ({"expires_in_seconds": 1, "expires_at": "2999-01-01T00:00:00Z"}, "not both"),
        ({"expires_at": "2999-01-01T00:00:00Z"}, "ten years"),
    ],
)
def test_a_deadline_that_cannot_be_kept_is_refused(job: Api, fields: Any, part: str) -> None:
    body = {"type": "job", "params": {}, **fields}
    assert part in job.post("/api/tasks", body, 400)["message"]


def test_a_lease_ends_with_the_attempt_however_often_it_is_renewed(job: Api, clock: Clock) -> None:
    task = job.create(max_run_seconds=100)
    held = job.claim(lease_seconds=60)
    clock.advance(50)
    path, body = f"/api/tasks/{task['id']}/heartbeat", {"worker_id": "worker-1"}
    renewed = job.post(path, body)
    assert renewed["lease_expires_at"] == format_time(clock.now + 50_000)
    assert renewed["next_heartbeat_in"] == 16
    clock.advance(50)
    refused = job.post(path, body, 409)
    assert (refused["code"], "100 seconds" in refused["message"]) == ("claim_lost", True)
    tasks = [{"id": task["id"], "claim_token": held["claim_token"]}]
    answer = job.post("/api/workers/heartbeat", {"worker_id": "worker-1", "tasks": tasks})
    assert answer["lost"] == [task["id"]]


def test_an_attempt_that_ran_for_too_long_is_tried_again_as_its_type_says(
    api: Api, clock: Clock
) -> None:
    api.register(max_run_seconds=10, retry={"strategy": "fixed", "base_seconds": 30})
    task = api.create(max_attempts=2)
    assert task["max_run_seconds"] == 10
    held = api.claim()
    assert held["lease_expires_at"] == format_time(clock.now + 10_000)
    clock.advance(10)
    assert maintain(api)["requeued"] == 1
    found = task_of(api, task["id"])
    assert (found["status"], found["error_code"]) == ("scheduled", "timed_out")
    assert found["available_at"] == format_time(clock.now + 30_000)
    api.complete(held, 409)
    clock.advance(30)
    api.claim()
    clock.advance(10)
    maintain(api)
    found = task_of(api, task["id"])
    assert (found["status"], found["error_code"]) == ("failed", "timed_out")
    assert [error["error_code"] for error in found["attempt_errors"]] == ["timed_out"] * 2


@pytest.mark.parametrize(("success", "status"), [(True, "completed"), (False, "pending")])
def test_a_report_counts_until_an_attempt_that_ran_for_too_long_was_ended(
    job: Api, clock: Clock, success: bool, status: str
) -> None:
    """Finished work is not thrown away, though the lease is not renewed any more."""
    job.create(max_run_seconds=100)
    held = job.claim()
    clock.advance(150)
    path = f"/api/tasks/{held['id']}"
    body = {"worker_id": "worker-1", "claim_token": held["claim_token"]}
    for call, what in (("heartbeat", {}), ("progress", {"progress": 50})):
        assert job.post(f"{path}/{call}", {**body, **what}, 409)["code"] == "claim_lost"
    assert job.complete(held, success=success)["status"] == status


def test_a_report_is_refused_once_an_attempt_that_ran_for_too_long_was_ended(
    job: Api, clock: Clock
) -> None:
    job.create(max_run_seconds=100, max_attempts=2)
    held = job.claim()
    clock.advance(150)
    maintain(job)
    assert job.complete(held, 409)["code"] == "task_not_claimed"
    last = job.claim()
    assert job.complete(held, 409)["code"] == "claim_lost"
    clock.advance(150)
    maintain(job)
    assert job.complete(last, 409)["code"] == "task_finished"


def test_a_lease_that_expires_earlier_is_no_timeout(job: Api, clock: Clock) -> None:
    task = job.create(max_run_seconds=100, max_attempts=1)
    job.claim(lease_seconds=60)
    clock.advance(200)
    maintain(job)
    assert task_of(job, task["id"])["error_code"] == "lease_expired"


def test_a_task_keeps_the_time_that_its_own_request_gave_it(api: Api, clock: Clock) -> None:
    api.register(max_run_seconds=10)
    assert api.create(max_run_seconds=20)["max_run_seconds"] == 20
