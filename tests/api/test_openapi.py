"""The OpenAPI document against the application that it describes, and the page that shows it."""

import json
import re
from typing import Any

import pytest
from flask import Flask
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from taskmanager.api.openapi import document as documents
from taskmanager.api.openapi.calls import CALLS, Call
from tests.conftest import Api
from tests.support.commands import run_command

PAGES = {
    *("documentation.document", "documentation.page", "service.show_metrics"),
    "clients.get",
}
METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture
def document(api: Api) -> Any:
    response = api.client.get("/api/openapi.json")
    assert response.status_code == 200
    return response.get_json()


def operations(document: Any) -> dict[str, Any]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in METHODS
    }


def resolved(document: Any, node: Any) -> Any:
    if "$ref" in node:
        for part in node["$ref"].removeprefix("#/").split("/"):
            document = document[part]
        return document
    return node


def test_the_document_is_valid_openapi(document: Any) -> None:
    assert document["openapi"].startswith("3.1")
    validate(document)


def test_every_route_is_in_the_document_and_no_other(app: Flask, document: Any) -> None:
    routes = {
        f"{method} {re.sub(r'<(?:[^>]*:)?(?:[a-z]+_)?([a-z]+)>', r'{1}', rule.rule)}"
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/api")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    documented = {re.sub(r"\{\w+\}", "{1}", line) for line in operations(document)}
    assert documented == routes


def test_every_operation_names_the_scope_that_its_view_requires(app: Flask, document: Any) -> None:
    for line, operation in operations(document).items():
        scope = app.view_functions[f"api.{operation['operationId']}"].required_scope  # type: ignore[attr-defined]
        needed = (
            [] if scope == "public" else [{way: [scope]} for way in ("ApiKey", "Bearer", "Basic")]
        )
        assert operation["security"] == needed, line


@pytest.mark.parametrize(
    ("line", "listed"),
    [
        ("POST /api/tasks/claim", {"200", "404"}),
        ("POST /api/tasks", {"201", "200", "404"}),
        ("POST /api/schedules", {"201", "404", "409"}),
        # Its docstring also has 2,592,000.
        ("POST /api/admin/keys/{id}/rotate", {"201", "404", "409"}),
        ("POST /api/tasks/complete", {"200"}),
    ],
)
def test_a_call_has_the_statuses_that_its_docstring_lists(
    document: Any, line: str, listed: set[str]
) -> None:
    of_every_call_with_a_body = {"400", "401", "403", "405", "413", "415", "429", "503"}
    assert set(operations(document)[line]["responses"]) == listed | of_every_call_with_a_body


def test_a_view_that_is_not_described_stops_the_document(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = dict(CALLS)
    del calls["tasks.get"]
    monkeypatch.setattr(documents, "CALLS", calls)
    with pytest.raises(AssertionError, match=r"tasks\.get"):
        documents.build_document(app)


def test_a_description_without_a_view_stops_the_document(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {**CALLS, "tasks.gone": Call({})}
    monkeypatch.setattr(documents, "CALLS", calls)
    with pytest.raises(AssertionError, match=r"tasks\.gone"):
        documents.build_document(app)


def test_every_example_fits_its_schema(document: Any) -> None:
    checked = 0
    for line, operation in operations(document).items():
        contents = [
            content
            for response in operation["responses"].values()
            for content in resolved(document, response)["content"].values()
            if "schema" in content
        ]
        contents += operation.get("requestBody", {"content": {}})["content"].values()
        for content in contents:
            schema = {**content["schema"], "components": document["components"]}
            problems = [
                error.message
                for error in Draft202012Validator(schema).iter_errors(content["example"])
            ]
            assert problems == [], line
            checked += 1
    assert checked > 300


def test_every_route_with_an_envelope_shows_an_example(document: Any) -> None:
    for line, operation in operations(document).items():
        if operation["operationId"] in PAGES:
            continue
        done = [status for status in operation["responses"] if status < "300"]
        assert done, line
        for status in done:
            content = operation["responses"][status]["content"]["application/json"]
            assert content["example"]["success"] is True, line


def test_patterns_say_the_same_to_javascript(document: Any) -> None:
    patterns = set(re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', json.dumps(document)))
    assert patterns
    for pattern in map(json.loads, patterns):
        # What Python has and ECMA-262 has not, or reads otherwise.
        assert not re.search(r"\\[AZzhH]|\(\?[P#aiLmsux(>]|\[:|[*+?}]\+", pattern), pattern


def test_the_command_prints_the_same_document(document: Any) -> None:
    result = run_command("openapi")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == document


def test_the_document_names_the_path_under_which_it_is_mounted(api: Api) -> None:
    mounted = api.client.get("/api/openapi.json", environ_overrides={"SCRIPT_NAME": "/queue"})
    assert mounted.get_json()["servers"] == [{"url": "/queue"}]
    assert api.client.get("/api/openapi.json").get_json()["servers"] == [{"url": "/"}]


def test_the_page_loads_nothing_from_elsewhere_and_runs_its_own_script_only(api: Api) -> None:
    response = api.client.get("/api/docs", environ_overrides={"SCRIPT_NAME": "/queue"})
    assert response.mimetype == "text/html"
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    nonce = re.search(r"script-src 'nonce-([\w-]{20,})'", policy)
    assert nonce
    assert response.text.count(f'nonce="{nonce[1]}"') == 2
    assert 'data-document="/queue/api/openapi.json"' in response.text
    assert "http" not in response.text
    assert not re.search(r"\bon\w+=|style=|javascript:|innerHTML", response.text)
    again = api.client.get("/api/docs")
    assert nonce[1] not in again.text
