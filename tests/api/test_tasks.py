"""Making tasks, de-duplication, and reading them back one by one."""

from typing import Any

import pytest

from taskmanager.clock import format_time
from taskmanager.queue.dedupe import dedupe_key
from tests.api.tables import dump_tables, send, sent_json
from tests.conftest import Api, Clock

FIELDS = {
    *("id", "type", "task_type_id", "type_id", "type_version", "status", "params", "result"),
    *("error_message", "error_code", "priority", "progress", "progress_message", "attempts"),
    *("max_attempts", "dedupe", "dedupe_key", "parent_task_id", "batch_id"),
    *("concurrency_key", "group_key", "tags", "traceparent"),
    *("max_run_seconds", "expires_at", "on_dependency_failed"),
    *(
        "notify",
        "worker_id",
        "claimed_by",
        "claimed_at",
        "lease_expires_at",
        "available_at",
        "completed_at",
        "pruned_at",
        "dedupe_until",
        "created_at",
    ),
    "updated_at",
}


@pytest.fixture
def job(api: Api) -> Api:
    """The API with a type `job` that takes any params."""
    api.register()
    return api


def ask(api: Api, params: Any, status: int, **fields: Any) -> Any:
    return api.post("/api/tasks", {"type": "job", "params": params, **fields}, status)


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER_TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
WRONG_TRACES = (
    "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
    "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "00-00000000000000000000000000000000-b7ad6b7169203331-01",
    "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
    "0af7651916cd43dd8448eb211c80319c",
    f"{TRACE}-more",
    f"{TRACE}\n",
)


def test_the_trace_of_a_task_is_kept_from_its_creation_to_its_claim(job: Api) -> None:
    assert ask(job, {"n": 0}, 201)["traceparent"] is None
    job.claim()
    assert ask(job, {"n": 1}, 201, traceparent=TRACE)["traceparent"] == TRACE
    claimed = job.claim()
    assert claimed["traceparent"] == TRACE
    job.complete(claimed)
    assert job.get(f"/api/tasks/{claimed['id']}")["traceparent"] == TRACE
    # The task that exists keeps its own.
    assert ask(job, {"n": 1}, 200, traceparent=OTHER_TRACE)["traceparent"] == TRACE


@pytest.mark.parametrize("path", ["/api/tasks", "/api/tasks/batch", "/api/batches"])
def test_the_header_traceparent_is_for_tasks_without_one_of_their_own(job: Api, path: str) -> None:
    tasks: list[dict[str, Any]] = [
        {"type": "job", "params": {"n": 1}},
        {"type": "job", "params": {"n": 2}, "traceparent": OTHER_TRACE},
    ]
    for body in tasks if path == "/api/tasks" else [{"tasks": tasks}]:
        job.call("POST", path, body, headers={"X-API-Key": job.key, "traceparent": TRACE})
    claimed = job.claim(limit=2)["tasks"]
    assert [task["traceparent"] for task in claimed] == [TRACE, OTHER_TRACE]


@pytest.mark.parametrize("wrong", WRONG_TRACES)
def test_a_trace_that_is_none_is_refused_in_a_body_and_ignored_in_a_header(
    job: Api, wrong: str
) -> None:
    refused = ask(job, {}, 400, traceparent=wrong)
    assert "traceparent" in refused["message"]
    if wrong.isprintable():
        headers = {"X-API-Key": job.key, "traceparent": wrong}
        made = job.call("POST", "/api/tasks", {"type": "job", "params": {}}, headers=headers)
        assert (made.status_code, made.get_json()["data"]["traceparent"]) == (201, None)


def test_a_created_task_can_be_claimed_and_completed(api: Api) -> None:
    api.register()
    created = api.create(params={"b": 1, "a": [1.5, None]})
    assert created["status"] == "pending"

    claimed = api.claim()
    assert (claimed["id"], claimed["status"], claimed["attempts"]) == (created["id"], "claimed", 1)
    assert claimed["params"] == {"b": 1, "a": [1.5, None]}

    done = api.complete(claimed, result={"answer": 42})
    assert (done["status"], done["result"]) == ("completed", {"answer": 42})
    assert api.events(created["id"]) == ["created", "claimed", "completed"]


def test_a_new_task_has_every_field_of_the_contract(job: Api, clock: Clock) -> None:
    made = ask(job, {"a": 1}, 201)
    assert set(made) == FIELDS | {"deduplicated", "on_duplicate"}
    now = format_time(clock.now)
    assert (
        made
        | {
            "type": "job",
            "type_version": "1",
            "status": "pending",
            "params": {"a": 1},
            "priority": 0,
            "attempts": 0,
            "max_attempts": 3,
            "dedupe": "forever",
            "dedupe_key": dedupe_key(type_name="job", params={"a": 1}),
            "available_at": now,
            "created_at": now,
            "updated_at": now,
            "type_id": made["task_type_id"],
            "deduplicated": False,
        }
        == made
    )
    for field in ("result", "worker_id", "claimed_by", "claimed_at", "parent_task_id", "progress"):
        assert made[field] is None
    found = job.get(f"/api/tasks/{made['id']}")
    assert set(found) == FIELDS | {
        "attempt_errors",
        "more_attempt_errors",
        "waiting_because",
    }
    assert {name: found[name] for name in FIELDS} == {name: made[name] for name in FIELDS}


def test_params_come_back_exactly_as_they_were_sent(job: Api) -> None:
    params = {"z": 1, "a": {"y": [1, 2.5, -0.0, 1e22, 1.0], "b": None}, "": "é🦄", "t": True}
    body = sent_json({"type": "job", "params": params})
    made = send(job, "/api/tasks", body).get_json()["data"]
    found = job.get(f"/api/tasks/{made['id']}")["params"]
    assert sent_json(found) == sent_json(params)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": {"x": [{"p": 1, "q": 2}], "y": 1}}, {"a": {"y": 1, "x": [{"q": 2, "p": 1}]}}),
        ({"a": 1.0}, {"a": 1}),
        ({"a": [0, -0.0, 100]}, {"a": [0.0, 0, 1e2]}),
        ({"a": "é"}, {"a": "\u00e9"}),
    ],
)
def test_the_same_params_in_another_spelling_are_the_same_task(
    job: Api, one: Any, other: Any
) -> None:
    first = send(job, "/api/tasks", sent_json({"type": "job", "params": one}))
    second = send(job, "/api/tasks", sent_json({"params": other, "type": "job"}))
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.get_json()["message"] == "Task already exists (deduplicated)"
    assert second.get_json()["data"]["deduplicated"] is True
    assert second.get_json()["data"]["id"] == first.get_json()["data"]["id"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": "1"}),
        ({"a": "x"}, {"a": "X"}),
        ({"a": "x"}, {"a": "x "}),
        ({"a": "e"}, {"a": "é"}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": None}, {}),
        ({"a": 1}, {"a": True}),
    ],
)
def test_different_params_are_different_tasks(job: Api, one: Any, other: Any) -> None:
    assert ask(job, one, 201)["id"] != ask(job, other, 201)["id"]


def test_the_same_params_of_another_type_are_another_task(job: Api) -> None:
    job.register("Job")
    first = ask(job, {}, 201)
    other = job.post("/api/tasks", {"type": "Job", "params": {}}, 201)
    assert (other["type"], other["deduplicated"]) == ("Job", False)
    assert other["id"] != first["id"]


def test_a_duplicate_answers_with_the_task_that_exists_and_its_result(job: Api) -> None:
    first = ask(job, {"a": 1}, 201, priority=5)
    job.complete(job.claim(), result={"answer": 42})
    again = ask(job, {"a": 1}, 200, priority=9, max_attempts=1)
    assert (again["id"], again["status"], again["result"]) == (
        first["id"],
        "completed",
        {"answer": 42},
    )
    assert (again["priority"], again["max_attempts"]) == (5, 3)
    assert job.events(first["id"]) == ["created", "claimed", "completed"]


def finish(api: Api, how: str) -> None:
    """Ends the one open task."""
    if how == "cancelled":
        task = api.get("/api/tasks?status=pending")["tasks"][0]
        api.post(f"/api/tasks/{task['id']}/cancel", {})
    else:
        api.complete(api.claim(), success=how == "completed", is_retryable=False)


@pytest.mark.parametrize("how", ["completed", "failed", "cancelled"])
def test_forever_means_whatever_became_of_the_task(job: Api, how: str) -> None:
    first = ask(job, {}, 201)
    finish(job, how)
    again = ask(job, {}, 200, dedupe="forever")
    assert (again["id"], again["status"]) == (first["id"], how)


@pytest.mark.parametrize("how", ["completed", "failed", "cancelled"])
def test_active_means_until_the_task_is_finished(job: Api, how: str) -> None:
    first = ask(job, {}, 201, dedupe="active")
    assert ask(job, {}, 200, dedupe="active")["id"] == first["id"]
    finish(job, how)
    assert ask(job, {}, 201, dedupe="active")["id"] != first["id"]


@pytest.mark.parametrize("state", ["scheduled", "pending", "claimed"])
def test_active_finds_a_task_in_every_unfinished_state(job: Api, state: str) -> None:
    first = ask(job, {}, 201, dedupe="active", delay_seconds=60 if state == "scheduled" else 0)
    if state == "claimed":
        job.claim()
    again = ask(job, {}, 200, dedupe="active")
    assert (again["id"], again["status"]) == (first["id"], state)


def test_none_always_makes_a_new_task(job: Api) -> None:
    made = [ask(job, {}, 201, dedupe="none")["id"] for _ in range(3)]
    assert len(set(made)) == 3
    assert len({task["dedupe_key"] for task in job.get("/api/tasks")["tasks"]}) == 1


# First policy, is the first task finished by then, second policy: is the second a duplicate?
MIXES = [
    ("forever", False, "forever", True),
    ("forever", False, "active", True),
    ("forever", False, "none", False),
    ("forever", True, "forever", True),
    ("forever", True, "active", False),
    ("forever", True, "none", False),
    ("active", False, "forever", True),
    ("active", False, "active", True),
    ("active", False, "none", False),
    ("active", True, "forever", False),
    ("active", True, "active", False),
    ("active", True, "none", False),
    ("none", False, "forever", False),
    ("none", False, "active", False),
    ("none", True, "forever", False),
    ("none", True, "active", False),
]


@pytest.mark.parametrize(("first", "finished", "second", "duplicate"), MIXES)
def test_how_the_policies_mix(
    job: Api, first: str, finished: bool, second: str, duplicate: bool
) -> None:
    made = ask(job, {}, 201, dedupe=first)
    if finished:
        job.complete(job.claim())
    again = ask(job, {}, 200 if duplicate else 201, dedupe=second)
    assert (again["id"] == made["id"]) is duplicate
    assert again["deduplicated"] is duplicate


def test_a_forever_request_answers_with_the_open_task_before_a_finished_one(job: Api) -> None:
    ask(job, {}, 201, dedupe="forever")
    job.complete(job.claim())
    running = ask(job, {}, 201, dedupe="active")
    again = ask(job, {}, 200, dedupe="forever")
    assert (again["id"], again["status"]) == (running["id"], "pending")


def test_a_dedupe_key_of_ones_own_takes_the_place_of_params(job: Api) -> None:
    first = ask(job, {"at": 1}, 201, dedupe_key="order 7")
    assert ask(job, {"at": 2}, 200, dedupe_key="order 7")["id"] == first["id"]
    assert ask(job, {"at": 1}, 201, dedupe_key="Order 7")["id"] != first["id"]
    assert ask(job, {"at": 1}, 201)["id"] != first["id"]
    for key in ("k" * 255, "🦄", "x\ty"):
        assert ask(job, {}, 201, dedupe_key=key)["params"] == {}
    for key in ("k" * 256, "", 7):
        assert ask(job, {}, 400, dedupe_key=key)["details"][0]["path"] == "dedupe_key"


def test_a_delayed_task_is_scheduled_until_its_time(job: Api, clock: Clock) -> None:
    task = ask(job, {}, 201, delay_seconds=90)
    assert task["status"] == "scheduled"
    assert task["available_at"] == format_time(clock.now + 90_000)
    waiting = job.get(f"/api/tasks/{task['id']}")["waiting_because"]
    assert waiting["code"] == "delayed"
    assert task["available_at"] in waiting["message"]
    clock.advance(89.999)
    job.claim(status=404)
    clock.advance(0.001)
    assert job.claim()["id"] == task["id"]
    assert job.events(task["id"]) == ["created", "due", "claimed"]


def test_a_task_can_be_scheduled_for_a_moment_in_any_time_zone(job: Api, clock: Clock) -> None:
    when = clock.now + 3_600_000 + 2 * 3_600_000
    local = str(format_time(when)).replace("Z", "+02:00")
    task = ask(job, {}, 201, available_at=local)
    assert (task["status"], task["available_at"]) == (
        "scheduled",
        format_time(when - 2 * 3_600_000),
    )


@pytest.mark.parametrize(
    "fields", [{"delay_seconds": 0}, {"available_at": "2001-01-01T00:00:00Z"}, {}]
)
def test_a_time_that_has_passed_means_now(job: Api, clock: Clock, fields: dict[str, Any]) -> None:
    task = ask(job, {}, 201, **fields)
    assert (task["status"], task["available_at"]) == ("pending", format_time(clock.now))


@pytest.mark.parametrize(
    "fields",
    [
        {"delay_seconds": 1, "available_at": "2030-01-01T00:00:00Z"},
        {"delay_seconds": -1},
        {"delay_seconds": 10 * 366 * 86_400 + 1},
        {"available_at": "2999-01-01T00:00:00Z"},
        {"available_at": "2030-01-01T00:00:00"},
        {"available_at": "2030-02-30T00:00:00Z"},
        {"available_at": "2030-06-30T23:59:60Z"},
        {"available_at": "9999-12-31T23:59:59-01:00"},
        {"available_at": "tomorrow"},
        {"available_at": 1_763_000_000},
    ],
)
def test_a_time_that_makes_no_sense_is_refused(job: Api, fields: dict[str, Any]) -> None:
    assert ask(job, {}, 400, **fields)["code"] == "invalid_request"
    assert job.get("/api/tasks")["count"] == 0


def test_a_parent_is_named_and_must_exist(job: Api) -> None:
    parent = ask(job, {"a": 1}, 201)
    assert ask(job, {"a": 2}, 201, parent_task_id=parent["id"])["parent_task_id"] == parent["id"]
    assert ask(job, {"a": 3}, 201, parent_task_id=None)["parent_task_id"] is None
    refused = ask(job, {"a": 4}, 400, parent_task_id=parent["id"] + 1_000)
    assert refused["code"] == "parent_task_not_found"


@pytest.mark.parametrize("priority", [-1_000_000, -1, 0, 1, 1_000_000, 5.0])
def test_a_priority_may_be_negative(job: Api, priority: float) -> None:
    assert ask(job, {}, 201, priority=priority)["priority"] == priority


def test_a_task_that_is_not_there_answers_404(api: Api) -> None:
    for path in ("/api/tasks/1000000", "/api/tasks/1000000/logs"):
        missing = api.get(path, 404)
        assert missing["code"] == "task_not_found"
        assert "1000000" in missing["message"]


@pytest.mark.parametrize(
    "task_id", ["0", "-1", "1.5", "abc", str(2**63), "9" * 30, "9" * 5_000, "1%00", "%27%3B--"]
)
def test_an_id_that_cannot_be_one_answers_404(api: Api, task_id: str) -> None:
    for method, path in (("GET", ""), ("GET", "/logs"), ("POST", "/cancel"), ("POST", "/retry")):
        response = api.call(method, f"/api/tasks/{task_id}{path}")
        assert response.status_code == 404
        assert response.get_json()["code"] in ("not_found", "task_not_found")
    assert api.get(f"/api/tasks/{2**63 - 1}", 404)["code"] == "task_not_found"


def test_the_history_names_event_worker_key_attempt_and_time(job: Api, clock: Clock) -> None:
    task = ask(job, {}, 201)
    clock.advance(1)
    job.complete(job.claim(), success=False, error="no network", error_code="E_NET")
    logs = job.get(f"/api/tasks/{task['id']}/logs")
    assert logs["count"] == 3
    created, claimed, failed = logs["logs"]
    assert (created["event"], created["status"], created["worker_id"]) == (
        "created",
        "pending",
        None,
    )
    assert (claimed["event"], claimed["worker_id"], claimed["attempt"]) == (
        "claimed",
        "worker-1",
        1,
    )
    assert claimed["api_key_id"] == created["api_key_id"] is not None
    assert claimed["created_at"] == format_time(clock.now)
    assert (failed["event"], failed["message"]) == ("retry_scheduled", "no network")
    assert failed["metadata"]["error_code"] == "E_NET"
    assert "claim_token" not in claimed


def test_why_a_task_waits_is_said_in_words_and_as_a_code(job: Api, clock: Clock) -> None:
    task = ask(job, {}, 201)
    path = f"/api/tasks/{task['id']}"
    assert job.get(path)["waiting_because"]["code"] == "no_worker"
    second = job.create()
    claimed = job.claim(sort_by="id", sort_order="DESC")
    assert claimed["id"] == second["id"]
    assert job.get(path)["waiting_because"]["code"] == "queued"
    assert job.get(f"/api/tasks/{second['id']}")["waiting_because"] is None
    job.complete(claimed)
    waiting = job.get(path)["waiting_because"]
    assert (waiting["code"], str(format_time(clock.now)) in waiting["message"]) == (
        "no_worker",
        True,
    )
    job.complete(job.claim(), success=False, retry_after_seconds=60)
    waiting = job.get(path)["waiting_because"]
    assert waiting["code"] == "delayed"
    assert "its last attempt failed" in waiting["message"]


@pytest.mark.parametrize("taken_back", [False, True])
def test_a_worker_that_went_silent_is_no_reason_to_wait(
    job: Api, clock: Clock, taken_back: bool
) -> None:
    waiting, lost = job.create(), job.create()
    assert job.claim(sort_by="id", sort_order="DESC", lease_seconds=60)["id"] == lost["id"]
    taken_at = str(format_time(clock.now))
    clock.advance(60)
    if taken_back:
        job.post("/api/maintenance/run")
        waiting = lost
    reason = job.get(f"/api/tasks/{waiting['id']}")["waiting_because"]
    assert reason["code"] == "no_worker"
    assert f"since {taken_at}" in reason["message"]


def batch(api: Api, tasks: list[Any], status: int, **fields: Any) -> Any:
    return api.post("/api/tasks/batch", {"tasks": tasks, **fields}, status)


def test_a_batch_answers_for_each_task_in_order(job: Api) -> None:
    old = ask(job, {"n": 0}, 201)
    job.register("strict", {"required": ["x"]})
    job.register("closed")
    job.patch("/api/task-types/closed", {"is_active": False})
    done = batch(
        job,
        [
            {"type": "job", "params": {"n": 1}},
            {"type": "job", "params": {"n": 0}},
            {"type": "none", "params": {}},
            {"type": "strict", "params": {}},
            {"type": "job", "params": {"n": 1.0}},
            {"type": "job"},
            {"type": "job", "params": {}, "priorty": 1},
            {"type": "closed", "params": {}},
            {"type": "job", "params": {"n": 2}, "parent_task_id": 10**9},
            {"type": "job", "params": {"n": 3}, "available_at": "2030-06-30T23:59:60Z"},
            {"type": "job", "params": {"n": 4}, "priority": 5, "delay_seconds": 10},
        ],
        201,
    )
    assert [result["outcome"] for result in done["results"]] == [
        *("created", "deduplicated", "error", "error", "deduplicated", "error", "error"),
        *("error", "error", "error", "created"),
    ]
    assert (done["created"], done["deduplicated"], done["failed"]) == (2, 2, 7)
    results = done["results"]
    assert results[1]["task"]["id"] == old["id"]
    assert results[4]["task"]["id"] == results[0]["task"]["id"]
    assert [results[index]["error"]["code"] for index in (2, 3, 5, 6, 7, 8, 9)] == [
        *("task_type_not_found", "validation_failed", "invalid_request", "invalid_request"),
        *("task_type_inactive", "parent_task_not_found", "invalid_request"),
    ]
    assert results[2]["error"]["status"] == 404
    assert results[3]["error"]["details"][0]["path"] == "params.x"
    assert "did you mean 'priority'?" in results[6]["error"]["message"]
    assert (results[10]["task"]["status"], results[10]["task"]["priority"]) == ("scheduled", 5)
    assert "params" not in results[0]["task"]
    assert job.get("/api/tasks?with_total=true")["total"] == 3
    for result in results:
        if result["outcome"] == "created":
            assert job.events(result["task"]["id"]) == ["created"]


def test_a_batch_that_makes_nothing_answers_200(job: Api) -> None:
    ask(job, {}, 201)
    before = dump_tables()
    done = batch(job, [{"type": "job", "params": {}}, {"type": "none", "params": {}}], 200)
    assert (done["created"], done["deduplicated"], done["failed"]) == (0, 1, 1)
    assert batch(job, [{}], 200)["failed"] == 1
    assert dump_tables() == before


def test_a_duplicate_in_a_batch_shows_the_result_that_exists(job: Api) -> None:
    ask(job, {}, 201)
    job.complete(job.claim(), result=[1])
    done = batch(job, [{"type": "job", "params": {}}], 200)
    assert done["results"][0]["task"]["result"] == [1]


def test_an_atomic_batch_makes_all_or_nothing(job: Api) -> None:
    before = dump_tables()
    good = [{"type": "job", "params": {"n": n}} for n in range(3)]
    for bad in ({"type": "none", "params": {}}, {"type": "job"}, {"type": "job", "params": 1}):
        refused = batch(job, [*good, bad], 400, atomic=True)
        assert refused["code"] == "validation_failed"
        assert refused["details"][0]["path"] == "tasks[3]"
        assert "1 of 4 tasks" in refused["message"]
        assert dump_tables() == before
    done = batch(job, [*good, good[0]], 201, atomic=True)
    assert (done["created"], done["deduplicated"]) == (3, 1)


def test_a_batch_of_a_thousand_has_consecutive_answers(job: Api) -> None:
    for n in (3, 700):
        ask(job, {"n": n}, 201)
    tasks = [{"type": "job", "params": {"n": n}} for n in range(1_000)]
    done = batch(job, tasks, 201)
    assert (done["created"], done["deduplicated"]) == (998, 2)
    stored = {row["id"]: row["params"] for row in dump_tables()["tasks"]}
    for n, result in enumerate(done["results"]):
        assert stored[result["task"]["id"]] == f'{{"n":{n}}}'
    assert batch(job, tasks, 200)["deduplicated"] == 1_000


@pytest.mark.parametrize("tasks", [[], [{}] * 1_001, {}, None, [1], ["x"], [None]])
def test_a_batch_is_a_list_of_one_to_a_thousand_objects(job: Api, tasks: Any) -> None:
    refused = batch(job, tasks, 400)
    assert refused["details"][0]["path"].startswith("tasks")


def test_mixed_policies_within_one_batch(job: Api) -> None:
    tasks = [
        {"type": "job", "params": {}, "dedupe": policy}
        for policy in ("active", "none", "forever", "none", "active")
    ]
    done = batch(job, tasks, 201)
    assert [result["outcome"] for result in done["results"]] == [
        *("created", "created", "deduplicated", "created", "deduplicated"),
    ]
    job.claim(limit=10)
    job.post("/api/workers/worker-1/shutdown")
    assert job.get("/api/tasks")["count"] == 3
