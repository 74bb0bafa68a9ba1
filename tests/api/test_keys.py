"""Who may call what: scopes, roles, types, expiry, revocation; and the calls that manage keys."""

import base64
from typing import Any

import pytest
from flask import Flask

from taskmanager.access import keys
from taskmanager.access.caller import INCLUDED_IN, OPERATOR
from taskmanager.clock import format_time, utc_now
from tests.api.tables import dump_tables
from tests.conftest import Api, Clock, make_key

ROLES = {
    "admin": set(keys.SCOPES),
    "producer": {
        *("tasks:create", "tasks:read", "tasks:manage", "task-types:read", "task-types:write"),
    },
    "worker": {"tasks:claim", "tasks:complete", "tasks:read", "task-types:read"},
    "worker-registrar": {
        *("tasks:claim", "tasks:complete", "tasks:read", "task-types:read"),
        "task-types:register",
    },
    "viewer": {"tasks:read", "task-types:read", "workers:read", "metrics:read"},
}


def key_with(*scopes: str, **options: Any) -> str:
    _, key = keys.create_key(name="test", scopes=scopes, now=utc_now(), caller=OPERATOR, **options)
    return key


# One call for each scope that a role can have.
CALLS = {
    "tasks:read": "GET /api/tasks",
    "tasks:create": "POST /api/tasks",
    "tasks:claim": "POST /api/tasks/claim",
    "tasks:complete": "POST /api/tasks/complete",
    "tasks:manage": "POST /api/tasks/7000000/cancel",
    "task-types:read": "GET /api/task-types",
    "task-types:write": "PATCH /api/task-types/none",
    "task-types:register": "POST /api/task-types/register",
    "workers:read": "GET /api/workers",
    "admin": "GET /api/admin/keys",
}


def test_a_worker_registers_its_own_types_and_nothing_else(api: Api) -> None:
    api.register("other")
    body = {"name": "w", "role": "worker-registrar", "task_types": ["mine.%"]}
    worker = api.with_key(api.post("/api/admin/keys", body, 201)["key"])
    assert worker.register("mine.a")["created"]
    assert worker.register("mine.a", {"type": "object", "required": ["x"]})["updated"]
    again = {"name": "other", "version": "2", "param_schema": {}}
    refused = worker.post("/api/task-types/register", again, 403)
    assert refused["code"] == "task_type_not_allowed"
    refused = worker.patch("/api/task-types/mine.a", {"is_paused": True}, 403)
    assert refused["code"] == "scope_missing"
    assert worker.post("/api/tasks", {"type": "mine.a", "params": {}}, 403)


def test_a_registrar_is_limited_to_task_types(api: Api) -> None:
    before = dump_tables()
    for more in ({}, {"rate_limit": "5/minute"}):
        body = {"name": "w", "role": "worker-registrar", **more}
        assert "task_types" in api.post("/api/admin/keys", body, 400)["message"]
    assert dump_tables() == before


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_call_what_its_scopes_allow(api: Api, role: str) -> None:
    assert ROLES[role] == set(keys.SCOPES if role == "admin" else keys.ROLES[role])
    limited = api.with_key(make_key(role))
    for scope, call in CALLS.items():
        method, path = call.split()
        response = limited.call(method, path, {} if method == "POST" else None)
        has_it = scope in ROLES[role] or INCLUDED_IN.get(scope) in ROLES[role]
        assert (response.status_code == 403) is not has_it, call
        if response.status_code == 403:
            assert response.get_json()["code"] == "scope_missing"
            assert f"'{scope}'" in response.get_json()["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": " "},
        {"X-API-Key": "wrong"},
        {"X-API-Key": "tm_" + "x" * 43},
        {"X-API-Key": "é🦄".encode().decode("latin-1")},
        {"X-API-Key": "' OR 1=1 --"},
        {"X-API-Key": "x" * 5_000},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic YWRtaW46YWRtaW4="},
    ],
)
def test_without_a_valid_key_nothing_is_done(api: Api, headers: dict[str, str]) -> None:
    before = dump_tables()
    for call in CALLS.values():
        method, path = call.split()
        response = api.call(method, path, {} if method == "POST" else None, headers=headers)
        assert response.status_code == 401, call
        assert response.get_json()["code"] == "not_authenticated"
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert api.call("GET", "/api/health", headers=headers).status_code == 200
    after = dump_tables()
    assert {**after, "audit_events": before["audit_events"]} == before


def test_a_bearer_token_means_the_same_as_the_header(api: Api) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        headers = {"Authorization": f"{scheme} {api.key}"}
        assert api.call("GET", "/api/stats", headers=headers).status_code == 200
    both = {"X-API-Key": "wrong", "Authorization": f"Bearer {api.key}"}
    assert api.call("GET", "/api/stats", headers=both).status_code == 401
    assert api.call("GET", f"/api/stats?api_key={api.key}", headers={}).status_code == 401


def basic(text: str | bytes) -> str:
    raw = text.encode() if isinstance(text, str) else text
    return "Basic " + base64.b64encode(raw).decode()


def test_the_password_of_basic_means_the_same_as_the_header(api: Api) -> None:
    for user in ("x", "", "ü", "a b"):
        headers = {"Authorization": basic(f"{user}:{api.key}")}
        assert api.call("GET", "/api/stats", headers=headers).status_code == 200
    headers = {"Authorization": basic(f"x:{api.key}").replace("Basic", "bAsIc")}
    assert api.call("POST", "/api/tasks/claim", {"worker_id": "w"}, headers=headers).json[
        "code"
    ] == ("no_task_available")
    both = {"X-API-Key": "wrong", "Authorization": basic(f"x:{api.key}")}
    assert api.call("GET", "/api/stats", headers=both).status_code == 401


def test_basic_that_holds_no_key_is_refused_and_never_asked_for(api: Api) -> None:
    key = api.key
    wrong = [basic(""), basic(":"), basic("x"), basic(key), basic(f"{key}:x"), basic(f"x:{key}y")]
    wrong += [basic(b"\xff:\xff"), "Basic", "Basic !", f"Basic x:{key}"]
    for authorization in wrong:
        refused = api.call("GET", "/api/stats", headers={"Authorization": authorization})
        assert refused.status_code == 401, authorization
        assert refused.headers.getlist("WWW-Authenticate") == ['Bearer realm="TaskManager"']
        assert key not in refused.text


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("Origin", "https://evil.example", 401),
        ("Origin", "http://localhost", 401),
        ("Origin", "null", 401),
        ("Origin", "", 401),
        ("Sec-Fetch-Site", "cross-site", 401),
        ("Sec-Fetch-Site", "same-site", 401),
        ("Sec-Fetch-Site", "what comes later", 401),
        ("Sec-Fetch-Site", "same-origin", 200),
        ("Sec-Fetch-Site", "none", 200),
    ],
)
def test_no_page_can_use_the_password_that_a_browser_remembers(
    api: Api, header: str, value: str, status: int
) -> None:
    headers = {"Authorization": basic(f"x:{api.key}"), header: value}
    answer = api.call("POST", "/api/workers/heartbeat", {"worker_id": "w"}, headers=headers)
    assert answer.status_code == status
    assert api.get("/api/workers")["count"] == (status == 200)
    sent_by_a_script = {"X-API-Key": api.key, header: value}
    assert api.call("GET", "/api/stats", headers=sent_by_a_script).status_code == 200


def test_a_key_is_told_apart_by_every_character(api: Api) -> None:
    for wrong in (api.key[:-1], api.key + "x", api.key.swapcase(), api.key[:11]):
        assert api.with_key(wrong).get("/api/stats", 401)["code"] == "not_authenticated"


def test_a_revoked_key_is_refused_at_once_and_for_good(api: Api) -> None:
    made = api.post("/api/admin/keys", {"name": "k", "role": "viewer"}, 201)
    other = api.with_key(made["key"])
    other.get("/api/stats")
    revoked = api.delete(f"/api/admin/keys/{made['id']}")
    assert revoked["revoked_at"] is not None
    assert "revoked" in other.get("/api/stats", 401)["message"]
    assert api.delete(f"/api/admin/keys/{made['id']}") == revoked
    assert api.get(f"/api/admin/keys/{made['id']}") == revoked


def test_a_key_expires_at_its_moment(api: Api, clock: Clock) -> None:
    expires_at = format_time(clock.now + 60_000)
    body = {"name": "k", "scopes": ["tasks:read"], "expires_at": expires_at}
    made = api.post("/api/admin/keys", body, 201)
    assert made["expires_at"] == expires_at
    other = api.with_key(made["key"])
    clock.advance(59.999)
    other.get("/api/stats")
    clock.advance(0.001)
    assert "expired" in other.get("/api/stats", 401)["message"]


def test_a_new_key_is_shown_once_and_stored_only_as_a_hash(api: Api) -> None:
    made = api.post("/api/admin/keys", {"name": "ci", "role": "worker"}, 201)
    assert made["key"].startswith(made["prefix"])
    assert len(made["key"]) > 40
    shown = api.get(f"/api/admin/keys/{made['id']}")
    assert shown == {name: value for name, value in made.items() if name != "key"}
    listed = api.get("/api/admin/keys")
    assert (listed["count"], listed["keys"][1]) == (2, shown)
    assert made["key"] not in str(listed)
    assert made["key"] not in str(dump_tables())
    assert keys.hash_key(made["key"]) in str(dump_tables())
    assert keys.hash_key(made["key"]) not in str(listed)


def test_the_use_of_a_key_is_noted_once_a_minute(api: Api, clock: Clock) -> None:
    made = api.post("/api/admin/keys", {"name": "k", "role": "viewer"}, 201)
    path = f"/api/admin/keys/{made['id']}"
    other = api.with_key(made["key"])
    other.get("/api/workers/none", 404)
    assert api.get(path)["last_used_at"] is None  # a request that was refused writes nothing
    other.get("/api/stats")
    first = api.get(path)["last_used_at"]
    assert first == format_time(clock.now)
    clock.advance(59)
    other.get("/api/stats")
    assert api.get(path)["last_used_at"] == first
    clock.advance(2)
    other.get("/api/stats")
    assert api.get(path)["last_used_at"] == format_time(clock.now)


def test_making_and_revoking_keys_is_recorded_without_the_key(api: Api) -> None:
    made = api.post("/api/admin/keys", {"name": "ci", "role": "worker"}, 201)
    api.delete(f"/api/admin/keys/{made['id']}")
    events = dump_tables()["audit_events"][-2:]
    assert [event["event"] for event in events] == ["key_created", "key_revoked"]
    assert all(f"key {made['id']} (ci)" in event["message"] for event in events)
    assert all(event["api_key_id"] is not None for event in events)
    assert made["key"] not in str(events)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({"role": "viewer"}, "name"),
        ({"name": "k"}, "either role or scopes"),
        ({"name": "k", "role": "viewer", "scopes": ["tasks:read"]}, "either role or scopes"),
        ({"name": "k", "role": "root"}, "role"),
        ({"name": "k", "scopes": []}, "scopes"),
        ({"name": "k", "scopes": ["tasks:red"]}, "scopes"),
        ({"name": "k", "role": "viewer", "task_types": []}, "task_types"),
        ({"name": "k", "role": "viewer", "task_types": ["a b"]}, "task_types"),
        ({"name": "k", "role": "viewer", "expires_at": "tomorrow"}, "expires_at"),
        ({"name": "k", "role": "viewer", "expires_at": "0001-01-01T00:00:00+01:00"}, "expires_at"),
        ({"name": "k", "role": "viewer", "expires_at": "9999-12-31T23:59:59-01:00"}, "expires_at"),
        ({"name": "k", "role": "viewer", "expires_at": "2020-01-31T12:00:00Z"}, "a time to come"),
        ({"name": "x" * 256, "role": "viewer"}, "name"),
        ({"name": "k", "role": "viewer", "key": "my own"}, "key"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(
    api: Api, body: dict[str, Any], complaint: str
) -> None:
    assert complaint in api.post("/api/admin/keys", body, 400)["message"]
    assert api.get("/api/admin/keys")["count"] == 1


def test_a_key_that_is_not_there_answers_404(api: Api) -> None:
    assert api.get("/api/admin/keys/1000000", 404)["code"] == "key_not_found"
    assert api.delete("/api/admin/keys/1000000", 404)["code"] == "key_not_found"


def test_a_key_limited_to_types_is_refused_others_and_finds_nothing_of_them(api: Api) -> None:
    api.register("mine.a")
    api.register("theirs")
    foreign = api.create("theirs")
    held = api.claim("w", type="theirs")
    own = api.create("mine.a")
    limited = api.with_key(key_with("admin", task_types=("mine.%",)))
    before = dump_tables()["tasks"]
    task, worker = f"/api/tasks/{foreign['id']}", {"worker_id": "w"}
    for method, path, body in (
        ("POST", "/api/task-types/register", {"name": "x", "version": "1", "param_schema": {}}),
        ("GET", "/api/task-types/theirs", None),
        ("PATCH", "/api/task-types/theirs", {"is_paused": True}),
        ("POST", "/api/task-types/theirs/validate", {"params": {}}),
        ("POST", "/api/task-types/theirs/validate", {"param_schema": {}}),
        ("POST", "/api/tasks", {"type": "theirs", "params": {}}),
    ):
        response = limited.call(method, path, body)
        assert response.status_code == 403, path
        assert response.get_json()["code"] == "task_type_not_allowed"
        assert "mine.%" in response.get_json()["message"]
    for method, path, body in (
        ("GET", task, None),
        ("GET", f"{task}/logs", None),
        ("POST", f"{task}/complete", {**worker, "success": True}),
        ("POST", f"{task}/progress", {**worker, "progress": 1}),
        ("POST", f"{task}/heartbeat", worker),
        ("POST", f"{task}/release", worker),
        ("POST", f"{task}/cancel", {}),
        ("POST", f"{task}/retry", {}),
    ):
        response = limited.call(method, path, body)
        assert response.status_code == 404, path
        assert response.get_json()["code"] == "task_not_found"
    assert limited.post("/api/workers/w/shutdown")["released"] == []
    item = {"type": "theirs", "params": {}}
    result = limited.post("/api/tasks/batch", {"tasks": [item]})["results"][0]
    assert result["error"]["code"] == "task_type_not_allowed"
    completions = [{"id": held["id"], "claim_token": held["claim_token"], "success": True}]
    body = {"worker_id": "w", "completions": completions}
    result = limited.post("/api/tasks/complete", body)["results"][0]
    assert (result["error"]["code"], result["error"]["status"]) == ("task_not_found", 404)
    tasks = [{"id": held["id"], "claim_token": held["claim_token"]}]
    beat = limited.post("/api/workers/heartbeat", {"worker_id": "w", "tasks": tasks})
    assert beat["lost"] == [held["id"]]
    assert dump_tables()["tasks"] == before

    assert [row["id"] for row in limited.get("/api/tasks")["tasks"]] == [own["id"]]
    assert limited.get("/api/tasks?with_total=true")["total"] == 1
    assert limited.get("/api/tasks?type=theirs")["count"] == 0
    assert [row["name"] for row in limited.get("/api/task-types")["task_types"]] == ["mine.a"]
    assert list(limited.get("/api/stats")["by_type"]) == ["mine.a"]
    assert limited.claim()["id"] == own["id"]
    limited.claim(status=404)


def test_a_limited_key_does_not_learn_whether_a_foreign_task_was_cancelled(api: Api) -> None:
    api.register("theirs")
    api.create("theirs")
    held = api.claim("w")
    api.post(f"/api/tasks/{held['id']}/cancel", {})
    limited = api.with_key(key_with("admin", task_types=("mine.%",)))
    tasks = [{"id": held["id"], "claim_token": held["claim_token"]}]
    beat = limited.post("/api/workers/heartbeat", {"worker_id": "w", "tasks": tasks})
    assert (beat["lost"], beat["cancelled"]) == ([held["id"]], [])


def test_the_parent_of_a_task_cannot_be_of_a_type_that_the_key_may_not_touch(api: Api) -> None:
    api.register("mine.a")
    api.register("theirs")
    foreign = api.create("theirs")
    limited = api.with_key(make_key("producer", task_types=("mine.%",)))
    body = {"type": "mine.a", "params": {}, "parent_task_id": foreign["id"]}
    assert limited.post("/api/tasks", body, 400)["code"] == "parent_task_not_found"


def test_the_figures_of_a_limited_key_leave_out_other_types(api: Api, clock: Clock) -> None:
    api.register("mine.a")
    api.register("theirs")
    api.create("theirs")
    api.complete(api.claim())
    api.create("theirs")
    clock.advance(5)
    limited = api.with_key(make_key("viewer", task_types=("mine.%",)))
    figures = limited.get("/api/stats")
    assert figures["total"] == 0
    assert figures["oldest_pending_seconds"] is None
    assert figures["finished"]["day"] == {"completed": 0, "failed": 0, "cancelled": 0}


def test_a_view_without_a_rule_stops_the_start(app: Flask) -> None:
    from taskmanager.api.auth import check_every_route_has_a_rule, requires

    blueprint = app.blueprints["api"]
    check_every_route_has_a_rule(app, blueprint)
    app.view_functions["api.forgotten"] = lambda: "hello"
    with pytest.raises(AssertionError, match=r"api\.forgotten"):
        check_every_route_has_a_rule(app, blueprint)
    with pytest.raises(ValueError, match="no such scope"):
        requires("tasks:everything")
