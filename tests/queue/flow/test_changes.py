"""PATCH /api/tasks/{id}, and what a request does to the task that exists already."""

from typing import Any

import pytest

from taskmanager.clock import format_time
from tests.conftest import Api, Clock

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}


@pytest.fixture
def job(api: Api, clock: Clock) -> Api:
    api.register(schema=SCHEMA)
    return api


def create(api: Api, status: int = 201, **fields: Any) -> Any:
    return api.post("/api/tasks", {"type": "job", "params": {"n": 1}, **fields}, status)


def test_every_field_of_a_waiting_task_can_be_changed(job: Api, clock: Clock) -> None:
    task = create(job)
    path = f"/api/tasks/{task['id']}"
    changed = job.patch(
        path,
        {"params": {"n": 2}, "priority": 7, "max_attempts": 9, "delay_seconds": 60, "tags": ["a"]},
    )
    assert changed == {name: value for name, value in job.get(path).items() if name in changed}
    assert changed["params"] == {"n": 2}
    assert (changed["priority"], changed["max_attempts"], changed["tags"]) == (7, 9, ["a"])
    assert (changed["status"], changed["available_at"]) == (
        "scheduled",
        format_time(clock.now + 60_000),
    )
    assert [one["id"] for one in job.get("/api/tasks?tag=a")["tasks"]] == [task["id"]]
    assert job.patch(path, {"available_at": "2020-01-01T00:00:00Z"})["status"] == "pending"
    assert job.patch(path, {"tags": []})["tags"] == []
    assert job.get("/api/tasks?tag=a")["tasks"] == []
    logs = job.get(f"{path}/logs")["logs"]
    assert [log["event"] for log in logs] == ["created", "updated", "updated", "updated"]
    assert logs[1]["message"] == "delay_seconds, max_attempts, params, priority, tags"
    assert job.get("/api/admin/audit")["events"][0]["event"] == "task_updated"


def test_a_changed_priority_is_the_order_of_claims(job: Api) -> None:
    first, second = create(job), create(job, params={"n": 2})
    job.patch(f"/api/tasks/{second['id']}", {"priority": 1})
    assert [job.claim()["id"], job.claim()["id"]] == [second["id"], first["id"]]


def test_changed_params_are_checked_and_de_duplicated_again(job: Api) -> None:
    first, second = create(job), create(job, params={"n": 2})
    path = f"/api/tasks/{second['id']}"
    assert job.patch(path, {"params": {"n": "x"}}, 400)["code"] == "validation_failed"
    refused = job.patch(path, {"params": {"n": 1}}, 409)
    assert refused["code"] == "duplicate_task"
    assert refused["details"] == {"task_id": first["id"]}
    assert job.get(path)["params"] == {"n": 2}
    job.patch(path, {"params": {"n": 3}})
    assert create(job, 200, params={"n": 3})["id"] == second["id"]
    assert create(job, params={"n": 2})["id"] != second["id"]


def test_a_key_of_its_own_stays_when_the_params_change(job: Api) -> None:
    task = create(job, dedupe_key="mine")
    changed = job.patch(f"/api/tasks/{task['id']}", {"params": {"n": 5}})
    assert changed["dedupe_key"] == task["dedupe_key"]


@pytest.mark.parametrize("status", ["claimed", "completed", "cancelled"])
def test_a_task_that_does_not_wait_stays_as_it_is(job: Api, status: str) -> None:
    path = f"/api/tasks/{create(job)['id']}"
    if status == "cancelled":
        job.post(f"{path}/cancel", {})
    else:
        held = job.claim()
        if status == "completed":
            job.complete(held)
    refused = job.patch(path, {"priority": 3}, 409)
    assert (refused["code"], refused["details"]) == ("task_not_waiting", {"status": status})


def test_attempts_that_are_used_cannot_be_taken_away(job: Api) -> None:
    path = f"/api/tasks/{create(job)['id']}"
    job.complete(job.claim(), success=False)
    assert "has used 1 attempts" in job.patch(path, {"max_attempts": 1}, 400)["message"]
    assert job.patch(path, {"max_attempts": 2})["max_attempts"] == 2


def test_nothing_to_change_is_refused(job: Api) -> None:
    assert "at least one field" in job.patch(f"/api/tasks/{create(job)['id']}", {}, 400)["message"]


def test_a_task_is_postponed_as_long_as_it_is_asked_for_again(job: Api, clock: Clock) -> None:
    """A debounce: the task runs once, when nobody has asked for it for a minute."""
    fields: dict[str, Any] = {"dedupe": "active", "delay_seconds": 60, "on_duplicate": "postpone"}
    task = create(job, **fields)
    assert task["on_duplicate"] is None
    clock.advance(50)
    again = create(job, 200, **fields)
    assert (again["id"], again["on_duplicate"]) == (task["id"], "postponed")
    assert again["available_at"] == format_time(clock.now + 60_000)
    clock.advance(59)
    job.claim(status=404)
    clock.advance(1)
    held = job.claim()
    kept = create(job, 200, **fields)
    assert (kept["id"], kept["on_duplicate"], kept["status"]) == (task["id"], "kept", "claimed")
    job.complete(held)
    assert create(job, **fields)["id"] != task["id"]


def test_the_latest_request_replaces_the_one_that_waits(job: Api) -> None:
    fields = {"dedupe_key": "index", "on_duplicate": "replace"}
    task = create(job, **fields, delay_seconds=60)
    again = create(job, 200, params={"n": 2}, priority=3, **fields)
    assert (again["id"], again["on_duplicate"]) == (task["id"], "replaced")
    assert (again["params"], again["priority"], again["status"]) == ({"n": 2}, 3, "pending")
    assert create(job, 200, params={"n": 9}, dedupe_key="index")["params"] == {"n": 2}


def test_a_batch_says_what_became_of_each_task_that_existed(job: Api) -> None:
    create(job, delay_seconds=60)
    item = {"type": "job", "params": {"n": 1}}
    items = [item, {**item, "on_duplicate": "postpone", "delay_seconds": 90}]
    results = job.post("/api/tasks/batch", {"tasks": items})["results"]
    assert [result["on_duplicate"] for result in results] == [None, "postponed"]


def test_a_window_lets_one_task_through(job: Api, clock: Clock) -> None:
    """A throttle: one task in ten minutes, whatever becomes of it."""
    task = create(job, dedupe_seconds=600)
    clock.advance(599)
    assert create(job, 200, dedupe_seconds=600)["id"] == task["id"]
    clock.advance(1)
    second = create(job, dedupe_seconds=600)
    assert second["id"] != task["id"]
    assert create(job, 200)["id"] == second["id"]


def test_a_task_whose_window_is_over_can_be_tried_again(job: Api, clock: Clock) -> None:
    task = create(job, dedupe_seconds=60)
    job.post(f"/api/tasks/{task['id']}/cancel", {})
    clock.advance(60)
    create(job, dedupe_seconds=60)
    assert job.post(f"/api/tasks/{task['id']}/retry", {})["status"] == "pending"


@pytest.mark.parametrize("policy", ["active", "none"])
def test_a_window_belongs_to_the_policy_forever(job: Api, policy: str) -> None:
    refused = create(job, 400, dedupe=policy, dedupe_seconds=60)
    assert "dedupe: forever" in refused["message"]
