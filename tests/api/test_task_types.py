"""Registering task types, changing them, and asking whether params fit."""

from typing import Any

import pytest

from taskmanager.db.statements import execute
from tests.api.tables import dump_tables, send, sent_json
from tests.conftest import Api, Clock

SCHEMA = {
    "type": "object",
    "properties": {"video_id": {"type": "string", "format": "youtube-video-id"}},
    "required": ["video_id"],
}
VIDEO = {"video_id": "dQw4w9WgXcQ"}
DEFAULTS: dict[str, Any] = {
    "priority": 7,
    "max_attempts": 9,
    "lease_seconds": 60,
    "retry": {"strategy": "exponential", "base_seconds": 2, "max_seconds": 60, "jitter": True},
    "dedupe": "active",
}


def register(api: Api, status: int, **fields: Any) -> Any:
    body = {"name": "scrape", "version": "1.0", "param_schema": SCHEMA, **fields}
    return api.post("/api/task-types/register", body, status)


def test_a_new_type_is_created_and_can_be_read(api: Api, clock: Clock) -> None:
    made = register(api, 201)
    assert (made["created"], made["updated"], made["is_active"]) == (True, False, True)
    found = api.get("/api/task-types/scrape")
    assert (found["id"], found["name"], found["version"]) == (made["id"], "scrape", "1.0")
    assert found["param_schema"] == SCHEMA
    assert {name: found[name] for name in DEFAULTS} == dict.fromkeys(DEFAULTS)
    assert found["created_at"] == found["updated_at"]
    assert found["created_at"].endswith("Z")


def test_the_same_registration_again_changes_nothing(api: Api, clock: Clock) -> None:
    register(api, 201, **DEFAULTS)
    before = dump_tables()
    clock.advance(5)
    again = register(api, 200, **DEFAULTS)
    assert (again["created"], again["updated"]) == (False, False)
    assert dump_tables() == before


@pytest.mark.parametrize(
    "change",
    [{"version": "1.1"}, {"param_schema": {"type": "object"}}, {"priority": 1}, {"dedupe": "none"}],
)
def test_a_different_registration_updates_the_type(
    api: Api, clock: Clock, change: dict[str, Any]
) -> None:
    made = register(api, 201)
    clock.advance(5)
    updated = register(api, 200, **change)
    assert (updated["created"], updated["updated"]) == (False, True)
    found = api.get("/api/task-types/scrape")
    assert found["id"] == made["id"]
    assert {name: found[name] for name in change} == change
    assert (found["created_at"], found["updated_at"] > made["updated_at"]) == (
        made["created_at"],
        True,
    )
    assert api.get("/api/task-types")["count"] == 1


def test_defaults_that_are_not_sent_are_kept(api: Api) -> None:
    register(api, 201, **DEFAULTS)
    register(api, 200, version="2")
    found = api.get("/api/task-types/scrape")
    assert {name: found[name] for name in DEFAULTS} == DEFAULTS
    api.patch("/api/task-types/scrape", {"priority": None, "retry": None})
    found = api.get("/api/task-types/scrape")
    assert (found["priority"], found["retry"], found["max_attempts"]) == (None, None, 9)


def test_defaults_of_the_type_reach_its_tasks(api: Api, clock: Clock) -> None:
    register(api, 201, **DEFAULTS)
    first = api.post("/api/tasks", {"type": "scrape", "params": VIDEO}, 201)
    assert (first["priority"], first["max_attempts"], first["dedupe"]) == (7, 9, "active")
    own = api.create("scrape", VIDEO, priority=0, max_attempts=1)
    assert (own["priority"], own["max_attempts"], own["dedupe"]) == (0, 1, "none")
    claimed = api.claim()
    assert claimed["lease_expires_at"] > claimed["claimed_at"]
    clock.advance(61)
    assert api.claim("other")["id"] == first["id"]
    default = api.register("plain")
    assert default["max_attempts"] is None
    assert api.create("plain")["max_attempts"] == 3


def test_every_registered_version_can_be_read(api: Api) -> None:
    register(api, 201)
    register(api, 200, version="2.0", param_schema={"type": "object"})
    assert api.get("/api/task-types/scrape")["version"] == "2.0"
    assert api.get("/api/task-types/scrape?version=2.0")["param_schema"] == {"type": "object"}
    older = api.get("/api/task-types/scrape?version=1.0")
    assert (older["version"], older["param_schema"]) == ("1.0", SCHEMA)
    missing = api.get("/api/task-types/scrape?version=3", 404)
    assert missing["code"] == "task_type_version_not_found"
    assert "'2.0'" in missing["message"]


def test_an_older_version_registered_again_becomes_the_current_one(api: Api) -> None:
    register(api, 201)
    register(api, 200, version="2.0")
    assert register(api, 200, version="1.0")["version"] == "1.0"
    assert api.get("/api/task-types/scrape")["version"] == "1.0"
    assert api.create("scrape", VIDEO)["type_version"] == "1.0"


def test_a_task_keeps_the_version_it_was_made_with(api: Api) -> None:
    register(api, 201)
    task = api.create("scrape", VIDEO)
    register(api, 200, version="2.0", param_schema={"type": "object"})
    assert api.get(f"/api/tasks/{task['id']}")["type_version"] == "1.0"
    assert api.create("scrape", {})["type_version"] == "2.0"


@pytest.mark.parametrize("name", ["a", "A-z_0.9", "PrismQ.Script.Generate", "x" * 255, "...", "-"])
def test_names_may_be_as_long_as_the_contract_says(api: Api, name: str) -> None:
    assert register(api, 201, name=name)["name"] == name
    found = next(row for row in api.get("/api/task-types")["task_types"])
    assert found["name"] == name


@pytest.mark.parametrize(
    "name", ["", "x" * 256, "a b", "a/b", "a%", "ä", "a\n", "a'b", "a\\", " a", "a\u0000"]
)
def test_any_other_name_is_refused(api: Api, name: str) -> None:
    refused = register(api, 400, name=name)
    assert refused["code"] in ("invalid_request", "unstorable_text")
    assert api.get("/api/task-types")["count"] == 0


@pytest.mark.parametrize("version", ["1", "x" * 50, "2.0.0-beta+1 (draft)", "é🦄", "'; --", "a%_"])
def test_a_version_is_up_to_fifty_printable_characters(api: Api, version: str) -> None:
    register(api, 201, version=version)
    response = api.client.get(
        "/api/task-types/scrape", query_string={"version": version}, headers={"X-API-Key": api.key}
    )
    assert response.get_json()["data"]["version"] == version


@pytest.mark.parametrize("version", ["", "x" * 51, "1\n", "\t", "\x7f", "1 ", 1, None, 1.0])
def test_any_other_version_is_refused(api: Api, version: Any) -> None:
    assert register(api, 400, version=version)["details"][0]["path"] == "version"


def test_versions_that_differ_only_in_case_or_accents_are_different(api: Api) -> None:
    for version in ("a", "A", "á"):
        register(
            api, 201 if version == "a" else 200, version=version, param_schema={"$comment": version}
        )
    for version in ("a", "A", "á"):
        found = api.get(f"/api/task-types/scrape?version={version}")
        assert found["param_schema"] == {"$comment": version}


@pytest.mark.parametrize("name", [".", ".."])
def test_a_name_that_no_address_can_hold_is_refused_to_a_new_type(api: Api, name: str) -> None:
    assert "no address can hold" in register(api, 400, name=name)["message"]
    assert api.get("/api/task-types")["count"] == 0
    register(api, 201)
    execute("UPDATE {task_types} SET name = ?", (name,))
    assert [one["name"] for one in api.get("/api/task-types")["task_types"]] == [name]
    assert register(api, 200, name=name, version="2.0")["updated"]
    assert api.create(name, VIDEO)["type"] == name


def test_names_are_told_apart_by_case(api: Api) -> None:
    register(api, 201, name="Scrape")
    register(api, 201, name="scrape")
    api.get("/api/task-types/SCRAPE", 404)
    task = api.create("Scrape", VIDEO)
    assert api.claim(type="scrape", status=404)["code"] == "no_task_available"
    assert api.claim(type="Scrape")["id"] == task["id"]


def test_an_unknown_type_answers_404_everywhere(api: Api) -> None:
    for method, path, body in (
        ("GET", "/api/task-types/none", None),
        ("PATCH", "/api/task-types/none", {"is_active": False}),
        ("POST", "/api/task-types/none/validate", {"params": {}}),
        ("POST", "/api/task-types/none/validate", {"param_schema": {}}),
        ("POST", "/api/tasks", {"type": "none", "params": {}}),
    ):
        response = api.call(method, path, body)
        assert response.status_code == 404, path
        assert response.get_json()["code"] == "task_type_not_found"
        assert "POST /api/task-types/register" in response.get_json()["message"]


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"type": "strin"}, "param_schema.type"),
        ({"properties": {"a": {"minimum": "3"}}}, "param_schema.properties.a.minimum"),
        ({"$ref": "https://example.com/schema.json"}, "param_schema.$ref"),
        ({"$ref": "file:///etc/passwd"}, "param_schema.$ref"),
        ({"$schema": "urn:nothing"}, "param_schema.$schema"),
        ([{}], "param_schema"),
        ("5", "param_schema"),
        (None, "param_schema"),
        (True, "param_schema"),
    ],
)
def test_a_bad_schema_is_refused_with_the_place_of_each_problem(
    api: Api, schema: Any, path: str
) -> None:
    refused = register(api, 400, param_schema=schema)
    assert path in [problem["path"] for problem in refused["details"]]
    assert api.get("/api/task-types")["count"] == 0


def test_a_schema_has_a_largest_size(api: Api) -> None:
    register(api, 201, param_schema={"$comment": "x" * 65_000})
    refused = register(api, 400, name="big", param_schema={"$comment": "é" * 32_800})
    assert "the limit is 65536" in refused["message"]


def test_the_order_of_keys_in_a_schema_is_kept(api: Api) -> None:
    schema = {"title": "t", "properties": {"b": {}, "a": {}}, "$comment": "🦄"}
    body = sent_json({"name": "scrape", "version": "1", "param_schema": schema})
    assert send(api, "/api/task-types/register", body).status_code == 201
    found = api.get("/api/task-types/scrape")["param_schema"]
    assert (list(found), list(found["properties"])) == (list(schema), ["b", "a"])
    assert found == schema


NUMBERS = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def test_a_task_is_created_from_the_type_as_it_is_now(api: Api) -> None:
    register(api, 201, param_schema={"type": "object"})
    assert api.create("scrape", {"n": "one"})["type_version"] == "1.0"

    register(api, 200, version="2.0", param_schema=NUMBERS)
    refused = api.post("/api/tasks", {"type": "scrape", "params": {"n": "two"}}, 400)
    assert refused["code"] == "validation_failed"
    assert api.create("scrape", {"n": 3})["type_version"] == "2.0"

    register(api, 200, version="3.0", param_schema={"type": "object"})
    assert api.create("scrape", {"n": "four"})["type_version"] == "3.0"


def test_two_changes_within_a_millisecond_both_count(api: Api, clock: Clock) -> None:
    register(api, 201)
    register(api, 200, priority=1)
    assert api.create("scrape", VIDEO)["priority"] == 1
    register(api, 200, priority=2)
    assert api.create("scrape", VIDEO)["priority"] == 2


@pytest.mark.parametrize("dedupe", ["active", "none"])
def test_a_type_that_was_deactivated_takes_no_more_tasks(api: Api, dedupe: str) -> None:
    register(api, 201)
    body = {"type": "scrape", "params": VIDEO, "dedupe": dedupe}
    api.post("/api/tasks", body, 201)
    api.patch("/api/task-types/scrape", {"is_active": False})
    assert api.post("/api/tasks", body, 400)["code"] == "task_type_inactive"
    api.patch("/api/task-types/scrape", {"is_active": True})
    api.create("scrape", VIDEO)


def test_an_inactive_type_takes_no_new_tasks_but_hands_out_what_it_has(api: Api) -> None:
    register(api, 201)
    task = api.create("scrape", VIDEO)
    assert api.patch("/api/task-types/scrape", {"is_active": False})["is_active"] is False
    refused = api.post("/api/tasks", {"type": "scrape", "params": VIDEO}, 400)
    assert refused["code"] == "task_type_inactive"
    assert api.claim()["id"] == task["id"]
    api.patch("/api/task-types/scrape", {"is_active": True})
    api.create("scrape", VIDEO)


def test_a_paused_type_takes_tasks_and_hands_out_none(api: Api) -> None:
    register(api, 201)
    assert api.patch("/api/task-types/scrape", {"is_paused": True})["is_paused"] is True
    task = api.create("scrape", VIDEO)
    assert api.get(f"/api/tasks/{task['id']}")["waiting_because"]["code"] == "type_paused"
    api.claim(status=404)
    api.patch("/api/task-types/scrape", {"is_paused": False})
    assert api.claim()["id"] == task["id"]


def test_a_registration_does_not_undo_a_pause(api: Api) -> None:
    register(api, 201)
    api.patch("/api/task-types/scrape", {"is_paused": True, "is_active": False})
    updated = register(api, 200, version="2")
    assert (updated["is_paused"], updated["is_active"]) == (True, False)


def test_defaults_are_changed_and_given_back_to_the_settings(api: Api, clock: Clock) -> None:
    made = register(api, 201)
    clock.advance(1)
    changed = api.patch("/api/task-types/scrape", DEFAULTS)
    assert {name: changed[name] for name in DEFAULTS} == DEFAULTS
    assert changed["updated_at"] > made["updated_at"]
    cleared = api.patch("/api/task-types/scrape", dict.fromkeys(DEFAULTS))
    assert {name: cleared[name] for name in DEFAULTS} == dict.fromkeys(DEFAULTS)


def test_a_change_that_changes_nothing_writes_nothing(api: Api, clock: Clock) -> None:
    register(api, 201, priority=3)
    before = dump_tables()
    clock.advance(5)
    api.patch("/api/task-types/scrape", {"priority": 3, "is_active": True})
    assert dump_tables() == before


@pytest.mark.parametrize("body", [{}, {"name": "other"}, {"version": "2"}, {"is_active": 1}])
def test_a_change_of_anything_else_is_refused(api: Api, body: dict[str, Any]) -> None:
    register(api, 201)
    assert api.patch("/api/task-types/scrape", body, 400)["code"] == "invalid_request"


def test_a_pause_is_recorded_with_the_key_that_did_it(api: Api) -> None:
    register(api, 201)
    api.patch("/api/task-types/scrape", {"is_paused": True})
    event = dump_tables()["audit_events"][-1]
    assert (event["event"], event["message"]) == ("task_type_changed", "scrape: is_paused = 1")
    assert event["api_key_id"] is not None


def test_the_list_is_sorted_by_name_and_counts_open_tasks(api: Api) -> None:
    for name in ("b", "a", "C"):
        api.register(name)
    api.patch("/api/task-types/a", {"is_active": False})
    api.create("b")
    api.create("b", delay_seconds=60)
    api.create("b")
    api.complete(api.claim())
    api.claim()
    listed = api.get("/api/task-types")
    assert [(row["name"], row["open_tasks"]) for row in listed["task_types"]] == [
        *(("C", 0), ("a", 0), ("b", 2)),
    ]
    assert listed["count"] == 3
    row = listed["task_types"][2]
    assert {"id", "version", "is_active", "created_at", "updated_at"} <= set(row)
    assert "param_schema" not in row


def test_the_list_can_be_limited(api: Api) -> None:
    for name in "abcde":
        api.register(name)
    api.patch("/api/task-types/b", {"is_active": False})

    def names(query: str) -> str:
        return "".join(row["name"] for row in api.get(f"/api/task-types?{query}")["task_types"])

    assert names("active_only=true") == "acde"
    assert names("active_only=false") == "abcde"
    assert names("limit=2") == "ab"
    assert names("limit=2&offset=3") == "de"
    assert names("active_only=1&limit=2&offset=1") == "cd"
    page = api.get("/api/task-types?limit=2&active_only=1")
    assert (page["count"], page["total"], page["next_cursor"]) == (2, 4, "c")
    assert names("limit=2&active_only=1&cursor=c") == "de"
    assert names("offset=9") == ""
    assert api.get("/api/task-types?limit=2&cursor=c")["next_cursor"] is None


def test_the_list_has_every_type_unless_it_is_limited(api: Api) -> None:
    for n in range(130):
        api.register(f"type.{n:03}")
        if n % 50 == 0:
            api.create(f"type.{n:03}")
    listed = api.get("/api/task-types")
    assert [row["name"] for row in listed["task_types"]] == [f"type.{n:03}" for n in range(130)]
    assert (listed["count"], listed["total"], listed["next_cursor"]) == (130, 130, None)
    assert [row["name"] for row in listed["task_types"] if row["open_tasks"]] == [
        *("type.000", "type.050", "type.100"),
    ]


def test_validate_says_whether_params_would_be_accepted(api: Api) -> None:
    register(api, 201)
    before = dump_tables()
    assert api.post("/api/task-types/scrape/validate", {"params": VIDEO}) == {
        "valid": True,
        "errors": [],
        "warnings": [],
    }
    verdict = api.post("/api/task-types/scrape/validate", {"params": {"vidio_id": 3}})
    assert verdict["valid"] is False
    assert verdict["errors"] == [
        {"path": "params.video_id", "message": "is required", "keyword": "required"}
    ]
    assert verdict["warnings"][0]["path"] == "params.vidio_id"
    assert "did you mean 'video_id'?" in verdict["warnings"][0]["message"]
    verdict = api.post("/api/task-types/scrape/validate", {"params": {"video_id": "short"}})
    assert (verdict["errors"][0]["path"], verdict["errors"][0]["keyword"]) == (
        "params.video_id",
        "format",
    )
    assert dump_tables() == before


def test_validate_tells_what_a_new_schema_would_reject(api: Api) -> None:
    api.register("job")
    good = [api.create(params={"n": number}) for number in range(3)]
    bad = [api.create(params={"n": str(number)}) for number in range(6)]
    bad.append(api.create(params={"n": "scheduled"}, delay_seconds=60))
    api.create(params={"n": "finished"})
    api.complete(api.claim(sort_by="id", sort_order="DESC"))  # does not count
    api.claim(sort_by="id")  # a claimed one does
    before = dump_tables()
    new_schema = {"properties": {"n": {"type": "integer"}}}
    verdict = api.post("/api/task-types/job/validate", {"param_schema": new_schema})
    assert (verdict["checked"], verdict["rejected"]) == (len(good) + len(bad), len(bad))
    assert len(verdict["examples"]) == 5
    assert verdict["examples"][0]["errors"][0]["path"] == "params.n"
    assert {one["id"] for one in verdict["examples"]} <= {task["id"] for task in bad}
    assert dump_tables() == before


def test_validate_looks_at_more_open_tasks_than_one_page(api: Api) -> None:
    api.register("job")
    tasks = [{"type": "job", "params": {"n": n}, "dedupe": "none"} for n in range(600)]
    api.post("/api/tasks/batch", {"tasks": tasks}, 201)
    schema = {"properties": {"n": {"maximum": 549}}}
    verdict = api.post("/api/task-types/job/validate", {"param_schema": schema})
    assert (verdict["checked"], verdict["rejected"]) == (600, 50)


def test_validate_refuses_a_bad_schema_and_an_unclear_question(api: Api) -> None:
    register(api, 201)
    path = "/api/task-types/scrape/validate"
    assert api.post(path, {"param_schema": {"type": 3}}, 400)["code"] == "validation_failed"
    assert "either" in api.post(path, {}, 400)["message"]
    assert "either" in api.post(path, {"params": {}, "param_schema": {}}, 400)["message"]


def test_a_task_whose_params_break_the_schema_is_refused_with_each_problem(api: Api) -> None:
    register(api, 201, param_schema={**SCHEMA, "additionalProperties": False})
    refused = api.post("/api/tasks", {"type": "scrape", "params": {"x": 1}}, 400)
    assert refused["code"] == "validation_failed"
    assert {(problem["path"], problem["keyword"]) for problem in refused["details"]} == {
        ("params.video_id", "required"),
        ("params.x", "additionalProperties"),
    }
    assert api.get("/api/tasks")["count"] == 0
