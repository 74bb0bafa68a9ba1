"""API keys: who may do what, and how a key is changed, replaced and ended."""

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flask import Flask

from taskmanager.access import key_changes, keys
from taskmanager.access.caller import INCLUDED_IN, OPERATOR
from taskmanager.app import create_app
from taskmanager.clock import format_time
from taskmanager.db.connection import close_connection
from taskmanager.db.statements import fetch_all
from taskmanager.rates import Rate
from tests.conftest import Api, Clock
from tests.support.commands import run_command
from tests.support.server import Server

DAY = 86_400
NOT_YOURS = 403  # for a type that the call itself names
NOT_THERE = 404  # for a thing that is found by its id
HIDDEN = "Hidden.Type"


class Rule(NamedTuple):
    """Who may make a call: the scope it takes, a body that works, and what a key limited to
    task types other than HIDDEN gets.

    `others` is the status. An answer says nothing of HIDDEN unless the call named it.
    `{task}`, `{schedule}` and `{key}` stand for ids of things that belong to HIDDEN.
    """

    scope: str
    body: Any = None
    others: int = NOT_YOURS


PUBLIC = "public"
CLAIMED = {"worker_id": "w"}
NEW_TASK = {"type": HIDDEN, "params": {}}
SCHEDULE = {"name": "s2", "type": HIDDEN, "params": {}, "cron": "0 0 * * *"}

# Every route. A new one needs its row here: "METHOD /path": Rule(scope, body, others).
RULES = {
    "GET /api/health": Rule(PUBLIC, others=200),
    "GET /api/stats": Rule("tasks:read", others=200),
    "POST /api/maintenance/run": Rule("admin"),
    "GET /api/metrics": Rule("metrics:read", others=200),
    "GET /api/task-types": Rule("task-types:read", others=200),
    f"GET /api/task-types/{HIDDEN}": Rule("task-types:read"),
    f"PATCH /api/task-types/{HIDDEN}": Rule("task-types:write", {"is_paused": False}),
    f"POST /api/task-types/{HIDDEN}/validate": Rule("tasks:create", {"params": {}}),
    "POST /api/task-types/register": Rule(
        "task-types:register", {"name": HIDDEN, "version": "2", "param_schema": {}}
    ),
    "GET /api/tasks": Rule("tasks:read", others=200),
    "POST /api/tasks": Rule("tasks:create", NEW_TASK),
    "POST /api/tasks/batch": Rule("tasks:create", {"tasks": [NEW_TASK], "atomic": False}, 200),
    "POST /api/tasks/claim": Rule("tasks:claim", CLAIMED, 404),
    "POST /api/tasks/complete": Rule(
        "tasks:complete", {"worker_id": "w", "completions": [{"id": 1, "success": True}]}, 200
    ),
    "GET /api/tasks/errors": Rule("tasks:read", others=200),
    "GET /api/events": Rule("tasks:read", others=200),
    "POST /api/tasks/retry": Rule("tasks:manage", {"ids": [1]}, 200),
    "POST /api/tasks/cancel": Rule("tasks:manage", {"ids": [1]}, 200),
    "POST /api/tasks/release": Rule("tasks:manage", {"ids": [1]}, 200),
    "POST /api/tasks/delete": Rule("tasks:manage", {"ids": [1]}, 200),
    "POST /api/tasks/update": Rule("tasks:manage", {"ids": [1], "priority": 1}, 200),
    "GET /api/tasks/{task}": Rule("tasks:read", others=NOT_THERE),
    "POST /api/batches": Rule("tasks:create", {"tasks": [NEW_TASK]}, 400),
    "GET /api/batches": Rule("tasks:read", others=200),
    "GET /api/batches/{batch}": Rule("tasks:read", others=NOT_THERE),
    "POST /api/batches/{batch}/tasks": Rule("tasks:create", {"tasks": []}, others=NOT_THERE),
    "POST /api/batches/{batch}/close": Rule("tasks:create", others=NOT_THERE),
    "POST /api/batches/{batch}/cancel": Rule("tasks:manage", {}, others=NOT_THERE),
    "POST /api/batches/{batch}/retry": Rule("tasks:manage", others=NOT_THERE),
    "PATCH /api/tasks/{task}": Rule("tasks:manage", {"priority": 1}, others=NOT_THERE),
    "GET /api/tasks/{task}/logs": Rule("tasks:read", others=NOT_THERE),
    "GET /api/tasks/{task}/graph": Rule("tasks:read", others=NOT_THERE),
    "POST /api/tasks/{task}/heartbeat": Rule("tasks:claim", CLAIMED, others=NOT_THERE),
    "POST /api/tasks/{task}/progress": Rule(
        "tasks:claim", {**CLAIMED, "progress": 1}, others=NOT_THERE
    ),
    "POST /api/tasks/{task}/release": Rule("tasks:claim", CLAIMED, others=NOT_THERE),
    "POST /api/tasks/{task}/complete": Rule(
        "tasks:complete", {**CLAIMED, "success": True}, others=NOT_THERE
    ),
    "POST /api/tasks/{task}/cancel": Rule("tasks:manage", {}, others=NOT_THERE),
    "POST /api/tasks/{task}/retry": Rule("tasks:manage", others=NOT_THERE),
    "POST /api/schedules": Rule("task-types:write", SCHEDULE),
    "GET /api/schedules": Rule("task-types:read", others=200),
    "GET /api/schedules/{schedule}": Rule("task-types:read", others=NOT_THERE),
    "PATCH /api/schedules/{schedule}": Rule(
        "task-types:write", {"is_active": False}, others=NOT_THERE
    ),
    "POST /api/schedules/{schedule}/run": Rule("tasks:create", others=NOT_THERE),
    "DELETE /api/schedules/{schedule}": Rule("task-types:write", others=NOT_THERE),
    "GET /api/workers": Rule("workers:read", others=200),
    "GET /api/workers/w": Rule("workers:read", others=NOT_THERE),
    "POST /api/workers/heartbeat": Rule("tasks:claim", CLAIMED, 200),
    "POST /api/workers/w/shutdown": Rule("tasks:claim", others=200),
    "POST /api/admin/keys": Rule("admin", {"name": "n", "role": "viewer"}),
    "GET /api/admin/keys": Rule("admin"),
    "GET /api/admin/keys/{key}": Rule("admin"),
    "PATCH /api/admin/keys/{key}": Rule("admin", {"name": "n"}),
    "POST /api/admin/keys/{key}/rotate": Rule("admin", {}),
    "DELETE /api/admin/keys/{key}": Rule("admin"),
    "GET /api/alerts": Rule("admin"),
    "GET /api/webhooks": Rule("admin"),
    "POST /api/webhooks": Rule("admin", {"name": "h", "url": "https://example.org/"}),
    "GET /api/webhooks/{webhook}": Rule("admin"),
    "PATCH /api/webhooks/{webhook}": Rule("admin", {"is_active": True}),
    "POST /api/webhooks/{webhook}/rotate": Rule("admin", {}),
    "GET /api/webhooks/{webhook}/deliveries": Rule("admin"),
    "POST /api/webhooks/{webhook}/deliveries/1/resend": Rule("admin", {}),
    "DELETE /api/webhooks/{webhook}": Rule("admin"),
    "GET /api/admin/audit": Rule("admin"),
    "GET /api/admin/doctor": Rule("admin"),
    "GET /api/clients": Rule(PUBLIC, others=200),
    "GET /api/clients/TaskManager.php": Rule(PUBLIC, others=200),
    "GET /api/openapi.json": Rule(PUBLIC, others=200),
    "GET /api/docs": Rule(PUBLIC, others=200),
}

NEEDS_KEY = [call for call, rule in RULES.items() if rule.scope != PUBLIC]


def make(app_scopes: Any, **options: Any) -> str:
    """A key with exactly these scopes."""
    _, key = keys.create_key(
        name="made", scopes=app_scopes, now=options.pop("now", 1), caller=OPERATOR, **options
    )
    return key


@pytest.fixture
def world(api: Api) -> dict[str, int]:
    """A type, a task held by worker w, a schedule and a key, for the calls of RULES."""
    api.register(HIDDEN)
    api.create(HIDDEN)
    task = api.claim("w")
    schedule = api.post("/api/schedules", {**SCHEDULE, "name": "s1"}, 201)
    key = api.post("/api/admin/keys", {"name": "n", "role": "viewer"}, 201)
    webhook = api.post("/api/webhooks", {"name": "w", "url": "https://example.org/"}, 201)
    batch = api.post("/api/batches", {}, 201)
    numbers = {"task": task, "schedule": schedule, "key": key, "webhook": webhook, "batch": batch}
    return {name: row["id"] for name, row in numbers.items()}


def call(api: Api, line: str, world: dict[str, int], body: Any = None) -> Any:
    method, path = line.split()
    for name, number in world.items():
        path = path.replace("{" + name + "}", str(number))
    return api.call(method, path, body)


def test_every_route_has_its_row_in_the_table(app: Flask) -> None:
    known = set()
    adapter = app.url_map.bind("localhost")
    for line in RULES:
        method, path = line.split()
        endpoint, _ = adapter.match(re.sub(r"\{\w+\}", "1", path), method=method)
        known.add((method, endpoint))
    missing = [
        f"{method} {rule.rule}"
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/api/")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if (method, rule.endpoint) not in known
    ]
    assert not missing, (
        f"Nobody has written down who may call {', '.join(missing)}. Add a row to RULES in "
        "tests/access/test_keys.py: the scope it takes, a body that works, and the status that "
        "a key limited to other task types gets (403, or a success that shows nothing of them)."
    )


def test_the_table_and_the_routes_name_the_same_scopes(app: Flask) -> None:
    adapter = app.url_map.bind("localhost")
    for line, rule in RULES.items():
        method, path = line.split()
        endpoint, _ = adapter.match(re.sub(r"\{\w+\}", "1", path), method=method)
        assert app.view_functions[endpoint].required_scope == rule.scope, line  # type: ignore[attr-defined]


class TestEveryRoute:
    """No other limit in the way: each call here fails or not for one reason."""

    @pytest.fixture(autouse=True)
    def _no_limit_on_failures(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("taskmanager.api.rate_limits.FAILURES", Rate(100_000))

    def test_without_a_key_only_the_public_ones_answer(
        self, app: Flask, api: Api, world: dict[str, int]
    ) -> None:
        anybody = Api(app.test_client(), "")
        for line, rule in RULES.items():
            answer = call(anybody, line, world, rule.body)
            if rule.scope == PUBLIC:
                assert answer.status_code == 200, line
            else:
                assert answer.status_code == 401, line
                assert answer.get_json()["code"] == "not_authenticated"
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")

    @pytest.mark.parametrize("kind", ["wrong", "revoked", "expired"])
    def test_a_key_that_is_not_in_force_opens_none(
        self, api: Api, world: dict[str, int], kind: str, clock: Clock
    ) -> None:
        key = make(["admin"], expires_at=clock.now if kind == "expired" else None)
        if kind == "revoked":
            key_changes.revoke_key(
                key_id=max(row["id"] for row in keys.list_keys()),
                force=True,
                caller=OPERATOR,
                now=clock.now,
            )
        bad = api.with_key(key + "x" if kind == "wrong" else key)
        for line in NEEDS_KEY:
            assert call(bad, line, world, RULES[line].body).status_code == 401, line

    def test_a_key_with_every_scope_but_the_one_that_it_takes_opens_none(
        self, api: Api, world: dict[str, int]
    ) -> None:
        for line in NEEDS_KEY:
            rule = RULES[line]
            enough = (rule.scope, INCLUDED_IN.get(rule.scope), "admin")
            scopes = [one for one in keys.SCOPES if one not in enough]
            answer = call(api.with_key(make(scopes)), line, world, rule.body)
            assert answer.status_code == 403, line
            assert answer.get_json()["code"] == "scope_missing", line

    def test_the_one_scope_that_it_takes_opens_each(self, api: Api, world: dict[str, int]) -> None:
        for line in NEEDS_KEY:
            answer = call(api.with_key(make([RULES[line].scope])), line, world, {})
            assert answer.status_code not in (401, 403), (line, answer.get_json())

    def test_a_key_for_other_task_types_gets_what_the_table_says_and_changes_nothing(
        self, clock: Clock, api: Api, world: dict[str, int]
    ) -> None:
        limited = api.with_key(make(["admin"], task_types=["Other.%"]))
        clock.advance(10)
        before = api.get(f"/api/tasks/{world['task']}")
        for line, rule in RULES.items():
            answer = call(limited, line, world, rule.body)
            assert answer.status_code == rule.others, (line, answer.get_json())
            if HIDDEN not in f"{line} {rule.body}":
                assert HIDDEN not in answer.text, line
        assert api.get(f"/api/tasks/{world['task']}") == before
        assert api.get("/api/tasks")["count"] == 1

    def test_what_belongs_to_other_task_types_looks_as_if_it_were_not_there(
        self, clock: Clock, api: Api, world: dict[str, int]
    ) -> None:
        limited = api.with_key(make(["admin"], task_types=["Other.%"]))
        nothing = {name: number + 1_000 for name, number in world.items()}
        for line, rule in RULES.items():
            if "{task}" in line or "{schedule}" in line:
                there = call(limited, line, world, rule.body).text
                for name in ("task", "schedule"):
                    there = there.replace(f"{name} {world[name]}", f"{name} {nothing[name]}")
                assert there == call(limited, line, nothing, rule.body).text, line

    def test_a_worker_that_also_holds_tasks_of_other_types_is_told_of_its_own_alone(
        self, api: Api, world: dict[str, int]
    ) -> None:
        api.register("Other.One")
        own = api.create("Other.One")
        api.claim("w", type="Other.One")
        limited = api.with_key(make(["admin"], task_types=["Other.%"]))
        beat = limited.post("/api/workers/heartbeat", CLAIMED)
        assert (beat["renewed"], beat["lost"]) == ([own["id"]], [])
        assert limited.post("/api/workers/w/shutdown")["released"] == [own["id"]]
        assert api.get(f"/api/tasks/{world['task']}")["status"] == "claimed"

    def test_a_claim_that_is_repeated_is_answered_to_keys_that_may_touch_the_tasks(
        self, api: Api, world: dict[str, int]
    ) -> None:
        api.create(HIDDEN)
        claim = {"worker_id": "w", "request_id": "r"}
        first = api.claim(**claim)
        limited = api.with_key(make(["admin"], task_types=["Other.%"]))
        limited.claim(**claim, status=404)
        limited.claim(**claim, limit=5, status=404)
        assert api.claim(**claim)["claim_token"] == first["claim_token"]

    def test_items_of_other_task_types_in_a_batch_are_refused_one_by_one(
        self, api: Api, world: dict[str, int]
    ) -> None:
        limited = api.with_key(make(["admin"], task_types=["Other.%"]))
        made = limited.post("/api/tasks/batch", {"tasks": [NEW_TASK]})
        assert [one["error"]["status"] for one in made["results"]] == [403]
        body = {"worker_id": "w", "completions": [{"id": world["task"], "success": True}]}
        done = limited.post("/api/tasks/complete", body)
        assert [one["error"]["status"] for one in done["results"]] == [404]
        assert HIDDEN not in repr(done)


# What a key may be told


def test_a_known_prefix_with_a_wrong_secret_looks_like_an_unknown_key(api: Api) -> None:
    shown = api.get("/api/admin/keys")["keys"][0]["prefix"]
    near, far = (
        api.with_key(key).call("GET", "/api/stats") for key in (shown + "x" * 32, "nothing like it")
    )
    envelopes = [{**answer.get_json(), "timestamp": 0} for answer in (near, far)]
    assert envelopes[0] == envelopes[1]
    assert near.status_code == far.status_code == 401


def test_only_who_has_the_whole_key_learns_that_it_was_revoked_or_has_expired(
    api: Api, clock: Clock
) -> None:
    made = api.post("/api/admin/keys", {"name": "n", "role": "viewer"}, 201)
    api.delete(f"/api/admin/keys/{made['id']}")
    old = make(["tasks:read"], expires_at=clock.now)
    assert "revoked" in api.with_key(made["key"]).get("/api/stats", 401)["error"]
    assert "expired" in api.with_key(old).get("/api/stats", 401)["error"]
    for nearly in (made["key"][:-1], old[:-1]):
        assert "not known" in api.with_key(nearly).get("/api/stats", 401)["error"]


def test_no_answer_but_the_first_shows_a_key_and_none_its_hash(api: Api) -> None:
    made = api.post("/api/admin/keys", {"name": "n", "role": "viewer"}, 201)
    for path in ("/api/admin/keys", f"/api/admin/keys/{made['id']}"):
        text = api.call("GET", path).text
        assert made["key"] not in text
        assert keys.hash_key(made["key"]) not in text
    for table in ("api_keys", "audit_events"):
        assert made["key"] not in repr(fetch_all(f"SELECT * FROM {table}"))


# Changing


def test_every_right_of_a_key_can_be_changed_and_taken_back(api: Api, clock: Clock) -> None:
    made = api.post("/api/admin/keys", {"name": "n", "role": "viewer"}, 201)
    path = f"/api/admin/keys/{made['id']}"
    ends = format_time(clock.now + 60_000)
    changes = {
        "name": "other",
        "scopes": ["tasks:create"],
        "task_types": ["A.%"],
        "rate_limit": "5/second",
        "expires_at": ends,
    }
    changed = api.patch(path, changes)
    assert {name: changed[name] for name in changes} == changes
    nothing = {"task_types": None, "rate_limit": None, "expires_at": None}
    taken_back = api.patch(path, nothing)
    assert {name: taken_back[name] for name in nothing} == nothing
    assert taken_back["scopes"] == ["tasks:create"]
    api.with_key(made["key"]).get("/api/stats", 403)


def test_a_change_holds_at_once_in_the_process_that_made_it(api: Api) -> None:
    made = api.post("/api/admin/keys", {"name": "n", "role": "viewer"}, 201)
    viewer = api.with_key(made["key"])
    viewer.get("/api/stats")
    api.patch(f"/api/admin/keys/{made['id']}", {"rate_limit": "1/hour"})
    viewer.get("/api/stats")
    assert viewer.get("/api/stats", 429)["code"] == "rate_limited"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, "Send what to change"),
        ({"rate_limit": "fast"}, "rate_limit must be N/second, N/minute"),
        ({"rate_limit": -1}, "rate_limit"),
        ({"scopes": ["everything"]}, "scopes"),
        ({"scopes": []}, "scopes"),
        ({"task_types": []}, "task_types"),
        ({"expires_at": "soon"}, "expires_at"),
        ({"name": ""}, "name"),
        ({"key": "x"}, "key"),
    ],
)
def test_a_change_that_cannot_be_is_refused_and_changes_nothing(
    api: Api, change: dict[str, Any], sentence: str
) -> None:
    made = api.post("/api/admin/keys", {"name": "n", "role": "viewer"}, 201)
    before = api.get(f"/api/admin/keys/{made['id']}")
    assert sentence in api.patch(f"/api/admin/keys/{made['id']}", change, 400)["error"]
    assert api.get(f"/api/admin/keys/{made['id']}") == before


@pytest.mark.parametrize(
    ("given", "kept"), [("100/minute", "100/minute"), ("5", "5/minute"), (7, "7/minute"), (0, "0")]
)
def test_a_rate_limit_is_kept_in_one_spelling(api: Api, given: Any, kept: str) -> None:
    body = {"name": "n", "role": "viewer", "rate_limit": given}
    assert api.post("/api/admin/keys", body, 201)["rate_limit"] == kept


def test_a_key_that_was_revoked_or_never_was_cannot_be_changed_or_rotated(api: Api) -> None:
    made = api.post("/api/admin/keys", {"name": "n", "role": "viewer"}, 201)
    path = f"/api/admin/keys/{made['id']}"
    api.delete(path)
    assert api.patch(path, {"name": "m"}, 409)["code"] == "key_revoked"
    assert api.post(f"{path}/rotate", {}, 409)["code"] == "key_revoked"
    api.delete(path)
    for call_with in (
        api.patch("/api/admin/keys/999999", {"name": "m"}, 404),
        api.post("/api/admin/keys/999999/rotate", {}, 404),
        api.delete("/api/admin/keys/999999", 404),
    ):
        assert call_with["code"] == "key_not_found"


def test_key_changes_are_recorded_with_who_made_them_and_without_the_key(api: Api) -> None:
    made = api.post("/api/admin/keys", {"name": "n", "role": "viewer"}, 201)
    path = f"/api/admin/keys/{made['id']}"
    api.patch(path, {"name": "m", "rate_limit": 5})
    rotated = api.post(f"{path}/rotate", {}, 201)
    api.delete(path)
    rows = fetch_all("SELECT * FROM audit_events ORDER BY id")[1:]
    assert [row["event"] for row in rows] == [
        "key_created",
        "key_changed",
        "key_created",
        "key_rotated",
        "key_revoked",
    ]
    assert rows[1]["message"] == f"key {made['id']} (n) changed (name, rate_limit) by admin"
    assert len({row["api_key_id"] for row in rows}) == 1
    assert rows[0]["api_key_id"] is not None
    assert rotated["key"] not in repr(rows)


# The last admin


def test_the_last_admin_key_goes_only_when_that_is_insisted_on(api: Api, clock: Clock) -> None:
    own = api.get("/api/admin/keys")["keys"][0]["id"]
    make(["admin"], expires_at=clock.now)
    make(["admin"], task_types=["A.%"])
    make(["tasks:read"])
    path = f"/api/admin/keys/{own}"
    refused = api.delete(path, 409)
    assert refused["code"] == "last_admin_key"
    assert "Make another admin key first" in refused["error"]
    past = format_time(clock.now - 1)
    for change in ({"scopes": ["tasks:read"]}, {"expires_at": past}, {"task_types": ["A.%"]}):
        assert api.patch(path, change, 409)["code"] == "last_admin_key"
    assert api.patch(path, {"name": "still here"})["revoked_at"] is None
    assert api.delete(f"{path}?force=true")["revoked_at"] is not None
    api.get("/api/admin/keys", 401)


def test_two_admins_who_revoke_each_other_at_once_cannot_both_succeed(app: Flask, api: Api) -> None:
    for _ in range(5):
        made = [api.post("/api/admin/keys", {"name": n, "role": "admin"}, 201) for n in "ab"]
        keep = [row["id"] for row in made]
        for row in api.get("/api/admin/keys")["keys"]:
            if row["id"] not in keep and row["revoked_at"] is None:
                api.delete(f"/api/admin/keys/{row['id']}")
        barrier = threading.Barrier(2)

        def revoke(key: str, other: int, barrier: threading.Barrier = barrier) -> int:
            barrier.wait()
            try:
                client = Api(app.test_client(), key)
                return int(client.call("DELETE", f"/api/admin/keys/{other}").status_code)
            finally:
                close_connection()

        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(revoke, [one["key"] for one in made], reversed(keep)))
        assert found.count(200) == 1, found
        left = [row for row in keys.list_keys() if row["revoked_at"] is None]
        assert len(left) == 1
        api = api.with_key(next(one["key"] for one in made if one["id"] == left[0]["id"]))


# Rotating


def test_a_rotated_key_and_its_successor_are_both_valid_for_the_overlap(
    api: Api, clock: Clock
) -> None:
    body = {"name": "n", "role": "viewer", "task_types": ["A.%"], "rate_limit": "50/minute"}
    old = api.post("/api/admin/keys", body, 201)
    new = api.post(f"/api/admin/keys/{old['id']}/rotate", {"overlap_seconds": 3_600}, 201)
    rights = ("name", "scopes", "task_types", "rate_limit", "expires_at")
    assert {name: new[name] for name in rights} == {name: old[name] for name in rights}
    assert new["id"] != old["id"]
    assert new["replaces"]["id"] == old["id"]
    assert new["replaces"]["expires_at"] == format_time(clock.now + 3_600_000)
    for one in (old, new):
        api.with_key(one["key"]).get("/api/stats")
    clock.advance(3_600)
    api.with_key(old["key"]).get("/api/stats", 401)
    api.with_key(new["key"]).get("/api/stats")


def test_the_overlap_is_a_day_unless_told_and_may_be_nothing(api: Api, clock: Clock) -> None:
    old = api.post("/api/admin/keys", {"name": "n", "role": "viewer"}, 201)
    path = f"/api/admin/keys/{old['id']}/rotate"
    assert api.post(path, {}, 201)["replaces"]["expires_at"] == format_time(clock.now + DAY * 1000)
    assert api.post(path, {"overlap_seconds": 0}, 201)["replaces"]["expires_at"] == format_time(
        clock.now
    )
    api.with_key(old["key"]).get("/api/stats", 401)
    assert api.post(path, {}, 409)["code"] == "key_expired"


def test_a_key_for_some_days_is_rotated_into_one_for_as_many_and_never_outlives_its_own(
    api: Api, clock: Clock
) -> None:
    ends = clock.now + 10 * DAY * 1000
    old = api.post(
        "/api/admin/keys", {"name": "n", "role": "viewer", "expires_at": format_time(ends)}, 201
    )
    clock.advance(10 * DAY - 60)
    new = api.post(f"/api/admin/keys/{old['id']}/rotate", {}, 201)
    assert new["expires_at"] == format_time(clock.now + 10 * DAY * 1000)
    assert new["replaces"]["expires_at"] == format_time(ends)


def test_the_last_admin_key_can_be_rotated(api: Api, clock: Clock) -> None:
    own = api.get("/api/admin/keys")["keys"][0]["id"]
    new = api.post(f"/api/admin/keys/{own}/rotate", {"overlap_seconds": 0}, 201)
    api.get("/api/admin/keys", 401)
    assert api.with_key(new["key"]).get("/api/admin/keys")["count"] == 2


# The command line


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Runs `taskmanager …` on a queue of its own."""
    monkeypatch.setenv("TASKMANAGER_INSTANCE_PATH", str(tmp_path / "shell"))
    monkeypatch.delenv("TASKMANAGER_DATABASE_URL", raising=False)

    return run_command


def test_a_key_is_rotated_at_the_command_line_with_the_new_one_alone_on_stdout(
    shell: Callable[..., Any],
) -> None:
    first = shell("keys", "create", "--name", "n", "--role", "viewer", "--rate-limit", "5")
    second = shell("keys", "rotate", "1", "--overlap", "0")
    assert second.exit_code == 0, second.output
    assert re.fullmatch(r"tm_[\w-]{43}\n", second.stdout)
    assert second.stdout != first.stdout
    assert "Key 2 replaces key 1" in second.stderr
    listed = shell("keys", "list").stdout.splitlines()[1:]
    assert [line.split()[:2] for line in listed] == [["1", "expired"], ["2", "active"]]


def test_the_command_line_refuses_a_limit_that_is_none_as_wrong_usage(
    shell: Callable[..., Any],
) -> None:
    done = shell("keys", "create", "--name", "n", "--role", "viewer", "--rate-limit", "fast")
    assert done.exit_code == 2
    assert "N/second, N/minute" in done.stderr
    assert shell("keys", "list", "--json").stdout == "[]\n"


def test_the_command_line_may_revoke_the_last_admin_key(shell: Callable[..., Any]) -> None:
    shell("keys", "create", "--name", "n", "--role", "admin")
    assert shell("keys", "revoke", "1").exit_code == 0
    assert "revoked" in shell("keys", "list").stdout


# Several processes


def test_a_revoked_key_is_refused_by_every_process_within_five_seconds(
    start_server: Callable[..., Server],
) -> None:
    # Two servers of one process each: of the processes of one, the same may answer every time.
    servers = [start_server(workers=1) for _ in range(2)]
    body = {"name": "n", "role": "viewer", "rate_limit": 0}
    made = servers[0].call("POST", "/api/admin/keys", body)

    def asked(server: Server) -> tuple[float, int]:
        return time.monotonic(), server.call("GET", "/api/stats", key=made.data["key"]).status

    assert [asked(server)[1] for server in servers] == [200, 200]
    assert servers[0].call("DELETE", f"/api/admin/keys/{made.data['id']}").status == 200
    revoked_at = time.monotonic()
    let_in = {server.url: 0.0 for server in servers}
    while time.monotonic() < revoked_at + 6:
        for server in servers:
            at, status = asked(server)
            if status == 200:
                let_in[server.url] = at - revoked_at
    assert max(let_in.values()) < 5


BOOTSTRAP = "a-bootstrap-key-of-more-than-32-characters"


def test_the_bootstrap_key_is_made_once_by_processes_that_start_together(
    start_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKMANAGER_BOOTSTRAP_ADMIN_KEY", BOOTSTRAP)
    server = start_server(workers=4)
    listed = server.call("GET", "/api/admin/keys", key=BOOTSTRAP)
    assert [row["name"] for row in listed.data["keys"]].count("bootstrap") == 1


def test_the_bootstrap_key_outlives_its_setting_and_stays_revoked_with_it(
    database_url: str, tmp_path: Path
) -> None:
    def start(key: str) -> Api:
        settings = {"instance_path": tmp_path, "database_url": database_url}
        app = create_app({**settings, "bootstrap_admin_key": key})
        return Api(app.test_client(), BOOTSTRAP)

    start(BOOTSTRAP).get("/api/admin/keys")
    without = start("")
    mine = next(k for k in without.get("/api/admin/keys")["keys"] if k["name"] == "bootstrap")
    assert mine["prefix"] == ""
    without.delete(f"/api/admin/keys/{mine['id']}?force=true")
    start(BOOTSTRAP).get("/api/admin/keys", 401)
    assert [row["name"] for row in keys.list_keys()].count("bootstrap") == 1
    close_connection()
