"""Signing in with a key: what begins a session, what it holds, and everything that ends it."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from taskmanager.access import key_changes, keys
from taskmanager.access.audit import list_events
from taskmanager.access.caller import OPERATOR
from taskmanager.api.rate_limits import FAILURES
from taskmanager.app import create_app
from taskmanager.dashboard.sign_in import ABSOLUTE_MS, IDLE_MS
from taskmanager.rates import Rate
from tests.conftest import Api, Clock
from tests.dashboard.conftest import Person, key_with, text_of

SignIn = Callable[..., Person]


def is_signed_in(somebody: Person, **options: Any) -> bool:
    answer = somebody.get("/dashboard", **options)
    assert answer.status_code in (200, 303)
    return answer.status_code == 200


def with_cookie_of(somebody: Person, app: Flask) -> FlaskClient:
    """A client that sends somebody's cookie everywhere."""
    cookie = somebody.client.get_cookie("taskmanager_session", path="/dashboard")
    assert cookie is not None
    client = app.test_client()
    client.set_cookie(cookie.key, cookie.value, path="/")
    return client


def test_a_page_without_a_session_leads_to_the_form_and_back(app: Flask) -> None:
    key = key_with(["admin"])
    somebody = Person(app.test_client())
    answer = somebody.get("/dashboard/tasks?status=failed")
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/dashboard/sign-in?next=/dashboard/tasks?status%3Dfailed"
    somebody.get(answer.headers["Location"])
    answer = somebody.post(
        "/dashboard/sign-in",
        {"key": key, "next": "/dashboard/tasks?status=failed"},
    )
    assert answer.headers["Location"] == "/dashboard/tasks?status=failed"


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example/",
        "//evil.example/dashboard/",
        "/dashboard/\\evil.example",
        "/dashboard/\nSet-Cookie: a=b",
        "/api/health",
        "javascript:alert(1)",
    ],
)
def test_signing_in_leads_to_no_address_but_a_page_of_the_dashboard(
    app: Flask, wanted: str
) -> None:
    answer = Person(app.test_client()).sign_in(key_with(["admin"]), next=wanted)
    assert answer.headers["Location"] == "/dashboard"


def test_the_cookie_is_for_the_dashboard_alone_and_out_of_reach_of_scripts(app: Flask) -> None:
    answer = Person(app.test_client()).sign_in(key_with(["admin"]))
    cookie = answer.headers["Set-Cookie"]
    assert re.search("; HttpOnly; Path=/dashboard; SameSite=Lax$", cookie)
    assert "Secure" not in cookie
    below = Person(app.test_client(), "https://example.org/queue")
    cookie = below.sign_in(key_with(["admin"])).headers["Set-Cookie"]
    assert "; Secure; HttpOnly; Path=/queue/dashboard; SameSite=Lax" in cookie


def test_the_cookie_does_not_hold_the_key(app: Flask) -> None:
    key = key_with(["admin"])
    answer = Person(app.test_client()).sign_in(key)
    assert key not in answer.headers["Set-Cookie"]
    assert keys.hash_key(key) not in answer.headers["Set-Cookie"]


def test_the_api_takes_no_cookie(app: Flask, person: SignIn) -> None:
    somebody = person()
    thief = with_cookie_of(somebody, app)
    assert thief.get("/dashboard").status_code == 200
    answer = thief.get("/api/tasks")
    assert answer.status_code == 401
    assert "Set-Cookie" not in answer.headers


def test_a_wrong_key_is_refused_recorded_and_throttled(app: Flask, clock: Clock) -> None:
    key_with(["admin"])
    somebody = Person(app.test_client())
    answer = somebody.sign_in("tm_wrong")
    assert answer.status_code == 401
    assert "not known" in text_of(answer)
    assert "tm_wrong" not in answer.text
    assert list_events(limit=1)[0]["event"] == "authentication_failed"
    for _ in range(FAILURES.amount):
        answer = somebody.sign_in("tm_wrong")
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0
    # The right key still gets in: others behind the same address must not keep its owner out.
    assert somebody.sign_in(key_with(["admin"])).status_code == 303


def test_requests_of_somebody_who_is_not_signed_in_are_limited(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskmanager.api.rate_limits.WITHOUT_KEY", Rate(3))
    somebody = Person(app.test_client())
    answers = [somebody.get(path) for path in ("/dashboard", "/dashboard/sign-in") * 2]
    assert [answer.status_code for answer in answers] == [303, 200, 303, 429]
    assert "an address may make 3 requests a minute" in text_of(answers[-1])


def test_a_key_that_opens_pages_is_in_use(person: SignIn, clock: Clock) -> None:
    somebody = person()
    assert keys.list_keys()[-1]["last_used_at"] is None
    clock.advance(100)
    somebody.get("/dashboard/types")
    assert keys.list_keys()[-1]["last_used_at"] == clock.now


@pytest.mark.parametrize("method", ["sign-in", "sign-out", "tasks/change", "types/job/pause"])
def test_a_form_without_its_token_is_refused(api: Api, person: SignIn, method: str) -> None:
    api.register()
    somebody = person()
    somebody.token = ""
    answer = somebody.post(f"/dashboard/{method}", {"key": api.key, "action": "retry"})
    assert answer.status_code == 403
    assert "no longer valid" in text_of(answer)
    assert is_signed_in(somebody)


def test_a_form_of_another_session_is_refused(person: SignIn) -> None:
    somebody, other = person(), person()
    somebody.token = other.token
    assert somebody.post("/dashboard/sign-out").status_code == 403


def test_behind_tls_a_form_from_another_site_is_refused(app: Flask) -> None:
    somebody = Person(app.test_client(), "https://example.org")
    somebody.sign_in(key_with(["admin"]))
    for headers in ({"Referer": "https://evil.example/"}, {}):
        answer = somebody.post("/dashboard/sign-out", headers=headers)
        assert answer.status_code == 403
    assert somebody.get("/dashboard").headers["Referrer-Policy"] == "same-origin"


def test_a_session_ends_when_nobody_uses_it(person: SignIn, clock: Clock) -> None:
    somebody = person()
    clock.advance(IDLE_MS / 1000 - 1)
    assert is_signed_in(somebody)
    clock.advance(IDLE_MS / 1000 - 1)
    assert is_signed_in(somebody)
    clock.advance(IDLE_MS / 1000)
    assert not is_signed_in(somebody)


def test_a_page_that_refreshes_itself_keeps_no_session_alive(person: SignIn, clock: Clock) -> None:
    somebody = person()
    clock.advance(IDLE_MS / 1000 - 100)
    assert is_signed_in(somebody, headers={"X-Refresh": "1"})
    clock.advance(200)
    assert somebody.get("/dashboard", headers={"X-Refresh": "1"}).status_code == 401
    assert not is_signed_in(somebody)


def test_a_session_ends_after_half_a_day_in_any_case(person: SignIn, clock: Clock) -> None:
    somebody = person()
    for _ in range(ABSOLUTE_MS // (IDLE_MS // 2) - 1):
        clock.advance(IDLE_MS / 2000)
        assert is_signed_in(somebody)
    clock.advance(IDLE_MS / 2000)
    assert not is_signed_in(somebody)
    assert "session had ended" in somebody.page("/dashboard/sign-in")


def test_a_revoked_key_ends_its_sessions_at_once(person: SignIn, clock: Clock) -> None:
    key_with(["admin"])
    somebody = person()
    assert is_signed_in(somebody)
    latest = max(row["id"] for row in keys.list_keys())
    key_changes.revoke_key(key_id=latest, force=True, caller=OPERATOR, now=clock.now)
    assert not is_signed_in(somebody)
    assert "revoked" in somebody.page("/dashboard/sign-in")


def test_what_a_key_may_do_changes_for_its_sessions_at_once(person: SignIn, clock: Clock) -> None:
    key_with(["admin"])
    somebody = person()
    assert somebody.get("/dashboard/admin").status_code == 200
    latest = max(row["id"] for row in keys.list_keys())
    key_changes.change_key(
        key_id=latest,
        changes={"scopes": ["tasks:read"]},
        force=True,
        caller=OPERATOR,
        now=clock.now,
    )
    assert somebody.get("/dashboard/admin").status_code == 403


def test_signing_out_ends_one_session_and_everywhere_all_of_the_key(app: Flask) -> None:
    key, other_key = key_with(["admin"]), key_with(["admin"])
    first, second, other = (Person(app.test_client()) for _ in range(3))
    for somebody, its in ((first, key), (second, key), (other, other_key)):
        somebody.sign_in(its)
    first.post("/dashboard/sign-out")
    assert [is_signed_in(one) for one in (first, second, other)] == [False, True, True]
    first.sign_in(key)
    first.post("/dashboard/sign-out", {"everywhere": "1"})
    assert [is_signed_in(one) for one in (first, second, other)] == [False, False, True]
    first.sign_in(key)
    assert is_signed_in(first)


def test_signing_in_and_out_is_audited(person: SignIn) -> None:
    somebody = person()
    somebody.post("/dashboard/sign-out", {"everywhere": "1"})
    events = list_events(limit=2)
    assert [event["event"] for event in events] == ["signed_out_everywhere", "signed_in"]
    assert all(event["address"] == "127.0.0.1" and event["request_id"] for event in events)
    assert all(event["api_key_id"] for event in events)


def test_an_installation_without_a_key_says_how_to_get_one(app: Flask) -> None:
    page = Person(app.test_client()).page("/dashboard/sign-in")
    assert "taskmanager keys create" in page
    assert "TASKMANAGER_BOOTSTRAP_ADMIN_KEY" in page


def test_every_process_signs_with_the_same_secret(app: Flask, settings: Any) -> None:
    """A second application on the same folder takes the sessions of the first."""
    somebody = Person(app.test_client())
    somebody.sign_in(key_with(["admin"]))
    own = app.extensions["taskmanager"]
    other = create_app({"instance_path": own.instance_path, "database_url": own.database_url})
    assert with_cookie_of(somebody, other).get("/dashboard").status_code == 200
    secret = own.instance_path / "secret_key"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert len(secret.read_text().strip()) >= 40


def test_another_secret_signs_everybody_out(app: Flask, person: SignIn) -> None:
    somebody = person()
    own = app.extensions["taskmanager"]
    other = create_app(
        {
            "instance_path": own.instance_path,
            "database_url": own.database_url,
            "secret_key": "x" * 32,
        }
    )
    assert with_cookie_of(somebody, other).get("/dashboard").status_code == 303
