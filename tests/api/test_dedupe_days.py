"""A type's `dedupe_days`: a pruned task is emptied, and holds its key until they are over."""

from typing import Any

import pytest

from taskmanager.clock import format_time
from taskmanager.db.statements import fetch_all, fetch_one
from tests.conftest import Api, Clock, make_key

DAY = 86_400  # seconds
RETENTION = 30  # days, by default
BODY = {"type": "job", "params": {"url": "https://example.org/secret"}}


def prune(api: Api, clock: Clock, days: float) -> Any:
    clock.advance(days * DAY)
    return api.post("/api/maintenance/run", {})


@pytest.fixture
def job(api: Api) -> Api:
    api.register(dedupe_days=90)
    return Api(api.client, make_key("admin"))


def ended(api: Api, how: str = "completed", **fields: Any) -> int:
    """The id of a task that ended as `how`, with content wherever a task can have some."""
    task_id: int = api.post("/api/tasks", {**BODY, **fields}, 201)["id"]
    held = api.claim()
    report = {"worker_id": "worker-1", "progress": 50, "message": "secret"}
    api.post(f"/api/tasks/{task_id}/progress", report)
    if how == "cancelled":
        api.post(f"/api/tasks/{task_id}/cancel", {"reason": "secret"})
    elif how == "failed":
        api.complete(held, success=False, is_retryable=False, error="secret", error_code="secret")
    else:
        api.complete(held, result={"secret": 1})
    return task_id


@pytest.mark.parametrize("how", ["completed", "failed", "cancelled"])
def test_a_pruned_task_keeps_its_key_and_nothing_of_its_content(
    job: Api, clock: Clock, how: str
) -> None:
    task_id = ended(job, how)
    before = job.get(f"/api/tasks/{task_id}")

    assert prune(job, clock, RETENTION + 1)["pruned"] == 1

    again = job.post("/api/tasks", BODY)
    assert (again["id"], again["deduplicated"], again["status"]) == (task_id, True, how)
    found = job.get(f"/api/tasks/{task_id}")
    assert found["pruned_at"] == format_time(clock.now)
    assert found["dedupe_until"] == format_time(clock.now + (90 - RETENTION - 1) * DAY * 1000)
    assert found["params"] == {}
    gone = ("result", "error_message", "error_code", "progress_message", "worker_id", "claimed_at")
    assert [found[name] for name in gone] == [None] * len(gone)
    kept = ("status", "dedupe_key", "priority", "attempts", "created_at", "completed_at")
    assert [found[name] for name in kept] == [before[name] for name in kept]
    assert job.events(task_id) == []
    assert "secret" not in repr(fetch_all("SELECT * FROM tasks"))


def test_the_days_count_from_the_end_and_then_the_task_is_deleted(job: Api, clock: Clock) -> None:
    task_id = ended(job)
    prune(job, clock, RETENTION + 1)
    assert prune(job, clock, 90 - RETENTION - 1 - 0.01)["pruned"] == 0
    assert job.post("/api/tasks", BODY)["id"] == task_id

    assert prune(job, clock, 0.01)["pruned"] == 0  # it was counted when it was emptied

    job.get(f"/api/tasks/{task_id}", 404)
    assert job.post("/api/tasks", BODY, 201)["id"] > task_id


def test_days_that_are_over_before_the_retention_change_nothing(job: Api, clock: Clock) -> None:
    job.patch("/api/task-types/job", {"dedupe_days": RETENTION - 1})
    task_id = ended(job)

    assert prune(job, clock, RETENTION)["pruned"] == 0
    assert job.post("/api/tasks", BODY)["id"] == task_id
    assert prune(job, clock, 1)["pruned"] == 1
    job.get(f"/api/tasks/{task_id}", 404)


def test_a_task_that_holds_no_key_when_it_is_finished_is_deleted(job: Api, clock: Clock) -> None:
    job.register("other")
    ids = [ended(job, dedupe=policy) for policy in ("none", "active")]
    ids.append(ended(job, type="other"))

    assert prune(job, clock, RETENTION + 1)["pruned"] == 3

    for task_id in ids:
        job.get(f"/api/tasks/{task_id}", 404)


def test_what_a_pruned_task_got_stays_whatever_becomes_of_its_type(job: Api, clock: Clock) -> None:
    task_id = ended(job)
    prune(job, clock, RETENTION + 1)
    until = job.get(f"/api/tasks/{task_id}")["dedupe_until"]
    job.patch("/api/task-types/job", {"dedupe_days": None})

    assert prune(job, clock, 1)["pruned"] == 0
    assert job.get(f"/api/tasks/{task_id}")["dedupe_until"] == until


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_a_pruned_task_cannot_be_retried(job: Api, clock: Clock, how: str) -> None:
    task_id = ended(job, how)
    prune(job, clock, RETENTION + 1)

    refused = job.post(f"/api/tasks/{task_id}/retry", {}, 409)

    assert refused["code"] == "task_not_retryable"
    pruned_at = format_time(clock.now)
    assert f"was pruned at {pruned_at}: its params are gone" in refused["message"]
    assert job.get(f"/api/tasks/{task_id}")["status"] == how


def test_a_late_report_on_a_pruned_task_is_refused(job: Api, clock: Clock) -> None:
    """A task whose last lease expired keeps the token for such a report, until it is pruned."""
    job.post("/api/tasks", {**BODY, "max_attempts": 1}, 201)
    held = job.claim()
    prune(job, clock, 1)
    assert job.get(f"/api/tasks/{held['id']}")["error_code"] == "lease_expired"
    prune(job, clock, RETENTION + 1)

    assert job.complete(held, 409)["code"] == "task_finished"
    assert job.get(f"/api/tasks/{held['id']}")["result"] is None


def test_lists_and_counts_have_pruned_tasks_under_their_status(job: Api, clock: Clock) -> None:
    pruned = ended(job)
    prune(job, clock, RETENTION + 1)
    recent = ended(job, dedupe_key="other")

    listed = job.get("/api/tasks?status=completed&with_total=true&include=params,result")
    assert listed["total"] == 2
    assert {task["id"]: bool(task["pruned_at"]) for task in listed["tasks"]} == {
        pruned: True,
        recent: False,
    }
    assert job.get("/api/stats")["by_status"]["completed"] == 2


def test_many_pruned_tasks_do_not_keep_others_from_being_pruned(job: Api, clock: Clock) -> None:
    """They are older than all others: pruning must pass by them, and never empty them again."""
    tasks = [{**BODY, "dedupe_key": f"k{number}"} for number in range(120)]
    job.post("/api/tasks/batch", {"tasks": tasks}, 201)
    for _ in range(2):
        claimed = job.claim(limit=100)["tasks"]
        reports = [
            {"id": task["id"], "claim_token": task["claim_token"], "success": True}
            for task in claimed
        ]
        job.post("/api/tasks/complete", {"worker_id": "worker-1", "completions": reports})
    assert prune(job, clock, RETENTION + 1)["pruned"] == 120
    ended(job)

    assert prune(job, clock, RETENTION + 1)["pruned"] == 1
    counted = fetch_one("SELECT COUNT(*) AS n, COUNT(DISTINCT pruned_at) AS times FROM tasks")
    assert counted == {"n": 121, "times": 2}

    prune(job, clock, 60)
    assert fetch_one("SELECT COUNT(*) AS n FROM tasks") == {"n": 0}


def test_a_type_registered_without_the_field_keeps_its_days(api: Api) -> None:
    assert api.register()["dedupe_days"] is None
    assert api.register(dedupe_days=365)["dedupe_days"] == 365
    assert api.register()["dedupe_days"] == 365
    assert api.get("/api/task-types/job")["dedupe_days"] == 365
    assert api.patch("/api/task-types/job", {"dedupe_days": None})["dedupe_days"] is None


@pytest.mark.parametrize("days", [0, -1, 36_501, 1.5, "90", True])
def test_days_that_mean_nothing_are_refused(api: Api, days: Any) -> None:
    api.register()
    refused = api.patch("/api/task-types/job", {"dedupe_days": days}, 400)
    assert "dedupe_days" in refused["message"]
