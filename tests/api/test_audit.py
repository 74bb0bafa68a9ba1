"""The audit trail: what is recorded of whom, what never is, and how many failures at the most."""

import json
import re
import threading
from typing import Any

import pytest
from flask import Flask

from taskmanager.access import audit, keys
from taskmanager.db.connection import cache, close_connection
from taskmanager.db.statements import execute, fetch_all
from taskmanager.db.transactions import write_transaction
from tests.conftest import Api, Clock, make_key
from tests.support.commands import run_command

SECRET = "the-params-nobody-may-read"
ORIGIN = {"REMOTE_ADDR": "203.0.113.7"}


def from_afar(api: Api, method: str, path: str, body: Any = None) -> Any:
    """A call from an address of its own with a request id of its own."""
    headers = {"X-API-Key": api.key, "X-Request-ID": "req-1"}
    response = api.call(method, path, body, headers=headers, environ_base=ORIGIN)
    assert response.status_code < 300, response.text
    return response.get_json()["data"]


def events(api: Api, path: str = "/api/admin/audit?limit=100") -> list[Any]:
    """Newest first."""
    return list(api.get(path)["events"])


def fail(api: Api, address: str = "198.51.100.1", times: int = 1, key: str = "wrong") -> None:
    for _ in range(times):
        response = api.call(
            "GET",
            "/api/stats",
            headers={"X-API-Key": key},
            environ_base={"REMOTE_ADDR": address},
        )
        assert response.status_code in (401, 429)


def failures() -> list[dict[str, Any]]:
    return fetch_all("SELECT * FROM audit_events WHERE event = ? ORDER BY id", (audit.FAILED,))


def _everything(api: Api) -> tuple[list[str], int]:
    """One of each action that is recorded; returns the keys that it made and their number."""
    from_afar(
        api,
        "POST",
        "/api/task-types/register",
        {"name": "job", "version": "1", "param_schema": {"type": "object"}},
    )
    from_afar(api, "PATCH", "/api/task-types/job", {"is_paused": True})
    task = api.create("job", {"token": SECRET})
    from_afar(api, "POST", f"/api/tasks/{task['id']}/cancel", {"reason": SECRET})
    from_afar(api, "POST", f"/api/tasks/{task['id']}/retry", {})
    schedule = {"name": "s", "type": "job", "params": {"token": SECRET}, "interval_seconds": 60}
    path = f"/api/schedules/{from_afar(api, 'POST', '/api/schedules', schedule)['id']}"
    from_afar(api, "PATCH", path, {"params": {"token": SECRET + "2"}})
    from_afar(api, "DELETE", path)
    made = from_afar(api, "POST", "/api/admin/keys", {"name": "ci", "role": "worker"})
    path = f"/api/admin/keys/{made['id']}"
    from_afar(api, "PATCH", path, {"name": "cd"})
    rotated = from_afar(api, "POST", f"{path}/rotate", {})
    from_afar(api, "DELETE", path)
    return [api.key, made["key"], rotated["key"]], made["id"]


RECORDED = [
    *("task_type_created", "task_type_changed", "task_cancelled", "task_retried"),
    *("schedule_created", "schedule_changed", "schedule_deleted"),
    *("key_created", "key_changed", "key_created", "key_rotated", "key_revoked"),
]


def test_every_kind_of_action_is_recorded_with_key_address_and_request_id(api: Api) -> None:
    _everything(api)
    found = events(api)[::-1][1:]  # the first is the key of this test itself
    assert [event["event"] for event in found] == RECORDED
    own = api.get("/api/admin/keys")["keys"][0]["id"]
    for event in found:
        assert event["api_key_id"] == own
        assert event["address"] == "203.0.113.7"
        assert event["request_id"] == "req-1"
        assert event["message"]
        assert event["created_at"].endswith("Z")


def test_neither_a_key_nor_params_nor_a_reason_are_ever_in_the_trail(api: Api) -> None:
    made, _ = _everything(api)
    cache().keys.clear()
    fail(api, key=made[1] + "x")
    fail(api, address="198.51.100.2", key=made[1])
    stored = repr(fetch_all("SELECT * FROM audit_events"))
    assert "key_rotated" in stored
    assert SECRET not in stored
    for key in made:
        assert key not in stored
        assert key[:20] not in stored
        assert keys.hash_key(key) not in stored


def test_pruning_is_recorded_and_old_events_go_with_it(app: Flask, api: Api, clock: Clock) -> None:
    api.register()
    api.create()
    api.complete(api.claim())
    clock.advance(31 * 86_400)
    fresh = api.with_key(make_key("admin"))
    done = fresh.post("/api/maintenance/run", {})
    assert done["pruned"] == 1
    assert [event["event"] for event in events(fresh)] == ["pruned", "key_created"]


def test_failures_without_a_key_and_with_a_wrong_one_are_recorded_with_their_reason(
    api: Api,
) -> None:
    fail(api, address="198.51.100.1", key="")
    fail(api, address="198.51.100.2", key="wrong")
    fail(api, address="2001:db8::1", key="wrong")
    rows = failures()
    assert [row["address"] for row in rows] == ["198.51.100.1", "198.51.100.2", "2001:db8::/64"]
    assert "Send your API key" in rows[0]["message"]
    assert "not known" in rows[1]["message"]
    assert all(row["api_key_id"] is None for row in rows)
    assert all(re.fullmatch(r"[0-9a-f]{32}", row["request_id"]) for row in rows)


def test_what_is_refused_for_other_reasons_is_no_failed_authentication(api: Api) -> None:
    viewer = api.with_key(make_key("viewer"))
    viewer.get("/api/admin/keys", 403)
    api.get("/api/tasks/7000000", 404)
    api.client.get("/api/health")
    api.client.get("/api/nothing")
    assert failures() == []


def test_repeated_failures_are_one_row_and_later_their_number(api: Api, clock: Clock) -> None:
    fail(api, times=100)
    assert len(failures()) == 1
    clock.advance(61)
    fail(api, address="198.51.100.9")
    rows = failures()
    assert len(rows) == 3
    assert rows[1]["address"] == "198.51.100.1"
    assert rows[1]["message"].startswith("99 more from this address in the minute from ")
    assert rows[2]["address"] == "198.51.100.9"


def test_a_crowd_of_addresses_gets_a_bounded_number_of_rows(api: Api, clock: Clock) -> None:
    for number in range(200):
        fail(api, address=f"198.51.100.{number}")
    assert len(failures()) == audit.ADDRESSES_PER_WINDOW
    clock.advance(61)
    fail(api)
    rows = failures()
    assert len(rows) == audit.ADDRESSES_PER_WINDOW + 2
    assert rows[-2]["address"] is None
    assert rows[-2]["message"].startswith("190 from others in the minute from ")


def test_a_failure_waits_for_no_writer(api: Api) -> None:
    holding, release = threading.Event(), threading.Event()

    def hold_the_write_lock() -> None:
        @write_transaction
        def write() -> None:
            execute("UPDATE api_keys SET updated_at = updated_at + 1")
            holding.set()
            release.wait(5)  # half of what a writer waits for another

        write()
        close_connection()

    writer = threading.Thread(target=hold_the_write_lock)
    writer.start()
    try:
        assert holding.wait(60)
        fail(api)
        assert not release.is_set()
        assert writer.is_alive()
    finally:
        release.set()
        writer.join()


def test_only_the_newest_failures_are_kept_and_every_action(
    api: Api, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(audit, "MAX_FAILURE_ROWS", 5)
    api.register()
    for number in range(9):
        fail(api, address=f"198.51.100.{number}")
    audit.prune(before=None)
    kept = [row["address"] for row in failures()]
    assert kept == [f"198.51.100.{number}" for number in range(4, 9)]
    assert [event["event"] for event in events(api)][-2:] == ["task_type_created", "key_created"]


def test_pages_follow_each_other_without_gap_or_repetition(api: Api) -> None:
    for number in range(7):
        api.register(f"type{number}")
    whole = [event["id"] for event in events(api)]
    paged, path = [], "/api/admin/audit?limit=3"
    for _ in range(9):
        page = api.get(path)
        paged += [event["id"] for event in page["events"]]
        assert page["count"] == len(page["events"]) <= 3
        if page["next_cursor"] is None:
            break
        path = f"/api/admin/audit?limit=3&cursor={page['next_cursor']}"
    assert paged == whole == sorted(whole, reverse=True)
    assert len(whole) == 8


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "cursor=x", "cursor=-1", "offset=1"])
def test_a_query_that_makes_no_sense_is_refused(api: Api, query: str) -> None:
    assert api.get(f"/api/admin/audit?{query}", 400)["code"] == "invalid_request"


def test_a_key_that_is_limited_to_types_may_not_read_the_trail(api: Api) -> None:
    limited = api.with_key(make_key("admin", task_types=["job"]))
    assert limited.get("/api/admin/audit", 403)["code"] == "task_type_not_allowed"


def test_the_command_prints_the_newest_last(
    api: Api, tmp_path: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        api.register(f"type{number}")
    monkeypatch.setenv("TASKMANAGER_INSTANCE_PATH", str(tmp_path / "instance"))
    monkeypatch.setenv("TASKMANAGER_DATABASE_URL", database_url)
    as_json = run_command("audit", "--json", "--limit", "2")
    assert as_json.exit_code == 0, as_json.output
    messages = [event["message"] for event in json.loads(as_json.stdout)]
    assert [message.split(":")[0] for message in messages] == ["type1", "type2"]
    lines = run_command("audit").stdout.splitlines()
    assert len(lines) == 4
    assert "key_created" in lines[0]
    assert "command line" in lines[0]
    assert "type2" in lines[-1]
    assert re.match(r"\d{4}-\d\d-\d\dT", lines[-1])
