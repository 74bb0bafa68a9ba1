"""`concurrency`: how many tasks of a type are held at once. `start_rate`: how many start."""

from typing import Any

import pytest

from taskmanager.db.statements import fetch_value
from tests.conftest import Api, Clock


@pytest.fixture
def job(api: Api, clock: Clock) -> Api:
    api.register("job", concurrency={"limit": 2})
    api.register("other")
    return api


def create(api: Api, count: int, name: str = "job") -> None:
    for n in range(count):
        api.create(name, {"n": n})


def claim_all(api: Api, **fields: Any) -> list[Any]:
    """Claims one task after the other until there is none."""
    held = []
    while True:
        answer = api.call("POST", "/api/tasks/claim", {"worker_id": "worker-1", **fields})
        if answer.status_code == 404:
            return held
        held.append(answer.get_json()["data"])


def test_no_more_are_handed_out_than_may_be_held(job: Api) -> None:
    create(job, 5)
    held = claim_all(job)
    assert len(held) == 2
    waiting = job.get("/api/tasks?status=pending")["tasks"][0]
    reason = job.get(f"/api/tasks/{waiting['id']}")["waiting_because"]
    assert reason["code"] == "concurrency"
    job.complete(held[0])
    assert len(claim_all(job)) == 1
    job.post(f"/api/tasks/{held[1]['id']}/release", {"worker_id": "worker-1"})
    assert len(claim_all(job)) == 1


def test_a_claim_of_several_gets_what_there_is_room_for(job: Api) -> None:
    create(job, 5)
    assert job.claim(limit=4)["count"] == 2
    job.claim(limit=4, status=404)


def test_other_types_are_handed_out_meanwhile(job: Api) -> None:
    create(job, 5)
    create(job, 3, "other")
    held = claim_all(job)
    assert sorted(task["type"] for task in held) == ["job"] * 2 + ["other"] * 3


def test_an_expired_lease_frees_its_place_and_is_not_taken_up_again(job: Api, clock: Clock) -> None:
    create(job, 3)
    late = job.claim(lease_seconds=10)
    clock.advance(11)
    held = claim_all(job)  # the first of them is `late`, requeued
    assert len(held) == 2
    path, body = f"/api/tasks/{late['id']}/heartbeat", {"worker_id": "worker-1"}
    job.post(path, {**body, "claim_token": late["claim_token"]}, 409)
    job.complete(held[0])


@pytest.mark.parametrize("has_room", [True, False])
def test_a_late_heartbeat_takes_the_task_up_again_where_there_is_room(
    job: Api, clock: Clock, has_room: bool
) -> None:
    create(job, 3)
    late = job.claim(lease_seconds=10)
    clock.advance(11)
    others = [job.claim(limit=1)["tasks"][0] for _ in range(1)]
    if others[0]["id"] == late["id"]:  # it was requeued, and is first again
        late, others = others[0], []
        clock.advance(301)
    job.post("/api/maintenance/run", {})
    body = {"worker_id": "worker-1", "claim_token": late["claim_token"]}
    if not has_room:
        # The other two are older in the order of claims once this one has low priority.
        job.patch(f"/api/tasks/{late['id']}", {"priority": -5})
        assert len(claim_all(job)) == 2
    answer = job.call("POST", f"/api/tasks/{late['id']}/heartbeat", body)
    assert answer.status_code == (200 if has_room else 409), answer.get_json()
    if not has_room:
        assert answer.get_json()["code"] == "claim_lost"
        assert "limit of the type" in answer.get_json()["message"]
    count = fetch_value("SELECT COUNT(*) FROM {tasks} WHERE status = 'claimed'")
    assert count == (1 if has_room else 2)


def test_one_heartbeat_takes_up_no_more_than_there_is_room_for(job: Api, clock: Clock) -> None:
    job.patch("/api/task-types/job", {"concurrency": {"limit": 3}})
    create(job, 3)
    held = [job.claim(lease_seconds=10) for _ in range(3)]
    clock.advance(11)
    job.post("/api/maintenance/run", {})
    job.patch("/api/task-types/job", {"concurrency": {"limit": 2}})
    tasks = [{"id": task["id"], "claim_token": task["claim_token"]} for task in held]
    beat = job.post("/api/workers/heartbeat", {"worker_id": "worker-1", "tasks": tasks})
    assert (len(beat["renewed"]), len(beat["lost"])) == (2, 1)


def test_a_limit_can_be_raised_lowered_and_taken_away(job: Api) -> None:
    create(job, 9)
    assert len(claim_all(job)) == 2
    job.patch("/api/task-types/job", {"concurrency": {"limit": 4, "per": "type"}})
    assert len(claim_all(job)) == 2
    job.patch("/api/task-types/job", {"concurrency": {"limit": 1}})
    assert claim_all(job) == []
    assert job.patch("/api/task-types/job", {"concurrency": None})["concurrency"] is None
    assert len(claim_all(job)) == 5


def test_only_so_many_start_in_a_window(api: Api, clock: Clock) -> None:
    assert api.register("job", start_rate="3 per minute")["start_rate"] == "3/minute"
    create(api, 8)
    for task in claim_all(api):
        api.complete(task)
    assert api.get("/api/stats")["by_status"]["completed"] == 3
    clock.advance(57.5)
    refused = api.claim(status=404)
    assert refused["details"]["poll_after_seconds"] == 3
    waiting = api.get("/api/tasks?status=pending")["tasks"][0]
    reason = api.get(f"/api/tasks/{waiting['id']}")["waiting_because"]
    assert reason["code"] == "start_rate"
    clock.advance(2.5)
    assert api.claim(limit=10)["count"] == 3


def test_both_limits_hold(api: Api, clock: Clock) -> None:
    api.register("job", start_rate="3/minute", concurrency={"limit": 2})
    create(api, 8)
    first, second = claim_all(api)
    api.complete(first)
    [third] = claim_all(api)
    api.complete(second)
    assert claim_all(api) == []
    api.complete(third)
    clock.advance(60)
    assert len(claim_all(api)) == 2


def test_a_clock_that_is_set_back_does_not_stop_a_type(api: Api, clock: Clock) -> None:
    api.register("job", start_rate="1/day")
    create(api, 2)
    clock.advance(86_400)
    assert len(claim_all(api)) == 1
    clock.advance(-86_400)
    assert len(claim_all(api)) == 1


@pytest.mark.parametrize("rate", ["0", "x", "5/year"])
def test_a_rate_that_is_none_is_refused(api: Api, rate: str) -> None:
    body = {"name": "job", "version": "1", "param_schema": {}, "start_rate": rate}
    assert "start_rate" in api.post("/api/task-types/register", body, 400)["message"]
