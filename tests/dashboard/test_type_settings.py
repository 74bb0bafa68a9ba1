"""The limits and defaults on the page of a type, and the form that changes them."""

import json
from collections.abc import Callable
from html import unescape
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from taskmanager.dashboard.type_settings import FIELDS
from taskmanager.db.statements import update
from taskmanager.queue.task_types import DEFAULTS
from tests.conftest import Api
from tests.dashboard.conftest import Person, form_on, text_of

SignIn = Callable[..., Person]
PATH = "/dashboard/types/job"
SAVE = f"{PATH}/settings"
EMPTY = dict.fromkeys((field.name for field in FIELDS), "")


def values_of(page: str) -> dict[str, str]:
    """What the fields of the form show; only those that are not empty."""
    form = form_on(page, SAVE)
    return {name: value for name, value in form.items() if value and name != "updated_at"}


def save(owner: Person, form: dict[str, str]) -> TestResponse:
    """Sends the form with these values, and all others empty."""
    shown = form_on(owner.get(PATH).text, SAVE)
    return owner.post(SAVE, {**EMPTY, "updated_at": shown["updated_at"], **form})


@pytest.fixture
def owner(api: Api, person: SignIn) -> Person:
    api.register()
    somebody = person()
    somebody.get(PATH)
    return somebody


def test_every_default_of_a_type_but_its_retries_has_a_field() -> None:
    assert {field.name.split(".")[0] for field in FIELDS} | {"retry"} == set(DEFAULTS)


def test_the_form_changes_what_differs_and_shows_it(api: Api, owner: Person) -> None:
    api.post("/api/webhooks", {"name": "billing", "url": "https://nowhere.invalid/"}, 201)
    form = {
        "concurrency": "3",
        "start_rate": "100/minute",
        "max_run_seconds": "600",
        "max_open.group": "50",
        "retention_days": "0",
        "dedupe_days": "7",
        "notify": "billing",
        "dedupe": '"active"',
        "priority": "-5",
    }
    answer = save(owner, form)
    assert answer.headers["Location"] == PATH
    shown = owner.get(PATH)
    assert "The limits and defaults of job are saved." in text_of(shown)
    found = values_of(shown.text)
    assert form == found
    stored = api.get("/api/task-types/job")
    assert (stored["concurrency"], stored["max_open"]) == ({"limit": 3}, {"group": 50})
    assert (stored["start_rate"], stored["retention_days"]) == ("100/minute", 0)
    save(owner, {**form, "retention_days": ""})
    event = api.get("/api/admin/audit")["events"][0]
    assert event["message"] == "job: retention_days = None"


def test_each_part_of_a_limit_is_changed_by_itself(api: Api, owner: Person) -> None:
    for form, stored in (
        ({"max_open.type": "500", "max_open.group": "50"}, {"type": 500, "group": 50}),
        ({"max_open.type": "600", "max_open.group": "50"}, {"type": 600, "group": 50}),
        ({"max_open.type": "600"}, {"type": 600}),
        ({}, None),
    ):
        save(owner, form)
        assert api.get("/api/task-types/job")["max_open"] == stored
        assert values_of(owner.get(PATH).text) == form


def test_an_empty_form_takes_back_every_limit(api: Api, owner: Person) -> None:
    limits: dict[str, Any] = {"concurrency": {"limit": 3}, "start_rate": "5/hour", "priority": 2}
    api.patch("/api/task-types/job", {**limits, "retry": {"strategy": "fixed"}})
    save(owner, {})
    stored = api.get("/api/task-types/job")
    assert [stored[name] for name in limits] == [None, None, None]
    assert stored["retry"] == {"strategy": "fixed"}
    assert '{"strategy": "fixed"}' in owner.page(PATH)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("concurrency", "many", "Held at once must be a number"),
        ("concurrency", "0", "Held at once must be at least 1"),
        ("start_rate", "often", "Start rate must be N/second, N/minute, N/hour or N/day"),
        ("start_rate", "0", "Start rate must be at least 1"),
        ("max_open.type", "0", "Open at most must be at least 1"),
        ("max_open.group", "100001", "Open per group must be at most 100000"),
        ("max_run_seconds", "1.5", "Longest run in seconds must be"),
        ("retention_days", "-1", "Kept for days must be at least 0"),
        ("notify", "<b>nobody", "There is no webhook named '<b>nobody'"),
        ("is_encrypted", "true", "Tasks can be encrypted once TASKMANAGER_PAYLOAD_KEY is set"),
        ("dedupe", '"sometimes"', "De-duplication must be one of"),
    ],
)
def test_what_cannot_be_is_said_beside_its_field_and_nothing_is_lost(
    api: Api, owner: Person, name: str, text: str, said: str
) -> None:
    before = api.get("/api/task-types/job")
    answer = save(owner, {"priority": "7", name: text})
    assert answer.status_code == 400
    start = answer.text.index(f'name="{name}" aria-invalid="true"')
    field = answer.text[start : answer.text.index("</div></div>", start)]
    assert said in unescape(field)
    assert answer.text.count('aria-invalid="true"') == 1
    assert values_of(answer.text)["priority"] == "7"
    assert api.get("/api/task-types/job") == before


def test_a_missing_payload_key_does_not_keep_the_rest_from_being_changed(
    api: Api, owner: Person
) -> None:
    update("task_types", {"is_encrypted": 1}, "name = ?", ["job"])
    assert values_of(owner.get(PATH).text) == {"is_encrypted": "true"}
    assert save(owner, {"is_encrypted": "true", "priority": "4"}).status_code == 303
    assert api.get("/api/task-types/job")["priority"] == 4
    update("task_types", {"is_encrypted": None}, "name = ?", ["job"])  # or no other test can start


def test_who_may_not_change_a_type_reads_its_limits(api: Api, app: Flask, person: SignIn) -> None:
    api.register(concurrency={"limit": 3}, start_rate="100/minute")
    viewer = person(["task-types:read"])
    answer = viewer.get(PATH)
    assert "Held at once 3 Start rate 100/minute" in text_of(answer)
    assert 'name="concurrency"' not in answer.text
    assert json.dumps({"limit": 3}) not in answer.text
