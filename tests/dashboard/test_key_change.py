"""The form that changes a key."""

from collections.abc import Callable
from typing import Any

import pytest

from taskmanager.access import keys
from tests.conftest import Api
from tests.dashboard.conftest import Person, form_on, text_of

SignIn = Callable[..., Person]


@pytest.fixture
def owner(person: SignIn) -> Person:
    return person()


@pytest.fixture
def key(api: Api) -> Any:
    body = {"name": "shop", "role": "producer", "task_types": ["mail.%"], "rate_limit": "5/hour"}
    return api.post("/api/admin/keys", body, 201)


def path_of(key: Any) -> str:
    return f"/dashboard/admin/keys/{key['id']}/change"


def stored(key: Any) -> Any:
    return keys.get_key(key_id=key["id"])


def test_what_was_typed_is_changed_and_nothing_else(owner: Person, key: Any) -> None:
    assert f'href="{path_of(key)}"' in owner.get("/dashboard/admin").text
    form = form_on(owner.get(path_of(key)).text, path_of(key))
    before = stored(key)
    for changes, expected in (
        ({"rate_limit": "100/minute"}, {"rate_limit": "100/minute"}),
        ({"rate_limit": "", "task_types": ""}, {"rate_limit": None, "task_types": None}),
        ({"task_types": "mail.%, job"}, {"task_types": '["mail.%", "job"]'}),
        ({"scopes": "tasks:read\r\n metrics:read"}, {"scopes": '["tasks:read", "metrics:read"]'}),
        ({"expires_at": "2999-01-01T00:00:00Z"}, {"expires_at": 32472144000000}),
        ({"expires_at": ""}, {"expires_at": None}),
        ({"name": "the shop"}, {"name": "the shop"}),
    ):
        form = form_on(owner.get(path_of(key)).text, path_of(key))
        answer = owner.post(path_of(key), {**form, **changes})
        assert answer.headers["Location"] == "/dashboard/admin"
        assert "is changed." in owner.page("/dashboard/admin")
        now = stored(key)
        assert {name: now[name] for name in expected} == expected
        before |= {**expected, "updated_at": now["updated_at"]}
        assert now == before


def test_a_form_that_is_sent_as_it_is_changes_nothing(owner: Person, key: Any) -> None:
    before = stored(key)
    owner.post(path_of(key), form_on(owner.get(path_of(key)).text, path_of(key)))
    assert "The key shop was not changed." in owner.page("/dashboard/admin")
    assert stored(key) == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": ""}, "Name must have at least 1 character"),
        ({"scopes": ""}, "May must"),
        ({"scopes": "tasks:read cook"}, "May must be one of"),
        ({"task_types": "<b>"}, "Task types must be letters, digits"),
        ({"rate_limit": "often"}, "Rate limit must be"),
        ({"expires_at": "tomorrow"}, "Expires at must be a valid date-time"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_lost(
    owner: Person, key: Any, changes: dict[str, str], said: str
) -> None:
    before = stored(key)
    form = form_on(owner.get(path_of(key)).text, path_of(key))
    form |= {"rate_limit": "7/hour", **changes}
    answer = owner.post(path_of(key), form)
    assert answer.status_code == 400
    assert said in text_of(answer)
    assert form_on(answer.text, path_of(key)) == form
    assert stored(key) == before


def test_a_revoked_key_and_the_last_administrator_stay_as_they_are(
    api: Api, owner: Person, key: Any
) -> None:
    api.delete(f"/api/admin/keys/{key['id']}")
    changes = {"scopes": "tasks:read"}
    said = []
    for row in keys.list_keys():
        form = form_on(owner.get(path_of(row)).text, path_of(row))
        answer = owner.post(path_of(row), {**form, **changes})
        if answer.status_code == 409:
            said.append(text_of(answer))
            assert stored(row) == row
    assert len(said) == 2
    for why in ("is revoked for good", "is the last one with the scope 'admin'"):
        assert any(why in one for one in said)
