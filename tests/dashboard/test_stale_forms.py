"""Forms that change what somebody else has changed since their pages were opened."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from tests.conftest import Api, Clock
from tests.dashboard.conftest import Person, form_on, text_of

SignIn = Callable[..., Person]
HOOK = {"name": "billing", "url": "https://nowhere.invalid/old"}
SCHEDULE = {"name": "nightly", "type": "job", "params": {"n": 1}, "interval_seconds": 900}
KEY = {"name": "shop", "role": "producer", "rate_limit": "5/hour"}


class Case(NamedTuple):
    """What somebody else does, and what a person types into a page that was open by then."""

    create: tuple[str, Any]
    path: str  # of the row, in the API
    page: str
    form: str
    theirs: dict[str, Any]
    mine: dict[str, str]
    said: str
    stored: dict[str, Any]  # once mine is sent again


CASES = {
    "task": Case(
        ("tasks", {"type": "job", "params": {"n": 1}, "priority": 1}),
        "/api/tasks/{id}",
        "/dashboard/tasks/{id}/change",
        "/dashboard/tasks/{id}/change",
        {"priority": 5},
        {"priority": "9", "max_attempts": "7"},
        "Priority is now: 5",
        {"priority": 9, "max_attempts": 7},
    ),
    "type": Case(
        (
            "task-types/register",
            {"name": "mail", "version": "1", "param_schema": {}, "priority": 1, "dedupe": "none"},
        ),
        "/api/task-types/mail",
        "/dashboard/types/mail",
        "/dashboard/types/mail/settings",
        {"priority": 5, "dedupe": "active"},
        {"priority": "9", "max_attempts": "7"},
        "De-duplication is now: active",
        {"priority": 9, "max_attempts": 7, "dedupe": "none"},
    ),
    "schedule": Case(
        ("schedules", SCHEDULE),
        "/api/schedules/{id}",
        "/dashboard/schedules/{id}/change",
        "/dashboard/schedules/{id}/change",
        {"params": {"n": 2}, "notify": None, "interval_seconds": 60},
        {"params": '{"n": 3}', "priority": "9"},
        "Seconds between runs is now: 60",
        {"params": {"n": 3}, "priority": 9, "interval_seconds": 900},
    ),
    "webhook": Case(
        ("webhooks", HOOK),
        "/api/webhooks/{id}",
        "/dashboard/webhooks/{id}",
        "/dashboard/webhooks/{id}/change",
        {"url": "https://nowhere.invalid/theirs"},
        {"url": "https://nowhere.invalid/mine"},
        "Address is now: https://nowhere.invalid/theirs",
        {"url": "https://nowhere.invalid/mine"},
    ),
    "key": Case(
        ("admin/keys", KEY),
        "/api/admin/keys/{id}",
        "/dashboard/admin/keys/{id}/change",
        "/dashboard/admin/keys/{id}/change",
        {"scopes": ["tasks:read"], "rate_limit": None},
        {"task_types": "mail.%, job"},
        "Rate limit is empty now",
        {"task_types": ["mail.%", "job"], "rate_limit": "5/hour"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_form_takes_back_nothing_that_was_changed_since_its_page_was_opened(
    api: Api, person: SignIn, clock: Clock, name: str
) -> None:
    case = CASES[name]
    api.register()
    row = api.post(f"/api/{case.create[0]}", case.create[1], 201)
    path, page, action = (text.format(id=row["id"]) for text in (case.path, case.page, case.form))
    owner = person()
    form = form_on(owner.get(page).text, action) | case.mine
    clock.advance(1)
    api.patch(path, case.theirs)
    theirs = api.get(path)
    answer = owner.post(action, form)
    assert answer.status_code == 409
    assert api.get(path) == theirs
    assert "has changed since this page was opened" in text_of(answer)
    assert case.said in text_of(answer)
    again = form_on(answer.text, action)
    assert again == {**form, "updated_at": again["updated_at"]}
    assert owner.post(action, again).status_code == 303
    now = api.get(path)
    assert {field: now[field] for field in case.stored} == case.stored


@pytest.mark.parametrize("name", CASES)
def test_a_form_that_does_not_say_what_it_has_seen_changes_nothing(
    api: Api, person: SignIn, name: str
) -> None:
    case = CASES[name]
    api.register()
    row = api.post(f"/api/{case.create[0]}", case.create[1], 201)
    path, page, action = (text.format(id=row["id"]) for text in (case.path, case.page, case.form))
    before = api.get(path)
    owner = person()
    form = form_on(owner.get(page).text, action) | case.mine
    for seen in ("", "x"):
        assert owner.post(action, {**form, "updated_at": seen}).status_code == 409
    assert api.get(path) == before
