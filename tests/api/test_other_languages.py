"""What PHP and JavaScript make of JSON: null for what is not sent, [] for {}, ids as text."""

import json
from typing import Any

import pytest

from tests.api.tables import dump_tables
from tests.api.test_bad_input import BODIES, schema_of
from tests.conftest import Api

POSTED = [name for name, (method, *_) in BODIES.items() if method == "POST"]
CHANGED = [name for name, (method, *_) in BODIES.items() if method == "PATCH"]


def optional_fields(name: str) -> list[str]:
    schema = schema_of(name)
    return [field for field in schema["properties"] if field not in schema.get("required", ())]


@pytest.fixture
def held(api: Api) -> int:
    """The id of a task of type `job` that worker `w` holds."""
    api.register()
    api.create()
    return int(api.claim("w")["id"])


@pytest.mark.parametrize("name", POSTED)
def test_null_for_an_optional_field_is_the_same_as_leaving_it_out(
    api: Api, held: int, name: str
) -> None:
    _, path, body = BODIES[name]
    nulls = {field: None for field in optional_fields(name) if field not in body}
    if name == "CLAIM":
        api.create()
    answer = api.call("POST", path.replace("{held}", str(held)), {**body, **nulls})
    codes = {
        409: {"task_not_retryable"},
        404: {"key_not_found", "webhook_not_found", "batch_not_found"},
    }
    content = answer.get_json()
    assert answer.status_code < 300 or content["code"] in codes[answer.status_code], content


def test_null_leaves_what_a_registration_does_not_name(api: Api) -> None:
    api.register(priority=7, retry={"strategy": "fixed", "base_seconds": 5})
    again = {"name": "job", "version": "1", "param_schema": {"type": "object"}}
    nulls = {"priority": None, "retry": None, "dedupe": None}
    kept = api.post("/api/task-types/register", {**again, **nulls})
    assert (kept["updated"], kept["priority"], kept["retry"]["base_seconds"]) == (False, 7, 5)
    changed = api.patch("/api/task-types/job", {"priority": None})
    assert (changed["priority"], changed["retry"]["base_seconds"]) == (None, 5)


def test_null_within_a_part_of_a_body_is_not_sent_either(api: Api, held: int) -> None:
    retry = {"strategy": "fixed", "base_seconds": None, "jitter": None}
    assert api.register("other", retry=retry)["retry"] == {"strategy": "fixed"}
    item = {"type": "job", "params": {}, "dedupe": None, "dedupe_key": None}
    assert api.post("/api/tasks/batch", {"tasks": [item], "atomic": None}, 201)["created"] == 1
    report = {"id": held, "success": True, "is_retryable": None, "claim_token": None}
    done = api.post("/api/tasks/complete", {"worker_id": "w", "completions": [report]})
    assert done["count"] == 1


def test_null_stays_wrong_where_a_field_is_required_or_unknown_and_in_a_change(
    api: Api, held: int
) -> None:
    api.post("/api/tasks", {"type": "job", "params": None}, 400)
    api.post("/api/tasks", {"type": None, "params": {}}, 400)
    assert (
        "priorty"
        in api.post("/api/tasks", {"type": "job", "params": {}, "priorty": None}, 400)["message"]
    )
    for change in ({"is_active": None}, {"retry": {"strategy": "fixed", "jitter": None}}):
        api.patch("/api/task-types/job", change, 400)


def test_an_empty_list_is_an_empty_object_where_only_an_object_can_stand(
    api: Api, held: int
) -> None:
    task = {"type": "job", "params": []}
    made = api.post("/api/tasks", task, 201)
    assert made["params"] == {}
    assert api.post("/api/tasks", {**task, "params": {}})["id"] == made["id"]
    assert api.post("/api/tasks/batch", {"tasks": [task]})["deduplicated"] == 1
    assert api.post("/api/task-types/job/validate", {"params": []})["valid"]
    schedule = {"name": "s", "type": "job", "params": [], "interval_seconds": 60}
    added = api.post("/api/schedules", schedule, 201)
    assert added["params"] == {}
    changed = api.patch(f"/api/schedules/{added['id']}", {"params": []})
    assert changed["params"] == {}
    api.post("/api/workers/heartbeat", {"worker_id": "w", "metadata": []})
    assert api.get("/api/workers/w")["metadata"] == {}
    assert api.post(f"/api/tasks/{held}/cancel", [])["status"] == "cancelled"


def test_an_empty_list_stays_one_within_params_and_as_a_result(api: Api, held: int) -> None:
    params = {"a": [], "properties": [], "b": {"params": []}}
    assert api.create(params=params)["params"] == params
    done = api.post(
        f"/api/tasks/{held}/complete", {"worker_id": "w", "success": True, "result": []}
    )
    assert done["result"] == []
    assert api.post("/api/workers/heartbeat", {"worker_id": "w", "tasks": []})["renewed"] == []
    for wrong in ({"retry": []}, {"name": []}, {"priority": []}):
        body = {"name": "n", "version": "1", "param_schema": {}, **wrong}
        api.post("/api/task-types/register", body, 400)


PHP_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "properties": {"type": "object", "properties": []},
        "list": {"type": "array", "items": {"properties": [], "patternProperties": []}},
        "fixed": {"const": {"properties": []}, "default": [], "enum": [[], {"$defs": []}]},
    },
    "anyOf": [{"properties": []}, {"not": {"definitions": []}}],
    "$defs": [],
}
MEANT = {
    "type": "object",
    "properties": {
        "properties": {"type": "object", "properties": {}},
        "list": {"type": "array", "items": {"properties": {}, "patternProperties": {}}},
        "fixed": {"const": {"properties": []}, "default": [], "enum": [[], {"$defs": []}]},
    },
    "anyOf": [{"properties": {}}, {"not": {"definitions": {}}}],
    "$defs": {},
}


@pytest.mark.parametrize("as_text", [False, True])
def test_a_schema_is_read_as_php_writes_it(api: Api, as_text: bool) -> None:
    sent = json.dumps(PHP_SCHEMA, sort_keys=True) if as_text else PHP_SCHEMA
    body = {"name": "job", "version": "1", "param_schema": sent}
    assert api.post("/api/task-types/register", body, 201)["param_schema"] == MEANT
    again = api.post("/api/task-types/register", {**body, "param_schema": MEANT})
    assert (again["created"], again["updated"]) == (False, False)
    assert api.post("/api/task-types/job/validate", {"param_schema": sent})["checked"] == 0


@pytest.mark.parametrize("text", ["[]", "{}", '{"properties": []}'])
def test_an_empty_schema_takes_every_object(api: Api, text: str) -> None:
    api.register(schema=text)
    assert api.create(params={"a": 1})["params"] == {"a": 1}


@pytest.mark.parametrize(
    "wrong",
    ["", "{", "5", "null", "[1]", '"{}"', '{"properties": [1]}', "NaN", "[" * 100, '"\\u0000"'],
)
def test_a_text_that_is_no_schema_is_refused(api: Api, wrong: str) -> None:
    before = dump_tables()
    body = {"name": "job", "version": "1", "param_schema": wrong}
    assert "param_schema" in api.post("/api/task-types/register", body, 400)["message"]
    assert dump_tables() == before


def test_an_id_may_be_text(api: Api, held: int) -> None:
    type_id = str(api.get("/api/task-types/job")["id"])
    child = api.create(parent_task_id=str(held))
    assert child["parent_task_id"] == held
    claimed = api.claim("w", task_type_id=type_id, task_type_ids=[type_id])
    assert claimed["id"] == child["id"]
    tasks = [{"id": str(held)}, {"id": child["id"]}]
    beat = api.post("/api/workers/heartbeat", {"worker_id": "w", "tasks": tasks})
    assert beat["renewed"] == [held, child["id"]]
    reports = {"worker_id": "w", "completions": [{"id": str(held), "success": True}]}
    assert api.post("/api/tasks/complete", reports)["results"][0]["id"] == held


@pytest.mark.parametrize("wrong", ["", "0", "-1", "1.0", " 1", "1e3", "١", "9" * 19, "9" * 20, [1]])
def test_what_is_no_id_stays_refused(api: Api, wrong: Any) -> None:
    api.register()
    assert "task_type_id" in api.claim("w", 400, task_type_id=wrong)["message"]
    assert (
        "parent_task_id"
        in api.post("/api/tasks", {"type": "job", "params": {}, "parent_task_id": wrong}, 400)[
            "message"
        ]
    )


def test_numbers_and_flags_stay_strict(api: Api, held: int) -> None:
    for field, wrong in (("priority", "5"), ("max_attempts", "3"), ("delay_seconds", "1")):
        refused = api.post("/api/tasks", {"type": "job", "params": {}, field: wrong}, 400)
        assert [problem["path"] for problem in refused["details"]] == [field]
    report = {"worker_id": "w", "success": "true"}
    refused = api.post(f"/api/tasks/{held}/complete", report, 400)
    assert [problem["path"] for problem in refused["details"]] == ["success"]
