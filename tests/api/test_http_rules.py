"""Proxies, pages of other origins, and the headers that keep a browser from doing harm."""

import re
from typing import Any

import pytest

from taskmanager.config import load_settings
from taskmanager.errors import ConfigurationError
from tests.conftest import Api

FORWARDED = {
    "X-Forwarded-For": "203.0.113.9, 198.51.100.7",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "queue.example.org",
}
PAGE = "https://app.example.org"
PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type,x-api-key",
}
ALLOWED = "Access-Control-Allow-Origin"


# On every answer


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/health", 200),
        ("GET", "/api/stats", 200),
        ("GET", "/api/tasks/1", 404),
        ("GET", "/nowhere", 404),
        ("PUT", "/api/health", 405),
    ],
)
def test_every_answer_tells_browsers_to_do_nothing_with_it(
    api: Api, method: str, path: str, status: int
) -> None:
    answer = api.call(method, path)
    assert answer.status_code == status
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    policy = answer.headers["Content-Security-Policy"]
    assert policy == "default-src 'none'; frame-ancestors 'none'"
    assert "Set-Cookie" not in answer.headers


def test_only_an_answer_over_tls_asks_for_tls_from_then_on(api: Api) -> None:
    plain = api.call("GET", "/api/health")
    assert "Strict-Transport-Security" not in plain.headers
    over_tls = api.call("GET", "/api/health", base_url="https://localhost")
    assert over_tls.headers["Strict-Transport-Security"] == "max-age=31536000"


def test_no_answer_sends_a_visitor_to_an_address_that_the_request_named(api: Api) -> None:
    for path in ("/api//health", "/api/tasks//1"):
        answer = api.call("GET", path, base_url="http://evil.example")
        assert (answer.status_code, answer.get_json()["code"]) == (404, "not_found"), path
        assert "Location" not in answer.headers


@pytest.mark.parametrize("host", ["evil.example", "no host", "[", "a:0", ""])
def test_no_answer_depends_on_the_host_that_the_request_named(api: Api, host: str) -> None:
    def document(headers: dict[str, str]) -> bytes:
        return bytes(api.call("GET", "/api/openapi.json", headers=headers).data)

    headers = {"Host": host, "X-API-Key": api.key}
    assert document(headers) == document({})
    assert api.call("GET", "/api/task-types", headers=headers).status_code == 200
    assert "evil.example" not in api.call("GET", "/api/docs", headers=headers).text
    assert api.call("GET", "/nowhere", headers=headers).get_json()["code"] == "not_found"


# Proxies


def fail(api: Api, forwarded_for: str, times: int = 1) -> int:
    """Sends a wrong key; the status of the last answer tells whose failures were counted."""
    headers = {**FORWARDED, "X-Forwarded-For": forwarded_for, "X-API-Key": "tm_wrong"}
    answers = [api.call("GET", "/api/stats", headers=headers) for _ in range(times)]
    return int(answers[-1].status_code)


def test_forwarded_headers_are_not_believed_unless_a_proxy_is_configured(api: Api) -> None:
    assert fail(api, "192.0.2.1", times=31) == 429
    assert fail(api, "192.0.2.2") == 429
    answer = api.call("GET", "/api/health", headers=FORWARDED)
    assert "Strict-Transport-Security" not in answer.headers


class TestBehindOneProxy:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"trusted_proxies": "1"}

    def test_the_address_that_the_proxy_saw_is_counted_and_not_what_the_client_claims(
        self, api: Api
    ) -> None:
        assert fail(api, "203.0.113.9, 198.51.100.7", times=31) == 429
        assert fail(api, "203.0.113.10, 198.51.100.7") == 429
        assert fail(api, "203.0.113.9, 198.51.100.8") == 401

    def test_an_address_that_is_none_does_no_harm_where_it_is_recorded(self, api: Api) -> None:
        for claimed in ("x" * 5_000, "\x9b31m", "é"):
            headers = {"X-Forwarded-For": claimed, "X-API-Key": api.key}
            body = {"name": "n", "role": "viewer"}
            answer = api.call("POST", "/api/admin/keys", body, headers=headers)
            assert answer.status_code == 201, claimed
            assert fail(api, claimed) == 401
        newest = api.get("/api/admin/audit")["events"][0]
        assert len(newest["address"]) <= 64

    def test_tls_that_ends_at_the_proxy_counts_as_tls(self, api: Api) -> None:
        answer = api.call("GET", "/api/health", headers=FORWARDED)
        assert "Strict-Transport-Security" in answer.headers


class TestBehindTwoProxies:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"trusted_proxies": "2"}

    def test_the_address_that_the_first_of_them_saw_is_counted(self, api: Api) -> None:
        assert fail(api, "192.0.2.1, 203.0.113.9, 198.51.100.7", times=31) == 429
        assert fail(api, "192.0.2.1, 203.0.113.9, 198.51.100.8") == 429
        assert fail(api, "192.0.2.1, 203.0.113.10, 198.51.100.7") == 401


def test_a_number_of_proxies_that_is_none_stops_the_start() -> None:
    with pytest.raises(ConfigurationError, match="TASKMANAGER_TRUSTED_PROXIES"):
        load_settings({"trusted_proxies": "yes"}, environ={})


# Other origins


def test_no_page_of_another_origin_may_call_the_api_unless_configured(api: Api) -> None:
    assert ALLOWED not in api.call("OPTIONS", "/api/tasks", headers=PREFLIGHT).headers
    assert ALLOWED not in api.call("GET", "/api/health", headers={"Origin": PAGE}).headers


class TestWithOneOrigin:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"cors_origins": f"{PAGE}, http://localhost:3000"}

    def test_a_preflight_needs_no_key_and_allows_what_the_api_takes(self, api: Api) -> None:
        answer = api.call("OPTIONS", "/api/tasks", headers=PREFLIGHT)
        assert answer.status_code == 200
        assert answer.headers[ALLOWED] == PAGE
        assert "POST" in answer.headers["Access-Control-Allow-Methods"]
        allowed = answer.headers["Access-Control-Allow-Headers"].lower()
        assert {"x-api-key", "content-type", "authorization"} <= set(allowed.split(", "))
        assert answer.headers["Access-Control-Max-Age"] == "600"
        assert "Origin" in answer.headers["Vary"]

    def test_its_pages_may_read_answers_and_refusals_with_their_headers(self, api: Api) -> None:
        for key, status in ((api.key, 200), ("tm_wrong", 401)):
            headers = {"Origin": PAGE, "X-API-Key": key}
            answer = api.call("GET", "/api/stats", headers=headers)
            assert (answer.status_code, answer.headers[ALLOWED]) == (status, PAGE)
            assert "X-RateLimit-Remaining" in answer.headers["Access-Control-Expose-Headers"]
            assert "Access-Control-Allow-Credentials" not in answer.headers

    @pytest.mark.parametrize(
        "origin", ["https://evil.example", "http://app.example.org", f"{PAGE}.evil.example", "null"]
    )
    def test_pages_of_other_origins_may_not(self, api: Api, origin: str) -> None:
        answer = api.call("OPTIONS", "/api/tasks", headers={**PREFLIGHT, "Origin": origin})
        assert ALLOWED not in answer.headers
        assert "Access-Control-Allow-Methods" not in answer.headers
        assert "Origin" in answer.headers["Vary"]

    def test_nothing_outside_the_api_is_opened(self, api: Api) -> None:
        assert ALLOWED not in api.call("GET", "/dashboard/", headers={"Origin": PAGE}).headers


class TestWithEveryOrigin:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"cors_origins": "*"}

    def test_any_page_may_call_the_api(self, api: Api) -> None:
        answer = api.call("OPTIONS", "/api/tasks", headers=PREFLIGHT)
        assert answer.headers[ALLOWED] == "*"


@pytest.mark.parametrize(
    "origins", ["app.example.org", "https://a.example/path", "https://*.example.org", "https://"]
)
def test_what_is_no_origin_stops_the_start(origins: str) -> None:
    with pytest.raises(ConfigurationError, match="TASKMANAGER_CORS_ORIGINS"):
        load_settings({"cors_origins": origins}, environ={})


def test_without_the_setting_the_api_is_only_below_its_address(api: Api) -> None:
    for path in ("/health", "/tasks", "/tasks/claim"):
        assert api.get(path, 404)["code"] == "not_found"


class TestApiAtRoot:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"api_at_root": "1", "cors_origins": PAGE}

    def test_every_call_is_answered_in_both_places(self, api: Api) -> None:
        routes = {rule.rule for rule in api.client.application.url_map.iter_rules()}
        for route in sorted(routes):
            path = re.sub("<[^>]*>", "7000000", route)
            with_api = api.call("OPTIONS", path)
            without = api.call("OPTIONS", path.removeprefix("/api"))
            assert with_api.status_code == 200, path
            assert with_api.headers["Allow"] == without.headers["Allow"], path

    def test_a_worker_that_loses_the_prefix_works_as_any_other(self, api: Api) -> None:
        assert api.get("/health")["status"] == "healthy"
        body = {"name": "job", "version": "1", "param_schema": {}}
        api.post("/task-types/register", body, 201)
        api.post("/tasks", {"type": "job", "params": {}}, 201)
        task = api.post("/tasks/claim", {"worker_id": "w"})
        done = api.post(f"/tasks/{task['id']}/complete", {"worker_id": "w", "success": True})
        assert done["status"] == "completed"
        assert api.get("/tasks?status=completed")["count"] == 1

    def test_a_key_is_needed_and_other_addresses_stay_what_they_are(self, api: Api) -> None:
        assert api.with_key("wrong").get("/tasks", 401)["code"] == "not_authenticated"
        for path in ("/", "/task", "/tasksx", "//tasks", "/api", "/api/api/tasks", "/x/tasks"):
            assert api.get(path, 404)["code"] == "not_found"

    def test_pages_of_allowed_origins_may_read_it_there(self, api: Api) -> None:
        headers = {"X-API-Key": api.key, "Origin": PAGE}
        answer = api.call("GET", "/tasks", headers=headers)
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
