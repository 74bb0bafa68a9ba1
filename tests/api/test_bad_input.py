"""Bad input: each a 4xx that says what to do, nothing stored, the next request fine."""

import contextlib
import http.client
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from taskmanager.api import request_schemas
from taskmanager.api.json_schema import OBJECT
from taskmanager.api.requests import MAX_DEPTH, RequestBody
from tests.api.tables import Tables, dump_tables, send, sent_json
from tests.conftest import Api
from tests.support.server import Server

WORKER = {"worker_id": "w"}
NEW_TYPE = {"name": "new", "version": "1", "param_schema": {}}

# Every body that the API reads: its schema, where it is sent, and the least that it takes.
BODIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "REGISTER_TASK_TYPE": ("POST", "/api/task-types/register", NEW_TYPE),
    "CHANGE_TASK_TYPE": ("PATCH", "/api/task-types/job", {"is_paused": False}),
    "VALIDATE": ("POST", "/api/task-types/job/validate", {"params": {}}),
    "CREATE_TASK": ("POST", "/api/tasks", {"type": "job", "params": {}}),
    "CHANGE_TASK": ("PATCH", "/api/tasks/{waiting}", {"priority": 1}),
    "CREATE_BATCH": ("POST", "/api/batches", {"name": "b"}),
    "ADD_TO_BATCH": ("POST", "/api/batches/7000000/tasks", {"tasks": []}),
    "CREATE_TASKS": ("POST", "/api/tasks/batch", {"tasks": [{"type": "job", "params": {}}]}),
    "CLAIM": ("POST", "/api/tasks/claim", WORKER),
    "COMPLETE_TASK": ("POST", "/api/tasks/{held}/complete", {**WORKER, "success": True}),
    "COMPLETE_TASKS": (
        *("POST", "/api/tasks/complete"),
        {**WORKER, "completions": [{"id": 7_000_000, "success": True}]},
    ),
    "REPORT_PROGRESS": ("POST", "/api/tasks/{held}/progress", {**WORKER, "progress": 1}),
    "TASK_HEARTBEAT": ("POST", "/api/tasks/{held}/heartbeat", WORKER),
    "RELEASE_TASK": ("POST", "/api/tasks/{held}/release", WORKER),
    "CANCEL_TASK": ("POST", "/api/tasks/{held}/cancel", {}),
    "CHANGE_MANY": ("POST", "/api/tasks/retry", {"ids": [7_000_000]}),
    "CANCEL_MANY": ("POST", "/api/tasks/cancel", {"ids": [7_000_000]}),
    "UPDATE_MANY": ("POST", "/api/tasks/update", {"ids": [7_000_000], "priority": 1}),
    "NOTHING": ("POST", "/api/tasks/{held}/retry", {}),
    "WORKER_HEARTBEAT": ("POST", "/api/workers/heartbeat", WORKER),
    "CREATE_SCHEDULE": (
        *("POST", "/api/schedules"),
        {"name": "s", "type": "job", "params": {}, "interval_seconds": 60},
    ),
    "CHANGE_SCHEDULE": ("PATCH", "/api/schedules/7000000", {"priority": 1}),
    "CREATE_KEY": ("POST", "/api/admin/keys", {"name": "k", "role": "viewer"}),
    "CHANGE_KEY": ("PATCH", "/api/admin/keys/7000000", {"name": "k"}),
    "CREATE_WEBHOOK": ("POST", "/api/webhooks", {"name": "h", "url": "https://example.org/"}),
    "CHANGE_WEBHOOK": ("PATCH", "/api/webhooks/7000000", {"is_active": True}),
    "ROTATE_WEBHOOK": ("POST", "/api/webhooks/7000000/rotate", {}),
    "ROTATE_KEY": ("POST", "/api/admin/keys/7000000/rotate", {}),
}


def schema_of(name: str) -> dict[str, Any]:
    body: RequestBody = getattr(request_schemas, name)
    return body.schema


@pytest.fixture
def job(api: Api) -> Api:
    """The API with a type `job` that takes any params, one waiting task and one held by `w`."""
    api.register()
    api.create(params={"n": 1})
    api.claim("w", lease_seconds=3_600)
    api.create(params={"n": 2}, delay_seconds=3_600)
    return api


def held_id(api: Api, status: str = "claimed") -> int:
    return int(api.get(f"/api/tasks?status={status}")["tasks"][0]["id"])


def path_to(api: Api, path: str) -> str:
    for name, status in (("{held}", "claimed"), ("{waiting}", "scheduled")):
        if name in path:
            path = path.replace(name, str(held_id(api, status)))
    return path


def assert_the_next_request_is_fine(api: Api, before: Tables) -> None:
    assert dump_tables() == before
    made = api.create(params={"after": 1})
    assert api.get(f"/api/tasks/{made['id']}")["params"] == {"after": 1}


def wrong_values(schema: dict[str, Any]) -> Iterator[Any]:
    """Values of every other kind, and values just past each bound that the field declares."""
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not kinds:  # the field takes any JSON value
        return
    samples: dict[str, list[Any]] = {
        "string": ["text"],
        "boolean": [True, False],
        "integer": [0, 1],
        "number": [2.5, 1e300],
        "object": [{}, {"a": 1}],
        "array": [[], [[]], [{}]],
        "null": [None],
    }
    if "number" in kinds:
        del samples["integer"]
    yield from (value for kind in samples if kind not in kinds for value in samples[kind])
    yield from past_the_bounds(schema)


def is_understood(name: str, field: str, schema: dict[str, Any], value: Any) -> bool:
    """Whether test_other_languages.py says what the value means."""
    if value is None:
        return BODIES[name][0] == "POST" and field not in schema_of(name).get("required", ())
    if schema == OBJECT:
        return value == []
    # Within a part of a body that is posted.
    return isinstance(value, dict) and None in value.values() and BODIES[name][0] == "POST"


def past_the_bounds(schema: dict[str, Any]) -> Iterator[Any]:
    if "minimum" in schema:
        yield schema["minimum"] - 1
    if "maximum" in schema and schema["maximum"] < 2**63 - 1:
        yield schema["maximum"] + 1
    if schema.get("minLength"):
        yield ""
    if "maxLength" in schema:
        yield "x" * (schema["maxLength"] + 1)
    if "pattern" in schema:
        yield from (" x", "x\n", "\t")
    if "enum" in schema:
        yield from ("", "no such thing")
    if schema.get("minItems"):
        yield []
    if "maxItems" in schema:
        yield [{}] * (schema["maxItems"] + 1)
    if schema.get("format") == "date-time":
        yield from ("", "tomorrow", "2026-01-31", "2026-01-31T25:00:00Z", "2026-01-31T12:00:00")
    for name, field in schema.get("properties", {}).items():
        for value in wrong_values(field):
            yield {**dict.fromkeys(schema.get("required", ()), "immediate"), name: value}
    if schema.get("additionalProperties") is False:
        yield {"strategy": "immediate", "unknown": 1}


def test_every_body_of_the_api_is_in_the_list() -> None:
    found = {n for n, value in vars(request_schemas).items() if isinstance(value, RequestBody)}
    assert found == set(BODIES) | {"WORKER_ID"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BODIES if name != "NOTHING"])
def test_every_field_refuses_values_of_another_kind_and_past_its_bounds(
    job: Api, name: str
) -> None:
    method, path, body = BODIES[name]
    path = path_to(job, path)
    before = dump_tables()
    tried = 0
    for field, schema in schema_of(name)["properties"].items():
        for value in wrong_values(schema):
            if is_understood(name, field, schema, value):
                continue
            response = job.call(method, path, {**body, field: value})
            refused = response.get_json()
            assert response.status_code == 400, (field, value, refused)
            assert refused["code"] == "invalid_request", (field, value, refused)
            where = refused["details"][0]["path"] if "details" in refused else refused["message"]
            assert where.startswith(field), (field, value, refused)
            assert "must match the pattern" not in refused["message"], "nobody reads that"
            tried += 1
    assert tried
    assert_the_next_request_is_fine(job, before)


@pytest.mark.parametrize("name", BODIES)
def test_an_unknown_field_is_refused_by_name_with_the_nearest_known_one(
    job: Api, name: str
) -> None:
    method, path, body = BODIES[name]
    path = path_to(job, path)
    before = dump_tables()
    for field in schema_of(name)["properties"]:
        misspelt = field[:-1] + "_" + field[-1]
        refused = job.call(method, path, {**body, misspelt: 1}).get_json()
        assert (refused["success"], refused["code"]) == (False, "invalid_request")
        problem = next(one for one in refused["details"] if one["path"] == misspelt)
        assert "is not a known field; did you mean '" in problem["message"]
        assert not refused["message"].endswith("?.")
    refused = job.call(method, path, {**body, "'; DROP TABLE tasks; --": 1}).get_json()
    assert "is not a known field" in refused["message"]
    assert_the_next_request_is_fine(job, before)


def test_a_hint_names_only_a_field_that_is_near(job: Api) -> None:
    path = f"/api/tasks/{job.create()['id']}"
    for name, hint in {
        "status": "",
        "prio": "; did you mean 'priority'?",
        "tgas": "; did you mean 'tags'?",
    }.items():
        [problem] = job.patch(path, {name: "x"}, 400)["details"]
        assert problem["message"] == "is not a known field" + hint
    refused = job.get("/api/tasks?task_type=1", 400)["message"]
    assert "did you mean" not in refused
    assert "known: status, type" in refused


@pytest.mark.parametrize("name", [name for name in BODIES if "required" in schema_of(name)])
def test_every_missing_field_is_named(job: Api, name: str) -> None:
    method, path, _ = BODIES[name]
    refused = job.call(method, path_to(job, path), {}).get_json()
    assert [problem["path"] for problem in refused["details"]] == schema_of(name)["required"]
    assert {problem["message"] for problem in refused["details"]} == {"is required"}


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


# What is put in place of a value somewhere inside a body, and the code of the refusal.
POISON: list[tuple[str, bytes, str]] = [
    ("NaN", b"NaN", "malformed_json"),
    ("Infinity", b"Infinity", "malformed_json"),
    ("-Infinity", b"-Infinity", "malformed_json"),
    ("1e999", b"1e999", "number_out_of_range"),
    ("-1e999", b"-1e999", "number_out_of_range"),
    ("2**63", b"9223372036854775808", "number_out_of_range"),
    ("-2**63-1", b"-9223372036854775809", "number_out_of_range"),
    ("a number of 5000 digits", b"9" * 5_000, "number_out_of_range"),
    ("an escaped NUL", b'"\\u0000"', "unstorable_text"),
    ("a raw NUL", b'"\x00"', "malformed_json"),
    ("an escaped NUL in a name", b'{"a\\u0000": 1}', "unstorable_text"),
    ("a high surrogate", b'"\\ud83e"', "unstorable_text"),
    ("a low surrogate", b'"\\udd84"', "unstorable_text"),
    ("surrogates the wrong way round", b'"\\udd84\\ud83e"', "unstorable_text"),
    ("a surrogate as UTF-8", b'"\xed\xa0\xbe"', "malformed_json"),
    ("no UTF-8", b'"\xff"', "malformed_json"),
    ("overlong UTF-8", b'"\xc0\xaf"', "malformed_json"),
    ("past Unicode", b'"\xf4\x90\x80\x80"', "malformed_json"),
    ("single quotes", b"'x'", "malformed_json"),
    ("a comma too many", b"[1,]", "malformed_json"),
    ("a comment", b"1 /* one */", "malformed_json"),
    ("nothing", b"", "malformed_json"),
    ("100 levels", nested(100), "nested_too_deep"),
    ("10,000 levels", nested(10_000), "nested_too_deep"),
    ("100,000 levels", nested(100_000), "nested_too_deep"),
    ("10,000 levels of objects", b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "nested_too_deep"),
    ("levels without an end", b"[" * 100_000, "nested_too_deep"),
]
PLACES = [
    ("POST", "/api/tasks", b'{"type": "job", "params": {"a": %s}}'),
    ("POST", "/api/tasks/batch", b'{"tasks": [{"type": "job", "params": {"a": %s}}]}'),
    ("POST", "/api/task-types/register",
     b'{"name": "new", "version": "1", "param_schema": {"const": %s}}'),
    ("POST", "/api/tasks/{held}/complete", b'{"worker_id": "w", "success": true, "result": %s}'),
    ("POST", "/api/workers/heartbeat", b'{"worker_id": "w", "metadata": {"a": %s}}'),
    ("PATCH", "/api/task-types/job", b'{"priority": %s}'),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "template"), PLACES)
def test_what_is_no_json_or_cannot_be_stored_is_refused_everywhere(
    job: Api, method: str, path: str, template: bytes
) -> None:
    path = path_to(job, path)
    before = dump_tables()
    for what, poison, code in POISON:
        response = send(job, path, template.replace(b"%s", poison), method)
        refused = response.get_json()
        assert response.status_code == 400, what
        allowed = {code, "malformed_json"} if what == "levels without an end" else {code}
        assert refused["code"] in allowed, (what, refused)
        assert len(refused["message"]) < 300
        if code == "malformed_json" and "column" in refused["message"]:
            assert "look for a quote, comma or bracket" in refused["message"]
    assert_the_next_request_is_fine(job, before)


@pytest.mark.parametrize(
    "body", [b"[]", b'["job"]', b'"job"', b"1", b"null", b"true", b"", b"   ", b"{} {}", b"{"]
)
@pytest.mark.parametrize("path", ["/api/tasks", "/api/tasks/claim", "/api/workers/heartbeat"])
def test_a_body_that_is_no_object_is_refused(job: Api, path: str, body: bytes) -> None:
    before = dump_tables()
    response = send(job, path, body)
    assert response.status_code == 400
    assert_the_next_request_is_fine(job, before)


def test_nesting_up_to_the_limit_is_stored_and_given_back(job: Api) -> None:
    value = json.loads(nested(MAX_DEPTH - 2))
    made = job.create(params={"a": value})
    assert job.get(f"/api/tasks/{made['id']}")["params"] == {"a": value}


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 2**53 + 1, 0.1, 1e308, 5e-324, -0.0, 1e22])
def test_every_number_that_fits_comes_back_exactly(job: Api, number: float) -> None:
    made = job.create(params={"n": number})
    found = job.get(f"/api/tasks/{made['id']}")["params"]["n"]
    assert (repr(found), type(found)) == (repr(number), type(number))


UNICODE = ["🦄", "𝔘𝔫𝔦", "\U0010ffff", "e\u0301", "\u202eabc", "\ufeff", "\u2028", "ﷺ" * 50]


@pytest.mark.parametrize("text", UNICODE)
def test_every_character_comes_back_exactly_wherever_it_is_stored(api: Api, text: str) -> None:
    registered = sent_json({"name": "job", "version": text, "param_schema": {"title": text}})
    assert send(api, "/api/task-types/register", registered).status_code == 201
    found = api.get("/api/task-types/job")
    assert (found["version"], found["param_schema"]) == (text, {"title": text})

    body = {"type": "job", "params": {text: [text]}, "dedupe_key": text}
    made = send(api, "/api/tasks", sent_json(body)).get_json()["data"]
    assert (made["params"], made["type_version"]) == ({text: [text]}, text)
    assert send(api, "/api/tasks", json.dumps(body)).get_json()["data"]["deduplicated"] is True

    task = api.claim(text, request_id=text)
    assert (task["worker_id"], task["params"]) == (text, {text: [text]})
    report = {"worker_id": text, "progress": 1, "message": text}
    assert api.post(f"/api/tasks/{task['id']}/progress", report)["progress_message"] == text
    failed = api.complete(task, success=False, error=text, error_code=text)
    assert (failed["error_message"], failed["error_code"]) == (text, text)
    done = api.complete(api.claim(text), result={text: text})
    assert api.get(f"/api/tasks/{done['id']}")["result"] == {text: text}
    logs = api.get(f"/api/tasks/{done['id']}/logs")["logs"]
    assert text in [log["message"] for log in logs]
    api.post("/api/workers/heartbeat", {"worker_id": text, "metadata": {text: text}})
    assert api.get("/api/workers")["workers"][0]["metadata"] == {text: text}
    key = api.post("/api/admin/keys", {"name": text, "role": "viewer"}, 201)
    assert api.get(f"/api/admin/keys/{key['id']}")["name"] == text


SQL = [
    "'; DROP TABLE tasks; --",
    '" OR "1"="1',
    "\\'; DELETE FROM tasks; -- x",
    "' UNION SELECT key_hash FROM api_keys --",
    "%' OR status LIKE '%",
    "?%s{}%(x)s:1@p$1",
    "`; /*! DROP TABLE tasks */",
    "x'||(SELECT 1)||'",
]


@pytest.mark.parametrize("text", SQL)
def test_sql_in_a_string_is_stored_as_text_and_changes_nothing_else(job: Api, text: str) -> None:
    kept = job.get("/api/tasks?sort_by=id&sort_order=asc")["tasks"]
    made = job.create(params={text: text}, dedupe_key=text)
    assert made["params"] == {text: text}
    task = job.claim(text, request_id=text)
    assert (task["id"], task["worker_id"]) == (made["id"], text)
    body = {"worker_id": text, "claim_token": text, "progress": 5, "message": text}
    job.post(f"/api/tasks/{task['id']}/progress", body, 409)
    body["claim_token"] = task["claim_token"]
    assert job.post(f"/api/tasks/{task['id']}/progress", body)["progress_message"] == text
    job.post("/api/workers/heartbeat", {"worker_id": text, "metadata": {text: text}})
    failed = job.complete(
        task, success=False, error=text, error_code=text, is_retryable=False, result=text
    )
    assert (failed["error_message"], failed["error_code"]) == (text, text)
    other = job.create(params={"sql": 1})
    job.post(f"/api/tasks/{other['id']}/cancel", {"reason": text})
    assert job.get(f"/api/tasks/{other['id']}/logs")["logs"][-1]["message"] == text
    schema = {"type": "object", "title": text}
    updated = job.register("job", schema, version=text)
    assert (updated["version"], updated["param_schema"]) == (text, schema)
    job.post("/api/admin/keys", {"name": text, "role": "viewer"}, 201)
    assert job.get("/api/tasks?sort_by=id&sort_order=asc")["tasks"][:2] == kept
    assert job.get("/api/tasks?with_total=true")["total"] == 4


@pytest.mark.parametrize("text", SQL)
def test_sql_where_a_name_is_wanted_is_refused(job: Api, text: str) -> None:
    before = dump_tables()
    job.post("/api/task-types/register", {**NEW_TYPE, "name": text}, 400)
    job.post("/api/tasks", {"type": text, "params": {}}, 400)
    for field in ("type", "type_pattern", "sort_by", "sort_order"):
        job.post("/api/tasks/claim", {**WORKER, field: text}, 400)
    job.post("/api/tasks/claim", {**WORKER, "task_types": [text]}, 400)
    job.post("/api/tasks", {"type": "job", "params": {}, "dedupe": text}, 400)
    query = {"query_string": {}, "headers": {"X-API-Key": job.key}}
    for name in ("status", "sort_by", "sort_order", "limit", "cursor", "created_after", "include"):
        response = job.client.get("/api/tasks", **{**query, "query_string": {name: text}})
        assert response.status_code == 400, name
    for name in ("type", "worker_id"):
        response = job.client.get("/api/tasks", **{**query, "query_string": {name: text}})
        assert response.get_json()["data"]["tasks"] == []
    assert_the_next_request_is_fine(job, before)


@pytest.mark.parametrize(
    "pattern", ["a_c", "a\\_c", "a%\\", "\\%", "a'%", "[ab]%", "a%\\\\", "\n%"]
)
def test_a_pattern_takes_nothing_but_names_and_percent_signs(job: Api, pattern: str) -> None:
    response = job.call("POST", "/api/tasks/claim", {**WORKER, "type_pattern": pattern})
    assert response.status_code == (404 if pattern == "a_c" else 400)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/api/tasks?type=%FF%FE",
            "/api/tasks?worker_id=%zz",
            "/api/tasks?type=%",
            "/api/tasks?%",
        ),
        *("/api/workers/%FF", "/api/workers/%C3%28", "/api/task-types/%F0%9F", "/api/tasks/%31%FF"),
        *("/api/tasks?type=%ED%A0%80", "/api/%2e%2e/%2e%2e/etc/passwd", "/api/tasks/../../x"),
        *("/api/tasks?" + "limit=1&" * 2_000, "/api/tasks?type=" + "x" * 6_000),
    ],
)
def test_an_address_that_is_badly_encoded_or_endless_does_no_harm(job: Api, path: str) -> None:
    before = dump_tables()
    response = job.call("GET", path)
    assert response.status_code in (200, 400, 404)
    assert response.is_json
    assert_the_next_request_is_fine(job, before)


def test_a_body_of_ten_megabytes_is_refused_before_it_is_read(job: Api) -> None:
    before = dump_tables()
    body = b'{"type": "job", "params": {"a": "' + b"x" * 10_000_000 + b'"}}'
    response = send(job, "/api/tasks", body)
    assert (response.status_code, response.get_json()["code"]) == (413, "body_too_large")
    assert_the_next_request_is_fine(job, before)


def test_a_body_just_under_the_limit_is_stored_and_given_back(job: Api) -> None:
    text = "é" * 520_000
    body = sent_json({"type": "job", "params": {"a": text}})
    assert 1_000_000 < len(body.encode()) < 1_048_576
    made = send(job, "/api/tasks", body).get_json()["data"]
    assert job.get(f"/api/tasks/{made['id']}")["params"] == {"a": text}
    task = job.claim("big", sort_by="id", sort_order="DESC")
    assert task["params"] == {"a": text}
    report = {"worker_id": "big", "success": True, "result": [text]}
    done = send(job, f"/api/tasks/{task['id']}/complete", sent_json(report))
    assert done.get_json()["data"]["result"] == [text]


def test_the_longest_texts_of_four_byte_characters_fit(job: Api) -> None:
    job.create()
    task = job.claim("w2", sort_by="id", sort_order="DESC")
    longest = "🦄" * 10_000
    body = {"worker_id": "w2", "progress": 1, "message": longest}
    assert job.post(f"/api/tasks/{task['id']}/progress", body)["progress_message"] == longest
    failed = job.complete(task, success=False, error=longest, error_code="🦄" * 100)
    assert (failed["error_message"], failed["error_code"]) == (longest, "🦄" * 100)
    assert job.get(f"/api/tasks/{task['id']}/logs")["logs"][-1]["message"] == longest


def send_in_chunks(server: Server, body: bytes) -> tuple[int, str | None]:
    """Sends a new task without saying beforehand how long the body will be; status and code."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {"Content-Type": "application/json", "X-API-Key": server.key}
    with contextlib.closing(connection):
        chunks = (body[start : start + 60_000] for start in range(0, len(body), 60_000))
        connection.request("POST", "/api/tasks", chunks, headers, encode_chunked=True)
        response = connection.getresponse()
        return response.status, json.loads(response.read()).get("code")


def test_a_real_server_answers_a_huge_body_and_serves_the_next_request(
    start_server: Callable[..., Server],
) -> None:
    server = start_server(workers=1)
    server.call("POST", "/api/task-types/register", {**NEW_TYPE, "name": "job"})
    small = {"type": "job", "params": {}}
    huge = {"type": "job", "params": {"a": "x" * 10_000_000}}
    refused = server.call("POST", "/api/tasks", huge)
    assert (refused.status, refused.body["code"]) == (413, "body_too_large")
    assert send_in_chunks(server, sent_json(huge).encode()) == (413, "body_too_large")
    # The first megabyte of this one is valid by itself.
    assert send_in_chunks(server, sent_json(small).encode() + b" " * 2_000_000) == (
        413,
        "body_too_large",
    )
    assert server.call("GET", "/api/tasks").data["count"] == 0
    assert send_in_chunks(server, sent_json({**small, "dedupe": "none"}).encode()) == (201, None)
    assert server.call("POST", "/api/tasks", small).status == 201
    claimed = server.call("POST", "/api/tasks/claim", WORKER)
    report = {**WORKER, "success": True, "claim_token": claimed.data["claim_token"]}
    done = server.call("POST", f"/api/tasks/{claimed.data['id']}/complete", report)
    assert done.data["status"] == "completed"
    assert "Traceback" not in server.log()
