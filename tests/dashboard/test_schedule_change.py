"""The form that changes a schedule."""

from collections.abc import Callable
from html import unescape
from typing import Any

import pytest

from tests.conftest import Api
from tests.dashboard.conftest import Person, form_on, text_of

SignIn = Callable[..., Person]
SCHEMA = {"type": "object", "properties": {"day": {"type": "string", "minLength": 2}}}


@pytest.fixture
def schedule(api: Api) -> Any:
    api.register(schema=SCHEMA)
    body = {"name": "nightly", "type": "job", "params": {"day": "today"}, "tags": ["a, b"]}
    return api.post("/api/schedules", {**body, "cron": "0 3 * * *", "timezone": "Asia/Tokyo"}, 201)


@pytest.fixture
def owner(person: SignIn) -> Person:
    return person()


def path_of(schedule: Any) -> str:
    return f"/dashboard/schedules/{schedule['id']}/change"


def form_of(owner: Person, schedule: Any, query: str = "") -> dict[str, str]:
    return form_on(owner.get(path_of(schedule) + query).text, path_of(schedule))


def stored(api: Api, schedule: Any) -> Any:
    return api.get(f"/api/schedules/{schedule['id']}")


def test_what_was_typed_is_changed_and_nothing_else(api: Api, owner: Person, schedule: Any) -> None:
    assert f'href="{path_of(schedule)}"' in owner.get("/dashboard/schedules").text
    form = form_of(owner, schedule)
    changes = {"param.day": "later", "cron": "30 4 * * *", "overlap": '"skip"', "priority": "5"}
    answer = owner.post(path_of(schedule), {**form, **changes})
    assert "nightly is changed." in owner.page(answer.headers["Location"])
    changed = stored(api, schedule)
    same = ("name", "timezone", "tags", "max_attempts", "notify", "is_active")
    assert {name: changed[name] for name in same} == {name: schedule[name] for name in same}
    assert (changed["params"], changed["priority"]) == ({"day": "later"}, 5)
    assert (changed["cron"], changed["overlap"]) == ("30 4 * * *", "skip")


@pytest.mark.parametrize("query", ["", "?json=1"])
def test_a_form_that_is_sent_as_it_is_changes_nothing(
    api: Api, owner: Person, schedule: Any, query: str
) -> None:
    answer = owner.post(path_of(schedule), form_of(owner, schedule, query))
    assert "nightly was not changed." in owner.page(answer.headers["Location"])
    assert stored(api, schedule) == schedule


def test_an_interval_takes_the_place_of_an_expression_and_the_other_way_round(
    api: Api, owner: Person, schedule: Any
) -> None:
    for timing, expected in (
        ({"cron": "", "timezone": "", "interval_seconds": "900"}, (None, "UTC", 900)),
        ({"cron": "0 5 * * *", "interval_seconds": ""}, ("0 5 * * *", "UTC", None)),
        ({"timezone": "Europe/Prague"}, ("0 5 * * *", "Europe/Prague", None)),
    ):
        form = form_of(owner, schedule)
        assert owner.post(path_of(schedule), {**form, **timing}).status_code == 303
        now = stored(api, schedule)
        assert (now["cron"], now["timezone"], now["interval_seconds"]) == expected


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"param.day": "x"}, "day must have at least 2 characters"),
        ({"name": ""}, "Name must"),
        ({"cron": "0 99 * * *"}, "cron"),
        ({"cron": ""}, "A schedule needs a cron expression or seconds between its runs."),
        ({"interval_seconds": "900"}, "Send cron or interval_seconds, not both."),
        ({"cron": "", "interval_seconds": "900"}, "Time zone goes with cron"),
        ({"interval_seconds": "often"}, "Seconds between runs must be a number"),
        ({"overlap": ""}, "Overlap must be"),
        ({"notify": "nobody"}, "There is no webhook named 'nobody'"),
        ({"tags": "x" * 51}, "Tags must have at most 50 characters"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_lost(
    api: Api, owner: Person, schedule: Any, changes: dict[str, str], said: str
) -> None:
    form = form_of(owner, schedule) | {"priority": "7", **changes}
    answer = owner.post(path_of(schedule), form)
    assert answer.status_code == 400
    assert said in unescape(answer.text)
    again = {
        name: value for name, value in form_on(answer.text, path_of(schedule)).items() if value
    }
    assert again == {name: value for name, value in form.items() if value}
    assert stored(api, schedule) == schedule


def test_a_name_that_is_taken_is_said(api: Api, owner: Person, schedule: Any) -> None:
    body = {"name": "taken", "type": "job", "params": {}, "interval_seconds": 60}
    api.post("/api/schedules", body, 201)
    answer = owner.post(path_of(schedule), {**form_of(owner, schedule), "name": "taken"})
    assert answer.status_code == 409
    assert "There is a schedule named 'taken' already" in text_of(answer)


def test_only_who_writes_types_is_led_to_the_form(person: SignIn, schedule: Any) -> None:
    assert path_of(schedule) not in person(["task-types:read"]).get("/dashboard/schedules").text
