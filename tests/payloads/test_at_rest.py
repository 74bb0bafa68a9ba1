"""Encryption at rest: what lies in the database of an encrypted type, and who can read it."""

import json
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from taskmanager.app import close_app, create_app
from taskmanager.db.connection import database
from taskmanager.db.models import MODELS
from taskmanager.db.queries import rows_of
from taskmanager.db.statements import fetch_all, fetch_value
from taskmanager.errors import ConfigurationError
from taskmanager.payloads import keys_in_use, rotation
from taskmanager.payloads.keyring import Keyring, key_id
from taskmanager.payloads.sealing import keyring
from tests.conftest import Api, Clock
from tests.payloads.conftest import KEY
from tests.payloads.conftest import NEW_KEY as NEWER

SECRET = "4111-1111-1111-1111"


@pytest.fixture
def job(api: Api, clock: Clock) -> Api:
    api.register(is_encrypted=True)
    api.register("plain")
    return api


def everything() -> str:
    """All that is stored."""
    return json.dumps([rows_of(model.select()) for model in MODELS], default=str)


def live(api: Api, clock: Clock) -> list[int]:
    """Tasks that carry SECRET wherever a user can put it; their ids."""
    params, ids = {"card": SECRET}, []
    ids.append(api.post("/api/tasks", {"type": "job", "params": params}, 201)["id"])
    held = api.claim()
    assert held["params"] == params
    path = f"/api/tasks/{held['id']}"
    body = {"worker_id": "worker-1", "progress": 5, "message": SECRET}
    assert api.post(f"{path}/progress", body)["progress_message"] == SECRET
    assert api.complete(held, success=False, error=SECRET)["error_message"] == SECRET
    held = api.claim()
    assert held["error_message"] == SECRET
    assert api.complete(held, result={"card": SECRET})["result"] == {"card": SECRET}
    other = api.create("job", params)
    api.patch(f"/api/tasks/{other['id']}", {"params": {"card": SECRET, "n": 2}})
    api.post(f"/api/tasks/{other['id']}/cancel", {"reason": SECRET})
    ids.append(other["id"])
    schedule = {"name": "s", "type": "job", "params": params, "interval_seconds": 60}
    made = api.post("/api/schedules", schedule, 201)
    assert made["params"] == params
    api.patch(f"/api/schedules/{made['id']}", {"params": {**params, "n": 3}})
    ids.append(api.post(f"/api/schedules/{made['id']}/run", {}, 201)["id"])
    callback = {"type": "job", "params": {**params, "batch": {"$batch": "id"}}}
    batch = api.post("/api/batches", {"on_finished": callback}, 201)
    api.post(f"/api/batches/{batch['id']}/close")
    ids.append(api.get(f"/api/batches/{batch['id']}")["on_finished_task_id"])
    clock.advance(60)
    api.post("/api/maintenance/run", {})
    return ids


def test_nothing_of_it_lies_in_the_database_and_the_api_shows_all(job: Api, clock: Clock) -> None:
    first, second, third, fourth = live(job, clock)
    assert SECRET not in everything()
    assert job.get(f"/api/tasks/{first}")["params"] == {"card": SECRET}
    assert job.get(f"/api/tasks/{first}")["result"] == {"card": SECRET}
    assert job.get(f"/api/tasks/{second}")["params"] == {"card": SECRET, "n": 2}
    assert job.get(f"/api/tasks/{third}")["params"] == {"card": SECRET, "n": 3}
    assert job.get(f"/api/tasks/{fourth}")["params"]["card"] == SECRET
    logs = job.get(f"/api/tasks/{first}/logs")["logs"]
    assert [log["message"] for log in logs if log["event"] == "retry_scheduled"] == [SECRET]
    [error] = job.get(f"/api/tasks/{first}")["attempt_errors"]
    assert error["error_message"] == SECRET
    assert SECRET in json.dumps(job.get("/api/events?limit=1000"))
    listed = job.get("/api/tasks?include=params,result")["tasks"]
    assert sum(task["params"].get("card") == SECRET for task in listed) == len(listed)
    assert SECRET in json.dumps(job.get("/api/schedules"))


def test_a_type_that_is_not_encrypted_is_stored_as_ever(job: Api) -> None:
    task = job.create("plain", {"card": SECRET})
    row = fetch_all("SELECT params, payload_key FROM {tasks} WHERE id = ?", (task["id"],))[0]
    assert row == {
        "params": json.dumps({"card": SECRET}, separators=(",", ":")),
        "payload_key": None,
    }


def test_duplicates_are_known_and_their_key_says_nothing(job: Api) -> None:
    body = {"type": "job", "params": {"card": SECRET}}
    task = job.post("/api/tasks", body, 201)
    again = job.post("/api/tasks", body)
    assert (again["id"], again["params"]) == (task["id"], {"card": SECRET})
    job.register("job2")
    plain = job.post("/api/tasks", {**body, "type": "job2"}, 201)
    assert plain["dedupe_key"] != task["dedupe_key"]
    ring = keyring()
    assert ring is not None
    named = job.create(dedupe="forever", dedupe_key="mine")
    assert job.get("/api/tasks?type=job&dedupe_key=mine")["tasks"][0]["id"] == named["id"]


def test_a_report_that_was_answered_before_is_recognised(job: Api) -> None:
    job.create(params={"card": SECRET})
    held = job.claim()
    job.complete(held, result={"card": SECRET})
    again = job.complete(held, result={"card": SECRET})
    assert (again["replayed"], again["result"]) == (True, {"card": SECRET})
    job.create(params={"n": 1}, max_attempts=1)
    held = job.claim()
    job.complete(held, success=False, error=SECRET)
    assert job.complete(held, success=False, error=SECRET)["replayed"]


def test_searches_find_what_is_encrypted(job: Api) -> None:
    for n, name in enumerate(("job", "plain")):
        job.create(name, {"card": SECRET, "n": n}, max_attempts=1)
        job.complete(job.claim(), success=False, error=f"no card {SECRET} in {n}")
    assert job.get(f"/api/tasks?params.card={SECRET}")["count"] == 2
    assert job.get("/api/tasks?params.n=0")["count"] == 1
    assert job.get("/api/tasks?error=NO%20CARD")["count"] == 2
    assert job.get("/api/tasks?error=in%200")["count"] == 1
    assert job.get("/api/tasks?error=nothing")["count"] == 0
    groups = job.get("/api/tasks/errors")["groups"]
    assert {group["message"] for group in groups} == {"no card #-#-#-# in #"}
    assert "encrypted" in job.call("GET", "/api/tasks?error=x&with_total=1").get_json()["message"]


def test_new_schemas_are_tried_on_what_is_encrypted(job: Api) -> None:
    job.create(params={"card": SECRET})
    schema = {"type": "object", "properties": {"card": {"type": "integer"}}}
    answer = job.post("/api/task-types/job/validate", {"param_schema": schema})
    assert (answer["checked"], answer["rejected"]) == (1, 1)


def other_keys(keys: str) -> None:
    """Lets the application at work have these keys."""
    database.obj.keyring = Keyring(keys.split(",")) if keys else None
    keys_in_use.require_keys()


def test_rotation_encrypts_all_with_the_first_key_and_then_the_old_one_can_go(
    job: Api, clock: Clock
) -> None:
    ids = live(job, clock)
    before = [job.get(f"/api/tasks/{task_id}") for task_id in ids]
    key = before[0]["dedupe_key"]
    with pytest.raises(ConfigurationError, match=key_id(KEY)):
        other_keys(NEWER)
    other_keys(f"{NEWER},{KEY}")
    assert job.get(f"/api/tasks/{ids[0]}") == before[0]
    assert rotation.rotate(report=lambda name, done: None) > 0
    other_keys(NEWER)
    assert [job.get(f"/api/tasks/{task_id}") for task_id in ids] == before
    assert SECRET not in everything()
    assert {row["payload_key"] for row in fetch_all("SELECT payload_key FROM {tasks}")} == {
        key_id(NEWER)
    }
    assert job.post("/api/tasks", {"type": "job", "params": {"card": SECRET}})["dedupe_key"] == key
    assert fetch_value("SELECT COUNT(*) FROM {payload_keys}") == 1


def test_rotation_encrypts_what_was_there_before_its_type_was_encrypted(
    job: Api, clock: Clock
) -> None:
    task = job.create("plain", {"card": SECRET}, max_attempts=1)
    job.complete(job.claim(), success=False, error=SECRET)
    job.patch("/api/task-types/plain", {"is_encrypted": True})
    assert SECRET in everything()
    rotation.rotate(report=lambda name, done: None)
    assert SECRET not in everything()
    found = job.get(f"/api/tasks/{task['id']}")
    assert (found["params"], found["error_message"]) == ({"card": SECRET}, SECRET)
    assert found["attempt_errors"][0]["error_message"] == SECRET


def test_a_start_without_the_key_stops(job: Api, app: Flask, tmp_path: Path) -> None:
    settings = app.extensions["taskmanager"]
    job.create()
    config = {"instance_path": tmp_path / "instance", "database_url": settings.database_url}
    with pytest.raises(ConfigurationError, match=key_id(KEY)):
        create_app(config)
    with pytest.raises(ConfigurationError, match="Put that key back"):
        create_app({**config, "payload_key": NEWER})
    close_app(create_app({**config, "payload_key": f"{NEWER},{KEY}"}))


def test_two_first_starts_agree_on_the_secret(job: Api) -> None:
    job.create()
    first, second = Keyring([NEWER, KEY]), Keyring([NEWER, KEY])
    rows = fetch_all("SELECT id, secret FROM {payload_keys}")
    secrets = [keys_in_use._secret(ring, rows) for ring in (first, second)]
    assert secrets[0] == secrets[1] != b""


def test_a_text_that_only_looks_encrypted_is_left_as_it_is(job: Api) -> None:
    text = Keyring([NEWER]).current.seal("x", "here")
    job.create("plain", {}, max_attempts=1)
    job.complete(job.claim(), success=False, error=text)
    assert job.get("/api/tasks?status=failed")["tasks"][0]["error_message"] == text


def test_a_key_that_has_encrypted_nothing_may_be_taken_away(app: Flask, tmp_path: Path) -> None:
    settings = app.extensions["taskmanager"]
    config = {"instance_path": tmp_path / "instance", "database_url": settings.database_url}
    other = create_app(config)
    assert other.test_client().get("/api/health").get_json()["data"]["status"] == "healthy"
    close_app(other)


def test_an_encrypted_type_needs_a_key_at_the_start(job: Api, app: Flask, tmp_path: Path) -> None:
    settings = app.extensions["taskmanager"]
    config = {"instance_path": tmp_path / "instance", "database_url": settings.database_url}
    with pytest.raises(ConfigurationError, match="'job' are to be encrypted"):
        create_app(config)


class TestWithoutAKey:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {}

    def test_no_type_can_be_encrypted(self, api: Api) -> None:
        body = {"name": "job", "version": "1", "param_schema": {}, "is_encrypted": True}
        refused = api.post("/api/task-types/register", body, 400)
        assert (refused["code"], "new-key" in refused["message"]) == ("no_payload_key", True)


@pytest.mark.parametrize(
    "key",
    ["short", "A" * 44, KEY[:-2], f"{KEY};{NEWER}"],
    ids=["short", "of zeros", "cut off", "wrongly separated"],
)
def test_a_key_that_is_none_is_refused_and_not_repeated(key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="TASKMANAGER_PAYLOAD_KEY") as refused:
        create_app({"instance_path": tmp_path, "payload_key": key})
    assert key not in str(refused.value)
