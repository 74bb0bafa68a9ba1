"""The pages about batches: what they show, and what their buttons do."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from taskmanager.db.statements import insert
from tests.conftest import Api
from tests.dashboard.conftest import Person

SignIn = Callable[..., Person]
CALLBACK = {"type": "job", "params": {"batch": {"$batch": "id"}}}


def make_batch(api: Api, count: int = 4, **fields: Any) -> Any:
    tasks = [
        {"type": "job", "params": {"n": n}, "max_attempts": 1, "dedupe": "none"}
        for n in range(count)
    ]
    return api.post("/api/batches", {"name": "invoices", "tasks": tasks, **fields}, 201)


def end(api: Api, *successes: bool) -> None:
    for success in successes:
        api.complete(api.claim(), success=success)


def widths(page: str) -> list[float]:
    """How wide the parts of the bar are, in percent: all, completed, failed, cancelled."""
    [bar] = re.findall(r'<svg class="ended".*?</svg>', page)
    return [float(width) for width in re.findall(r' width="([0-9.]+)"', bar)]


@pytest.fixture
def owner(api: Api, person: SignIn) -> Person:
    api.register()
    somebody = person()
    somebody.get("/dashboard/batches")
    return somebody


def test_a_batch_shows_how_far_it_is(api: Api, owner: Person) -> None:
    batch = make_batch(api, on_finished=CALLBACK, on_failed=CALLBACK, metadata={"month": 5})
    end(api, True, True, False)
    path = f"/dashboard/batches/{batch['id']}"
    said = owner.page(path)
    assert "invoices Running" in said
    assert "1 task has not ended yet." in said
    assert "75 % 3 of 4 tasks ended" in said
    assert "Unfinished 1 Completed 2 Failed 1 Cancelled 0" in said
    assert "on_finished job when all have ended not created" in said
    assert '"month": 5' in said
    assert widths(owner.get(path).text) == [100, 50, 25, 0]
    assert f"invoices {batch['id']} Running 75 % 4 2 1 0" in owner.page("/dashboard/batches")


def test_its_figures_lead_to_its_tasks_and_they_back_to_it(api: Api, owner: Person) -> None:
    batch = make_batch(api)
    other = api.create()
    end(api, False)
    path = f"/dashboard/batches/{batch['id']}"
    for status, count in (("failed", 1), ("blocked,scheduled,pending,claimed", 3)):
        address = f"/dashboard/tasks?batch_id={batch['id']}&status={status}"
        shown = owner.get(path).text.replace("&amp;", "&").replace("%2C", ",")
        assert f'href="{address}"' in shown
        found = re.findall('name="id" value="([0-9]+)"', owner.get(address).text)
        assert len(found) == count
    task = batch["results"][0]["task"]
    assert f'href="{path}"' in owner.get(f"/dashboard/tasks/{task['id']}").text
    assert "/dashboard/batches/" not in owner.get(f"/dashboard/tasks/{other['id']}").text


def test_its_end_leads_to_the_tasks_that_it_has_created(api: Api, owner: Person) -> None:
    batch = make_batch(api, 1, on_completed=CALLBACK, on_failed=CALLBACK)
    end(api, True)
    path = f"/dashboard/batches/{batch['id']}"
    made = api.get(f"/api/batches/{batch['id']}")["on_completed_task_id"]
    assert f'href="/dashboard/tasks/{made}"' in owner.get(path).text
    said = owner.page(path)
    assert "All of it has ended." in said
    assert "on_failed job when all have ended and one was not completed not created" in said


def test_a_batch_in_another_leads_to_it(api: Api, owner: Person) -> None:
    outer = make_batch(api, 0)
    inner = make_batch(api, 1, parent_batch_id=outer["id"])
    assert (
        f'href="/dashboard/batches/{outer["id"]}"'
        in owner.get(f"/dashboard/batches/{inner['id']}").text
    )
    said = owner.page(f"/dashboard/batches/{outer['id']}")
    assert "It takes more tasks until it is closed. 1 batch in it has not ended yet." in said


def test_an_open_batch_is_closed(api: Api, owner: Person) -> None:
    batch = make_batch(api, is_open=True)
    path = f"/dashboard/batches/{batch['id']}"
    assert owner.post(f"{path}/close").headers["Location"] == path
    assert f"Batch {batch['id']} is closed." in owner.page(path)
    assert api.get(f"/api/batches/{batch['id']}")["status"] == "running"


def test_cancelling_asks_once_and_ends_the_batch(api: Api, owner: Person) -> None:
    batch = make_batch(api, is_open=True)
    other = api.create()
    end(api, True)
    path = f"/dashboard/batches/{batch['id']}"
    answer = owner.post(f"{path}/cancel")
    assert "Cancel 3 tasks?" in answer.text
    assert "It is closed and takes no more tasks." in answer.text
    assert api.get(f"/api/batches/{batch['id']}")["status"] == "open"
    answer = owner.post(f"{path}/cancel", {"confirmed": "1"})
    assert answer.headers["Location"] == path
    assert "Cancel: 3 tasks done." in owner.page(path)
    batch = api.get(f"/api/batches/{batch['id']}")
    assert (batch["status"], batch["counts"]["cancelled"]) == ("finished", 3)
    assert api.get(f"/api/tasks/{other['id']}")["status"] == "pending"


def test_cancelling_says_that_it_ends_what_is_within(api: Api, owner: Person) -> None:
    outer = make_batch(api, is_open=True)
    inner = make_batch(api, 1, parent_batch_id=outer["id"])
    path = f"/dashboard/batches/{outer['id']}/cancel"
    asked = owner.post(path).text
    assert "Cancel 5 tasks?" in asked
    assert " and of those in it will be cancelled" in asked
    assert api.get(f"/api/batches/{inner['id']}")["status"] == "running"
    owner.post(path, {"confirmed": "1"})
    assert api.get(f"/api/batches/{inner['id']}")["status"] == "finished"
    assert api.get(f"/api/batches/{outer['id']}")["status"] == "finished"


def test_retrying_asks_once_and_reopens_what_has_failed(api: Api, owner: Person) -> None:
    batch = make_batch(api, 3)
    end(api, True, False, False)
    path = f"/dashboard/batches/{batch['id']}"
    assert "Retry 2 tasks?" in owner.post(f"{path}/retry").text
    assert api.get(f"/api/batches/{batch['id']}")["status"] == "finished"
    owner.post(f"{path}/retry", {"confirmed": "1"})
    batch = api.get(f"/api/batches/{batch['id']}")
    assert (batch["status"], batch["counts"]["unfinished"]) == ("running", 2)


def test_the_buttons_are_those_that_its_state_allows(api: Api, owner: Person) -> None:
    def buttons(batch_id: int) -> set[str]:
        text = owner.get(f"/dashboard/batches/{batch_id}").text
        return set(re.findall(r"<button[^>]*>(Close|Retry|Cancel)</button>", text))

    assert buttons(make_batch(api, is_open=True)["id"]) == {"Close", "Cancel"}
    finished = make_batch(api, 0, is_open=False)["id"]
    assert buttons(finished) == set()
    other = make_batch(api, 1)["id"]
    owner.post(f"/dashboard/batches/{other}/cancel", {"confirmed": "1"})
    assert buttons(other) == {"Retry"}


def test_the_list_goes_on_with_older_batches(api: Api, owner: Person) -> None:
    times = {"created_at": 1, "updated_at": 1, "tasks": 0, "open_batches": 0, "failed_batches": 0}
    counts = dict.fromkeys(("completed", "failed", "cancelled"), 0)
    ids = [insert("batches", {**times, **counts, "name": f"b{n}"}) for n in range(51)]
    page = owner.get("/dashboard/batches").text
    assert f'href="/dashboard/batches/{ids[1]}"' in page
    assert f'href="/dashboard/batches/{ids[0]}"' not in page
    [older] = re.findall('rel="next" href="([^"]+)"', page)
    assert f'href="/dashboard/batches/{ids[0]}"' in owner.get(older).text
