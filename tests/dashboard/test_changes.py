"""What people do on the pages: one task, many tasks, types, schedules and keys."""

import re
from collections.abc import Callable

import pytest

from taskmanager.access import keys
from taskmanager.dashboard.tasks import CHANGES
from tests.conftest import Api, Clock
from tests.dashboard.conftest import Person, text_of

SignIn = Callable[..., Person]


def statuses(api: Api) -> list[str]:
    tasks = api.get("/api/tasks?limit=100&sort_order=asc")["tasks"]
    return [task["status"] for task in tasks]


def fail(api: Api, count: int) -> list[int]:
    ids = []
    for _ in range(count):
        ids.append(api.create()["id"])
        api.complete(api.claim(), success=False, is_retryable=False, error="no answer in 3 s")
    return ids


def test_one_task_is_cancelled_and_retried(api: Api, person: SignIn) -> None:
    api.register()
    task = api.create()
    somebody = person()
    path = f"/dashboard/tasks/{task['id']}"
    answer = somebody.post(f"{path}/cancel")
    assert (answer.status_code, answer.headers["Location"]) == (303, path)
    assert f"Task #{task['id']} is cancelled." in somebody.page(path)
    assert "is cancelled." not in somebody.page(path)  # said once
    somebody.post(f"{path}/retry")
    assert statuses(api) == ["pending"]
    assert api.get("/api/admin/audit")["events"][0]["event"] == "task_retried"


def test_a_change_that_the_state_forbids_says_why(api: Api, person: SignIn) -> None:
    api.register()
    task = api.create()
    answer = person().post(f"/dashboard/tasks/{task['id']}/retry")
    assert answer.status_code == 409
    assert "only a failed or cancelled task can be retried" in text_of(answer)


def test_a_retry_that_a_dependency_forbids_says_which_task_comes_first(
    api: Api, person: SignIn
) -> None:
    api.register()
    first = api.create()["id"]
    second = api.create(params={"n": 2}, depends_on=[first])["id"]
    api.post(f"/api/tasks/{first}/cancel", {})
    somebody = person()
    answer = somebody.post(f"/dashboard/tasks/{second}/retry")
    assert answer.status_code == 409
    assert f"Task {first}, which this task depends on, has not completed." in text_of(answer)
    answer = somebody.post("/dashboard/tasks/change", {"action": "retry", "id": [second]})
    assert "1 depend on a task that has not completed" in text_of(answer)


def test_selected_tasks_are_changed_after_one_question_with_their_number(
    api: Api, person: SignIn
) -> None:
    api.register()
    ids = fail(api, 3)
    other = api.create()["id"]
    somebody = person()
    form = {"action": "retry", "id": [ids[0], ids[2], other], "status": "failed"}
    answer = somebody.post("/dashboard/tasks/change", form)
    page = text_of(answer)
    assert "Retry 2 tasks?" in page
    assert "1 have not failed and were not cancelled and stay as they are." in page
    assert statuses(api) == ["failed", "failed", "failed", "pending"]
    hidden = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', answer.text)
    form = {name: [value for key, value in hidden if key == name] for name, _ in hidden}
    answer = somebody.post("/dashboard/tasks/change", form)
    assert answer.headers["Location"] == "/dashboard/tasks?status=failed"
    assert statuses(api) == ["pending", "failed", "pending", "pending"]
    assert "Retry: 2 tasks done." in somebody.page("/dashboard/tasks")


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("retry", ["pending", "pending", "claimed"]),
        ("cancel", ["failed", "cancelled", "cancelled"]),
        ("release", ["failed", "pending", "pending"]),
        ("priority", ["failed", "pending", "claimed"]),
        ("delete", ["pending", "claimed"]),
    ],
)
def test_everything_that_matches_is_changed(
    api: Api, person: SignIn, name: str, left: list[str]
) -> None:
    api.register()
    fail(api, 1)
    api.create()
    held = api.create(priority=9)
    api.claim()
    somebody = person()
    form = {"action": name, "everything": "1", "priority": "7"}
    answer = somebody.post("/dashboard/tasks/change", form)
    assert f"{CHANGES[name].label} " in text_of(answer)
    assert "No filter is set" in text_of(answer)
    somebody.post("/dashboard/tasks/change", {**form, "confirmed": "1"})
    assert statuses(api) == left
    priorities = [task["priority"] for task in api.get("/api/tasks?sort_order=asc")["tasks"]]
    assert (7 in priorities) is (name == "priority")
    assert held


def test_everything_means_what_the_filters_of_the_list_find(api: Api, person: SignIn) -> None:
    api.register("a")
    api.register("b")
    for name in ("a", "b", "a"):
        api.create(name)
    form = {"action": "cancel", "everything": "1", "type": "a", "confirmed": "1"}
    answer = person().post("/dashboard/tasks/change", form)
    assert answer.headers["Location"] == "/dashboard/tasks?type=a"
    assert statuses(api) == ["cancelled", "pending", "cancelled"]


def test_nothing_selected_changes_nothing(api: Api, person: SignIn) -> None:
    api.register()
    api.create()
    answer = person().post("/dashboard/tasks/change", {"action": "cancel", "confirmed": "1"})
    assert answer.status_code == 400
    assert "Select tasks first" in text_of(answer)
    assert statuses(api) == ["pending"]


@pytest.mark.parametrize("form", [{"id": "x"}, {"id": "9" * 30}, {"id": "1", "priority": "1e9"}])
def test_a_form_that_was_made_up_is_refused(api: Api, person: SignIn, form: dict[str, str]) -> None:
    api.register()
    api.create()
    answer = person().post("/dashboard/tasks/change", {"action": "priority", **form})
    assert answer.status_code == 400


def test_a_type_is_paused_resumed_and_deactivated(api: Api, person: SignIn) -> None:
    api.register()
    somebody = person()
    for switch, field, value in (
        ("pause", "is_paused", True),
        ("resume", "is_paused", False),
        ("deactivate", "is_active", False),
        ("activate", "is_active", True),
    ):
        somebody.post(f"/dashboard/types/job/{switch}")
        assert api.get("/api/task-types/job")[field] is value
        assert "job " in somebody.page("/dashboard/types/job")


def test_a_new_schema_is_tried_on_the_open_tasks(api: Api, person: SignIn) -> None:
    api.register()
    task = api.create(params={"n": "five"})
    somebody = person()
    draft = '{"type": "object", "properties": {"n": {"type": "integer"}}}'
    answer = somebody.post("/dashboard/types/job/check", {"param_schema": draft})
    assert "1 of 1 unfinished task would be rejected." in text_of(answer)
    assert f"#{task['id']} params.n must be of type integer" in text_of(answer)
    for wrong in ("{", "5", '{"type": 5}'):
        answer = somebody.post("/dashboard/types/job/check", {"param_schema": wrong})
        assert answer.status_code == 200
        assert 'aria-invalid="true"' in answer.text, wrong


def test_a_schedule_says_its_times_in_words_and_runs_now(
    api: Api, person: SignIn, clock: Clock
) -> None:
    api.register()
    body = {"name": "nightly", "type": "job", "params": {}, "cron": "0 3 * * *"}
    schedule = api.post("/api/schedules", {**body, "timezone": "Asia/Tokyo"}, 201)
    somebody = person()
    page = somebody.page("/dashboard/schedules")
    assert "At 03:00 every day (Asia/Tokyo)" in page
    assert page.count("18:00:00 UTC") == 5
    answer = somebody.post(f"/dashboard/schedules/{schedule['id']}/run")
    [task] = api.get("/api/tasks")["tasks"]
    assert answer.headers["Location"] == f"/dashboard/tasks/{task['id']}"
    somebody.post(f"/dashboard/schedules/{schedule['id']}/pause")
    assert api.get(f"/api/schedules/{schedule['id']}")["is_active"] is False
    somebody.post(f"/dashboard/schedules/{schedule['id']}/resume")
    assert api.get(f"/api/schedules/{schedule['id']}")["is_active"] is True


def test_a_key_is_created_shown_once_rotated_and_revoked(api: Api, person: SignIn) -> None:
    somebody = person()
    form = {"name": "shop", "role": "producer", "task_types": "mail.% job", "days": "30"}
    answer = somebody.post("/dashboard/admin/keys", {**form, "rate_limit": "100/minute"})
    key = re.search(r'id="new-key">(tm_[\w-]{43})<', answer.text)
    assert key is not None
    row = keys.list_keys()[-1]
    assert (row["task_types"], row["rate_limit"]) == ('["mail.%", "job"]', "100/minute")
    assert api.with_key(key[1]).get("/api/tasks")["count"] == 0
    assert key[1] not in somebody.get("/dashboard/admin").text
    answer = somebody.post(f"/dashboard/admin/keys/{row['id']}/rotate")
    assert "tm_" in answer.text
    answer = somebody.post(f"/dashboard/admin/keys/{row['id']}/revoke")
    assert "Revoke the key shop?" in text_of(answer)
    assert keys.get_key(key_id=row["id"])["revoked_at"] is None
    somebody.post(f"/dashboard/admin/keys/{row['id']}/revoke", {"confirmed": "1"})
    assert keys.get_key(key_id=row["id"])["revoked_at"] is not None


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"name": ""}, "name"),
        ({"role": "king"}, "Choose a role."),
        ({"days": "0"}, "A key is valid for 1 to 3,650 days"),
        ({"days": "²"}, "A key is valid for 1 to 3,650 days"),
        ({"rate_limit": "often"}, "rate_limit must be"),
        ({"task_types": "a b c!"}, "is no pattern of task types"),
        ({"role": "worker-registrar"}, "must be limited to the task types"),
    ],
)
def test_a_key_that_cannot_be_says_why(person: SignIn, form: dict[str, str], said: str) -> None:
    somebody = person()
    before = len(keys.list_keys())
    answer = somebody.post("/dashboard/admin/keys", {"name": "n", "role": "viewer", **form})
    assert answer.status_code == 400
    assert said in text_of(answer)
    assert len(keys.list_keys()) == before


def test_the_last_admin_key_cannot_be_revoked_from_the_page(person: SignIn) -> None:
    somebody = person()
    [row] = keys.list_keys()
    answer = somebody.post(f"/dashboard/admin/keys/{row['id']}/revoke", {"confirmed": "1"})
    assert answer.status_code == 409
    assert keys.get_key(key_id=row["id"])["revoked_at"] is None
