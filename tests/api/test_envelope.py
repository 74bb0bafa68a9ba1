"""What all answers have in common, and the errors that Flask raises by itself."""

import gzip
import logging
from typing import Any

import pytest

from taskmanager.queue import store
from taskmanager.queue.figures import statistics
from tests.api.tables import send
from tests.conftest import Api, Clock

ERROR_FIELDS = {"success", "error", "message", "code", "timestamp"}


def assert_error(response: Any, status: int, code: str) -> Any:
    """The answer is an error in the envelope, with the headers of every answer."""
    envelope = response.get_json()
    assert response.status_code == status, envelope
    assert response.mimetype == "application/json"
    assert set(envelope) - {"details"} == ERROR_FIELDS
    assert envelope["success"] is False
    assert envelope["error"] == envelope["message"]
    assert envelope["code"] == code
    assert_common_headers(response)
    return envelope


def assert_common_headers(response: Any) -> None:
    assert response.headers["Cache-Control"] == "no-store"
    assert len(response.headers["X-Request-ID"]) > 1
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_a_success_has_the_envelope_and_the_time_in_seconds(api: Api, clock: Clock) -> None:
    response = api.call("GET", "/api/stats")
    envelope = response.get_json()
    assert set(envelope) == {"success", "message", "data", "timestamp"}
    assert (envelope["success"], envelope["timestamp"]) == (True, clock.now // 1000)
    assert_common_headers(response)


@pytest.mark.parametrize("path", ["/api/health", "/api/stats", "/api/nothing", "/api/openapi.json"])
def test_json_ends_with_a_newline_so_that_a_terminal_shows_it_on_its_own_line(
    api: Api, path: str
) -> None:
    text = api.call("GET", path).get_data(as_text=True)
    assert text.endswith("}\n")
    assert "\n" not in text[:-1]


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/api", "/api/nothing", "/api/tasks/1/nothing", "/api/tasks/x"]
)
def test_an_address_that_is_not_there_answers_404(api: Api, path: str) -> None:
    assert_error(api.call("GET", path), 404, "not_found")
    assert_error(api.client.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        *(("/", "; the API begins at /api"), ("/apis/tasks", "; the API begins at /api")),
        *(("/api", ""), ("/api/nothing", ""), ("/api/tasks/1/nothing", "")),
        *(
            (f"/api/{path}", "; an id is a whole number from 1 to 9223372036854775807")
            for path in (
                "tasks/abc",
                "tasks/-1",
                "tasks/1.0",
                f"tasks/{2**63}",
                "tasks/x/logs",
                "tasks/1e3",
                "batches/x",
                "schedules/x",
                "webhooks/x",
                "admin/keys/x",
            )
        ),
    ],
)
def test_an_address_that_is_not_there_is_answered_with_what_helps(
    api: Api, path: str, hint: str
) -> None:
    message = api.get(path, 404)["message"]
    assert message == f"There is nothing at this address{hint}."


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/api/tasks", {"GET", "POST"}),
        ("GET", "/api/tasks/claim", {"POST"}),
        ("PUT", "/api/tasks/1", {"GET", "PATCH"}),
        ("POST", "/api/health", {"GET"}),
        ("PUT", "/api/task-types/job", {"GET", "PATCH"}),
        ("TRACE", "/api/stats", {"GET"}),
    ],
)
def test_a_method_that_the_address_does_not_take_answers_405_with_allow(
    api: Api, method: str, path: str, allowed: set[str]
) -> None:
    response = api.call(method, path)
    envelope = assert_error(response, 405, "method_not_allowed")
    assert method in envelope["message"]
    offered = set(response.headers["Allow"].replace(" ", "").split(","))
    assert offered - {"HEAD", "OPTIONS"} == allowed


def test_a_body_over_the_limit_answers_413_with_the_limit(api: Api) -> None:
    response = send(api, "/api/tasks", b"[" + b" " * 1_048_576)
    envelope = assert_error(response, 413, "body_too_large")
    assert "1048576 bytes" in envelope["message"]


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx", "text/json"],
)
def test_a_body_that_is_not_declared_as_json_answers_415(api: Api, content_type: str) -> None:
    response = send(api, "/api/tasks", b'{"type": "job"}', Content_Type=content_type)
    assert "application/json" in assert_error(response, 415, "not_json")["message"]


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "application/problem+json"]
)
def test_every_kind_of_json_is_taken(api: Api, content_type: str) -> None:
    response = send(api, "/api/tasks", b'{"type": "job", "params": {}}', Content_Type=content_type)
    assert_error(response, 404, "task_type_not_found")


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b'"text"', b"null", b"nonsense", b"\xff\xfe"])
def test_a_body_that_is_no_json_object_answers_400(api: Api, body: bytes) -> None:
    response = send(api, "/api/tasks", body)
    assert response.status_code == 400
    assert_error(response, 400, response.get_json()["code"])


@pytest.mark.parametrize(
    ("error", "secret"),
    [
        (RuntimeError("SELECT secret FROM /srv/app/taskmanager.db"), "SELECT secret"),
        (AssertionError("3 of 4 locked tasks were still claimed"), "locked tasks"),
        (KeyError("Traceback in /srv/app"), "/srv"),
    ],
)
def test_an_unforeseen_error_answers_500_and_tells_only_the_log(
    api: Api,
    error: Exception,
    secret: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def break_down(**_: object) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(statistics, "queue_statistics", break_down)
        with caplog.at_level(logging.ERROR):
            response = api.call("GET", "/api/stats")
    assert_error(response, 500, "internal_error")
    body = response.get_data(as_text=True)
    assert not any(leak in body for leak in (secret, "Traceback", "SELECT", ".py", "/srv"))
    assert response.headers["X-Request-ID"] in caplog.text
    assert api.get("/api/stats")["total"] == 0


def test_nothing_is_stored_where_a_creation_breaks_down(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.register()
    with monkeypatch.context() as broken:
        broken.setattr(store.history, "record", None)  # breaks after the task was inserted
        response = api.call("POST", "/api/tasks", {"type": "job", "params": {}})
    assert_error(response, 500, "internal_error")
    assert api.get("/api/tasks")["count"] == 0
    assert api.create()["status"] == "pending"


@pytest.mark.parametrize("request_id", ["abc", "A-1_2.3:4", "x" * 128])
def test_a_sane_request_id_is_given_back(api: Api, request_id: str) -> None:
    for path in ("/api/health", "/api/nothing"):
        response = api.call("GET", path, headers={"X-Request-ID": request_id})
        assert response.headers["X-Request-ID"] == request_id


@pytest.mark.parametrize("request_id", ["", "x" * 129, "a b", "<script>", "é", "a;b", "a,b"])
def test_any_other_request_id_is_replaced_by_a_new_one(api: Api, request_id: str) -> None:
    answers = [
        api.call("GET", "/api/health", headers={"X-Request-ID": request_id}) for _ in range(2)
    ]
    given = [response.headers["X-Request-ID"] for response in answers]
    assert request_id not in given
    assert given[0] != given[1]
    assert all(len(one) == 32 for one in given)


def test_head_and_options_are_answered_without_a_body(api: Api) -> None:
    head = api.call("HEAD", "/api/health")
    assert (head.status_code, head.data) == (200, b"")
    assert_common_headers(head)
    options = api.client.options("/api/tasks/claim")
    assert (options.status_code, options.data) == (200, b"")
    assert "POST" in options.headers["Allow"]
    assert_common_headers(options)


def test_a_slash_at_the_end_of_an_address_does_not_matter(api: Api) -> None:
    assert api.get("/api/tasks/")["count"] == 0
    api.register()
    api.post("/api/tasks/", {"type": "job", "params": {}}, 201)


def test_text_comes_back_as_utf8_and_not_escaped(api: Api) -> None:
    api.register()
    task = api.create(params={"name": "Žluťoučký 🦄"})
    response = api.call("GET", f"/api/tasks/{task['id']}")
    assert "Žluťoučký 🦄".encode() in response.data


def test_a_compressed_body_is_refused_by_its_encoding(api: Api) -> None:
    api.register()
    raw = b'{"type": "job", "params": {}}'
    for encoding in ("gzip", "GZIP", "br", "gzip, identity"):
        answer = send(api, "/api/tasks", gzip.compress(raw), Content_Encoding=encoding)
        refused = assert_error(answer, 415, "encoded_body")
        assert "Content-Encoding" in refused["message"]
    assert send(api, "/api/tasks", raw, Content_Encoding="identity").status_code == 201


MARK = b"\xef\xbb\xbf"


def test_a_body_with_a_byte_order_mark_is_read(api: Api) -> None:
    api.register()
    answer = send(api, "/api/tasks", MARK + b'{"type": "job", "params": {"a": "' + MARK + b'"}}')
    assert answer.get_json()["data"]["params"] == {"a": "\ufeff"}


def test_a_browser_is_led_to_the_dashboard(api: Api) -> None:
    html = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    answer = api.client.get("/", headers=html)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/dashboard")
    below = api.client.get("/", headers=html, base_url="http://localhost/queue")
    assert below.headers["Location"] == "/queue/dashboard"
    for accept in ("*/*", "application/json", ""):
        assert_error(api.client.get("/", headers={"Accept": accept}), 404, "not_found")
