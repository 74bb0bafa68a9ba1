"""Who sees which page and may send which form: every route, by scope and by task type."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from flask import Flask

from taskmanager.access import keys
from taskmanager.dashboard.application import create_pages
from tests.conftest import Api
from tests.dashboard.conftest import Person, key_with, store_delivery, text_of

SignIn = Callable[..., Person]
HIDDEN = "Hidden.Type"
PUBLIC = "public"
SCHEDULE = {"name": "n", "cron": "0 1 * * *", "overlap": '"skip"', "params": "{}"}


class Rule(NamedTuple):
    """The scope that a route takes, a form that works, and the status that a key gets which is
    limited to task types other than HIDDEN. {task}, {schedule} and so on are ids of HIDDEN things.
    """

    scope: str
    form: Any = None
    others: int = 403


RULES = {
    "GET /dashboard/static/x/dashboard.css": Rule(PUBLIC, others=200),
    "GET /dashboard/sign-in": Rule(PUBLIC, others=200),
    "POST /dashboard/sign-in": Rule(PUBLIC, {"key": "tm_x"}, 401),
    "POST /dashboard/sign-out": Rule(PUBLIC, others=303),
    "GET /dashboard": Rule("tasks:read", others=200),
    "GET /dashboard/tasks": Rule("tasks:read", others=200),
    "GET /dashboard/tasks/new": Rule("tasks:create", others=200),
    "POST /dashboard/tasks/new": Rule("tasks:create", {"type": HIDDEN, "params": "{}"}),
    "POST /dashboard/tasks/change": Rule("tasks:manage", {"action": "delete", "id": 1}, 200),
    "GET /dashboard/tasks/{task}": Rule("tasks:read", others=404),
    "POST /dashboard/tasks/{task}/retry": Rule("tasks:manage", others=404),
    "POST /dashboard/tasks/{task}/cancel": Rule("tasks:manage", others=404),
    "GET /dashboard/batches": Rule("tasks:read", others=200),
    "GET /dashboard/batches/{batch}": Rule("tasks:read", others=404),
    "POST /dashboard/batches/{batch}/close": Rule("tasks:create", others=404),
    "POST /dashboard/batches/{batch}/cancel": Rule("tasks:manage", {"confirmed": "1"}, 404),
    "POST /dashboard/batches/{batch}/retry": Rule("tasks:manage", {"confirmed": "1"}, 404),
    "GET /dashboard/tasks/{task}/change": Rule("tasks:manage", others=404),
    "POST /dashboard/tasks/{task}/change": Rule("tasks:manage", {"priority": "5"}, 404),
    "GET /dashboard/errors": Rule("tasks:read", others=200),
    "GET /dashboard/types": Rule("task-types:read", others=200),
    f"GET /dashboard/types/{HIDDEN}": Rule("task-types:read"),
    f"POST /dashboard/types/{HIDDEN}/pause": Rule("task-types:write"),
    f"POST /dashboard/types/{HIDDEN}/settings": Rule("task-types:write", {"priority": "5"}),
    f"POST /dashboard/types/{HIDDEN}/check": Rule("tasks:create", {"param_schema": "{}"}),
    "GET /dashboard/schedules": Rule("task-types:read", others=200),
    "GET /dashboard/schedules/{schedule}/change": Rule("task-types:write", others=404),
    "POST /dashboard/schedules/{schedule}/change": Rule("task-types:write", SCHEDULE, 404),
    "POST /dashboard/schedules/{schedule}/run": Rule("tasks:create", others=404),
    "POST /dashboard/schedules/{schedule}/pause": Rule("task-types:write", others=404),
    "GET /dashboard/workers": Rule("workers:read", others=200),
    "GET /dashboard/workers/w": Rule("workers:read", others=404),
    "GET /dashboard/admin": Rule("admin"),
    "POST /dashboard/admin/keys": Rule("admin", {"name": "n", "role": "viewer"}),
    "GET /dashboard/admin/keys/{key}/change": Rule("admin"),
    "POST /dashboard/admin/keys/{key}/change": Rule("admin", {"name": "m", "scopes": "admin"}),
    "POST /dashboard/admin/keys/{key}/rotate": Rule("admin"),
    "POST /dashboard/admin/keys/{key}/revoke": Rule("admin", {"confirmed": "1"}),
    "GET /dashboard/alerts": Rule("admin"),
    "GET /dashboard/admin/audit": Rule("admin"),
    "GET /dashboard/admin/doctor": Rule("admin"),
    "GET /dashboard/admin/settings": Rule("admin"),
    "GET /dashboard/webhooks": Rule("admin"),
    "POST /dashboard/webhooks": Rule("admin", {"name": "h", "url": "https://example.org/"}),
    "GET /dashboard/webhooks/{webhook}": Rule("admin"),
    "POST /dashboard/webhooks/{webhook}/change": Rule("admin", {"url": "https://example.org/"}),
    "POST /dashboard/webhooks/{webhook}/switch-off": Rule("admin"),
    "POST /dashboard/webhooks/{webhook}/rotate": Rule("admin"),
    "POST /dashboard/webhooks/{webhook}/deliveries/{delivery}/resend": Rule("admin"),
    "POST /dashboard/webhooks/{webhook}/delete": Rule("admin", {"confirmed": "1"}),
}
NEED_SESSION = [line for line, rule in RULES.items() if rule.scope != PUBLIC]


@pytest.fixture
def world(api: Api) -> dict[str, int]:
    api.register(HIDDEN)
    api.create(HIDDEN)
    task = api.claim("w")
    schedule = {"name": "s", "type": HIDDEN, "params": {}, "cron": "0 0 * * *"}
    webhook = api.post("/api/webhooks", {"name": "w", "url": "https://nowhere.invalid/"}, 201)["id"]
    batch = api.post("/api/batches", {"name": f"all of {HIDDEN}", "is_open": True}, 201)["id"]
    return {
        "webhook": webhook,
        "batch": batch,
        "delivery": store_delivery(webhook, task["id"]),
        "task": task["id"],
        "schedule": api.post("/api/schedules", schedule, 201)["id"],
        "key": api.post("/api/admin/keys", {"name": "n", "role": "viewer"}, 201)["id"],
    }


def send(somebody: Person, line: str, world: dict[str, int], form: Any = None) -> Any:
    method, path = line.split()
    for name, number in world.items():
        path = path.replace("{" + name + "}", str(number))
    return somebody.get(path) if method == "GET" else somebody.post(path, form)


def pages_of(app: Flask) -> Flask:
    return create_pages(app, lambda: None)


def test_every_route_has_its_row_in_the_table(app: Flask) -> None:
    pages = pages_of(app)
    adapter = pages.url_map.bind("localhost")
    known = set()
    for line, rule in RULES.items():
        method, path = line.split()
        endpoint, _ = adapter.match(re.sub(r"\{\w+\}", "1", path), method=method)
        known.add((method, endpoint))
        scope = pages.view_functions[endpoint].required_scope  # type: ignore[attr-defined]
        assert scope == rule.scope, line
    missing = [
        f"{method} {rule.rule}"
        for rule in pages.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if (method, rule.endpoint) not in known
    ]
    assert not missing


def test_without_a_session_every_page_but_the_sign_in_leads_there(
    app: Flask, world: dict[str, int]
) -> None:
    somebody = Person(app.test_client())
    somebody.get("/dashboard/sign-in")
    for line in NEED_SESSION:
        answer = send(somebody, line, world, RULES[line].form)
        assert answer.status_code == 303, line
        assert answer.headers["Location"].startswith("/dashboard/sign-in"), line
        somebody.get("/dashboard/sign-in")


def test_every_scope_but_the_one_that_it_takes_opens_no_page(
    person: SignIn, world: dict[str, int]
) -> None:
    for scope in {RULES[line].scope for line in NEED_SESSION}:
        others = [one for one in keys.SCOPES if one not in (scope, "admin")]
        somebody = person(others)
        for line in NEED_SESSION:
            if RULES[line].scope == scope:
                if not somebody.token:
                    somebody.get("/dashboard/types")
                answer = send(somebody, line, world, RULES[line].form)
                assert answer.status_code == 403, line
                assert scope in text_of(answer), line


def test_the_one_scope_that_it_takes_opens_each_page(person: SignIn, world: dict[str, int]) -> None:
    for line in NEED_SESSION:
        somebody = person([RULES[line].scope])
        answer = send(somebody, line, world, RULES[line].form)
        assert answer.status_code in (200, 303, 409), (line, text_of(answer))


def test_a_key_for_other_types_sees_nothing_of_a_type_and_changes_nothing(
    api: Api, person: SignIn, world: dict[str, int]
) -> None:
    key_with(["admin"])
    before = api.get(f"/api/tasks/{world['task']}")
    for line, rule in RULES.items():
        somebody = person(["admin"], task_types=["Other.%"])
        answer = send(somebody, line, world, rule.form)
        assert answer.status_code == rule.others, (line, text_of(answer))
        if HIDDEN not in f"{line} {rule.form}":
            assert HIDDEN not in answer.text, line
    assert api.get(f"/api/tasks/{world['task']}") == before
    assert api.get("/api/tasks")["count"] == 1


def buttons_of(page: str) -> set[str]:
    """What a page lets its reader change: the labels of its buttons but those of every page."""
    found = re.findall(r"<button(?![^>]*data-copy)[^>]*>(.*?)</button>", page)
    everywhere = {"Sign out", "Sign out everywhere", "Search", "Filter"}
    return {re.sub("<[^>]+>", "", one) for one in found} - everywhere


PAGES = [
    "",
    "/tasks",
    "/tasks/{task}",
    "/batches",
    "/batches/{batch}",
    "/errors",
    "/types",
    f"/types/{HIDDEN}",
    "/schedules",
]


@pytest.mark.parametrize("path", [*PAGES, "/workers", "/workers/w"])
def test_a_viewer_sees_every_page_and_no_button(
    person: SignIn, world: dict[str, int], path: str
) -> None:
    viewer = person(keys.ROLES["viewer"])
    answer = send(viewer, f"GET /dashboard{path}", world)
    assert answer.status_code == 200
    assert buttons_of(answer.text) == set()
    assert "Create a task" not in answer.text
    assert ">Admin<" not in answer.text


def test_a_producer_has_the_buttons_of_its_scopes(person: SignIn, world: dict[str, int]) -> None:
    producer = person(keys.ROLES["producer"])
    answer = send(producer, "GET /dashboard/tasks/{task}", world)
    assert buttons_of(answer.text) == {"Cancel", "Release"}
    answer = send(producer, f"GET /dashboard/types/{HIDDEN}", world)
    assert buttons_of(answer.text) == {"Pause", "Deactivate", "Save", "Check"}
    answer = send(producer, "GET /dashboard/batches/{batch}", world)
    assert buttons_of(answer.text) == {"Close", "Cancel"}
    answer = send(producer, "GET /dashboard/schedules", world)
    assert buttons_of(answer.text) == {"Run now", "Pause"}
