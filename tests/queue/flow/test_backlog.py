"""`max_open`: how many tasks of a type, and of each of its groups, may be open."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from taskmanager.db.connection import database
from taskmanager.db.statements import fetch_all, fetch_value
from tests.conftest import Api, Clock


@pytest.fixture
def job(api: Api, clock: Clock) -> Api:
    api.register("job", max_open={"type": 3})
    return api


@pytest.fixture
def grouped(api: Api, clock: Clock) -> Api:
    api.register("job", max_open={"group": 2})
    return api


def body(n: int, **fields: Any) -> dict[str, Any]:
    return {"type": "job", "params": {"n": n}, **fields}


def create(api: Api, n: int, status: int = 201, **fields: Any) -> Any:
    return api.post("/api/tasks", body(n, **fields), status)


def open_tasks() -> int:
    ended = "('completed', 'failed', 'cancelled')"
    return int(fetch_value(f"SELECT COUNT(*) FROM {{tasks}} WHERE status NOT IN {ended}"))


def test_a_type_takes_no_more_than_may_be_open(job: Api) -> None:
    tasks = [create(job, n) for n in range(3)]
    answer = job.call("POST", "/api/tasks", body(3))
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "10")
    refused = answer.get_json()
    assert refused["code"] == "queue_full"
    assert refused["message"].startswith("As many tasks of type 'job' are open")
    hint = {"limit": "type", "max_open": 3, "open": 3, "retry_after_seconds": 10}
    assert refused["details"] == hint
    held = job.claim()
    create(job, 3, 429)
    job.complete(held)
    create(job, 3)
    job.post(f"/api/tasks/{tasks[1]['id']}/cancel", {})
    create(job, 4)
    create(job, 5, 429)


def test_nothing_is_left_of_a_task_that_was_refused(job: Api) -> None:
    for n in range(3):
        create(job, n, tags=["a"])
    before = [fetch_value(f"SELECT COUNT(*) FROM {{{t}}}") for t in ("tasks", "task_logs")]
    create(job, 3, 429, tags=["a"], group_key="g", expires_in_seconds=5)
    after = [fetch_value(f"SELECT COUNT(*) FROM {{{t}}}") for t in ("tasks", "task_logs")]
    assert after == before
    assert fetch_all("SELECT * FROM {lanes}") == []


def test_what_waits_for_its_time_or_for_another_task_is_open(job: Api) -> None:
    first = create(job, 0, delay_seconds=60)
    second = create(job, 1, depends_on=[first["id"]])
    assert (first["status"], second["status"]) == ("scheduled", "blocked")
    create(job, 2)
    assert job.call("POST", "/api/tasks", body(3)).status_code == 429


def test_a_task_that_exists_takes_no_room(job: Api) -> None:
    tasks = [create(job, n) for n in range(3)]
    found = create(job, 1, 200)
    assert (found["id"], found["deduplicated"]) == (tasks[1]["id"], True)
    again = create(job, 1, 200, dedupe="active", on_duplicate="postpone", delay_seconds=9)
    assert again["on_duplicate"] == "postponed"


def test_other_types_are_not_full(job: Api) -> None:
    job.register("other", max_open={"type": 1})
    job.register("plain")
    for n in range(3):
        create(job, n)
    job.create("other", {})
    for n in range(5):
        job.create("plain", {"n": n})
    assert fetch_value("SELECT COUNT(*) FROM {tasks}") == 9
    assert job.call("POST", "/api/tasks", body(3)).status_code == 429


def test_each_group_has_its_own_room(grouped: Api) -> None:
    for group in ("a", "b"):
        for n in range(2):
            create(grouped, n, group_key=group, dedupe_key=f"{group}{n}")
    refused = grouped.call("POST", "/api/tasks", body(9, group_key="a")).get_json()
    assert refused["code"] == "queue_full"
    assert "with the group_key 'a' are open" in refused["message"]
    hint = {"limit": "group", "group_key": "a", "max_open": 2, "open": 2, "retry_after_seconds": 10}
    assert refused["details"] == hint
    for n in range(10, 15):  # without a group there is no limit
        create(grouped, n)
    grouped.complete(grouped.claim())
    create(grouped, 9, group_key="a")


def test_a_refusal_says_how_many_there_is_room_for(job: Api) -> None:
    """Whether these are created, or all or none are."""
    create(job, 0)
    tasks = {"tasks": [body(n) for n in range(1, 5)]}
    refused = job.post("/api/batches", tasks, 429)
    message = "There is room for 2 of 4 new tasks of type 'job' (max_open: 3). "
    assert refused["message"] == message + "Wait until some have ended."
    hint = {"limit": "type", "max_open": 3, "open": 1, "retry_after_seconds": 10}
    assert refused["details"] == hint
    last = job.post("/api/tasks/batch", tasks, 201)["results"][-1]
    assert (last["error"]["message"], last["error"]["details"]) == (refused["message"], hint)
    assert open_tasks() == 3


@pytest.mark.parametrize("fair", [True, False])
def test_both_limits_hold(api: Api, fair: bool) -> None:
    api.register("job", max_open={"group": 2, "type": 3}, fair=fair)
    create(api, 0, group_key="a")
    create(api, 1, group_key="a")
    assert create(api, 2, 429, group_key="a")["details"]["limit"] == "group"
    create(api, 3)
    assert create(api, 4, 429)["details"]["limit"] == "type"
    api.patch("/api/task-types/job", {"max_open": {"group": 2}})
    for n in range(5, 9):
        create(api, n)


def end_by_completion(api: Api, clock: Clock) -> None:
    api.complete(api.claim())


def end_by_failure(api: Api, clock: Clock) -> None:
    for _ in range(3):
        held = api.claim()
        report = {"worker_id": "worker-1", "claim_token": held["claim_token"], "success": False}
        api.post(f"/api/tasks/{held['id']}/complete", {**report, "error": "no"})


def end_by_lease(api: Api, clock: Clock) -> None:
    for _ in range(3):
        api.claim(lease_seconds=10)
        clock.advance(11)
    api.post("/api/maintenance/run", {})


def end_by_cancel(api: Api, clock: Clock) -> None:
    api.post("/api/tasks/cancel", {"filter": {"status": "pending"}})


def end_by_deadline(api: Api, clock: Clock) -> None:
    clock.advance(101)
    api.post("/api/maintenance/run", {})


ENDS: list[tuple[Callable[[Api, Clock], None], dict[str, Any]]] = [
    (end_by_completion, {}),
    (end_by_failure, {}),
    (end_by_lease, {}),
    (end_by_cancel, {}),
    (end_by_deadline, {"expires_in_seconds": 100}),
    (end_by_deadline, {"expires_in_seconds": 100, "is_blocked": True}),
]


@pytest.mark.parametrize(("end", "fields"), ENDS)
def test_every_end_of_a_task_makes_room_in_its_group(
    api: Api, clock: Clock, end: Callable[[Api, Clock], None], fields: dict[str, Any]
) -> None:
    api.register("other")
    other = api.create("other", {}, delay_seconds=1000)
    api.register("job", max_open={"group": 1})
    if "is_blocked" in fields:
        fields = {"expires_in_seconds": 100, "depends_on": [other["id"]]}
    create(api, 0, group_key="a", **fields)
    create(api, 1, 429, group_key="a")
    end(api, clock)
    assert open_tasks() == 1  # the one of the other type
    assert fetch_all("SELECT * FROM {lane_members}") == []
    assert fetch_all("SELECT * FROM {lanes}") == []
    create(api, 1, group_key="a")


@pytest.mark.parametrize("params", [{}, {"n": {"$result_of": 0, "path": "x"}}])
def test_a_blocked_task_that_ends_makes_room_in_its_group(
    grouped: Api, params: dict[str, Any]
) -> None:
    """It is cancelled with its dependency, or its result does not fit."""
    first = create(grouped, 0)
    waiting = {"type": "job", "params": params, "depends_on": [first["id"]], "group_key": "a"}
    for n in range(2):
        grouped.post("/api/tasks", {**waiting, "dedupe_key": str(n)}, 201)
    create(grouped, 2, 429, group_key="a")
    if params:
        grouped.complete(grouped.claim(), result={})
    else:
        grouped.post(f"/api/tasks/{first['id']}/cancel", {})
    assert open_tasks() == 0
    assert fetch_all("SELECT * FROM {lane_members}") == []
    create(grouped, 2, group_key="a")


def test_a_batch_creates_what_there_is_room_for(job: Api) -> None:
    create(job, 0)
    job.register("other")
    tasks = [
        {"type": "other", "params": {}},
        body(0),
        body(1),
        {"type": "nothing", "params": {}},
        body(2),
        body(3),
        body(4, depends_on=[{"index": 5}]),
        {"type": "other", "params": {"n": 1}, "depends_on": [{"index": 4}]},
        body(3),
        {"type": "other", "params": {"n": 2}, "depends_on": [{"index": 5}]},
    ]
    answer = job.post("/api/tasks/batch", {"tasks": tasks}, 201)
    outcomes = [one["outcome"] for one in answer["results"]]
    created, found, error = "created", "deduplicated", "error"
    assert outcomes[:5] == [created, found, created, error, created]
    assert outcomes[5:] == [error, error, created, error, error]
    errors = [one.get("error", {}) for one in answer["results"]]
    assert [one.get("code") for one in errors if one] == [
        "task_type_not_found",
        *["queue_full"] * 3,
        "dependency_not_found",
    ]
    assert (errors[5]["status"], errors[5]["details"]["limit"]) == (429, "type")
    assert (answer["created"], answer["deduplicated"], answer["failed"]) == (4, 1, 5)
    last = job.get(f"/api/tasks/{answer['results'][7]['task']['id']}/graph")
    assert last["edges"][0]["depends_on_id"] == answer["results"][4]["task"]["id"]
    full = job.post("/api/tasks/batch", {"tasks": [body(7), body(8)]}, 200)
    assert [one["error"]["code"] for one in full["results"]] == ["queue_full"] * 2


def test_one_task_many_times_is_refused_at_once(job: Api) -> None:
    """Not one by one, each in a transaction of its own."""
    for n in range(3):
        create(job, n)
    turns = []
    database.query_hooks.append(lambda event: turns.append("type_starts" in event.sql))
    answer = job.post("/api/tasks/batch", {"tasks": [body(9)] * 50}, 200)
    database.query_hooks.pop()
    assert answer["failed"] == 50
    assert sum(turns) == 1


def test_in_a_batch_the_first_tasks_of_each_group_are_created(api: Api) -> None:
    api.register("job", max_open={"group": 2, "type": 5})
    groups = ["a", "a", "a", "b", "b", "b", None, None]
    tasks = [body(n, **({"group_key": key} if key else {})) for n, key in enumerate(groups)]
    answer = api.post("/api/tasks/batch", {"tasks": tasks}, 201)
    made = [one["outcome"] == "created" for one in answer["results"]]
    assert made == [True, True, False, True, True, False, True, False]
    limits = Counter(
        one["error"]["details"]["limit"] for one in answer["results"] if "error" in one
    )
    assert limits == {"group": 2, "type": 1}


def test_an_atomic_batch_creates_all_or_nothing(job: Api) -> None:
    tasks = [body(n) for n in range(4)]
    refused = job.post("/api/tasks/batch", {"tasks": tasks, "atomic": True}, 429)
    assert refused["code"] == "queue_full"
    assert open_tasks() == 0
    job.post("/api/tasks/batch", {"tasks": tasks[:3], "atomic": True}, 201)


def test_tasks_of_a_batch_that_do_not_fit_are_not_created(job: Api) -> None:
    job.post("/api/batches", {"tasks": [body(n) for n in range(4)]}, 429)
    assert fetch_value("SELECT COUNT(*) FROM {batches}") == 0
    batch = job.post("/api/batches", {"tasks": [body(0)], "is_open": True}, 201)
    path = f"/api/batches/{batch['id']}/tasks"
    job.post(path, {"tasks": [body(n) for n in range(1, 4)]}, 429)
    assert job.get(f"/api/batches/{batch['id']}")["tasks"] == 1
    job.post(path, {"tasks": [body(1), body(2)]}, 201)


def test_a_callback_and_a_retry_pass(job: Api) -> None:
    callback = {"on_finished": body(100)}
    batch = job.post("/api/batches", {"tasks": [body(0)], **callback}, 201)
    job.complete(job.claim())
    [made] = job.get("/api/tasks?status=pending")["tasks"]
    assert made["id"] == job.get(f"/api/batches/{batch['id']}")["on_finished_task_id"]
    failed = create(job, 1)
    job.post(f"/api/tasks/{failed['id']}/cancel", {})
    batch = job.post("/api/batches", {"tasks": [body(2)], **callback}, 201)
    create(job, 3)
    job.post(f"/api/tasks/{failed['id']}/retry", {})
    assert open_tasks() == 4
    create(job, 4, 429)
    job.post(f"/api/batches/{batch['id']}/cancel", {})
    assert job.get(f"/api/batches/{batch['id']}")["on_finished_task_id"] is not None
    assert open_tasks() == 4


def test_a_schedule_that_finds_the_queue_full_says_so_and_goes_on(job: Api, clock: Clock) -> None:
    schedule = {"name": "hourly", "type": "job", "params": {}, "interval_seconds": 3600}
    path = (
        f"/api/schedules/{job.post('/api/schedules', {**schedule, 'overlap': 'allow'}, 201)['id']}"
    )
    for n in range(3):
        create(job, n)
    clock.advance(3600)
    job.post("/api/maintenance/run", {})
    shown = job.get(path)
    assert (shown["last_outcome"], shown["last_task_id"]) == ("queue_full", None)
    assert shown["last_error"].startswith("As many tasks of type 'job' are open")
    assert job.post(f"{path}/run", {}, 429)["code"] == "queue_full"
    assert open_tasks() == 3
    job.complete(job.claim())
    clock.advance(3600)
    job.post("/api/maintenance/run", {})
    shown = job.get(path)
    assert (shown["last_outcome"], shown["last_error"]) == ("created", None)
    assert open_tasks() == 3


def test_the_limit_can_be_set_changed_and_taken_away(api: Api) -> None:
    api.register("job")
    for n in range(4):
        create(api, n, group_key="a", delay_seconds=60 * (n % 2))
    api.claim()
    for limit in ({"type": 4}, {"group": 4}, {"type": 2}, {"group": 1, "type": 9}):
        assert api.patch("/api/task-types/job", {"max_open": limit})["max_open"] == limit
        create(api, 9, 429, group_key="a")
    api.patch("/api/task-types/job", {"max_open": {"group": 5}})
    create(api, 9, group_key="a")
    create(api, 10, 429, group_key="a")
    assert api.patch("/api/task-types/job", {"max_open": None})["max_open"] is None
    create(api, 10, group_key="a")


@pytest.mark.parametrize(
    "wrong", [{}, {"type": 0}, {"group": -1}, {"type": 1.5}, {"type": 100_001}, {"key": 1}, 5, "5"]
)
def test_what_is_no_limit_is_refused(api: Api, wrong: Any) -> None:
    fields = {"name": "job", "version": "1", "param_schema": {}, "max_open": wrong}
    assert "max_open" in str(api.post("/api/task-types/register", fields, 400))
    api.register("job")
    assert "max_open" in str(api.patch("/api/task-types/job", {"max_open": wrong}, 400))


def test_a_group_that_has_only_held_tasks_comes_back_at_the_present_turn(api: Api) -> None:
    """It neither catches up nor falls behind, though its lane has been there all the time."""
    api.register("job", fair=True)
    first = create(api, 0, group_key="b")
    for n in range(1, 31):
        create(api, n, group_key="a")
    assert api.claim()["id"] == first["id"]
    for _ in range(10):
        api.claim()
    for n in range(31, 40):
        create(api, n, group_key="b")
    taken = Counter(api.claim()["group_key"] for _ in range(8))
    assert taken == {"a": 4, "b": 4}
