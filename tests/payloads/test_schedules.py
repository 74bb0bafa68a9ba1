"""Schedules of an encrypted type."""

from typing import Any

import pytest

from taskmanager.db.statements import execute, fetch_one, fetch_value
from tests.conftest import Api, Clock
from tests.payloads.conftest import HIDDEN, stored

PARAMS = {"card": HIDDEN}


def schedule(queue: Api, **fields: Any) -> Any:
    body = {"name": "nightly", "type": "secret", "params": PARAMS, "interval_seconds": 60}
    return queue.post("/api/schedules", {**body, **fields}, 201)


def test_their_params_are_read_by_callers_alone(queue: Api, clock: Clock) -> None:
    made = schedule(queue)
    path = f"/api/schedules/{made['id']}"
    assert made["params"] == queue.get(path)["params"] == PARAMS
    by_hand = queue.post(f"{path}/run", {}, 201)
    clock.advance(61)
    due = queue.claim(sort_by="id", sort_order="desc")
    assert by_hand["params"] == due["params"] == PARAMS
    assert due["id"] != by_hand["id"]
    changed = queue.patch(path, {"params": {"card": f"{HIDDEN} 2"}, "priority": 3})
    assert changed["params"] == {"card": f"{HIDDEN} 2"}
    assert queue.patch(path, {"name": "daily"})["params"] == {"card": f"{HIDDEN} 2"}
    [listed] = queue.get("/api/schedules")["schedules"]
    assert listed["params"] == {"card": f"{HIDDEN} 2"}
    assert HIDDEN not in stored()


def test_why_a_run_failed_is_read_by_callers_alone(queue: Api, clock: Clock) -> None:
    made = schedule(queue)
    card = {"enum": [HIDDEN[::-1]]}
    queue.register("secret", {"type": "object", "properties": {"card": card}})
    clock.advance(61)
    queue.claim(status=404)
    path = f"/api/schedules/{made['id']}"
    shown = queue.get(path)
    assert (shown["last_outcome"], shown["params"]) == ("failed", PARAMS)
    assert "card" in shown["last_error"]
    assert "card" not in fetch_value("SELECT last_error FROM {schedules}")
    changed = queue.patch(path, {"params": {"card": HIDDEN[::-1]}})
    assert changed["last_error"] == shown["last_error"]


def test_another_switch_of_the_type_counts_from_the_next_params_on(queue: Api) -> None:
    made = schedule(queue)
    path = f"/api/schedules/{made['id']}"
    queue.patch("/api/task-types/secret", {"is_encrypted": False})
    queue.patch(path, {"priority": 5})
    assert HIDDEN not in stored()
    queue.patch(path, {"params": {"card": f"{HIDDEN} 2"}})
    row = fetch_one("SELECT params, payload_key FROM {schedules}")
    assert row == {"params": f'{{"card":"{HIDDEN} 2"}}', "payload_key": None}
    queue.patch("/api/task-types/secret", {"is_encrypted": True})
    assert queue.patch(path, {"params": PARAMS})["params"] == PARAMS
    assert fetch_value("SELECT params FROM {schedules}") != '{"card":"xylophone"}'


@pytest.mark.parametrize("damage", ["params = 'AAAA'", "payload_key = 'gone'"])
def test_one_that_cannot_be_read_keeps_no_other_from_running(
    queue: Api, clock: Clock, damage: str
) -> None:
    schedule(queue)
    execute(f"UPDATE {{schedules}} SET {damage}")
    schedule(queue, name="other", type="open")
    clock.advance(61)
    assert queue.post("/api/maintenance/run", {})["created"] == 1
    outcome = fetch_value("SELECT last_outcome FROM {schedules} WHERE name = 'nightly'")
    assert outcome == "failed"
