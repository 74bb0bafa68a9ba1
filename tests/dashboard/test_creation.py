"""The form that a schema becomes, and what it creates."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from taskmanager.dashboard.form_fields import fields_of
from tests.conftest import Api
from tests.dashboard.conftest import Person, text_of

SignIn = Callable[..., Person]
SCHEMA = {
    "type": "object",
    "properties": {
        "note": {"type": "string"},
        "to": {"type": "string", "minLength": 3, "description": "Whom it goes to."},
        "count": {"type": "integer", "minimum": 1},
        "ratio": {"type": "number", "default": 0.5},
        "fast": {"type": "boolean"},
        "colour": {"enum": ["red", "green", 3]},
        "data": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
    "required": ["to"],
    "additionalProperties": False,
}
GOOD = {"type": "job", "param.to": "you@example.org"}


def created(api: Api) -> Any:
    """The only task."""
    [task] = api.get("/api/tasks?include=params")["tasks"]
    return task


def test_a_full_queue_is_said_and_nothing_that_was_filled_in_is_lost(
    api: Api, person: SignIn
) -> None:
    api.register(schema=SCHEMA, max_open={"type": 1})
    api.create("job", {"to": "me@example.org"})
    somebody = person()
    somebody.get("/dashboard/tasks/new?type=job")
    answer = somebody.post("/dashboard/tasks/new", GOOD)
    assert answer.status_code == 429
    assert "As many tasks of type 'job' are open as may be (max_open: 1)" in text_of(answer)
    assert 'value="you@example.org"' in answer.text


def test_each_property_gets_a_field_required_ones_first() -> None:
    fields = {field.name: field for field in fields_of(SCHEMA)}
    assert next(iter(fields)) == "to"
    kinds = {name: field.kind for name, field in fields.items()}
    assert kinds == {
        "to": "text",
        "note": "text",
        "count": "number",
        "ratio": "number",
        "fast": "flag",
        "colour": "choice",
        "data": "json",
    }
    assert fields["ratio"].text == "0.5"
    assert fields["colour"].choices == ('"red"', '"green"', "3")


@pytest.mark.parametrize(
    "schema", [{}, True, {"type": "object"}, {"properties": {}}, {"properties": []}]
)
def test_a_schema_without_properties_gets_no_fields(schema: Any) -> None:
    assert fields_of(schema) == []


def test_a_form_creates_the_task_with_values_of_their_kinds(api: Api, person: SignIn) -> None:
    api.register(schema=SCHEMA)
    somebody = person()
    assert "Whom it goes to." in somebody.page("/dashboard/tasks/new?type=job")
    form = {
        **GOOD,
        "param.count": "9007199254740993",
        "param.fast": "true",
        "param.colour": "3",
        "param.data": '{"a": 1}',
        "param.note": "two\r\nlines",
        "priority": "7",
    }
    answer = somebody.post("/dashboard/tasks/new", form)
    path = f"/dashboard/tasks/{created(api)['id']}"
    assert answer.headers["Location"] == path
    assert "The task is created." in somebody.page(path)
    assert created(api)["params"] == {
        "to": "you@example.org",
        "count": 9007199254740993,
        "fast": True,
        "colour": 3,
        "data": {"a": 1},
        "note": "two\nlines",
    }
    assert created(api)["priority"] == 7


def test_empty_fields_are_left_out(api: Api, person: SignIn) -> None:
    api.register(schema=SCHEMA)
    person().post("/dashboard/tasks/new", {**GOOD, "param.count": "", "param.fast": ""})
    assert created(api)["params"] == {"to": "you@example.org"}


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"param.to": ""}, "to is required"),
        ({"param.to": "a"}, "to must have at least 3 characters"),
        ({"param.count": "many"}, "count must be a number"),
        ({"param.count": "1.5"}, "count must be of type integer"),
        ({"param.count": "0"}, "count must be at least 1"),
        ({"param.data": '{"a"'}, "data This is not valid JSON"),
        ({"param.data": '{"a": "x"}'}, "data must be of type integer"),
        ({"priority": "high"}, "priority must be a number"),
        ({"priority": "99999999"}, "priority must be at most"),
        ({"delay_seconds": "-1"}, "delay_seconds must be at least 0"),
        ({"dedupe": "often"}, "dedupe must be one of"),
    ],
)
def test_a_mistake_is_said_beside_its_field_and_nothing_typed_is_lost(
    api: Api, person: SignIn, form: dict[str, str], said: str
) -> None:
    api.register(schema=SCHEMA)
    somebody = person()
    answer = somebody.post("/dashboard/tasks/new", {**GOOD, "param.note": "kept", **form})
    assert answer.status_code == 400
    assert said in text_of(answer)
    assert 'value="kept"' in answer.text
    if any(name.startswith("param.") for name in form):
        assert answer.text.count('aria-invalid="true"') == 1
    assert api.get("/api/tasks")["count"] == 0


def test_params_can_be_written_as_json(api: Api, person: SignIn) -> None:
    api.register(schema=SCHEMA)
    somebody = person()
    assert "Params, as JSON" in somebody.page("/dashboard/tasks/new?type=job&json=1")
    form = {"type": "job", "params": '{"to": "x"}'}
    answer = somebody.post("/dashboard/tasks/new", form)
    assert "params.to must have at least 3 characters" in text_of(answer)
    assert "Params, as JSON" in text_of(answer)
    somebody.post("/dashboard/tasks/new", {**form, "params": '{"to": "you"}'})
    assert created(api)["params"] == {"to": "you"}


def test_one_like_another_is_created_from_its_params(api: Api, person: SignIn) -> None:
    api.register(schema=SCHEMA)
    params = {"to": "you@example.org", "count": 9007199254740993, "data": {"a": 1}, "fast": False}
    task = api.create(params=params)
    somebody = person()
    page = somebody.get(f"/dashboard/tasks/new?like={task['id']}").text
    assert 'value="9007199254740993"' in page
    assert '<option value="false" selected>' in page
    assert "<option selected>none</option>" in page


def test_one_like_another_whose_params_have_no_fields_is_shown_as_json(
    api: Api, person: SignIn
) -> None:
    api.register(schema={"type": "object", "properties": {"a": {"type": "string"}}})
    task = api.create(params={"other": [1]})
    assert '"other"' in person().page(f"/dashboard/tasks/new?like={task['id']}")


def test_a_task_that_exists_already_is_shown_instead(api: Api, person: SignIn) -> None:
    api.register(schema=SCHEMA)
    somebody = person()
    first, second = (somebody.post("/dashboard/tasks/new", GOOD) for _ in range(2))
    path = first.headers["Location"]
    assert second.headers["Location"] == path
    assert "There was such a task already" in somebody.page(path)


def test_the_curl_command_of_a_task_creates_the_same_one(api: Api, person: SignIn) -> None:
    import html
    import shlex

    api.register()
    params = {"it's": 'a "quoted" $HOME `id`', "n": 9007199254740993}
    task = api.create(params=params, priority=3, concurrency_key='shop "7"')
    page = person().get(f"/dashboard/tasks/{task['id']}").text
    command = html.unescape(page.split('<pre id="curl" tabindex="0">')[1].split("</pre>")[0])
    body = json.loads(shlex.split(command)[-1])
    assert (body["type"], body["params"], body["priority"]) == ("job", params, 3)
    assert (body["concurrency_key"], body["dedupe"]) == ('shop "7"', "none")
    assert api.key not in page


def test_tags_are_given_in_the_form_and_copied(api: Api, person: SignIn) -> None:
    api.register(schema=SCHEMA)
    somebody = person()
    somebody.post("/dashboard/tasks/new", {**GOOD, "tags": "nightly, shop-7  "})
    assert created(api)["tags"] == ["nightly", "shop-7"]
    page = somebody.get(f"/dashboard/tasks/new?like={created(api)['id']}").text
    assert 'value="nightly, shop-7"' in page
    answer = somebody.post("/dashboard/tasks/new", {**GOOD, "tags": "x" * 51})
    assert answer.status_code == 400
    assert "tags" in text_of(answer)
    assert 'value="xxxxx' in answer.text
