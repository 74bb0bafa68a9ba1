"""Changing many tasks with one call, and failures in groups."""

from collections import Counter
from typing import Any

import pytest

from taskmanager.clock import format_time
from taskmanager.db.statements import execute, fetch_value
from taskmanager.queue import search
from tests.conftest import Api, Clock, make_key

STATUSES = ("scheduled", "pending", "claimed", "completed", "failed", "cancelled")


@pytest.fixture
def one_each(api: Api) -> dict[str, Any]:
    """A task of each status, by its status."""
    api.register("job", max_attempts=1)
    tasks = {}
    for status in ("completed", "failed", "claimed"):
        api.create()
        tasks[status] = api.claim()
    api.complete(tasks["completed"])
    api.complete(tasks["failed"], success=False, error="broken", error_code="broken")
    tasks["cancelled"] = api.create()
    api.post(f"/api/tasks/{tasks['cancelled']['id']}/cancel")
    tasks["scheduled"] = api.create(delay_seconds=60)
    tasks["pending"] = api.create()
    return tasks


def status_of(api: Api, task: Any) -> str:
    response = api.call("GET", f"/api/tasks/{task['id']}")
    return response.get_json()["data"]["status"] if response.status_code == 200 else "gone"


@pytest.mark.parametrize(
    ("action", "becomes", "refusal"),
    [
        ("retry", {"failed": "pending", "cancelled": "pending"}, "task_not_retryable"),
        (
            "cancel",
            dict.fromkeys(("scheduled", "pending", "claimed"), "cancelled"),
            "task_finished",
        ),
        ("release", {"claimed": "pending"}, "task_not_claimed"),
        (
            "delete",
            dict.fromkeys(("completed", "failed", "cancelled"), "gone"),
            "task_not_finished",
        ),
        ("update", {"scheduled": "scheduled", "pending": "pending"}, "task_not_waiting"),
    ],
)
def test_an_action_changes_the_statuses_it_is_for_and_skips_the_others(
    api: Api, one_each: dict[str, Any], action: str, becomes: dict[str, str], refusal: str
) -> None:
    ids = [task["id"] for task in one_each.values()]
    what = {"priority": 7} if action == "update" else {}
    body = {"ids": [*ids, 999_999], **what}
    rehearsed = api.post(f"/api/tasks/{action}", {**body, "dry_run": True})
    assert {status: status_of(api, task) for status, task in one_each.items()} == dict(
        zip(one_each, one_each, strict=True)
    )

    done = api.post(f"/api/tasks/{action}", body)

    assert done == rehearsed
    assert (done["matched"], done["changed"]) == (7, len(becomes))
    assert done["skipped"] == {refusal: 6 - len(becomes), "task_not_found": 1}
    for status, task in one_each.items():
        assert status_of(api, task) == becomes.get(status, status)
    by_filter = api.post(f"/api/tasks/{action}", {"filter": {"type": "none.%"}, **what})
    assert (by_filter["matched"], by_filter["changed"]) == (0, 0)


def test_what_an_action_does_to_a_task_is_what_the_single_call_does(api: Api) -> None:
    api.register("job", max_attempts=1)
    ends: dict[str, list[Any]] = {}
    for way in ("single", "bulk"):
        task = api.create(params={"n": 1}, dedupe="forever", dedupe_key=way)
        api.complete(api.claim(), success=False, error="no", error_code="x")
        if way == "single":
            api.post(f"/api/tasks/{task['id']}/retry")
            api.post(f"/api/tasks/{task['id']}/cancel", {"reason": "why"})
        else:
            api.post("/api/tasks/retry", {"ids": [task["id"]]})
            api.post("/api/tasks/cancel", {"ids": [task["id"]], "reason": "why"})
        after = api.get(f"/api/tasks/{task['id']}")
        times = {"id", "dedupe_key", "created_at", "updated_at", "completed_at", "available_at"}
        logs = api.get(f"/api/tasks/{task['id']}/logs")["logs"]
        ends[way] = [
            {name: value for name, value in after.items() if name not in times},
            [(log["event"], log["status"], log["message"], log["attempt"]) for log in logs],
        ]
    del ends["single"][0]["attempt_errors"], ends["bulk"][0]["attempt_errors"]
    assert ends["single"] == ends["bulk"]


def test_a_released_task_counts_no_attempt_and_its_worker_has_lost_it(api: Api) -> None:
    api.register("job")
    api.create()
    claimed = api.claim()
    assert api.post("/api/tasks/release", {"filter": {"worker_id": "worker-1"}})["changed"] == 1
    assert api.complete(claimed, status=409)["code"] == "task_not_claimed"
    assert api.claim("worker-2")["attempts"] == 1


def test_an_update_moves_tasks_in_the_order_of_claims_and_in_time(api: Api, clock: Clock) -> None:
    api.register("job")
    first, second, third = (api.create(params={"n": n}) for n in range(3))
    api.post("/api/tasks/update", {"ids": [third["id"]], "priority": 9})
    api.post("/api/tasks/update", {"ids": [first["id"]], "delay_seconds": 60})
    assert status_of(api, first) == "scheduled"
    assert [api.claim()["id"] for _ in range(2)] == [third["id"], second["id"]]
    now = format_time(clock.now)
    assert api.post("/api/tasks/update", {"filter": {"type": "job"}, "available_at": now}) == {
        "matched": 1,
        "changed": 1,
        "skipped": {},
        "next_cursor": None,
        "is_complete": True,
    }
    assert api.claim()["id"] == first["id"]


def test_a_filter_without_status_finds_what_the_action_is_for(
    api: Api, one_each: dict[str, Any]
) -> None:
    done = api.post("/api/tasks/retry", {"filter": {"type": "job"}})
    assert (done["matched"], done["changed"], done["skipped"]) == (2, 2, {})


def test_a_limit_is_gone_beyond_by_the_cursor(api: Api) -> None:
    api.register("job")
    tasks = [api.create(params={"n": n}) for n in range(120)]
    body = {"filter": {"type": "job", "status": ["pending"]}, "limit": 50, "reason": "stop"}
    changed, cursor = [], None
    while True:
        done = api.post("/api/tasks/cancel", {**body, **({"cursor": cursor} if cursor else {})})
        changed.append(done["changed"])
        cursor = done["next_cursor"]
        if cursor is None:
            break
    assert changed == [50, 50, 20]
    assert {status_of(api, task) for task in tasks} == {"cancelled"}


def test_a_search_that_was_cut_short_says_so(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MAX_SCANNED", 20)
    api.register("job")
    for n in range(30):
        api.create(params={"n": n})
    body = {"filter": {"params.n": 29}}
    done = api.post("/api/tasks/cancel", body)
    assert (done["matched"], done["is_complete"]) == (0, False)
    done = api.post("/api/tasks/cancel", {**body, "cursor": done["next_cursor"]})
    assert (done["matched"], done["changed"], done["is_complete"]) == (1, 1, True)


def test_tasks_whose_key_another_task_has_are_skipped_and_the_others_retried(api: Api) -> None:
    api.register("job", max_attempts=1)
    ids = []
    for n in range(20):
        ids.append(api.create(params={"n": n}, dedupe="active")["id"])
        api.complete(api.claim(), success=False, error="no")
    for n in (3, 11):  # again, while the failed ones hold no key
        api.create(params={"n": n}, dedupe="active")
    done = api.post("/api/tasks/retry", {"ids": ids})
    assert (done["changed"], done["skipped"]) == (18, {"duplicate_task": 2})
    assert Counter(api.get(f"/api/tasks/{one}")["status"] for one in ids) == {
        "pending": 18,
        "failed": 2,
    }


def test_a_pruned_task_is_skipped_except_to_delete_it(api: Api, clock: Clock) -> None:
    api.register("job", max_attempts=1, dedupe_days=90)
    task = api.create(dedupe="forever")
    api.complete(api.claim(), success=False, error="no")
    clock.advance(31 * 86_400)
    api.post("/api/maintenance/run")
    body = {"ids": [task["id"]]}
    for dry_run in (True, False):
        done = api.post("/api/tasks/retry", {**body, "dry_run": dry_run})
        assert done["skipped"] == {"task_not_retryable": 1}
    assert api.post("/api/tasks/delete", body)["changed"] == 1


def test_one_audit_event_says_what_was_asked_and_a_dry_run_leaves_none(api: Api) -> None:
    api.register("job")
    for n in range(60):
        api.create(params={"n": n})
    body = {"filter": {"type": "job", "priority_min": 0}}
    api.post("/api/tasks/cancel", {**body, "dry_run": True})
    api.post("/api/tasks/cancel", body)
    events = [
        one for one in api.get("/api/admin/audit")["events"] if one["event"] == "tasks_cancelled"
    ]
    assert len(events) == 1
    assert '"priority_min": 0' in events[0]["message"]
    assert "60 tasks" in events[0]["message"]


def test_a_key_limited_to_types_changes_tasks_of_these_alone(api: Api) -> None:
    api.register("a.one")
    api.register("b.one")
    mine, other = api.create("a.one"), api.create("b.one")
    limited = api.with_key(make_key("producer", task_types=["a.%"]))
    done = limited.post("/api/tasks/cancel", {"ids": [mine["id"], other["id"]]})
    assert (done["changed"], done["skipped"]) == (1, {"task_not_found": 1})
    done = limited.post("/api/tasks/cancel", {"filter": {"status": "pending"}})
    assert (done["matched"], status_of(api, other)) == (0, "pending")
    assert limited.get("/api/tasks/errors")["groups"] == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"filter": {}},
        {"ids": [1], "filter": {"type": "job"}},
        {"ids": [1], "limit": 5},
        {"filter": {"typo": 1}},
        {"filter": {"status": "lost"}},
        {"filter": {"priority_min": "high"}},
        {"filter": {"params.a": {"b": 1}}},
        {"filter": {"type": "job"}, "limit": 0},
        {"filter": {"type": "job"}, "cursor": "made up"},
        {"ids": []},
        {"ids": [1], "priority": 1},
    ],
)
def test_a_call_that_cannot_be_meant_is_refused(api: Api, body: dict[str, Any]) -> None:
    api.register("job", max_attempts=1)
    task = api.create()
    api.complete(api.claim(), success=False, error="no")
    api.post("/api/tasks/retry", body, 400)
    assert status_of(api, task) == "failed"


def test_an_update_without_a_value_is_refused(api: Api) -> None:
    assert "priority" in api.post("/api/tasks/update", {"ids": [1]}, 400)["error"]


def test_deleted_tasks_take_their_history_along_and_leave_their_children(api: Api) -> None:
    api.register("job")
    parent = api.create()
    api.complete(api.claim())
    child = api.create(parent_task_id=parent["id"])
    api.post("/api/tasks/delete", {"ids": [parent["id"]]})
    assert api.get(f"/api/tasks/{child['id']}")["parent_task_id"] is None
    assert fetch_value("SELECT COUNT(*) FROM {task_logs} WHERE task_id = ?", (parent["id"],)) == 0


MESSAGES = [
    ("timeout", "No answer within 30 s from 10.0.0.7:8080"),
    ("timeout", "No answer within 31.5 s from 10.0.0.12:8080"),
    ("timeout", "No answer within 30 s from 10.0.0.7:8080"),
    (None, "order 6f1c2d3e-aaaa-4bbb-8ccc-0123456789ab is gone (0x7f3a)"),
    (None, "order 00000000-AAAA-4bbb-8ccc-0123456789ab is gone (0x1)"),
    ("bad", None),
]


def test_failures_are_grouped_by_type_code_and_message_without_numbers(
    api: Api, clock: Clock
) -> None:
    api.register("job", max_attempts=1)
    failed = []
    for code, message in MESSAGES:
        clock.advance(1)
        failed.append(api.create())
        api.complete(api.claim(), success=False, error=message, error_code=code)
    api.create()
    groups = api.get("/api/tasks/errors")
    assert (groups["count"], groups["scanned"], groups["is_complete"]) == (3, 6, True)
    first, second, third = groups["groups"]
    assert (first["error_code"], first["count"]) == ("timeout", 3)
    assert first["message"] == "No answer within # s from #"
    assert (first["example_task_id"], first["example_message"]) == (failed[2]["id"], MESSAGES[2][1])
    assert first["last_at"] > first["first_at"]
    assert (second["message"], second["count"]) == ("order # is gone (#)", 2)
    assert (third["error_code"], third["message"], third["count"]) == ("bad", None, 1)
    only = api.get("/api/tasks/errors?error_code=bad&type=job")
    assert [group["error_code"] for group in only["groups"]] == ["bad"]


def test_failures_beyond_those_looked_at_follow_by_the_cursor(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskmanager.queue.failures.MAX_SCANNED", 4)
    api.register("job", max_attempts=1)
    for n in range(6):
        api.create()
        api.complete(api.claim(), success=False, error=f"n {n}")
    page = api.get("/api/tasks/errors")
    assert (page["scanned"], page["is_complete"], page["groups"][0]["count"]) == (4, False, 4)
    rest = api.get(f"/api/tasks/errors?cursor={page['next_cursor']}")
    assert (rest["scanned"], rest["is_complete"], rest["groups"][0]["count"]) == (2, True, 2)


def test_no_statement_changes_more_than_a_slice(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks are short because slices are: those of a bulk call as well as those of maintenance."""
    api.register("job")
    for n in range(200):
        api.create(params={"n": n})
    changed: list[int] = []
    real = execute

    def watched(template: str, values: Any = ()) -> Any:
        cursor = real(template, values)
        if template.startswith("UPDATE"):
            changed.append(cursor.rowcount)
        return cursor

    monkeypatch.setattr("taskmanager.db.statements.execute", watched)
    assert api.post("/api/tasks/cancel", {"filter": {"type": "job"}})["changed"] == 200
    assert sum(changed) >= 200
    assert max(changed) <= 50
