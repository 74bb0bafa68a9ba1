"""Dependencies: a task is blocked until those it depends on have completed."""

import json
import tracemalloc
from itertools import pairwise
from typing import Any

import pytest

from taskmanager.db.connection import database
from taskmanager.db.statements import execute, fetch_all, fetch_value
from taskmanager.queue.flow import dependencies
from tests.api.tables import dump_tables
from tests.conftest import Api, Clock, make_key

NUMBER = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}


@pytest.fixture
def job(api: Api, clock: Clock) -> Api:
    for name in ("job", "next"):
        api.register(name)
    return api


_numbers = iter(range(1_000_000))


def create(api: Api, *depends_on: Any, type: str = "job", **fields: Any) -> Any:
    if depends_on:
        fields["depends_on"] = list(depends_on)
    body = {"type": type, "params": {"n": next(_numbers)}, **fields}
    return api.post("/api/tasks", body, 201)


def state(api: Api, *tasks: Any) -> Any:
    found = [api.get(f"/api/tasks/{task['id']}")["status"] for task in tasks]
    return found[0] if len(found) == 1 else found


def work(api: Api, **report: Any) -> Any:
    return api.complete(api.claim(type="job"), **report)


def fail(api: Api) -> Any:
    return work(api, success=False, is_retryable=False)


def test_a_task_is_blocked_until_the_last_of_its_dependencies_has_completed(job: Api) -> None:
    first, second = create(job), create(job)
    last = create(job, first["id"], second["id"], type="next")
    assert (last["status"], last["on_dependency_failed"]) == ("blocked", "cancel")
    reason = job.get(f"/api/tasks/{last['id']}")["waiting_because"]
    assert reason == {
        "code": "dependencies",
        "message": f"2 of the 2 tasks that it depends on have not ended: {first['id']}, "
        f"{second['id']}.",
    }
    work(job)
    assert state(job, last) == "blocked"
    work(job)
    assert state(job, last) == "pending"
    events = [log["event"] for log in job.get(f"/api/tasks/{last['id']}/logs")["logs"]]
    assert events == ["created", "unblocked"]


def test_a_failure_cancels_down_the_chain_and_run_runs(job: Api) -> None:
    first = create(job)
    second = create(job, first["id"], type="next")
    third = create(job, second["id"], type="next")
    anyway = create(job, second["id"], type="next", on_dependency_failed="run")
    fail(job)
    assert state(job, second, third, anyway) == ["cancelled", "cancelled", "pending"]
    found = job.get(f"/api/tasks/{third['id']}")
    assert found["error_code"] == "dependency_failed"
    assert found["error_message"] == "The task at depends_on[0] did not complete."


def test_what_has_ended_already_acts_at_once(job: Api) -> None:
    done = create(job)
    work(job)
    bad = create(job)
    fail(job)
    assert create(job, done["id"])["status"] == "pending"
    assert create(job, bad["id"], on_dependency_failed="run")["status"] == "pending"
    cancelled = create(job, done["id"], bad["id"])
    assert (cancelled["status"], cancelled["error_code"]) == ("cancelled", "dependency_failed")
    assert state(job, create(job, cancelled["id"], type="next")) == "cancelled"


def test_an_unblocked_task_waits_for_its_own_time(job: Api) -> None:
    first = create(job)
    later = create(job, first["id"], type="next", delay_seconds=60)
    assert later["status"] == "blocked"
    work(job)
    assert state(job, later) == "scheduled"


def test_a_retry_is_refused_until_the_dependency_is_tried_again_and_then_waits(job: Api) -> None:
    first = create(job)
    second = create(job, first["id"], type="next")
    third = create(job, second["id"], type="next")
    fail(job)
    for waiting, named in ((second, first), (third, second)):
        refused = job.post(f"/api/tasks/{waiting['id']}/retry", {}, 409)
        assert (refused["code"], refused["details"]) == (
            "dependency_failed",
            {"position": 0, "task_id": named["id"]},
        )
        assert refused["message"] == (
            f"Task {named['id']}, which this task depends on, has not completed. "
            "Retry that one first."
        )
    job.post(f"/api/tasks/{first['id']}/retry", {})
    assert job.post(f"/api/tasks/{second['id']}/retry", {})["status"] == "blocked"
    work(job)
    assert state(job, second) == "pending"


def test_a_retry_that_is_refused_for_a_dependency_changes_nothing(job: Api) -> None:
    first = create(job)
    second = create(job, first["id"], type="next")
    fail(job)
    before = dump_tables()
    job.post(f"/api/tasks/{second['id']}/retry", {}, 409)
    ids = [second["id"]]
    for dry_run in (True, False):
        done = job.post("/api/tasks/retry", {"ids": ids, "dry_run": dry_run})
        assert (done["changed"], done["skipped"]) == (0, {"dependency_failed": 1})
    assert dump_tables() == before


@pytest.mark.parametrize("retries", ["all", "without the first"])
@pytest.mark.parametrize("way", ["ascending", "descending", "filter", "batch"])
def test_many_retries_bring_back_a_whole_chain_in_any_order_or_nothing_of_it(
    job: Api, way: str, retries: str
) -> None:
    """The chain is longer than what one transaction changes."""
    bodies: list[Any] = [{"type": "job", "params": {"at": 0}}]
    for at in range(1, 25):
        bodies.append({"type": "next", "params": {"at": at}, "depends_on": [{"index": at - 1}]})
    batch = job.post("/api/batches", {"tasks": bodies}, 201)
    chain = [result["task"] for result in batch["results"]]
    fail(job)
    assert set(state(job, *chain[1:])) == {"cancelled"}
    if retries == "without the first":
        job.post("/api/tasks/delete", {"ids": [chain[2]["id"]]})
        wanted = chain[1:2] + chain[3:]
        expected, after = (22, {"dependency_failed": 1}), ["cancelled", "pending"]
    else:
        wanted, expected, after = chain, (25, {}), ["pending", "blocked"]
    ids = [task["id"] for task in wanted]
    body: Any = {"ids": ids[::-1] if way == "descending" else ids}
    path = "/api/tasks/retry"
    if way == "filter":
        body = {"filter": {"type": "%"} if retries == "all" else {"status": "cancelled"}}
    elif way == "batch":
        path, body = f"/api/batches/{batch['id']}/retry", {}
        if retries == "without the first":
            job.post("/api/tasks/delete", {"ids": [chain[0]["id"]]})
            expected, after = (23, {}), ["pending", "pending"]
    if way != "batch":
        rehearsed = job.post(path, {**body, "dry_run": True})
        assert (rehearsed["changed"], rehearsed["skipped"]) == expected
    done = job.post(path, body)
    assert (done["changed"], done["skipped"]) == expected
    assert state(job, *wanted) == [*after, *["blocked"] * (len(wanted) - 2)]


@pytest.mark.parametrize("is_bulk", [False, True])
@pytest.mark.parametrize("how", ["deleted", "pruned"])
def test_a_retry_does_not_wait_for_a_dependency_that_was_deleted(
    job: Api, clock: Clock, how: str, is_bulk: bool
) -> None:
    """Also where the row of a pruned task stays, because it holds its dedupe key."""
    job.patch("/api/task-types/job", {"dedupe_days": 90, "retention_days": 1})
    job.patch("/api/task-types/next", {"retention_days": 60})
    first = create(job, dedupe="forever")
    second = create(job, first["id"], type="next")
    third = create(job, first["id"], type="next", params={"n": {"$result_of": 0}})
    fail(job)
    if how == "deleted":
        job.post("/api/tasks/delete", {"ids": [first["id"]]})
    else:
        clock.advance(2 * 86_400)
        job.post("/api/maintenance/run")
        assert job.get(f"/api/tasks/{first['id']}")["pruned_at"]
    for task in (second, third):
        if is_bulk:
            assert job.post("/api/tasks/retry", {"ids": [task["id"]]})["changed"] == 1
        else:
            job.post(f"/api/tasks/{task['id']}/retry", {})
    assert state(job, second, third) == ["pending", "failed"]
    found = job.get(f"/api/tasks/{third['id']}")
    assert found["error_message"] == "The result of depends_on[0] was pruned."


def test_results_are_filled_in_and_checked_when_the_task_is_unblocked(job: Api) -> None:
    job.register("number", schema=NUMBER)
    tasks = []
    for path in ("a.0", "b", "none"):
        first = create(job)
        params = {"n": {"$result_of": 0, "path": path}}
        task = create(job, first["id"], type="number", params=params, dedupe="none")
        assert task["params"] == params
        tasks.append(task)
        work(job, result={"a": [7], "b": "text"})
    assert state(job, *tasks) == ["pending", "failed", "failed"]
    assert job.get(f"/api/tasks/{tasks[0]['id']}")["params"] == {"n": 7}
    assert job.get(f"/api/tasks/{tasks[1]['id']}")["error_code"] == "validation_failed"


@pytest.mark.parametrize("is_bulk", [False, True])
@pytest.mark.parametrize("result", [[{"$result_of": 0}], {"$result_of": "of nothing"}])
def test_params_are_filled_once_whatever_the_results_look_like(
    job: Api, result: Any, is_bulk: bool
) -> None:
    first = create(job)
    task = create(job, first["id"], type="next", params={"n": {"$result_of": 0}})
    work(job, result=result)
    for _ in range(2):
        assert job.get(f"/api/tasks/{task['id']}")["params"] == {"n": result}
        job.post(f"/api/tasks/{task['id']}/cancel", {})
        if is_bulk:
            job.post("/api/tasks/retry", {"ids": [task["id"]]})
        else:
            job.post(f"/api/tasks/{task['id']}/retry", {})
        assert state(job, task) == "pending"


@pytest.mark.parametrize(
    ("is_filled", "params", "expected"),
    [
        (False, None, {"n": 5}),
        (True, None, {"n": None}),
        (True, {"n": [{"$result_of": 0}]}, {"n": [5]}),
    ],
)
def test_a_task_that_is_blocked_again_is_filled_if_it_was_not_or_has_new_params(
    job: Api, is_filled: bool, params: Any, expected: Any
) -> None:
    first = create(job)
    fields = {"params": {"n": {"$result_of": 0}}, "on_dependency_failed": "run"}
    path = f"/api/tasks/{create(job, first['id'], type='next', **fields)['id']}"
    if is_filled:
        fail(job)
    job.post(f"{path}/cancel", {})
    if is_filled:
        job.post(f"/api/tasks/{first['id']}/retry", {})
    assert job.post(f"{path}/retry", {})["status"] == "blocked"
    if params:
        job.patch(path, {"params": params})
    work(job, result=5)
    assert job.get(path)["params"] == expected


def test_params_with_results_are_checked_as_far_as_they_are_known(job: Api) -> None:
    job.register("number", schema=NUMBER)
    first = create(job)
    wrong: list[Any] = [
        {"n": {"$result_of": 1}},
        {"n": {"$result_of": 0, "other": 1}},
        {"n": {"$result_of": 0}, "m": 1},
        {"m": {"$result_of": 0}},
    ]
    for params in wrong:
        body = {"type": "number", "params": params, "depends_on": [first["id"]]}
        assert job.post("/api/tasks", body, 400)["code"] == "validation_failed"


def test_params_with_placeholders_are_de_duplicated_as_they_were_sent(job: Api) -> None:
    first = create(job)
    body = {"type": "next", "params": {"n": {"$result_of": 0}}, "depends_on": [first["id"]]}
    task = job.post("/api/tasks", body, 201)
    work(job, result=5)
    assert job.post("/api/tasks", body, 200)["id"] == task["id"]


def test_tasks_of_one_request_depend_on_earlier_ones_by_index(job: Api) -> None:
    bodies: list[Any] = [
        {"type": "job", "params": {"at": 0}},
        {"type": "nothing", "params": {}},
        {"type": "job", "params": {"at": 2}, "depends_on": [{"index": 0}]},
        {"type": "job", "params": {"at": 3}, "depends_on": [{"index": 1}]},
        {"type": "job", "params": {"at": 4}, "depends_on": [{"index": 4}]},
        {"type": "job", "params": {"at": 5}, "depends_on": [{"index": 2}]},
    ]
    answer = job.post("/api/tasks/batch", {"tasks": bodies}, 201)
    outcomes = [result["outcome"] for result in answer["results"]]
    assert outcomes == ["created", "error", "created", "error", "error", "created"]
    edges = fetch_all("SELECT task_id, depends_on_id FROM {task_dependencies} ORDER BY id")
    ids = [result.get("task", {}).get("id") for result in answer["results"]]
    assert [tuple(edge.values()) for edge in edges] == [(ids[2], ids[0]), (ids[5], ids[2])]


@pytest.mark.parametrize("path", ["/api/tasks/batch", "/api/batches"])
def test_the_tasks_of_one_call_have_so_many_dependencies_in_all(job: Api, path: str) -> None:
    first = create(job)
    task = {"type": "next", "depends_on": [first["id"]] * 1_000}
    tasks = [{**task, "params": {"n": n}} for n in range(10)]
    more = {"type": "next", "params": {}, "depends_on": [first["id"]]}
    refused = job.post(path, {"tasks": [*tasks, more]}, 400)
    assert "10001 entries of depends_on" in refused["error"]
    assert fetch_value("SELECT COUNT(*) FROM {tasks}") == 1
    job.post(path, {"tasks": tasks}, 201)


def test_a_blocked_member_keeps_its_batch_running(job: Api) -> None:
    bodies: list[Any] = [
        {"type": "job", "params": {"at": 0}},
        {"type": "job", "params": {"at": 1}, "depends_on": [{"index": 0}]},
    ]
    batch = job.post("/api/batches", {"tasks": bodies}, 201)
    fail(job)
    found = job.get(f"/api/batches/{batch['id']}")
    assert (found["status"], found["counts"]["cancelled"]) == ("finished", 1)
    bad = batch["results"][0]["task"]["id"]
    only = {"type": "job", "params": {"at": 2}, "depends_on": [bad]}
    assert job.post("/api/batches", {"tasks": [only]}, 201)["status"] == "finished"


def test_a_dependency_that_is_unknown_or_of_another_type_is_not_found(job: Api) -> None:
    first = create(job)
    limited = job.with_key(make_key("admin", task_types=["next"]))
    for api, wrong in ((job, 4711), (limited, first["id"])):
        body = {"type": "next", "params": {}, "depends_on": [wrong]}
        error = api.post("/api/tasks", body, 400)
        assert (error["code"], error["details"]) == ("dependency_not_found", {"task_id": wrong})
    task = create(job, first["id"], type="next")
    seen = limited.get(f"/api/tasks/{task['id']}")["waiting_because"]["message"]
    assert seen == "1 of the 1 tasks that it depends on have not ended."
    graph = limited.get(f"/api/tasks/{task['id']}/graph")
    assert ([one["id"] for one in graph["tasks"]], graph["edges"]) == ([task["id"]], [])


def test_a_dependency_may_be_named_by_a_string_of_digits(job: Api) -> None:
    first = create(job)
    task = create(job, str(first["id"]), type="next")
    assert task["status"] == "blocked"
    body = {"type": "next", "params": {}, "depends_on": [str(first["id"]), {"index": 0}]}
    bodies = [{"type": "job", "params": {"at": 1}}, body]
    created = job.post("/api/tasks/batch", {"tasks": bodies}, 201)
    assert created["results"][1]["task"]["status"] == "blocked"


@pytest.mark.parametrize("wrong", [0, True, "1a", "", None, 1.5, [1], {"id": 1}, {"index": -1}])
def test_what_names_no_dependency_is_refused_with_what_does(job: Api, wrong: Any) -> None:
    error = job.post("/api/tasks", {"type": "next", "params": {}, "depends_on": [wrong]}, 400)
    [problem] = error["details"]
    wanted = 'must be the id of a task, or {"index": n} of an earlier one in the request, not '
    assert problem["path"] == "depends_on[0]"
    assert problem["message"] == wanted + json.dumps(wrong)


@pytest.mark.parametrize("ends", ["before", "after", "pruned"])
def test_a_key_of_other_types_is_told_the_position_of_a_dependency_and_not_its_id(
    job: Api, ends: str
) -> None:
    first, second = create(job), create(job)
    if ends == "before":
        job.post(f"/api/tasks/{second['id']}/cancel", {})
    params = {"sum": {"$result_of": 1}}
    task = create(job, first["id"], second["id"], type="next", params=params)
    if ends == "after":
        job.post(f"/api/tasks/{second['id']}/cancel", {})
    elif ends == "pruned":
        job.post(f"/api/tasks/{task['id']}/cancel", {})
        work(job)
        work(job)
        execute("UPDATE {tasks} SET pruned_at = 1 WHERE id = ?", (second["id"],))
        job.post(f"/api/tasks/{task['id']}/retry", {})
    limited = job.with_key(make_key("admin", task_types=["next"]))
    if ends != "pruned":
        refused = limited.post(f"/api/tasks/{task['id']}/retry", {}, 409)
        assert refused["details"] == {"position": 1}
        assert refused["message"].startswith("The task at depends_on[1], which this task depends")
    message = "The task at depends_on[1] did not complete."
    if ends == "pruned":
        message = "The result of depends_on[1] was pruned."
    assert limited.get(f"/api/tasks/{task['id']}")["error_message"] == message
    for path in (f"/api/tasks/{task['id']}/logs", "/api/events"):
        found = limited.get(path)
        assert (found.get("logs") or found["events"])[-1]["message"] == message


def test_the_graph_shows_both_directions(job: Api) -> None:
    first = create(job)
    second = create(job, first["id"], type="next")
    third = create(job, second["id"], type="next")
    graph = job.get(f"/api/tasks/{second['id']}/graph")
    assert [one["id"] for one in graph["tasks"]] == [first["id"], second["id"], third["id"]]
    edges = [(edge["task_id"], edge["depends_on_id"]) for edge in graph["edges"]]
    assert sorted(edges) == [(second["id"], first["id"]), (third["id"], second["id"])]
    assert graph["is_complete"]


def test_a_long_chain_and_a_wide_fan_out_end_in_slices(
    job: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependencies, "FOLLOWED", 3)
    first = create(job)
    chain = [first]
    for _ in range(8):
        chain.append(create(job, chain[-1]["id"], type="next"))
    wide = [create(job, chain[4]["id"], type="next") for _ in range(8)]
    fail(job)
    counted = "SELECT COUNT(*) FROM {tasks} WHERE status = 'blocked'"
    assert fetch_value(counted) == 13
    job.post("/api/maintenance/run", {})
    assert fetch_value(counted) == 0
    assert set(state(job, *chain[1:], *wide)) == {"cancelled"}
    assert fetch_value("SELECT COUNT(*) FROM {ended_dependencies}") == 0


def test_what_a_slice_left_is_told_by_the_next_claims(
    job: Api, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependencies, "FOLLOWED", 1)
    first = create(job)
    others = [create(job, first["id"], type="next") for _ in range(3)]
    work(job)
    assert state(job, *others) == ["pending", "blocked", "blocked"]
    clock.advance(2)
    job.claim(type="next")
    assert state(job, *others[1:]) == ["pending", "pending"]


def test_a_blocked_task_can_be_changed_listed_and_cancelled(job: Api) -> None:
    first = create(job)
    task = create(job, first["id"], type="next")
    changes = {"priority": 3, "delay_seconds": 0, "params": {"n": {"$result_of": 0}}}
    changed = job.patch(f"/api/tasks/{task['id']}", changes)
    assert (changed["status"], changed["priority"]) == ("blocked", 3)
    assert [one["id"] for one in job.get("/api/tasks?status=blocked")["tasks"]] == [task["id"]]
    assert job.get("/api/stats")["by_status"]["blocked"] == 1
    assert job.post(f"/api/tasks/{task['id']}/cancel", {})["status"] == "cancelled"
    work(job)
    assert state(job, task) == "cancelled"


def test_a_pruned_dependency_leaves_nothing_blocked(job: Api) -> None:
    first, second = create(job), create(job)
    task = create(job, first["id"], second["id"], type="next")
    work(job)
    execute("DELETE FROM {tasks} WHERE id = ?", (first["id"],))
    work(job)
    assert state(job, task) == "pending"


def test_tasks_that_name_another_one_twice_are_all_unblocked(
    job: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependencies, "FOLLOWED", 4)
    first = create(job)
    waiting = [create(job, first["id"], first["id"], type="next") for _ in range(5)]
    work(job)
    for _ in range(3):
        job.post("/api/maintenance/run")
    assert set(state(job, *waiting)) == {"pending"}


def test_a_clock_that_was_ahead_delays_nothing_that_was_to_run_at_once(
    job: Api, clock: Clock
) -> None:
    first, bad = create(job), create(job)
    job.post(f"/api/tasks/{bad['id']}/cancel", {})
    clock.advance(3_600)
    task = create(job, first["id"], type="next")
    again = create(job, first["id"], bad["id"], type="next")
    job.post(f"/api/tasks/{bad['id']}/retry", {})
    job.post(f"/api/tasks/{again['id']}/retry", {})
    clock.advance(-3_600)
    work(job)
    assert state(job, task) == "pending"
    work(job)
    assert state(job, again) == "pending"


def test_results_that_are_used_too_often_fail_the_task_before_they_are_put_together(
    job: Api,
) -> None:
    first = create(job)
    params = {"all": [{"$result_of": 0}] * 2_000}
    task = create(job, first["id"], type="next", params=params)
    tracemalloc.start()
    work(job, result="x" * 900_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    found = job.get(f"/api/tasks/{task['id']}")
    assert (found["status"], found["error_code"]) == ("failed", "validation_failed")
    assert found["error_message"] == "The params with the results in them are too large."
    assert peak < 100_000_000


def test_a_blocked_task_that_expires_cancels_what_depends_on_it(job: Api, clock: Clock) -> None:
    first = create(job)
    late = create(job, first["id"], type="next", expires_in_seconds=60)
    after = create(job, late["id"], type="next")
    anyway = create(job, late["id"], type="next", on_dependency_failed="run")
    clock.advance(61)
    assert job.post("/api/maintenance/run")["expired"] == 1
    assert state(job, late, after, anyway) == ["cancelled", "cancelled", "pending"]
    codes = [job.get(f"/api/tasks/{task['id']}")["error_code"] for task in (late, after)]
    assert codes == ["expired", "dependency_failed"]
    work(job)
    assert state(job, late) == "cancelled"


def test_an_unblocked_task_keeps_its_deadline(job: Api, clock: Clock) -> None:
    first = create(job)
    task = create(job, first["id"], type="next", expires_in_seconds=60)
    work(job)
    clock.advance(61)
    job.claim(type="next", status=404)
    assert state(job, task) == "cancelled"


def test_a_new_schema_is_tried_on_what_is_known_of_a_blocked_task(job: Api) -> None:
    first = create(job)
    for params in ({"n": {"$result_of": 0}}, {"n": {"$result_of": 0}, "m": 1}):
        create(job, first["id"], type="next", params=params)
    found = job.post("/api/task-types/next/validate", {"param_schema": NUMBER})
    assert (found["checked"], found["rejected"]) == (2, 1)
    [example] = found["examples"]
    assert [error["path"] for error in example["errors"]] == ["params.m"]


@pytest.mark.slow
@pytest.mark.parametrize("is_chain", [True, False], ids=["chain", "fan-out"])
def test_a_thousand_tasks_are_followed_by_maintenance(job: Api, is_chain: bool) -> None:
    first = last = create(job)
    for _ in range(2):
        bodies = []
        for n in range(500):
            named = last["id"] if n == 0 or not is_chain else {"index": n - 1}
            params = {"n": next(_numbers)}
            bodies.append({"type": "next", "params": params, "depends_on": [named]})
        results = job.post("/api/tasks/batch", {"tasks": bodies}, 201)["results"]
        last = results[-1]["task"] if is_chain else first
    fail(job)
    counted = "SELECT COUNT(*) FROM {tasks} WHERE status = 'blocked'"
    left = 1_000 - dependencies.FOLLOWED
    assert fetch_value(counted) == left
    while left:  # what one run has no time for is for the next
        job.post("/api/maintenance/run")
        before, left = left, fetch_value(counted)
        assert left < before
    assert fetch_value("SELECT COUNT(*) FROM {tasks} WHERE status = 'cancelled'") == 1_000
    assert fetch_value("SELECT COUNT(*) FROM {ended_dependencies}") == 0


def test_tasks_without_dependencies_run_no_statement_for_them(
    api: Api, clock: Clock, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    execute_sql = database.obj.execute_sql

    def counted(sql: str, *arguments: Any, **options: Any) -> Any:
        statements.append(sql)
        return execute_sql(sql, *arguments, **options)

    def run() -> list[int]:
        counts = [len(statements)]
        api.create()
        counts.append(len(statements))
        task = api.claim(type="job")
        counts.append(len(statements))
        api.complete(task)
        counts.append(len(statements))
        return [after - before for before, after in pairwise(counts)]

    api.register()
    monkeypatch.setattr(database.obj, "execute_sql", counted)
    run()  # what a process remembers is read the first time
    clock.advance(2)
    assert run() == ([3, 5, 4] if engine == "sqlite" else [3, 6, 4])


def test_a_call_that_retries_a_task_and_its_dependency_blocks_the_task(job: Api) -> None:
    """Also if the tasks change in two ways, and those without a dependency come later."""
    first = create(job, dedupe="none")
    dependency = create(job)
    waiting = create(job, dependency["id"], type="next", dedupe="none")
    fail(job)
    fail(job)
    ids = [first["id"], dependency["id"], waiting["id"]]
    assert state(job, *(({"id": one}) for one in ids)) == ["failed", "failed", "cancelled"]
    assert job.post("/api/tasks/retry", {"ids": ids})["changed"] == 3
    assert state(job, *(({"id": one}) for one in ids)) == ["pending", "pending", "blocked"]
