"""However much the tasks hold that somebody has made one by one, one answer holds little of it."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from taskmanager.queue import task_types
from tests.conftest import Api

pytestmark = pytest.mark.slow

LARGE = "x" * 900_000
TASKS = 12
MOST = 6_000_000  # characters of an answer; without a bound it would have ten million
MEMORY = 3_000_000  # bytes, where none of the large values is needed at all


@pytest.fixture
def large_tasks(api: Api) -> list[int]:
    """Ids of pending tasks whose params are large, the newest last."""
    api.register()
    return [
        api.create(params={"large": LARGE}, dedupe="forever", dedupe_key=f"k{number}")["id"]
        for number in range(TASKS)
    ]


@pytest.fixture
def held_tasks(api: Api, large_tasks: list[int]) -> list[Any]:
    return [api.claim("w") for _ in large_tasks]


def peak_of(call: Callable[[], object]) -> int:
    """The most memory that Python's objects took more than before, in bytes."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("sort_by", ["id", "priority"])
def test_pages_with_large_params_are_shorter_and_leave_nothing_out(
    api: Api, large_tasks: list[int], sort_by: str
) -> None:
    path = f"/api/tasks?include=params&limit=100&sort_by={sort_by}&sort_order=asc"
    found: list[int] = []
    cursor = ""
    for _ in range(TASKS):
        answer = api.call("GET", path + cursor)
        assert len(answer.text) < MOST
        page = answer.get_json()["data"]
        assert page["count"] == len(page["tasks"]) >= 1
        assert all(task["params"] == {"large": LARGE} for task in page["tasks"])
        found += [task["id"] for task in page["tasks"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert sorted(found) == large_tasks
    assert api.get("/api/tasks?limit=100")["count"] == TASKS


def test_a_list_without_params_does_not_read_them(api: Api, large_tasks: list[int]) -> None:
    assert peak_of(lambda: api.get("/api/tasks?limit=100")) < MEMORY


@pytest.mark.usefixtures("large_tasks")
def test_a_claim_of_large_tasks_takes_fewer_and_the_others_wait(api: Api) -> None:
    claimed = 0
    for _ in range(TASKS):
        answer = api.call("POST", "/api/tasks/claim", {"worker_id": "w", "limit": 100})
        if answer.status_code == 404:
            break
        assert len(answer.text) < MOST
        tasks = answer.get_json()["data"]["tasks"]
        assert all(task["params"] == {"large": LARGE} for task in tasks)
        claimed += len(tasks)
    assert claimed == TASKS
    assert api.get("/api/tasks?status=claimed")["count"] == TASKS


def test_the_bound_on_a_claim_is_one_for_all_types(api: Api) -> None:
    for number in range(TASKS):
        api.register(f"type{number}")
        api.create(f"type{number}", {"large": LARGE})
    answer = api.call("POST", "/api/tasks/claim", {"worker_id": "w", "limit": 100})
    assert len(answer.text) < MOST
    assert api.get("/api/tasks?status=claimed")["count"] == answer.get_json()["data"]["count"] > 1


def test_reports_and_signs_of_life_do_not_read_the_params(api: Api, held_tasks: list[Any]) -> None:
    claims = [{"id": task["id"], "claim_token": task["claim_token"]} for task in held_tasks]
    beat = {"worker_id": "w", "tasks": claims}
    assert peak_of(lambda: api.post("/api/workers/heartbeat", beat)) < MEMORY
    body = {"worker_id": "w", "completions": [{**claim, "success": True} for claim in claims]}
    assert peak_of(lambda: api.post("/api/tasks/complete", body)) < MEMORY


def test_a_batch_that_finds_large_results_tells_the_first_ones(
    api: Api, held_tasks: list[Any]
) -> None:
    for task in held_tasks:
        api.complete(task, result=[LARGE])
    item = {"type": "job", "params": {}}
    keys = [*range(TASKS), *[0] * 30]
    batch = {"tasks": [{**item, "dedupe_key": f"k{number}"} for number in keys]}
    answer = api.call("POST", "/api/tasks/batch", batch)
    assert len(answer.text) < MOST
    results = answer.get_json()["data"]["results"]
    assert {result["outcome"] for result in results} == {"deduplicated"}
    told = [result["task"]["result"] == [LARGE] for result in results if "result" in result["task"]]
    assert all(told)
    assert 1 <= len(told) < len(results)
    small = api.post("/api/tasks/batch", {"tasks": [{**item, "dedupe_key": "k3"}]})
    assert small["results"][0]["task"]["result"] == [LARGE]


def test_a_report_that_is_repeated_is_answered_with_its_result(
    api: Api, held_tasks: list[Any]
) -> None:
    api.complete(held_tasks[0], result={"a": LARGE})
    again = api.complete(held_tasks[0], result={"a": LARGE})
    assert (again["replayed"], again["result"]) == (True, {"a": LARGE})


def test_a_new_schema_is_held_against_large_tasks_a_few_at_a_time(
    api: Api, large_tasks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert task_types.OPEN_TASKS_READ_AT_ONCE <= 10
    monkeypatch.setattr(task_types, "OPEN_TASKS_READ_AT_ONCE", 2)
    body = {"param_schema": {"required": ["small"]}}
    found: list[Any] = []
    peak = peak_of(lambda: found.append(api.post("/api/task-types/job/validate", body)))
    assert (found[0]["checked"], found[0]["rejected"]) == (TASKS, TASKS)
    assert peak < MOST


def test_what_is_shown_by_the_hundred_is_small(api: Api) -> None:
    api.register()
    beat = {"worker_id": "w", "metadata": {"a": "x" * 20_000}}
    refused = api.post("/api/workers/heartbeat", beat, 400)
    assert "metadata" in refused["error"]
    api.get("/api/workers/w", 404)
    schedule = {"name": "s", "type": "job", "params": {"a": "x" * 70_000}, "interval_seconds": 60}
    assert "params" in api.post("/api/schedules", schedule, 400)["error"]
    schedule["params"] = {"a": "x" * 60_000}
    made = api.post("/api/schedules", schedule, 201)
    change = {"params": {"a": "x" * 70_000}}
    assert "params" in api.patch(f"/api/schedules/{made['id']}", change, 400)["error"]
