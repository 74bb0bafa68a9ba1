"""Tasks of an encrypted type: callers read everything, the database nothing."""

import json
from typing import Any

import pytest

from taskmanager.db.statements import execute, fetch_all, fetch_one, fetch_value
from taskmanager.queue import maintenance
from tests.conftest import Api, Clock
from tests.payloads.conftest import HIDDEN, stored

PARAMS = {"card": f"{HIDDEN} žluť 🎵"}


def create(queue: Api, **fields: Any) -> Any:
    return queue.create("secret", PARAMS, **fields)


def run(queue: Api, **report: Any) -> Any:
    return queue.complete(queue.claim(), **report)


def fail(queue: Api, **report: Any) -> Any:
    return run(queue, success=False, error=f"no {HIDDEN}", error_code="refused", **report)


def test_a_task_goes_through_its_life_and_nothing_of_it_can_be_read_in_the_database(
    queue: Api,
) -> None:
    task = create(queue, max_attempts=2)
    assert task["params"] == PARAMS
    claimed = queue.claim(request_id="first")
    assert claimed["params"] == PARAMS
    progress = {"worker_id": "worker-1", "progress": 10, "message": f"tuned the {HIDDEN}"}
    path = f"/api/tasks/{task['id']}"
    assert queue.post(f"{path}/progress", progress)["progress_message"] == progress["message"]
    assert queue.get(path)["progress_message"] == progress["message"]
    assert queue.claim(request_id="first")["params"] == PARAMS
    failed = queue.complete(claimed, success=False, error=f"no {HIDDEN}", error_code="refused")
    assert failed["error_message"] == f"no {HIDDEN}"
    done = run(queue, result={"played": HIDDEN})
    assert done["result"] == {"played": HIDDEN}

    shown = queue.get(path)
    assert (shown["params"], shown["result"]) == (PARAMS, {"played": HIDDEN})
    assert shown["attempt_errors"][0]["error_message"] == f"no {HIDDEN}"
    messages = [log["message"] for log in queue.get(f"{path}/logs")["logs"]]
    assert messages == [None, None, f"no {HIDDEN}", None, None]
    [listed] = queue.get("/api/tasks?include=params,result")["tasks"]
    assert (listed["params"], listed["result"]) == (PARAMS, {"played": HIDDEN})
    events = queue.get("/api/events")["events"]
    assert f"no {HIDDEN}" in [event["message"] for event in events]
    assert HIDDEN not in stored()


def test_so_do_batches_cancelled_and_handed_back_tasks(queue: Api) -> None:
    body = {"type": "secret", "params": PARAMS}
    made = queue.post("/api/tasks/batch", {"tasks": [{**body, "dedupe": "none"}] * 3}, 201)
    ids = [one["task"]["id"] for one in made["results"]]
    claimed = queue.claim(limit=3)["tasks"]
    assert [task["params"] for task in claimed] == [PARAMS] * 3
    reports = [
        {"id": task["id"], "success": False, "error": f"{HIDDEN} {task['id']}"} for task in claimed
    ]
    queue.post("/api/tasks/complete", {"worker_id": "worker-1", "completions": reports})
    reason = f"sold the {HIDDEN}"
    assert queue.post(f"/api/tasks/{ids[0]}/cancel", {"reason": reason})["error_message"]
    queue.post("/api/tasks/cancel", {"ids": ids[1:], "reason": reason})

    for task_id in ids:
        assert queue.get(f"/api/tasks/{task_id}")["error_message"] == f"{HIDDEN} {task_id}"
        assert queue.get(f"/api/tasks/{task_id}/logs")["logs"][-1]["message"] == reason
    assert HIDDEN not in stored()


def test_a_report_is_recognised_when_it_is_sent_again(queue: Api) -> None:
    create(queue, max_attempts=2)
    failing, ending = queue.claim(), {"result": {"played": HIDDEN}}
    report = {"success": False, "error": f"no {HIDDEN}"}
    queue.complete(failing, **report)
    assert queue.complete(failing, **report)["replayed"] is True
    again = queue.claim()
    queue.complete(again, **ending)
    replayed = queue.complete(again, **ending)
    assert (replayed["replayed"], replayed["result"]) == (True, ending["result"])


def test_the_dedupe_key_cannot_be_computed_without_the_secret(queue: Api) -> None:
    made = create(queue, dedupe="forever")
    run(queue, result=HIDDEN)
    again = queue.post("/api/tasks", {"type": "secret", "params": PARAMS})
    assert (again["id"], again["deduplicated"], again["result"]) == (made["id"], True, HIDDEN)
    queue.patch("/api/task-types/secret", {"is_encrypted": False})
    assert create(queue, dedupe="forever")["dedupe_key"] != made["dedupe_key"]


@pytest.mark.parametrize("is_encrypted", [True, False])
def test_a_task_that_waits_gets_the_key_of_its_new_params_whatever_its_type_was(
    queue: Api, is_encrypted: bool
) -> None:
    queue.patch("/api/task-types/secret", {"is_encrypted": not is_encrypted})
    task = create(queue, dedupe="forever")
    queue.patch("/api/task-types/secret", {"is_encrypted": is_encrypted})
    queue.patch(f"/api/tasks/{task['id']}", {"params": {"card": "another"}})
    again = queue.post("/api/tasks", {"type": "secret", "params": {"card": "another"}})
    assert (again["id"], again["deduplicated"]) == (task["id"], True)


def test_the_task_of_a_batch_is_encrypted_if_its_type_has_become_so(queue: Api) -> None:
    queue.patch("/api/task-types/secret", {"is_encrypted": False})
    callback = {"type": "secret", "params": PARAMS}
    batch = queue.post("/api/batches", {"on_finished": callback}, 201)
    queue.patch("/api/task-types/secret", {"is_encrypted": True})
    create(queue)
    queue.post(f"/api/batches/{batch['id']}/close")
    made = queue.get(f"/api/batches/{batch['id']}")["on_finished_task_id"]
    assert queue.get(f"/api/tasks/{made}")["params"] == PARAMS
    assert HIDDEN not in repr(fetch_all("SELECT params FROM {tasks}"))


def test_tasks_are_found_by_the_key_that_was_sent_encrypted_or_not(queue: Api) -> None:
    encrypted = create(queue, dedupe_key="order 7")
    queue.patch("/api/task-types/secret", {"is_encrypted": False})
    plain = create(queue, dedupe_key="order 7")
    found = queue.get("/api/tasks?type=secret&dedupe_key=order+7")["tasks"]
    assert [task["id"] for task in found] == [plain["id"], encrypted["id"]]
    found = queue.get(f"/api/tasks?dedupe_key={encrypted['dedupe_key']}")["tasks"]
    assert [task["id"] for task in found] == [encrypted["id"]]


def test_searches_look_into_encrypted_tasks(queue: Api) -> None:
    task = create(queue)
    queue.create("open", PARAMS)
    fail(queue, is_retryable=False)
    for query in ("error=NO+xylo", "params.card=" + PARAMS["card"], "error=xylo&params.card=2"):
        found = queue.get(f"/api/tasks?type=secret&{query}")
        expected = [] if query.endswith("2") else [task["id"]]
        assert [one["id"] for one in found["tasks"]] == expected, query
    assert queue.get("/api/tasks?error=marimba")["tasks"] == []
    refused = queue.get("/api/tasks?error=marimba&with_total=true", 400)
    assert "encrypted" in refused["message"]


def test_errors_are_grouped_by_message(queue: Api) -> None:
    for at in range(3):
        create(queue)
        run(queue, success=False, error=f"{HIDDEN} {at} is out of tune", is_retryable=False)
    [group] = queue.get("/api/tasks/errors")["groups"]
    assert (group["message"], group["count"]) == (f"{HIDDEN} # is out of tune", 3)
    assert group["example_message"] == f"{HIDDEN} 2 is out of tune"


def test_a_lease_that_expires_for_good_leaves_an_error_that_can_be_read(
    queue: Api, clock: Clock
) -> None:
    task = create(queue, max_attempts=1)
    queue.create("open", {}, max_attempts=1)
    queue.claim(limit=2, lease_seconds=1)
    clock.advance(2)
    queue.post("/api/maintenance/run", {})
    for task_id in (task["id"], task["id"] + 1):
        shown = queue.get(f"/api/tasks/{task_id}")
        assert (shown["status"], shown["error_code"]) == ("failed", "lease_expired")
        assert "no sign of life" in shown["error_message"]


def test_a_pruned_task_that_keeps_its_key_can_be_read(queue: Api, clock: Clock) -> None:
    queue.patch("/api/task-types/secret", {"dedupe_days": 300})
    task = create(queue, dedupe="forever")
    run(queue)
    clock.advance(100 * 86_400)
    assert queue.post("/api/maintenance/run", {})["pruned"] == 1
    assert queue.get(f"/api/tasks/{task['id']}")["params"] == {}
    again = queue.post("/api/tasks", {"type": "secret", "params": PARAMS})
    assert again["id"] == task["id"]


def test_turning_it_off_leaves_what_is_there_encrypted(queue: Api) -> None:
    task = create(queue)
    queue.patch("/api/task-types/secret", {"is_encrypted": False})
    run(queue, result=HIDDEN)
    assert queue.get(f"/api/tasks/{task['id']}")["result"] == HIDDEN
    assert HIDDEN not in stored()
    create(queue)
    assert HIDDEN in stored()


def test_a_new_schema_is_checked_against_encrypted_tasks(queue: Api) -> None:
    create(queue)
    schema = {"type": "object", "properties": {"card": {"type": "integer"}}}
    checked = queue.post("/api/task-types/secret/validate", {"param_schema": schema})
    assert (checked["checked"], checked["rejected"]) == (1, 1)


@pytest.mark.parametrize("column", ["params", "result", "error_message"])
def test_an_encrypted_text_is_refused_in_another_place(queue: Api, column: str) -> None:
    mine, other = create(queue, priority=1), create(queue)
    run(queue, result="mine")
    fail(queue, is_retryable=False)
    row = fetch_one("SELECT params, payload_key FROM {tasks} WHERE id = ?", (other["id"],))
    assert row is not None
    execute(
        f"UPDATE {{tasks}} SET {column} = ?, payload_key = ? WHERE id = ?",
        (row["params"], row["payload_key"], mine["id"]),
    )
    refused = queue.get(f"/api/tasks/{mine['id']}", 503)
    assert refused["code"] == "payload_unreadable"
    assert f"tasks.{column} of id {mine['id']}" in refused["message"]
    assert queue.get(f"/api/tasks/{other['id']}")["params"] == PARAMS


def test_messages_of_a_history_cannot_change_places(queue: Api) -> None:
    task = create(queue, max_attempts=3)
    fail(queue)
    fail(queue)
    first, second = fetch_all("SELECT id, message FROM {task_logs} WHERE message IS NOT NULL")
    execute("UPDATE {task_logs} SET message = ? WHERE id = ?", (first["message"], second["id"]))
    refused = queue.get(f"/api/tasks/{task['id']}/logs", 503)
    assert refused["code"] == "payload_unreadable"


def test_a_damaged_task_keeps_no_other_from_being_claimed_and_can_be_removed(queue: Api) -> None:
    damaged, good = create(queue, priority=1), create(queue)
    execute("UPDATE {tasks} SET params = 'AAAA' WHERE id = ?", (damaged["id"],))
    assert [task["id"] for task in queue.claim(limit=5)["tasks"]] == [good["id"]]
    queue.post(f"/api/tasks/{damaged['id']}/cancel", {})
    assert queue.claim(status=404)["code"] == "no_task_available"
    deleted = queue.post("/api/tasks/delete", {"ids": [damaged["id"]]})
    assert deleted["changed"] == 1


def test_a_claim_of_damaged_tasks_alone_says_so(queue: Api) -> None:
    task = create(queue)
    execute("UPDATE {tasks} SET params = 'AAAA' WHERE id = ?", (task["id"],))
    assert queue.claim(status=503)["code"] == "payload_unreadable"


def test_types_that_are_not_encrypted_have_nothing_to_do_with_keys(queue: Api) -> None:
    task = queue.create("open", PARAMS)
    fail(queue, is_retryable=False)
    assert fetch_value("SELECT COUNT(*) FROM {payload_keys}") == 0
    assert fetch_value("SELECT params FROM {tasks}") == json.dumps(
        PARAMS, ensure_ascii=False, separators=(",", ":")
    )
    columns = "(SELECT COUNT(payload_key) FROM {task_logs}) + COUNT(payload_key)"
    assert fetch_value(f"SELECT {columns} FROM {{tasks}}") == 0
    assert queue.get(f"/api/tasks/{task['id']}")["error_message"] == f"no {HIDDEN}"


def test_long_histories_are_shortened_in_plain_words(
    queue: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taskmanager.queue import history

    monkeypatch.setattr(history, "MAX_EVENTS", 8)
    monkeypatch.setattr(history, "KEPT_EVENTS", 4)
    task = create(queue)
    for _ in range(4):
        fail(queue, is_retryable=False)
        queue.post(f"/api/tasks/{task['id']}/retry", {})
    messages = [log["message"] for log in queue.get(f"/api/tasks/{task['id']}/logs")["logs"]]
    assert any(message and "older events were removed" in message for message in messages)
    assert f"no {HIDDEN}" in messages


def test_failures_are_counted_by_their_codes(queue: Api, clock: Clock) -> None:
    create(queue)
    fail(queue, is_retryable=False)
    clock.advance(300)
    maintenance.count_events(now=clock.now, deadline=float("inf"))
    assert "refused" in [row["label"] for row in fetch_all("SELECT label FROM {period_counts}")]
