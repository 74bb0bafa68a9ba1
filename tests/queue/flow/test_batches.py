"""Batches: what follows when the last of their tasks has ended, and that it follows once."""

from typing import Any

import pytest

from taskmanager.db.statements import execute, fetch_value
from taskmanager.db.transactions import write_transaction
from taskmanager.payloads.callbacks import CALLBACKS
from tests.conftest import Api, Clock, make_key

DONE = {"type": "report", "params": {"batch": {"$batch": "id"}}}


@pytest.fixture
def job(api: Api, clock: Clock) -> Api:
    for name in ("job", "report"):
        api.register(name)
    return api


def items(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"type": "job", "params": {"n": n}, **fields} for n in range(count)]


def create(api: Api, count: int = 2, **fields: Any) -> Any:
    return api.post("/api/batches", {"tasks": items(count), **fields}, 201)


def batch_of(api: Api, batch_id: int) -> Any:
    return api.get(f"/api/batches/{batch_id}")


def work(api: Api, **report: Any) -> Any:
    return api.complete(api.claim(type="job"), **report)


def fail(api: Api) -> Any:
    return work(api, success=False, is_retryable=False)


def reports(api: Api) -> list[Any]:
    return [task["params"] for task in api.get("/api/tasks?type=report&include=params")["tasks"]]


def test_the_callbacks_of_a_good_batch_are_created_once_with_its_id(job: Api) -> None:
    batch = create(job, name="two", metadata={"by": "me"}, on_completed=DONE, on_failed=DONE)
    assert (batch["status"], batch["tasks"], batch["progress"]) == ("running", 2, 0)
    assert (batch["name"], batch["metadata"]) == ("two", {"by": "me"})
    assert [result["outcome"] for result in batch["results"]] == ["created", "created"]
    assert {result["task"]["batch_id"] for result in batch["results"]} == {batch["id"]}
    work(job)
    assert (batch_of(job, batch["id"])["progress"], reports(job)) == (50, [])
    work(job)
    found = batch_of(job, batch["id"])
    assert (found["status"], found["progress"]) == ("finished", 100)
    assert found["counts"] == {"completed": 2, "failed": 0, "cancelled": 0, "unfinished": 0}
    assert reports(job) == [{"batch": batch["id"]}]
    assert found["on_failed_task_id"] is None
    logs = job.get(f"/api/tasks/{found['on_completed_task_id']}/logs")["logs"]
    assert logs[0]["metadata"] == {"batch_id": batch["id"]}


def test_a_batch_with_a_failure_says_so_and_a_retry_creates_nothing_twice(job: Api) -> None:
    callbacks = dict.fromkeys(("on_finished", "on_completed", "on_failed"), DONE)
    batch = create(job, **callbacks)
    work(job)
    fail(job)
    found = batch_of(job, batch["id"])
    assert (found["status"], found["on_completed_task_id"]) == ("finished", None)
    assert len(reports(job)) == 2
    answer = job.post(f"/api/batches/{batch['id']}/retry", {})
    assert (answer["changed"], answer["status"]) == (1, "running")
    assert answer["counts"] == {"completed": 1, "failed": 0, "cancelled": 0, "unfinished": 1}
    work(job)
    again = batch_of(job, batch["id"])
    assert again["status"] == "finished"
    assert again["on_finished_task_id"] == found["on_finished_task_id"]
    assert again["on_completed_task_id"] is not None  # for the first time
    assert len(reports(job)) == 3


def test_a_cancelled_batch_is_finished_and_not_completed(job: Api) -> None:
    batch = create(job, 3, on_failed=DONE)
    job.claim()
    answer = job.post(f"/api/batches/{batch['id']}/cancel", {"reason": "no more"})
    assert (answer["changed"], answer["status"], answer["counts"]["cancelled"]) == (
        3,
        "finished",
        3,
    )
    assert reports(job) == [{"batch": batch["id"]}]


def test_an_open_batch_waits_until_it_is_closed(job: Api) -> None:
    batch = job.post("/api/batches", {"on_finished": DONE}, 201)
    assert batch["status"] == "open"
    path = f"/api/batches/{batch['id']}"
    added = job.post(f"{path}/tasks", {"tasks": items(1)}, 201)
    assert (added["tasks"], len(added["results"])) == (1, 1)
    work(job)
    assert (batch_of(job, batch["id"])["status"], reports(job)) == ("open", [])
    assert job.post(f"{path}/close")["status"] == "finished"
    assert len(reports(job)) == 1
    refused = job.post(f"{path}/tasks", {"tasks": items(1)}, 409)
    assert (refused["code"], refused["details"]) == ("batch_closed", {"status": "finished"})
    assert job.post(f"{path}/close")["status"] == "finished"
    assert len(reports(job)) == 1


def test_a_task_that_exists_already_is_no_member(job: Api) -> None:
    other = job.post("/api/tasks", items(1)[0], 201)
    batch = create(job, 1, on_finished=DONE)
    assert batch["results"][0]["outcome"] == "deduplicated"
    assert batch["results"][0]["task"]["id"] == other["id"]
    assert (batch["status"], batch["tasks"], batch["progress"]) == ("finished", 0, 100)
    assert len(reports(job)) == 1
    answer = job.call("POST", "/api/batches", {"tasks": items(2)}).get_json()
    said = "Batch created with 1 new tasks; 1 existed already and are no members"
    assert answer["message"] == said


def test_one_wrong_task_creates_nothing(job: Api) -> None:
    body = {"tasks": [*items(1), {"type": "nothing", "params": {}}]}
    refused = job.post("/api/batches", body, 400)
    assert [one["path"] for one in refused["details"]] == ["tasks[1]"]
    assert job.get("/api/batches")["count"] == 0
    assert job.get("/api/tasks")["count"] == 0


@pytest.mark.parametrize(
    ("callback", "part"),
    [
        ({"type": "nothing", "params": {}}, "on_failed: "),
        ({"type": "report"}, "params"),
        ({**DONE, "dedupe": "active"}, "de-duplicates"),
        ({"type": "strict", "params": {"batch": "x"}}, "on_failed: "),
    ],
)
def test_a_callback_that_could_not_be_created_is_refused_at_once(
    job: Api, callback: Any, part: str
) -> None:
    schema = {"type": "object", "properties": {"batch": {"type": "integer"}}}
    job.register("strict", schema)
    assert part in job.post("/api/batches", {"on_failed": callback}, 400)["message"]
    good = {"type": "strict", "params": DONE["params"]}
    assert job.post("/api/batches", {"on_failed": good}, 201)["status"] == "open"


def test_a_batch_in_a_batch_is_waited_for(job: Api) -> None:
    outer = job.post("/api/batches", {"on_completed": DONE}, 201)
    inner = create(job, 1, parent_batch_id=outer["id"])
    job.post(f"/api/batches/{outer['id']}/close")
    assert batch_of(job, outer["id"])["status"] == "running"
    fail(job)
    assert batch_of(job, outer["id"])["status"] == "finished"
    job.post(f"/api/batches/{inner['id']}/retry", {})
    assert batch_of(job, outer["id"])["status"] == "running"
    work(job)
    statuses = [batch_of(job, one["id"])["status"] for one in (inner, outer)]
    assert (statuses, len(reports(job))) == (["finished", "finished"], 1)
    refused = job.post("/api/batches", {"parent_batch_id": outer["id"]}, 409)
    assert refused["code"] == "batch_closed"


ALL_CALLBACKS = {name: {"type": "report", "params": {"as": name}} for name in CALLBACKS}


def nest(api: Api, depth: int) -> list[Any]:
    """Open batches, each in the one before, the first with all callbacks."""
    made = [api.post("/api/batches", ALL_CALLBACKS, 201)]
    for _ in range(depth - 1):
        made.append(api.post("/api/batches", {"parent_batch_id": made[-1]["id"]}, 201))
    return made


def close(api: Api, *opened: Any) -> None:
    for batch in opened:
        api.post(f"/api/batches/{batch['id']}/close")


def made_as(api: Api) -> list[str]:
    return sorted(params["as"] for params in reports(api))


@pytest.mark.parametrize("is_cancelled", [False, True], ids=["failed", "cancelled"])
def test_a_batch_has_not_completed_if_a_task_far_within_has_not(
    job: Api, is_cancelled: bool
) -> None:
    outer, middle, inner = nest(job, 3)
    for batch in (outer, middle, inner):
        job.post(f"/api/batches/{batch['id']}/tasks", {"tasks": [own_item(batch)]}, 201)
    close(job, outer, middle, inner)
    work(job)
    work(job)
    if is_cancelled:
        job.post(f"/api/batches/{inner['id']}/cancel", {})
    else:
        fail(job)
    found = batch_of(job, outer["id"])
    assert (found["status"], found["counts"]["completed"], found["progress"]) == (
        "finished",
        1,
        100,
    )
    assert made_as(job) == ["on_failed", "on_finished"]


def own_item(batch: Any) -> dict[str, Any]:
    return {"type": "job", "params": {"of": batch["id"]}}


def test_a_failure_within_counts_although_the_outer_batch_ends_later(job: Api) -> None:
    [outer] = nest(job, 1)
    create(job, 1, parent_batch_id=outer["id"])
    fail(job)
    good = job.post("/api/batches", {"parent_batch_id": outer["id"]}, 201)
    job.post(f"/api/batches/{good['id']}/tasks", {"tasks": [own_item(good)]}, 201)
    close(job, good)
    work(job)
    job.post(f"/api/batches/{outer['id']}/tasks", {"tasks": [own_item(outer)]}, 201)
    close(job, outer)
    assert made_as(job) == []
    work(job)
    assert made_as(job) == ["on_failed", "on_finished"]


def test_a_failure_within_counts_although_it_was_pruned(job: Api, clock: Clock) -> None:
    [outer] = nest(job, 1)
    inner = create(job, 1, parent_batch_id=outer["id"])
    fail(job)
    clock.advance(91 * 86_400)
    job.post("/api/maintenance/run", {})
    job.get(f"/api/batches/{inner['id']}", 404)
    close(job, outer)
    assert made_as(job) == ["on_failed", "on_finished"]


def test_a_batch_has_completed_once_all_within_has_been_retried(job: Api) -> None:
    outer, middle = nest(job, 2)
    inner = create(job, 1, parent_batch_id=middle["id"])
    fail(job)
    close(job, outer, middle)
    assert made_as(job) == ["on_failed", "on_finished"]
    job.post(f"/api/batches/{inner['id']}/retry", {})
    assert batch_of(job, outer["id"])["status"] == "running"
    fail(job)
    assert (batch_of(job, outer["id"])["status"], len(reports(job))) == ("finished", 2)
    job.post(f"/api/batches/{inner['id']}/retry", {})
    work(job)
    assert made_as(job) == ["on_completed", "on_failed", "on_finished"]


def test_a_retry_of_the_outer_batch_leaves_those_within_as_they_are(job: Api) -> None:
    outer, inner = nest(job, 2)
    for batch in (outer, inner):
        job.post(f"/api/batches/{batch['id']}/tasks", {"tasks": [own_item(batch)]}, 201)
    close(job, outer, inner)
    fail(job)
    fail(job)
    assert job.post(f"/api/batches/{outer['id']}/retry", {})["changed"] == 1
    assert batch_of(job, inner["id"])["status"] == "finished"
    work(job)
    assert batch_of(job, outer["id"])["status"] == "finished"
    assert made_as(job) == ["on_failed", "on_finished"]
    job.post(f"/api/batches/{inner['id']}/retry", {})
    work(job)
    assert made_as(job) == ["on_completed", "on_failed", "on_finished"]


def test_cancelling_a_batch_closes_and_cancels_all_within(job: Api) -> None:
    outer, middle, inner = made = nest(job, 3)
    other = create(job, 1)
    for batch in (middle, inner, inner):
        task = {**own_item(batch), "dedupe": "none"}
        job.post(f"/api/batches/{batch['id']}/tasks", {"tasks": [task]}, 201)
    done = job.post("/api/batches", {"parent_batch_id": outer["id"], "is_open": False}, 201)
    answer = job.post(f"/api/batches/{outer['id']}/cancel", {"reason": "no more"})
    assert (answer["matched"], answer["changed"], answer["next_cursor"]) == (3, 3, None)
    assert (answer["status"], answer["tasks"]) == ("finished", 0)
    assert [batch_of(job, one["id"])["status"] for one in made] == ["finished"] * 3
    assert [batch_of(job, one["id"])["counts"]["cancelled"] for one in made] == [0, 1, 2]
    assert batch_of(job, other["id"])["status"] == "running"
    assert batch_of(job, done["id"])["finished_at"] == done["finished_at"]
    assert made_as(job) == ["on_failed", "on_finished"]
    events = job.get("/api/admin/audit")["events"]
    assert [event["event"] for event in events].count("tasks_cancelled") == 1


@pytest.mark.parametrize("counts", [(1, 2), (2, 1)])
def test_cancelling_a_batch_again_goes_on_with_those_within(
    job: Api, monkeypatch: pytest.MonkeyPatch, counts: tuple[int, int]
) -> None:
    monkeypatch.setattr("taskmanager.api.batches.CHANGED_AT_ONCE", 2)
    [outer] = nest(job, 1)
    for count in counts:
        tasks = [{"type": "job", "params": {}, "dedupe": "none"}] * count
        job.post("/api/batches", {"tasks": tasks, "parent_batch_id": outer["id"]}, 201)
    answers = [job.post(f"/api/batches/{outer['id']}/cancel", {}) for _ in range(2)]
    assert [answer["changed"] for answer in answers] == [2, 1]
    assert [answer["next_cursor"] is None for answer in answers] == [False, True]
    assert answers[-1]["status"] == "finished"


def test_a_limited_key_cancels_only_what_it_may_see_within(job: Api) -> None:
    limited = job.with_key(make_key("producer", task_types=["job"]))
    outer = limited.post("/api/batches", {}, 201)
    own = create(limited, 1, parent_batch_id=outer["id"])
    other = job.post("/api/batches", {"parent_batch_id": outer["id"], "tasks": items(2)[1:]}, 201)
    assert limited.post(f"/api/batches/{outer['id']}/cancel", {})["changed"] == 1
    assert batch_of(job, own["id"])["status"] == "finished"
    assert batch_of(job, other["id"])["counts"]["unfinished"] == 1
    assert batch_of(job, outer["id"])["status"] == "running"


def test_every_end_of_a_task_counts(job: Api, clock: Clock) -> None:
    """Failed for its lease and then finished late, timed out, expired, deleted."""
    batch = job.post(
        "/api/batches",
        {
            "tasks": [
                {"type": "job", "params": {"n": 1}, "max_attempts": 1},
                {"type": "job", "params": {"n": 2}, "max_attempts": 1, "max_run_seconds": 10},
                {"type": "report", "params": {"n": 3}, "expires_in_seconds": 5},
            ]
        },
        201,
    )
    late = job.claim(type="job", lease_seconds=20)
    job.claim(type="job", lease_seconds=20)
    clock.advance(30)
    job.post("/api/maintenance/run", {})
    found = batch_of(job, batch["id"])
    assert found["counts"] == {"completed": 0, "failed": 2, "cancelled": 1, "unfinished": 0}
    assert found["status"] == "finished"
    job.complete(late)
    found = batch_of(job, batch["id"])
    assert found["counts"] == {"completed": 1, "failed": 1, "cancelled": 1, "unfinished": 0}
    job.post("/api/tasks/delete", {"filter": {"batch_id": batch["id"]}})
    assert batch_of(job, batch["id"])["counts"] == found["counts"]


def test_a_task_that_is_tried_again_keeps_its_batch_waiting(job: Api) -> None:
    batch = create(job, 1)
    work(job, success=False)
    assert batch_of(job, batch["id"])["status"] == "running"
    held = job.claim(type="job")
    job.post(f"/api/tasks/{held['id']}/release", {"worker_id": "worker-1"})
    assert batch_of(job, batch["id"])["progress"] == 0
    work(job)
    assert batch_of(job, batch["id"])["status"] == "finished"


def test_the_tasks_of_a_batch_are_a_list(job: Api) -> None:
    first, second = create(job), job.post("/api/batches", {"tasks": items(4)[2:]}, 201)
    work(job)
    path = f"/api/tasks?batch_id={first['id']}"
    assert job.get(path)["count"] == 2
    assert job.get(f"{path}&status=completed")["count"] == 1
    assert job.get(f"{path}&with_total=true")["total"] == 2
    batches = job.get("/api/batches?limit=1")
    assert [batch["id"] for batch in batches["batches"]] == [second["id"]]
    rest = job.get(f"/api/batches?cursor={batches['next_cursor']}")
    assert [batch["id"] for batch in rest["batches"]] == [first["id"]]
    assert rest["next_cursor"] is None


def test_a_key_of_some_types_sees_the_batches_that_it_has_created(job: Api) -> None:
    limited = job.with_key(make_key("producer", task_types=["job"]))
    own, other = create(limited, 1), create(job)
    assert [batch["id"] for batch in limited.get("/api/batches")["batches"]] == [own["id"]]
    for path in ("", "/close", "/cancel", "/retry"):
        method = "POST" if path else "GET"
        answer = limited.call(method, f"/api/batches/{other['id']}{path}", {} if path else None)
        assert (answer.status_code, answer.get_json()["code"]) == (404, "batch_not_found")
    assert limited.call("POST", "/api/batches", {"on_failed": DONE}).status_code == 400


def test_pruning_keeps_the_figures_of_a_batch_until_it_is_old_itself(
    job: Api, clock: Clock
) -> None:
    batch = job.post("/api/batches", {"tasks": items(1), "is_open": True}, 201)
    work(job)
    clock.advance(31 * 86_400)
    job.post("/api/maintenance/run", {})
    assert job.get("/api/tasks")["count"] == 0
    found = job.post(f"/api/batches/{batch['id']}/close")
    assert (found["status"], found["counts"]["completed"]) == ("finished", 1)
    clock.advance(31 * 86_400)
    job.post("/api/maintenance/run", {})
    job.get(f"/api/batches/{batch['id']}", 404)


def test_maintenance_finishes_a_batch_although_one_within_was_not_good(job: Api) -> None:
    [outer] = nest(job, 1)
    create(job, 1, parent_batch_id=outer["id"])
    fail(job)
    job.post(f"/api/batches/{outer['id']}/tasks", {"tasks": [own_item(outer)]}, 201)
    close(job, outer)
    write_transaction(execute)("DELETE FROM {tasks} WHERE batch_id = ?", (outer["id"],))
    job.post("/api/maintenance/run", {})
    assert batch_of(job, outer["id"])["status"] == "finished"
    assert made_as(job) == ["on_failed", "on_finished"]


def test_maintenance_finishes_a_batch_whose_tasks_were_removed_by_hand(job: Api) -> None:
    batch = create(job, 1, on_finished=DONE)
    write_transaction(execute)("DELETE FROM {tasks} WHERE batch_id = ?", (batch["id"],))
    assert fetch_value("SELECT COUNT(*) FROM {batch_members}") == 0
    job.post("/api/maintenance/run", {})
    assert batch_of(job, batch["id"])["status"] == "finished"
    assert len(reports(job)) == 1
