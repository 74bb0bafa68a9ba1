"""The form that changes a task while it waits."""

import json
from collections.abc import Callable
from html import unescape
from typing import Any

import pytest

from tests.conftest import Api, Clock
from tests.dashboard.conftest import Person, form_on, text_of

SignIn = Callable[..., Person]
SCHEMA = {
    "type": "object",
    "properties": {
        "to": {"type": "string", "minLength": 3},
        "count": {"type": "integer", "minimum": 1},
        "fast": {"type": "boolean"},
        "note": {"type": "string", "maxLength": 1_000},
    },
    "required": ["to"],
}


@pytest.fixture
def owner(api: Api, person: SignIn) -> Person:
    api.register(schema=SCHEMA)
    somebody = person()
    somebody.get("/dashboard/types")
    return somebody


def path_of(task: Any) -> str:
    return f"/dashboard/tasks/{task['id']}/change"


def stored(api: Api, task: Any) -> Any:
    return api.get(f"/api/tasks/{task['id']}")


def test_what_was_typed_is_changed_and_nothing_else(api: Api, owner: Person, clock: Clock) -> None:
    task = api.create(params={"to": "you", "count": 9007199254740993}, tags=["a, b"], priority=3)
    assert f'href="{path_of(task)}"' in owner.get(f"/dashboard/tasks/{task['id']}").text
    form = form_on(owner.get(path_of(task)).text, path_of(task))
    assert form["param.count"] == "9007199254740993"
    answer = owner.post(path_of(task), {**form, "param.to": "me too", "delay_seconds": "60"})
    assert answer.headers["Location"] == f"/dashboard/tasks/{task['id']}"
    assert f"Task #{task['id']} is changed." in owner.page(answer.headers["Location"])
    changed = stored(api, task)
    assert changed["params"] == {"to": "me too", "count": 9007199254740993}
    assert (changed["status"], changed["priority"], changed["tags"]) == ("scheduled", 3, ["a, b"])
    assert (
        api.get(f"/api/tasks/{task['id']}/logs")["logs"][-1]["message"] == "delay_seconds, params"
    )


def test_tags_priority_attempts_and_time_are_changed(api: Api, owner: Person) -> None:
    task = api.create(params={"to": "you"})
    form = form_on(owner.get(path_of(task)).text, path_of(task))
    form |= {"tags": "a, b c", "priority": "9", "max_attempts": "7"}
    owner.post(path_of(task), {**form, "available_at": "2999-01-01"})
    assert stored(api, task)["tags"] == []
    owner.post(path_of(task), {**form, "available_at": "2030-01-01T00:00:00Z"})
    changed = stored(api, task)
    assert changed["tags"] == ["a", "b c"]
    assert (changed["priority"], changed["max_attempts"]) == (9, 7)
    assert changed["available_at"].startswith("2030-01-01T00:00:00")


@pytest.mark.parametrize(
    "params",
    [
        {"to": "you", "note": ""},
        {"to": "two\nlines"},
        {"to": "you", "note": "a\r\nb"},
        {"to": "you", "note": "\nfirst"},
        {"to": "you", "other": 1},
        {"to": "you", "note": "a\nb", "fast": False, "count": 3},
        {"to": "<b>&quot;'"},
    ],
)
def test_a_form_that_is_sent_as_it_is_changes_nothing(api: Api, owner: Person, params: Any) -> None:
    task = api.create(params=params)
    form = form_on(owner.get(path_of(task)).text, path_of(task))
    answer = owner.post(path_of(task), form)
    assert answer.status_code == 303
    assert "Nothing was changed." in owner.page(answer.headers["Location"])
    assert api.events(task["id"]) == ["created"]


def test_params_of_another_type_in_json_are_a_change(api: Api, owner: Person) -> None:
    api.register("free")
    task = api.create("free", {"n": 1})
    form = form_on(owner.get(path_of(task)).text, path_of(task))
    assert json.loads(form["params"]) == {"n": 1}
    owner.post(path_of(task), {**form, "params": '{"n": true}'})
    assert stored(api, task)["params"] == {"n": True}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("param.to", "x", "to must have at least 3 characters"),
        ("param.count", "two", "count must be a number"),
        ("param.count", "0", "count must be at least 1"),
        ("priority", "high", "Priority must be a number"),
        ("max_attempts", "1000", "Attempts must be at most 100"),
        ("delay_seconds", "-1", "Delay in seconds must be at least 0"),
        ("available_at", "tomorrow", "Available at must be a valid date-time"),
        ("tags", "x" * 51, "Tags must have at most 50 characters"),
    ],
)
def test_what_cannot_be_is_said_beside_its_field_and_nothing_is_lost(
    api: Api, owner: Person, name: str, text: str, said: str
) -> None:
    task = api.create(params={"to": "you"})
    form = form_on(owner.get(path_of(task)).text, path_of(task)) | {
        "param.note": "kept",
        name: text,
    }
    answer = owner.post(path_of(task), form)
    assert answer.status_code == 400
    start = answer.text.index(f'name="{name}" aria-invalid="true"')
    assert said in unescape(answer.text[start : answer.text.index("</div></div>", start)])
    again = form_on(answer.text, path_of(task))
    assert (again["param.note"], again[name]) == ("kept", text)
    assert stored(api, task)["params"] == {"to": "you"}
    assert api.events(task["id"]) == ["created"]


def test_wrong_params_as_json_are_said_at_the_top(api: Api, owner: Person) -> None:
    task = api.create(params={"to": "you"})
    form = form_on(owner.get(f"{path_of(task)}?json=1").text, path_of(task))
    for text, said in (("{", "The text"), ('{"to": 5}', "params.to must be of type string")):
        answer = owner.post(path_of(task), {**form, "params": text})
        assert answer.status_code == 400
        assert said in text_of(answer)
        assert form_on(answer.text, path_of(task))["params"] == text


def test_a_task_that_does_not_wait_has_no_form(api: Api, owner: Person) -> None:
    task = api.create(params={"to": "you"})
    form = form_on(owner.get(path_of(task)).text, path_of(task))
    api.claim()
    assert owner.get(path_of(task)).headers["Location"] == f"/dashboard/tasks/{task['id']}"
    said = owner.page(f"/dashboard/tasks/{task['id']}")
    assert "does not wait any more, so it cannot be changed." in said
    assert path_of(task) not in owner.get(f"/dashboard/tasks/{task['id']}").text
    answer = owner.post(path_of(task), {**form, "priority": "9"})
    assert answer.status_code == 409
    assert "only a task that waits can be changed" in text_of(answer)


def test_params_that_another_task_has_already_name_it(api: Api, owner: Person) -> None:
    other = api.create(params={"to": "first"}, dedupe="forever")
    task = api.create(params={"to": "second"}, dedupe="forever")
    form = form_on(owner.get(path_of(task)).text, path_of(task))
    answer = owner.post(path_of(task), {**form, "param.to": "first"})
    assert answer.status_code == 409
    assert f"Task {other['id']} has these params already" in text_of(answer)
    assert form_on(answer.text, path_of(task))["param.to"] == "first"


@pytest.mark.parametrize("is_json", [False, True])
def test_what_has_changed_since_the_page_was_opened_is_not_overwritten(
    api: Api, owner: Person, clock: Clock, is_json: bool
) -> None:
    first = api.create(params={"to": "first"})
    params = {"to": "you", "count": {"$result_of": 0}}
    task = api.create(params=params, depends_on=[first["id"]], priority=1)
    form = form_on(owner.get(path_of(task) + "?json=1" * is_json).text, path_of(task))
    clock.advance(1)
    api.complete(api.claim(), result=5)
    answer = owner.post(path_of(task), {**form, "priority": "9"})
    assert answer.status_code == 409
    assert stored(api, task)["params"] == {"to": "you", "count": 5}
    assert stored(api, task)["priority"] == 1
    said = text_of(answer)
    assert "has changed since this page was opened" in said
    assert "Priority is now: 1" in said
    assert ('"count": 5' if is_json else "count is now: 5") in said
    again = form_on(answer.text, path_of(task))
    assert again == {**form, "priority": "9", "updated_at": again["updated_at"]}
    assert again["updated_at"] != form["updated_at"]
    mine = {"params": '{"to": "you", "count": 6}'} if is_json else {"param.count": "6"}
    assert owner.post(path_of(task), {**again, **mine}).status_code == 303
    assert (stored(api, task)["params"]["count"], stored(api, task)["priority"]) == (6, 9)


def test_only_who_manages_tasks_is_led_to_the_form(api: Api, owner: Person, person: SignIn) -> None:
    task = api.create(params={"to": "you"})
    viewer = person(["tasks:read"])
    assert path_of(task) not in viewer.get(f"/dashboard/tasks/{task['id']}").text
