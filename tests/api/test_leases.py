"""Progress, heartbeat and release of one task, and cancelling and retrying it from outside."""

from typing import Any

import pytest

from taskmanager.clock import format_time
from tests.api.tables import dump_tables
from tests.conftest import Api, Clock

CALLS: dict[str, dict[str, Any]] = {"progress": {"progress": 50}, "heartbeat": {}, "release": {}}


@pytest.fixture
def job(api: Api) -> Api:
    """The API with a type `job` that takes any params."""
    api.register()
    return api


@pytest.fixture
def task(job: Api, clock: Clock) -> Any:
    """A task in the hands of w1, for a lease of sixty seconds."""
    job.create()
    return job.claim("w1", lease_seconds=60)


def tell(api: Api, task: Any, what: str, status: int = 200, **fields: Any) -> Any:
    """One of the calls about a task, as its holder, with its token."""
    body = {
        "worker_id": task["worker_id"],
        "claim_token": task["claim_token"],
        **CALLS[what],
        **fields,
    }
    return api.post(f"/api/tasks/{task['id']}/{what}", body, status)


def test_progress_is_stored_and_renews_the_lease(job: Api, task: Any, clock: Clock) -> None:
    clock.advance(30)
    told = tell(job, task, "progress", progress=40, message="4 of 10 pages")
    assert (told["progress"], told["progress_message"]) == (40, "4 of 10 pages")
    assert told["lease_expires_at"] == format_time(clock.now + 60_000)
    assert (told["status"], told["cancelled"], told["next_heartbeat_in"]) == ("claimed", False, 20)
    stored = job.get(f"/api/tasks/{task['id']}")
    assert (stored["progress"], stored["progress_message"]) == (40, "4 of 10 pages")
    tell(job, task, "progress", progress=41)
    assert job.get(f"/api/tasks/{task['id']}")["progress_message"] is None


@pytest.mark.parametrize(
    ("lease_seconds", "expected"), [(1, 0.33), (2, 0.66), (5, 1), (60, 20), (89, 29), (90, 30)]
)
def test_each_answer_about_a_lease_asks_for_a_heartbeat_within_a_third_of_it(
    job: Api, clock: Clock, lease_seconds: int, expected: float
) -> None:
    job.create()
    task = job.claim("w1", lease_seconds=lease_seconds)
    assert (task["lease_seconds"], task["next_heartbeat_in"]) == (lease_seconds, expected)
    for what in ("heartbeat", "progress"):
        told = tell(job, task, what)
        assert (told["lease_seconds"], told["next_heartbeat_in"]) == (lease_seconds, expected)


def test_a_worker_that_obeys_keeps_a_task_of_a_short_lease(api: Api, clock: Clock) -> None:
    api.register(lease_seconds=5)
    api.create()
    task = told = api.claim("w1")
    for _ in range(10):
        clock.advance(told["next_heartbeat_in"])
        api.claim("w2", status=404)
        told = tell(api, task, "heartbeat")
    assert api.complete(task)["attempts"] == 1
    assert "lease_expired" not in api.events(task["id"])


def test_a_heartbeat_that_changes_the_lease_is_answered_for_the_new_one(
    job: Api, task: Any
) -> None:
    told = tell(job, task, "heartbeat", lease_seconds=6)
    assert (told["lease_seconds"], told["next_heartbeat_in"]) == (6, 2)


def test_a_repeated_claim_asks_for_a_heartbeat_within_what_is_left(job: Api, clock: Clock) -> None:
    job.create()
    for passed, expected in [(0, 20), (48, 4), (11, 0.33)]:
        clock.advance(passed)
        [task] = job.claim("w1", lease_seconds=60, request_id="r", limit=5)["tasks"]
        assert (task["lease_seconds"], task["next_heartbeat_in"]) == (60, expected)


@pytest.mark.parametrize("progress", [0, 1, 100, 50.0])
def test_progress_goes_from_zero_to_a_hundred(job: Api, task: Any, progress: float) -> None:
    assert tell(job, task, "progress", progress=progress)["progress"] == progress


@pytest.mark.parametrize("progress", [-1, 101, 0.5, "50", None, True])
def test_any_other_progress_is_refused(job: Api, task: Any, progress: Any) -> None:
    refused = tell(job, task, "progress", 400, progress=progress)
    assert refused["details"][0]["path"] == "progress"


def test_a_heartbeat_renews_the_lease_for_as_long_as_before(
    job: Api, task: Any, clock: Clock
) -> None:
    for _ in range(5):
        clock.advance(50)
        told = tell(job, task, "heartbeat")
        assert told["lease_expires_at"] == format_time(clock.now + 60_000)
        job.claim("w2", status=404)
    clock.advance(61)
    assert job.claim("w2")["id"] == task["id"]


def test_a_heartbeat_may_ask_for_another_lease_which_then_stays(
    job: Api, task: Any, clock: Clock
) -> None:
    told = tell(job, task, "heartbeat", lease_seconds=5)
    assert told["lease_expires_at"] == format_time(clock.now + 5_000)
    told = tell(job, task, "progress")
    assert told["lease_expires_at"] == format_time(clock.now + 5_000)


def test_renewing_a_lease_leaves_no_row_in_the_history(job: Api, task: Any) -> None:
    tell(job, task, "heartbeat")
    tell(job, task, "progress")
    assert job.events(task["id"]) == ["created", "claimed"]


@pytest.mark.parametrize("with_token", [True, False])
def test_a_released_task_goes_back_and_the_attempt_is_not_counted(
    job: Api, task: Any, with_token: bool
) -> None:
    tell(job, task, "progress")
    told = tell(job, task, "release", claim_token=task["claim_token"] if with_token else None)
    assert (told["status"], told["attempts"], told["progress"]) == ("pending", 0, None)
    assert (told["worker_id"], told["lease_expires_at"], told["claimed_at"]) == (None, None, None)
    again = job.claim("w2")
    assert (again["id"], again["attempts"]) == (task["id"], 1)
    assert job.events(task["id"]) == ["created", "claimed", "released", "claimed"]


def test_a_task_can_be_released_for_ever_without_failing(job: Api) -> None:
    job.create(max_attempts=1)
    for _ in range(5):
        assert tell(job, job.claim("w1"), "release")["status"] == "pending"


def test_a_release_may_ask_for_a_delay(job: Api, task: Any, clock: Clock) -> None:
    told = tell(job, task, "release", delay_seconds=7.5)
    assert told["status"] == "scheduled"
    assert told["available_at"] == format_time(clock.now + 7_500)
    clock.advance(7.4)
    job.claim(status=404)
    clock.advance(0.1)
    assert job.claim()["attempts"] == 1


@pytest.mark.parametrize("what", CALLS)
def test_only_the_holder_may_speak_of_a_task(job: Api, task: Any, what: str) -> None:
    before = dump_tables()
    refused = tell(job, task, what, 403, worker_id="w2", claim_token=None)
    assert refused["code"] == "claimed_by_other"
    assert tell(job, task, what, 403, worker_id="w2")["code"] == "claimed_by_other"
    assert tell(job, task, what, 409, claim_token="made-up")["code"] == "claim_lost"
    assert dump_tables() == before
    tell(job, task, what, claim_token=None)


@pytest.mark.parametrize("what", CALLS)
def test_a_holder_who_lost_the_task_is_told_so(
    job: Api, task: Any, clock: Clock, what: str
) -> None:
    clock.advance(61)
    job.claim("w1")
    before = dump_tables()
    assert tell(job, task, what, 409)["code"] == "claim_lost"
    assert dump_tables() == before


@pytest.mark.parametrize("what", CALLS)
def test_a_task_that_is_not_held_is_refused(job: Api, task: Any, what: str) -> None:
    waiting = {**job.create(), "worker_id": "w1", "claim_token": None}
    assert tell(job, waiting, what, 409)["code"] == "task_not_claimed"
    job.complete(task)
    assert tell(job, task, what, 409)["code"] == "task_finished"
    assert tell(job, {**task, "id": 10**12}, what, 404)["code"] == "task_not_found"


@pytest.mark.parametrize("what", ["heartbeat", "progress"])
def test_a_cancelled_task_is_said_to_be_cancelled(job: Api, task: Any, what: str) -> None:
    job.post(f"/api/tasks/{task['id']}/cancel", {})
    before = dump_tables()
    told = tell(job, task, what)
    assert (told["cancelled"], told["status"], told["lease_expires_at"]) == (
        True,
        "cancelled",
        None,
    )
    assert (told["lease_seconds"], told["next_heartbeat_in"]) == (60, 30)
    assert dump_tables() == before
    assert tell(job, task, "release", 409)["code"] == "task_cancelled"


@pytest.mark.parametrize("what", ["heartbeat", "progress"])
def test_a_late_sign_of_life_takes_the_task_back_while_nobody_else_has(
    job: Api, task: Any, clock: Clock, what: str
) -> None:
    clock.advance(61)
    job.create(delay_seconds=600)
    job.claim("w2", type="other", status=404)
    assert job.get(f"/api/tasks/{task['id']}")["status"] == "pending"
    told = tell(job, task, what)
    assert (told["status"], told["lease_expires_at"]) == (
        "claimed",
        format_time(clock.now + 60_000),
    )
    assert job.events(task["id"])[-2:] == ["lease_expired", "lease_restored"]
    job.claim("w2", status=404)
    assert job.complete(task)["attempts"] == 1


@pytest.mark.parametrize("what", CALLS)
def test_a_task_that_failed_for_its_lease_is_neither_renewed_nor_handed_back(
    job: Api, clock: Clock, what: str
) -> None:
    job.create(max_attempts=1)
    task = job.claim("w1", lease_seconds=60)
    clock.advance(61)
    job.claim("w2", status=404)
    before = dump_tables()
    refused = tell(job, task, what, 409)
    assert (refused["code"], refused["details"]) == ("task_finished", {"status": "failed"})
    assert dump_tables() == before


def cancel(api: Api, task: Any, status: int = 200, **body: Any) -> Any:
    return api.post(f"/api/tasks/{task['id']}/cancel", body, status)


def retry(api: Api, task: Any, status: int = 200) -> Any:
    return api.post(f"/api/tasks/{task['id']}/retry", None, status)


@pytest.mark.parametrize("state", ["scheduled", "pending", "claimed"])
def test_every_unfinished_task_can_be_cancelled(job: Api, clock: Clock, state: str) -> None:
    made = job.create(delay_seconds=60 if state == "scheduled" else 0)
    if state == "claimed":
        job.claim()
    cancelled = cancel(job, made, reason="no longer wanted")
    assert (cancelled["status"], cancelled["lease_expires_at"]) == ("cancelled", None)
    assert cancelled["completed_at"] == format_time(clock.now)
    event = job.get(f"/api/tasks/{made['id']}/logs")["logs"][-1]
    assert (event["event"], event["message"]) == ("cancelled", "no longer wanted")
    clock.advance(3_600)
    job.claim(status=404)


def test_cancelling_twice_changes_nothing(job: Api, clock: Clock) -> None:
    made = job.create()
    first = cancel(job, made)
    before = dump_tables()
    clock.advance(5)
    assert cancel(job, made) == first
    assert dump_tables() == before


@pytest.mark.parametrize("success", [True, False])
def test_a_finished_task_cannot_be_cancelled(job: Api, task: Any, success: bool) -> None:
    job.complete(task, success=success, is_retryable=False)
    refused = cancel(job, task, 409)
    assert refused["code"] == "task_finished"
    assert refused["details"]["status"] == ("completed" if success else "failed")


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_a_retry_takes_the_task_back_with_its_attempts_reset(
    job: Api, task: Any, clock: Clock, how: str
) -> None:
    if how == "failed":
        job.complete(task, success=False, is_retryable=False, error="x")
    else:
        cancel(job, task)
    clock.advance(5)
    again = retry(job, task)
    assert (again["status"], again["attempts"], again["completed_at"]) == ("pending", 0, None)
    assert (again["worker_id"], again["available_at"]) == (None, format_time(clock.now))
    claimed = job.claim("w2")
    assert (claimed["id"], claimed["attempts"]) == (task["id"], 1)
    assert job.complete(claimed)["status"] == "completed"
    assert job.events(task["id"])[-3:] == ["retried", "claimed", "completed"]


@pytest.mark.parametrize("state", ["scheduled", "pending", "claimed", "completed"])
def test_only_a_failed_or_cancelled_task_can_be_retried(job: Api, state: str) -> None:
    made = job.create(delay_seconds=60 if state == "scheduled" else 0)
    if state in ("claimed", "completed"):
        held = job.claim()
        if state == "completed":
            job.complete(held)
    refused = retry(job, made, 409)
    assert (refused["code"], refused["details"]) == ("task_not_retryable", {"status": state})


def test_a_retry_is_refused_while_the_same_task_is_open_again(job: Api) -> None:
    first = job.create(dedupe="active")
    cancel(job, first)
    second = job.create(dedupe="active")
    before = dump_tables()
    assert retry(job, first, 409)["code"] == "duplicate_task"
    assert dump_tables() == before
    cancel(job, second)
    assert retry(job, first)["status"] == "pending"
    assert (
        job.post("/api/tasks", {"type": "job", "params": {}, "dedupe": "active"})["id"]
        == (first["id"])
    )


def test_what_is_not_there_can_be_neither_cancelled_nor_retried(job: Api) -> None:
    for call in (cancel, retry):
        assert call(job, {"id": 10**12}, 404)["code"] == "task_not_found"
