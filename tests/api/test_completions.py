"""Completing: success, failure and retry, fencing by token, and the same report sent twice."""

from collections.abc import Callable
from typing import Any

import pytest

from taskmanager.clock import format_time
from tests.api.tables import dump_tables, send, sent_json
from tests.conftest import Api, Clock


@pytest.fixture
def job(api: Api) -> Api:
    """The API with a type `job` that takes any params."""
    api.register()
    return api


def claimed(api: Api, worker_id: str = "w1", **fields: Any) -> Any:
    """A new task in the hands of a worker, for a lease of ten seconds."""
    api.create(**fields)
    return api.claim(worker_id, lease_seconds=10)


def without_token(task: Any) -> Any:
    return {**task, "claim_token": None}


def pure(task: Any) -> dict[str, Any]:
    """A completion's answer without what differs between a first and a repeated one."""
    return {name: value for name, value in task.items() if name != "replayed"}


@pytest.mark.smoke
def test_a_success_ends_the_task(job: Api, clock: Clock) -> None:
    task = claimed(job)
    clock.advance(3)
    done = job.complete(task, result={"a": 1})
    assert (done["status"], done["result"], done["progress"]) == ("completed", {"a": 1}, 100)
    assert (done["will_retry"], done["replayed"]) == (False, False)
    assert done["completed_at"] == done["updated_at"] == format_time(clock.now)
    assert (done["worker_id"], done["lease_expires_at"], done["attempts"]) == ("w1", None, 1)
    stored = job.get(f"/api/tasks/{task['id']}")
    assert {name: stored[name] for name in done if name in stored} == {
        name: value for name, value in done.items() if name in stored
    }


@pytest.mark.parametrize(
    "result",
    [
        *(
            None,
            True,
            False,
            0,
            -1,
            2**63 - 1,
            1.5,
            1e300,
            "",
            "text",
            "🦄\u2028",
            [],
            [1, [2]],
            {},
        ),
        {"b": {"z": 1, "a": None}, "a": [1.0]},
        "x" * 300_000,
    ],
)
def test_a_result_is_any_json_value(job: Api, result: Any) -> None:
    task = claimed(job)
    body = {
        "worker_id": "w1",
        "claim_token": task["claim_token"],
        "success": True,
        "result": result,
    }
    answer = send(job, f"/api/tasks/{task['id']}/complete", sent_json(body)).get_json()["data"]
    stored = job.get(f"/api/tasks/{task['id']}")["result"]
    assert sent_json(answer["result"]) == sent_json(stored) == sent_json(result)
    assert job.complete(task, result=result)["replayed"] is True


def test_a_failure_with_attempts_left_goes_back_at_once(job: Api, clock: Clock) -> None:
    task = claimed(job)
    failed = job.complete(task, success=False, error="no network", error_code="E_NET")
    assert (failed["will_retry"], failed["status"]) == (True, "pending")
    assert failed["available_at"] == format_time(clock.now)
    assert (failed["error_message"], failed["error_code"]) == ("no network", "E_NET")
    assert (failed["worker_id"], failed["completed_at"]) == (None, None)
    again = job.claim("w2")
    assert (again["id"], again["attempts"]) == (task["id"], 2)
    done = job.complete(again)
    assert (done["error_message"], done["error_code"]) == (None, None)
    assert job.events(task["id"]) == [
        *("created", "claimed", "retry_scheduled", "claimed", "completed"),
    ]


def test_the_last_failure_is_final(job: Api, clock: Clock) -> None:
    task = claimed(job, max_attempts=2)
    assert job.complete(task, success=False, error="one")["will_retry"] is True
    failed = job.complete(job.claim(), success=False, error_message="two")
    assert (failed["status"], failed["will_retry"]) == ("failed", False)
    assert (failed["error_message"], failed["attempts"]) == ("two", 2)
    assert failed["completed_at"] == format_time(clock.now)
    job.claim(status=404)
    errors = [row["message"] for row in job.get(f"/api/tasks/{task['id']}/logs")["logs"]]
    assert [error for error in errors if error] == ["one", "two"]


def test_what_is_not_retryable_fails_for_good(job: Api) -> None:
    task = claimed(job, max_attempts=9)
    failed = job.complete(task, success=False, is_retryable=False, error="broken params")
    assert (failed["status"], failed["will_retry"], failed["attempts"]) == ("failed", False, 1)


@pytest.mark.parametrize(
    ("retry", "delays"),
    [
        (None, [0, 0, 0]),
        ({"strategy": "immediate"}, [0, 0, 0]),
        ({"strategy": "fixed", "base_seconds": 7}, [7, 7, 7]),
        ({"strategy": "exponential", "base_seconds": 2, "max_seconds": 5}, [2, 4, 5]),
        ({"strategy": "exponential", "base_seconds": 0.5}, [0.5, 1, 2]),
    ],
)
def test_the_types_policy_decides_when_to_try_again(
    api: Api, clock: Clock, retry: Any, delays: list[float]
) -> None:
    api.register(retry=retry)
    api.create(max_attempts=9)
    for delay in delays:
        failed = api.complete(api.claim(), success=False)
        assert failed["status"] == ("scheduled" if delay else "pending")
        assert failed["available_at"] == format_time(clock.now + round(delay * 1000))
        if delay:
            clock.advance(delay - 0.001)
            api.claim(status=404)
            clock.advance(0.001)


def test_jitter_spreads_the_retries_between_half_and_all_of_the_delay(
    api: Api, clock: Clock
) -> None:
    api.register(retry={"strategy": "fixed", "base_seconds": 100, "jitter": True})
    for _ in range(30):
        api.create()
    seen = set()
    for task in api.claim(limit=30)["tasks"]:
        seen.add(api.complete(task, success=False)["available_at"])
    assert len(seen) > 20
    low, high = format_time(clock.now + 50_000), format_time(clock.now + 100_000)
    assert all(str(low) <= moment <= str(high) for moment in seen)


def test_the_worker_may_say_when_to_try_again(api: Api, clock: Clock) -> None:
    api.register(retry={"strategy": "fixed", "base_seconds": 500})
    api.create()
    failed = api.complete(api.claim(), success=False, retry_after_seconds=2.5)
    assert failed["available_at"] == format_time(clock.now + 2_500)
    clock.advance(3)
    assert api.complete(api.claim(), success=False, retry_after_seconds=0)["status"] == "pending"


def test_a_success_with_an_error_is_refused(job: Api) -> None:
    task = claimed(job)
    assert "no error" in job.complete(task, 400, error="oops")["message"]
    assert job.get(f"/api/tasks/{task['id']}")["status"] == "claimed"


def test_a_token_that_was_never_given_out_is_refused(job: Api) -> None:
    task = claimed(job)
    before = dump_tables()
    refused = job.complete({**task, "claim_token": "made-up"}, 409)
    assert (refused["code"], refused["details"]["status"]) == ("claim_lost", "claimed")
    assert "never given out" in refused["message"]
    assert dump_tables() == before


def test_a_token_of_another_task_is_refused(job: Api) -> None:
    one, other = claimed(job), claimed(job)
    refused = job.complete({**one, "claim_token": other["claim_token"]}, 409)
    assert refused["code"] == "claim_lost"


@pytest.mark.parametrize("same_name", [True, False])
def test_a_zombie_cannot_finish_the_next_attempt(job: Api, clock: Clock, same_name: bool) -> None:
    zombie = claimed(job, "w1")
    clock.advance(11)
    current = job.claim("w1" if same_name else "w2")
    assert current["id"] == zombie["id"]
    before = dump_tables()
    for report in ({"success": True}, {"success": False, "error": "late"}):
        refused = job.complete(zombie, 409, **report)
        assert refused["code"] == "claim_lost"
        assert "another attempt has begun" in refused["message"]
        assert refused["details"] == {"status": "claimed", "attempts": 2}
    assert dump_tables() == before
    assert job.complete(current)["status"] == "completed"


def test_without_a_token_the_workers_name_must_match(job: Api) -> None:
    task = claimed(job, "w1")
    refused = job.complete({**without_token(task), "worker_id": "w2"}, 403)
    assert refused["code"] == "claimed_by_other"
    assert "w1" not in refused["message"]
    assert job.complete(without_token(task))["status"] == "completed"


def test_a_token_in_the_hands_of_another_worker_is_refused(job: Api) -> None:
    task = claimed(job, "w1")
    assert job.complete({**task, "worker_id": "w2"}, 403)["code"] == "claimed_by_other"


@pytest.mark.parametrize("token", [None, "made-up"])
def test_a_task_that_nobody_holds_cannot_be_completed(job: Api, token: str | None) -> None:
    task = {**job.create(), "worker_id": "w1", "claim_token": token}
    refused = job.complete(task, 409)
    assert refused["code"] == ("claim_lost" if token else "task_not_claimed")
    assert refused["details"]["status"] == "pending"


def let_the_lease_run_out(job: Api, task: Any, clock: Clock) -> None:
    clock.advance(11)


def give_back(job: Api, task: Any, clock: Clock) -> None:
    job.post(f"/api/tasks/{task['id']}/release", {"worker_id": "w1"})


def report_failure(job: Api, task: Any, clock: Clock) -> None:
    job.complete(task, success=False, error="no network")


def fail_for_good_and_retry(job: Api, task: Any, clock: Clock) -> None:
    job.complete(task, success=False, is_retryable=False)
    job.post(f"/api/tasks/{task['id']}/retry")


def cancel_and_retry(job: Api, task: Any, clock: Clock) -> None:
    job.post(f"/api/tasks/{task['id']}/cancel")
    job.post(f"/api/tasks/{task['id']}/retry")


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (let_the_lease_run_out, "Attempt 1 of task {} has lost its lease"),
        (give_back, "Attempt 1 of task {} was handed back"),
        (report_failure, "Attempt 1 of task {} was reported as failed"),
        (fail_for_good_and_retry, "Attempt 1 of task {} was reported as failed"),
        (cancel_and_retry, "Attempt 1 of task {} ended when the task was cancelled"),
    ],
)
def test_a_worker_that_comes_too_late_is_told_what_became_of_its_attempt(
    job: Api, clock: Clock, end: Callable[[Api, Any, Clock], None], told: str
) -> None:
    task = claimed(job, "w1")
    told = told.format(task["id"])
    end(job, task, clock)
    if end is not let_the_lease_run_out:  # until another attempt begins, its report counts
        refused = job.complete(task, 409)
        assert refused["code"] == "task_not_claimed"
        assert refused["message"].startswith(f"{told}; the task is pending")
    assert job.claim("w2")["id"] == task["id"]
    refused = job.complete(task, 409)
    assert refused["code"] == "claim_lost"
    assert refused["message"].startswith(f"{told} and another attempt has begun")


@pytest.mark.parametrize("success", [True, False])
def test_what_a_report_leaves_empty_may_be_null(job: Api, success: bool) -> None:
    empty = dict.fromkeys(("result", "error", "error_message", "error_code", "retry_after_seconds"))
    done = job.complete(claimed(job), success=success, **empty)
    assert done["status"] == ("completed" if success else "pending")
    assert (done["error_message"], done["error_code"]) == (None, None)


def test_a_task_that_was_given_back_is_no_longer_claimed(job: Api) -> None:
    task = claimed(job)
    job.post(f"/api/tasks/{task['id']}/release", {"worker_id": "w1"})
    for report in (task, without_token(task)):
        assert job.complete(report, 409)["code"] == "task_not_claimed"


def test_a_finished_task_stays_finished(job: Api, clock: Clock) -> None:
    task = claimed(job)
    job.complete(task, result=1)
    before = dump_tables()
    for report, fields in (
        (task, {"result": 2}),
        (task, {"success": False, "error": "x"}),
        (without_token(task), {"result": 2}),
        ({**task, "worker_id": "w2"}, {"result": 1}),
        ({**without_token(task), "worker_id": "w2"}, {"result": 1}),
        ({**task, "claim_token": "made-up"}, {"result": 1}),
    ):
        refused = job.complete(report, 409, **fields)
        assert refused["code"] == "task_finished"
        assert "already completed" in refused["message"]
        assert refused["details"] == {"status": "completed"}
    assert dump_tables() == before


def test_a_cancelled_task_tells_its_worker(job: Api) -> None:
    task = claimed(job)
    job.post(f"/api/tasks/{task['id']}/cancel", {})
    refused = job.complete(task, 409)
    assert (refused["code"], refused["details"]) == ("task_cancelled", {"status": "cancelled"})


def test_a_task_that_is_not_there_cannot_be_completed(job: Api) -> None:
    task = {**claimed(job), "id": 10**12}
    assert job.complete(task, 404)["code"] == "task_not_found"


@pytest.mark.parametrize("with_token", [True, False])
@pytest.mark.parametrize(
    "report",
    [
        {"success": True, "result": {"b": 1, "a": [1.5]}},
        {"success": True},
        {"success": False, "error": "x", "error_code": "E", "is_retryable": False},
        {"success": False, "error": "x", "error_code": "E"},
        {"success": False},
        {"success": False, "error": "x", "retry_after_seconds": 30},
    ],
)
def test_the_same_completion_sent_twice_answers_the_same(
    job: Api, clock: Clock, with_token: bool, report: dict[str, Any]
) -> None:
    task = claimed(job)
    held = task if with_token else without_token(task)
    first = job.complete(held, **report)
    assert first["replayed"] is False
    before = dump_tables()
    clock.advance(2)
    for _ in range(2):
        again = job.complete(held, **report)
        assert again["replayed"] is True
        assert pure(again) == pure(first)
    assert dump_tables() == before


def test_a_different_completion_is_not_a_replay(job: Api) -> None:
    task = claimed(job)
    job.complete(task, success=False, error="x", error_code="E")
    for fields in (
        {"success": True},
        {"success": False, "error": "y", "error_code": "E"},
        {"success": False, "error": "x", "error_code": "F"},
        {"success": False, "error": "x"},
        {"success": False, "error": "x", "error_code": "E", "is_retryable": False},
    ):
        assert job.complete(task, 409, **fields)["code"] == "task_not_claimed"


def test_a_report_of_an_attempt_before_a_retry_by_hand_does_not_stand_for_a_later_one(
    api: Api, clock: Clock
) -> None:
    api.register("job", max_attempts=1, lease_seconds=60)
    api.create("job")
    task = api.claim("w1")
    api.complete(without_token(task), success=False, error="x")
    api.post(f"/api/tasks/{task['id']}/retry", {}, 200)
    again = api.claim("w1")  # its attempt has the number 1 too
    clock.advance(61)
    api.post("/api/maintenance/run", {}, 200)
    assert api.complete(without_token(again), 409, success=False, error="x")["code"] == (
        "task_finished"
    )


def test_a_failure_is_recognised_after_another_worker_has_claimed_the_retry(job: Api) -> None:
    task = claimed(job, "w1")
    job.complete(task, success=False, error="x")
    current = job.claim("w2")
    again = job.complete(task, success=False, error="x")
    assert (again["replayed"], again["will_retry"], again["status"]) == (True, True, "claimed")
    assert job.complete(task, 409)["code"] == "claim_lost"
    refused = job.complete(without_token(task), 403, success=False, error="x")
    assert refused["code"] == "claimed_by_other"
    assert job.complete(current)["status"] == "completed"
    assert job.complete(task, success=False, error="x")["replayed"] is True


@pytest.mark.parametrize("requeued", [False, True])
@pytest.mark.parametrize("with_token", [True, False])
def test_work_finished_after_the_lease_counts_while_nobody_else_took_it(
    job: Api, clock: Clock, requeued: bool, with_token: bool
) -> None:
    task = claimed(job)
    clock.advance(60)
    if requeued:
        job.claim("other", type="nothing-of-it", status=404)
        assert job.events(task["id"])[-1] == "lease_expired"
        assert job.get(f"/api/tasks/{task['id']}")["status"] == "pending"
    done = job.complete(task if with_token else without_token(task), result="late")
    assert (done["status"], done["result"], done["worker_id"]) == ("completed", "late", "w1")


def test_a_failure_reported_after_the_lease_counts_as_that_attempt(job: Api, clock: Clock) -> None:
    task = claimed(job, max_attempts=2)
    clock.advance(60)
    failed = job.complete(task, success=False, error="late")
    assert (failed["will_retry"], failed["attempts"]) == (True, 1)


def failed_for_its_lease(api: Api, clock: Clock, **fields: Any) -> Any:
    """A task whose last attempt has lost its lease, as w1 claimed it."""
    task = claimed(api, max_attempts=1, **fields)
    clock.advance(60)
    api.claim(status=404)
    failed = api.get(f"/api/tasks/{task['id']}")
    assert (failed["status"], failed["error_code"]) == ("failed", "lease_expired")
    return task


@pytest.mark.parametrize("together", [False, True])
def test_work_of_the_last_attempt_counts_though_the_task_failed_for_its_lease(
    job: Api, clock: Clock, together: bool
) -> None:
    task = failed_for_its_lease(job, clock)
    clock.advance(60)
    report = {"id": task["id"], "claim_token": task["claim_token"], "success": True, "result": 1}
    if together:
        body = {"worker_id": "w1", "completions": [report, report]}
        first, again = (each["task"] for each in job.post("/api/tasks/complete", body)["results"])
    else:
        first, again = (job.complete(task, result=1) for _ in range(2))
    assert (first["status"], first["result"], first["attempts"]) == ("completed", 1, 1)
    assert (first["error_code"], first["error_message"]) == (None, None)
    assert first["completed_at"] == format_time(clock.now)
    assert again["replayed"] is True
    assert job.events(task["id"])[-3:] == ["claimed", "lease_expired", "completed"]
    assert job.complete(task, 409, result=2)["code"] == "task_finished"
    assert job.get("/api/workers/w1")["tasks_completed"] == 1


def test_a_failure_of_the_last_attempt_reported_late_says_why_the_task_failed(
    job: Api, clock: Clock
) -> None:
    task = failed_for_its_lease(job, clock)
    report = {"success": False, "error": "no network", "error_code": "E"}
    failed, again = (job.complete(task, **report) for _ in range(2))
    assert (failed["status"], failed["will_retry"]) == ("failed", False)
    assert (failed["error_message"], failed["error_code"]) == ("no network", "E")
    assert again["replayed"] is True
    assert job.events(task["id"])[-2:] == ["lease_expired", "failed"]
    assert job.complete(task, 409)["code"] == "task_finished"


def test_of_a_failed_task_only_the_token_of_its_last_attempt_may_report(
    job: Api, clock: Clock
) -> None:
    first = claimed(job, max_attempts=2)
    clock.advance(60)
    last = job.claim("w1", lease_seconds=10)
    clock.advance(60)
    job.claim(status=404)
    before = dump_tables()
    for report in (first, without_token(last), {**last, "claim_token": "made-up"}):
        refused = job.complete(report, 409)
        assert (refused["code"], refused["details"]["status"]) == ("task_finished", "failed")
    assert job.complete({**last, "worker_id": "w2"}, 403)["code"] == "claimed_by_other"
    assert dump_tables() == before
    assert job.complete(last)["status"] == "completed"


@pytest.mark.parametrize("claims_again", [False, True])
def test_a_retry_that_followed_the_lost_lease_stands(
    job: Api, clock: Clock, claims_again: bool
) -> None:
    task = failed_for_its_lease(job, clock)
    job.post(f"/api/tasks/{task['id']}/retry")
    if claims_again:
        job.claim("w2")
    refused = job.complete(task, 409)
    assert refused["code"] == ("claim_lost" if claims_again else "task_not_claimed")
    assert "has lost its lease" in refused["message"]
    assert job.get(f"/api/tasks/{task['id']}")["attempts"] == int(claims_again)


def test_a_task_that_took_the_key_of_the_failed_one_stays(job: Api, clock: Clock) -> None:
    task = failed_for_its_lease(job, clock, dedupe="active")
    other = job.create(dedupe="active", params={})
    assert other["id"] != task["id"]
    assert job.complete(task)["status"] == "completed"
    assert job.get(f"/api/tasks/{other['id']}")["status"] == "pending"
    again = {"type": "job", "params": {}, "dedupe": "active"}
    assert job.post("/api/tasks", again)["id"] == other["id"]


def test_a_task_that_failed_by_a_report_stays_failed_whatever_its_error_code(job: Api) -> None:
    task = claimed(job)
    job.complete(task, success=False, is_retryable=False, error_code="lease_expired")
    assert job.complete(task, 409)["code"] == "task_finished"


def test_a_batch_of_completions_answers_for_each(job: Api, clock: Clock) -> None:
    for _ in range(5):
        job.create(max_attempts=2)
    tasks = job.claim("w1", limit=4)["tasks"]
    foreign = job.claim("w2")
    job.post(f"/api/tasks/{tasks[3]['id']}/cancel", {})
    items = [
        {"id": tasks[0]["id"], "claim_token": tasks[0]["claim_token"], "success": True,
         "result": [1]},
        {"id": tasks[1]["id"], "success": False, "error": "x", "retry_after_seconds": 5},
        {"id": tasks[2]["id"], "success": False, "is_retryable": False},
        {"id": tasks[3]["id"], "success": True},
        {"id": foreign["id"], "success": True},
        {"id": 10**12, "success": True},
        {"id": tasks[0]["id"], "claim_token": tasks[0]["claim_token"], "success": True,
         "result": [1]},
        {"id": tasks[0]["id"], "success": True, "result": [2]},
    ]  # fmt: skip
    body = {"worker_id": "w1", "completions": items}
    done = job.post("/api/tasks/complete", body)
    results = done["results"]
    assert [result["id"] for result in results] == [item["id"] for item in items]
    assert [result["outcome"] for result in results] == [
        *("completed", "scheduled", "failed", "error", "error", "error", "completed", "error"),
    ]
    assert [result["error"]["code"] for result in results if "error" in result] == [
        *("task_cancelled", "claimed_by_other", "task_not_found", "task_finished"),
    ]
    assert [result["error"]["status"] for result in results if "error" in result] == [
        *(409, 403, 404, 409),
    ]
    assert results[0]["task"]["result"] == [1]
    assert results[1]["task"]["will_retry"] is True
    assert (results[0]["task"]["replayed"], results[6]["task"]["replayed"]) == (False, True)
    assert (done["count"], done["failed"]) == (4, 4)
    before = dump_tables()
    again = job.post("/api/tasks/complete", body)
    assert [result["outcome"] for result in again["results"]] == [
        result["outcome"] for result in results
    ]
    assert dump_tables() == before
    short = job.post("/api/tasks/complete", {**body, "with_tasks": False})
    assert short["results"] == [
        {name: value for name, value in result.items() if name != "task"}
        for result in again["results"]
    ]


def test_a_batch_counts_for_its_worker(job: Api) -> None:
    for _ in range(3):
        job.create()
    tasks = job.claim("w1", limit=3)["tasks"]
    items = [{"id": task["id"], "success": n > 0} for n, task in enumerate(tasks)]
    job.post("/api/tasks/complete", {"worker_id": "w1", "completions": items})
    worker = job.get("/api/workers/w1")
    assert (worker["tasks_completed"], worker["tasks_failed"], worker["tasks_held"]) == (2, 1, 0)


@pytest.mark.parametrize(
    ("completions", "path"),
    [
        ([], "completions"),
        ([{"id": 1, "success": True}] * 1_001, "completions"),
        ({}, "completions"),
        ([{"success": True}], "completions[0].id"),
        ([{"id": 1}], "completions[0].success"),
        ([{"id": 1, "success": True}, {"id": "x", "success": True}], "completions[1].id"),
        ([{"id": 1, "success": True, "reslt": 1}], "completions[0].reslt"),
        ([1], "completions[0]"),
    ],
)
def test_a_batch_that_makes_no_sense_is_refused(job: Api, completions: Any, path: str) -> None:
    body = {"worker_id": "w", "completions": completions}
    refused = job.post("/api/tasks/complete", body, 400)
    assert refused["details"][0]["path"] == path


def test_a_batch_that_touches_nothing_writes_nothing(job: Api) -> None:
    before = dump_tables()
    done = job.post(
        "/api/tasks/complete",
        {"worker_id": "nobody", "completions": [{"id": 10**12, "success": True}]},
    )
    assert done["failed"] == 1
    assert dump_tables() == before


def test_a_task_shows_how_each_of_its_attempts_failed(api: Api, clock: Clock) -> None:
    api.register(max_attempts=3)
    task = api.create()
    api.complete(api.claim("worker-1"), success=False, error="no route", error_code="network")
    api.claim("worker-2", lease_seconds=10)
    clock.advance(11)
    api.complete(api.claim("worker-3"), success=False, error="disk full")

    shown = api.get(f"/api/tasks/{task['id']}")
    errors = [
        (one["attempt"], one["worker_id"], one["error_message"], one["error_code"])
        for one in shown["attempt_errors"]
    ]
    assert errors == [
        (1, "worker-1", "no route", "network"),
        (2, "worker-2", None, "lease_expired"),
        (3, "worker-3", "disk full", None),
    ]
    assert shown["waiting_because"]["code"] == "attempts_used"


def test_each_of_a_hundred_and_more_reports_together_has_its_own_outcome(
    api: Api, clock: Clock
) -> None:
    api.register(max_attempts=2)
    api.post(
        "/api/tasks/batch",
        {"tasks": [{"type": "job", "params": {"n": n}} for n in range(130)]},
        201,
    )
    tasks = api.claim("w", limit=100)["tasks"] + api.claim("w", limit=100)["tasks"]
    reports = [own_report(number, task) for number, task in enumerate(tasks)]

    answer = api.post("/api/tasks/complete", {"worker_id": "w", "completions": reports})

    assert (answer["count"], answer["failed"]) == (130, 0)
    for number, (task, result) in enumerate(zip(tasks, answer["results"], strict=True)):
        stored = api.get(f"/api/tasks/{task['id']}")
        told = result["task"]
        assert {name: stored[name] for name in told if name in stored} == {
            name: told[name] for name in told if name in stored
        }
        if number % 3 == 0:
            assert (stored["status"], stored["result"]) == ("completed", reports[number]["result"])
        elif number % 3 == 1:
            assert (stored["status"], stored["error_message"]) == ("failed", f"no {number}")
        else:
            assert stored["status"] == "scheduled"
            assert stored["error_code"] == (f"E{number}" if number % 2 else None)
            assert stored["available_at"] == format_time(clock.now + number * 1_000)
        last = ("completed", "failed", "retry_scheduled")[number % 3]
        assert api.events(task["id"]) == ["created", "claimed", last]


def test_a_second_report_in_a_batch_after_a_failure_hears_what_became_of_the_first(
    job: Api,
) -> None:
    task = claimed(job, max_attempts=3)
    report = {"id": task["id"], "claim_token": task["claim_token"]}
    failure = {**report, "success": False, "error": "disk full"}
    reports = [failure, {**report, "success": True}, failure]

    answer = job.post("/api/tasks/complete", {"worker_id": "w1", "completions": reports})

    first, second, third = answer["results"]
    assert (first["task"]["will_retry"], first["task"]["replayed"]) == (True, False)
    assert second["error"]["message"].startswith("Attempt 1 of task")
    assert "was reported as failed" in second["error"]["message"]
    assert (third["task"]["will_retry"], third["task"]["replayed"]) == (True, True)


def own_report(number: int, task: dict[str, Any]) -> dict[str, Any]:
    """A result, a failure for good or one to be tried again, by its number."""
    report = {"id": task["id"], "claim_token": task["claim_token"]}
    if number % 3 == 0:
        results = (None, number, "x" * number, {"n": [number]})
        return {**report, "success": True, "result": results[number % 4]}
    failure = {**report, "success": False, "error": f"no {number}"}
    if number % 3 == 1:
        return {**failure, "is_retryable": False}
    code = {"error_code": f"E{number}"} if number % 2 else {}
    return {**failure, **code, "retry_after_seconds": number}
