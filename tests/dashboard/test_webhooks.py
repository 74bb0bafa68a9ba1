"""The pages about webhooks: what they show, and what their forms do."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from taskmanager.access import keys
from taskmanager.db.statements import fetch_one, update
from tests.conftest import Api, Clock
from tests.dashboard.conftest import Person, form_on, store_delivery, text_of

SignIn = Callable[..., Person]
URL = "https://nowhere.invalid/hook"
DAY = 86_400


@pytest.fixture
def hook(api: Api) -> Any:
    return api.post("/api/webhooks", {"name": "billing", "url": URL}, 201)


@pytest.fixture
def owner(person: SignIn) -> Person:
    somebody = person()
    somebody.get("/dashboard/webhooks")
    return somebody


def row_of(hook: Any) -> Any:
    return fetch_one("SELECT * FROM {webhooks} WHERE id = ?", (hook["id"],))


def secrets_in(text: str) -> set[str]:
    return set(re.findall(r"whsec_[\w+/=]+", text))


def disable(hook: Any, at: int) -> None:
    off = {"is_active": 0, "failing_since": at, "disabled_at": at}
    off["disabled_reason"] = "The receiver answered <503>."
    update("webhooks", off, "id = ?", [hook["id"]])


def test_a_webhook_is_created_and_its_secret_is_shown_once(owner: Person, api: Api) -> None:
    answer = owner.post("/dashboard/webhooks", {"name": " billing ", "url": URL})
    [created] = api.get("/api/webhooks")["webhooks"]
    assert (created["name"], created["url"]) == ("billing", URL)
    assert secrets_in(answer.text) == {row_of(created)["secret"]}
    for path in ("/dashboard/webhooks", f"/dashboard/webhooks/{created['id']}"):
        assert secrets_in(owner.get(path).text) == set()


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        ({"name": "h", "url": "https://127.0.0.1/"}, "127.0.0.1, which is not public"),
        ({"name": "h", "url": "http://example.org/"}, "Only https addresses are allowed"),
        ({"name": "billing", "url": URL}, "There is a webhook named 'billing' already"),
        ({"name": "", "url": URL}, "name"),
    ],
)
def test_what_is_refused_is_said_and_nothing_that_was_typed_is_lost(
    owner: Person, api: Api, hook: Any, form: dict[str, str], problem: str
) -> None:
    answer = owner.post("/dashboard/webhooks", form)
    assert answer.status_code == 400
    assert problem in text_of(answer)
    assert f'value="{form["url"]}"' in answer.text
    assert api.get("/api/webhooks")["count"] == 1


def test_a_webhook_that_was_switched_off_for_its_failures_says_why_and_is_switched_on(
    owner: Person, api: Api, hook: Any, clock: Clock
) -> None:
    disable(hook, clock.now - DAY * 1000)
    path = f"/dashboard/webhooks/{hook['id']}"
    assert "Switched off 1 day ago" in owner.page("/dashboard/webhooks")
    assert "1 day ago, after three days of failures: The receiver answered <503>." in owner.page(
        path
    )
    assert owner.post(f"{path}/switch-on").status_code == 303
    shown = owner.page(path)
    assert "billing is on." in shown
    assert "after three days of failures" not in shown
    assert api.get(f"/api/webhooks/{hook['id']}")["is_active"] is True
    owner.post(f"{path}/switch-off")
    assert "It is switched off" in owner.page(path)


def test_the_overview_leads_an_administrator_to_a_webhook_that_was_switched_off(
    owner: Person, person: SignIn, api: Api, hook: Any, clock: Clock
) -> None:
    api.register()
    disable(hook, clock.now - DAY * 1000)
    said = "billing is a webhook that was switched off"
    shown = owner.get("/dashboard")
    assert said in text_of(shown)
    notice = shown.text[shown.text.index("Needs attention") :].split("</ul>")[0]
    assert 'href="/dashboard/webhooks"' in notice
    assert said not in person(keys.ROLES["viewer"]).page("/dashboard")


def test_a_failing_webhook_says_since_when(owner: Person, hook: Any, clock: Clock) -> None:
    update("webhooks", {"failing_since": clock.now - 120_000}, "id = ?", [hook["id"]])
    assert "Failing for 2 min" in owner.page("/dashboard/webhooks")
    assert "It has failed since" in owner.page(f"/dashboard/webhooks/{hook['id']}")


def test_the_address_is_changed_unless_it_is_refused(owner: Person, api: Api, hook: Any) -> None:
    path = f"/dashboard/webhooks/{hook['id']}/change"
    form = form_on(owner.get(f"/dashboard/webhooks/{hook['id']}").text, path)
    answer = owner.post(path, {**form, "url": "https://10.0.0.1/"})
    assert answer.status_code == 400
    assert "10.0.0.1, which is not public" in text_of(answer)
    assert 'value="https://10.0.0.1/"' in answer.text
    assert row_of(hook)["url"] == URL
    assert owner.post(path, {**form, "url": f"{URL}/new"}).status_code == 303
    assert row_of(hook)["url"] == f"{URL}/new"


def test_a_rotated_secret_is_shown_once_and_the_old_one_signs_for_a_day(
    owner: Person, hook: Any, clock: Clock
) -> None:
    path = f"/dashboard/webhooks/{hook['id']}"
    answer = owner.post(f"{path}/rotate")
    row = row_of(hook)
    assert secrets_in(answer.text) == {row["secret"]} != {hook["secret"]}
    assert (row["old_secret"], row["old_secret_until"]) == (hook["secret"], clock.now + DAY * 1000)
    assert secrets_in(owner.get(path).text) == set()


def test_deliveries_are_shown_and_sent_again(owner: Person, hook: Any) -> None:
    path = f"/dashboard/webhooks/{hook['id']}"
    assert "Nothing was sent." in owner.page(path)
    reason = {"error": "The receiver answered 500.", "response_status": 500}
    ids = [store_delivery(hook["id"], 7, **reason, status="failed") for _ in range(51)]
    store_delivery(hook["id"] + 1, 8)
    first = owner.get(path)
    assert text_of(first).count("The receiver answered 500.") == 50
    assert "#8" not in first.text
    older = owner.page(f"{path}?cursor={ids[1]}")
    assert older.count("The receiver answered 500.") == 1
    assert owner.post(f"{path}/deliveries/{ids[0]}/resend").status_code == 303
    row = fetch_one("SELECT status, attempts FROM {webhook_deliveries} WHERE id = ?", (ids[0],))
    assert row == {"status": "pending", "attempts": 0}


def test_a_webhook_is_deleted_after_a_question_unless_a_type_names_it(
    owner: Person, api: Api, hook: Any
) -> None:
    api.register(notify="billing")
    path = f"/dashboard/webhooks/{hook['id']}/delete"
    asked = owner.post(path)
    assert "Delete the webhook billing?" in text_of(asked)
    assert row_of(hook)
    refused = owner.post(path, {"confirmed": "1"})
    assert refused.status_code == 409
    assert "Task type 'job' notifies this webhook" in text_of(refused)
    api.patch("/api/task-types/job", {"notify": None})
    assert owner.post(path, {"confirmed": "1"}).status_code == 303
    assert "billing is deleted" in owner.page("/dashboard/webhooks")
    assert row_of(hook) is None


def test_names_and_addresses_are_shown_as_text(owner: Person, api: Api) -> None:
    name = "<script>alert(1)</script>"
    hook = api.post("/api/webhooks", {"name": name, "url": f"{URL}?<b>"}, 201)
    for path in ("", f"/{hook['id']}"):
        answer = owner.get(f"/dashboard/webhooks{path}")
        assert "<script>alert" not in answer.text
        assert "<b>" not in answer.text
        assert name in text_of(answer)
