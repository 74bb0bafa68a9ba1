"""The history of a task that goes round in circles: pages, bounds, and what is never removed."""

from typing import Any

import pytest

from taskmanager.queue import history
from tests.conftest import Api, Clock

LARGE = "x" * 900_000


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_EVENTS", 20)
    monkeypatch.setattr(history, "KEPT_EVENTS", 10)


def logs(api: Api, task: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get(f"/api/tasks/{task['id']}/logs")["logs"]
    return found


def release_again_and_again(api: Api, clock: Clock, times: int) -> None:
    for _ in range(times):
        clock.advance(1)
        held = api.claim("w")
        api.post(f"/api/tasks/{held['id']}/release", {"worker_id": "w"})


def events_ever(shown: list[dict[str, Any]]) -> int:
    removed = [row["metadata"]["events"] for row in shown if row["event"] == history.SHORTENED]
    return sum(sum(counts.values()) for counts in removed) + len(shown) - len(removed)


@pytest.mark.usefixtures("short")
def test_of_a_long_history_the_first_and_the_newest_events_stay_and_the_others_are_counted(
    api: Api, clock: Clock
) -> None:
    api.register()
    task = api.create()
    release_again_and_again(api, clock, 10)
    first, second = logs(api, task)[:2]
    assert first["event"] == "created"
    shortened, *rest = logs(api, task)[1:]
    assert len(rest) == 10
    assert [row["event"] for row in rest] == ["claimed", "released"] * 5
    assert (shortened["event"], shortened["status"]) == ("history_shortened", None)
    assert shortened["metadata"]["events"] == {"claimed": 5, "released": 5}
    assert shortened["message"] == "10 older events were removed."
    release_again_and_again(api, clock, 40)
    shown = logs(api, task)
    assert len(shown) <= 20
    assert shown[0] == first
    assert [row["event"] for row in shown].count("history_shortened") == 1
    assert events_ever(shown) == 1 + 2 * 50
    again = next(row for row in shown if row["event"] == "history_shortened")
    assert again["metadata"]["since"] == shortened["metadata"]["since"]
    assert again["created_at"] > second["created_at"]


@pytest.mark.usefixtures("short")
def test_cancelling_and_retrying_for_ever_is_bounded(api: Api) -> None:
    api.register()
    task = api.create()
    for _ in range(30):
        api.post(f"/api/tasks/{task['id']}/cancel", {"reason": "no"})
        api.post(f"/api/tasks/{task['id']}/retry")
    assert len(logs(api, task)) <= 20
    assert events_ever(logs(api, task)) == 1 + 60


@pytest.mark.usefixtures("short")
def test_a_lease_that_expires_and_is_restored_for_ever_is_bounded_and_keeps_its_claim(
    api: Api, clock: Clock
) -> None:
    api.register()
    task = api.create()
    held = api.claim("w", lease_seconds=60)
    for _ in range(30):
        clock.advance(61)
        api.post("/api/maintenance/run")
        api.post(f"/api/tasks/{task['id']}/heartbeat", {"worker_id": "w"})
    shown = logs(api, task)
    assert len(shown) <= 21
    assert [row["event"] for row in shown].count("claimed") == 1
    assert events_ever(shown) == 2 + 60
    report = {"worker_id": "w", "success": True, "claim_token": held["claim_token"]}
    assert api.post(f"/api/tasks/{task['id']}/complete", report)["status"] == "completed"
    assert api.post(f"/api/tasks/{task['id']}/complete", report)["replayed"]


@pytest.mark.usefixtures("short")
def test_of_many_long_histories_a_few_are_shortened_at_once(api: Api, clock: Clock) -> None:
    api.register()
    tasks = [api.create() for _ in range(8)]
    for _ in range(30):
        api.claim("w", limit=8)
        api.post("/api/workers/w/shutdown")
    assert all(len(logs(api, task)) <= 24 for task in tasks)
    assert all(events_ever(logs(api, task)) == 61 for task in tasks)


def test_a_history_has_pages(api: Api, clock: Clock) -> None:
    api.register()
    task = api.create()
    release_again_and_again(api, clock, 5)
    whole = api.get(f"/api/tasks/{task['id']}/logs")
    assert (whole["count"], whole["next_cursor"]) == (11, None)
    found, cursor = [], ""
    for _ in range(3):
        page = api.get(f"/api/tasks/{task['id']}/logs?limit=4{cursor}")
        found += page["logs"]
        cursor = f"&cursor={page['next_cursor']}"
    assert (found, page["count"], page["next_cursor"]) == (whole["logs"], 3, None)
    for query in ("limit=0", "limit=1001", "cursor=x", "cursor=0"):
        api.get(f"/api/tasks/{task['id']}/logs?{query}", 400)


def test_a_page_of_large_events_is_shorter_and_leaves_nothing_out(api: Api) -> None:
    api.register()
    task = api.create()
    row = history.event_row({**task, "attempts": 0}, "retried", now=0, metadata={"large": LARGE})
    history.record_rows([row] * 6, of=[task] * 6)
    found, cursor = 0, ""
    for _ in range(3):
        answer = api.call("GET", f"/api/tasks/{task['id']}/logs?{cursor}")
        assert len(answer.text) < 5_000_000
        page = answer.get_json()["data"]
        found += page["count"]
        if page["next_cursor"] is None:
            break
        cursor = f"cursor={page['next_cursor']}"
    assert found == 7


def test_a_task_lists_its_latest_failed_attempts_and_says_that_there_are_more(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.register()
    task = api.create(max_attempts=5)
    monkeypatch.setattr(history, "ATTEMPT_ERRORS_SHOWN", 3)
    shown = []
    for number in range(4):
        held = api.claim("w")
        report = {"worker_id": "w", "success": False, "error": f"error {number}"}
        api.post(f"/api/tasks/{held['id']}/complete", report)
        shown.append(api.get(f"/api/tasks/{task['id']}"))
    assert [len(one["attempt_errors"]) for one in shown] == [1, 2, 3, 3]
    assert [one["more_attempt_errors"] for one in shown] == [False, False, False, True]
    assert [one["error_message"] for one in shown[-1]["attempt_errors"]] == [
        "error 1",
        "error 2",
        "error 3",
    ]
