"""Nothing that a schema or params hold may hang the server, crash it or make it fetch anything."""

import socket
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import Api
from tests.params.hostile_cases import CASES, INVALID, REFUSED, STOPPED, VALID, Case

# Many times what any case takes; a case that hangs fails instead of holding up the rest.
pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=["sqlite"])
def engine(request: pytest.FixtureRequest) -> str:
    """What is judged here never reaches the database, so one engine is enough."""
    return str(request.param)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError(f"The server asked for the network: {arguments}")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


def outcome_over_http(api: Api, case: Case) -> str:
    registration = api.call(
        "POST",
        "/api/task-types/register",
        {"name": "hostile", "version": "1", "param_schema": case.schema},
    )
    if registration.status_code == 400:
        assert registration.get_json()["message"]
        return REFUSED
    assert registration.status_code == 201, registration.get_json()
    creation = api.call("POST", "/api/tasks", {"type": "hostile", "params": case.params})
    envelope = creation.get_json()
    if creation.status_code == 201:
        assert envelope["data"]["status"] == "pending"
        return VALID
    assert (creation.status_code, envelope["code"]) == (400, "validation_failed"), envelope
    assert len(creation.data) < 100_000
    problems = envelope["details"]
    return STOPPED if problems[-1]["message"].startswith("cannot be checked") else INVALID


@pytest.mark.slow  # the same cases run together below
@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_case_gets_its_answer_and_the_server_goes_on(api: Api, case: Case) -> None:
    assert outcome_over_http(api, case) == case.expected
    api.register("ordinary", {"properties": {"a": {"type": "integer"}}})
    assert api.create("ordinary", {"a": 1})["status"] == "pending"


def test_there_are_more_than_a_hundred_cases_with_names_of_their_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES) > 100
    assert {case.expected for case in CASES} == {REFUSED, VALID, INVALID, STOPPED}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_cases_fit_into_limits_on_cpu_and_memory_and_touch_nothing_outside() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "tests.params.run_hostile_cases"],
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout == f"{len(CASES)} cases\n"


REFUSAL_SENTENCES = [
    ({"pattern": r"^(a+)\1$"}, "$.pattern", "write the alternatives out"),
    ({"pattern": "^((?!ab).)*$"}, "$.pattern", 'use "allOf" or "not"'),
    ({"pattern": "(?i)a"}, "$.pattern", "[Aa]"),
    ({"pattern": "^a{5000}$"}, "$.pattern", "maxLength"),
    ({"pattern": r"^\p{L}$"}, "$.pattern", "[A-Za-zÀ-ÿ]"),
    ({"pattern": r"^a\Z"}, "$.pattern", "write $"),
    ({"pattern": "("}, "$.pattern", "write \\("),
    ({"properties": {"a": {"pattern": "[b"}}}, "$.properties.a.pattern", "ends in the middle"),
    ({"patternProperties": {"*a": {}}}, "$.patternProperties", "nothing before it"),
    ({"$ref": "http://x/"}, "$.$ref", "nothing is fetched"),
    ({"$ref": "#/$defs/a"}, "$.$ref", "lacks"),
    ({"$ref": "#"}, "$.$ref", "never ends"),
    ({"allOf": [{"$dynamicRef": "#a"}]}, "$.allOf[0].$dynamicRef", "use $ref"),
    ({"type": "strin"}, "$.type", "must be one of array, boolean, integer"),
]


@pytest.mark.parametrize(("schema", "path", "advice"), REFUSAL_SENTENCES)
def test_a_refusal_names_the_place_and_says_what_to_write(
    api: Api, schema: Any, path: str, advice: str
) -> None:
    body = {"name": "hostile", "version": "1", "param_schema": schema}
    envelope = api.post("/api/task-types/register", body, 400)
    problem = envelope["details"][0]
    assert problem["path"] == path.replace("$", "param_schema", 1)
    assert advice in problem["message"]
    assert envelope["code"] == "validation_failed"


@pytest.mark.slow
def test_a_batch_of_costly_tasks_is_stopped_as_a_whole(api: Api) -> None:
    forms = {"items": {"anyOf": [{"const": number} for number in range(2_000)]}}
    api.register("costly", {"properties": {"a": forms}})
    task = {"type": "costly", "params": {"a": [1_999] * 30}, "dedupe": "none"}
    results = api.post("/api/tasks/batch", {"tasks": [task] * 500}, 201)
    assert 0 < results["created"] < 50
    assert results["created"] + results["failed"] == 500


def test_a_costly_new_schema_is_held_against_as_many_open_tasks_as_time_allows(api: Api) -> None:
    api.register("costly")
    tasks = [
        {"type": "costly", "params": {"a": [1_999] * 30}, "dedupe": "none"} for _ in range(100)
    ]
    api.post("/api/tasks/batch", {"tasks": tasks}, 201)
    forms = {"items": {"anyOf": [{"const": number} for number in range(2_000)]}}
    body = {"param_schema": {"properties": {"a": forms}}}
    found = api.post("/api/task-types/costly/validate", body)
    assert 0 < found["checked"] < 100
    assert found["rejected"] == 0


def test_warnings_about_unknown_properties_are_few(api: Api) -> None:
    api.register("open", {"properties": {f"{'a' * 25}{n}": {} for n in range(1_000)}})
    params = {f"{'a' * 26}{n}": 1 for n in range(20_000)}
    found = api.post("/api/task-types/open/validate", {"params": params})
    assert (found["valid"], len(found["warnings"])) == (True, 20)
