"""Recurring tasks: schedules over HTTP, and what they do when their time comes."""

import time
from typing import Any
from urllib.parse import quote

import pytest

from taskmanager.access.caller import OPERATOR
from taskmanager.clock import parse_time
from taskmanager.db.statements import execute
from taskmanager.queue import create, history
from taskmanager.queue.schedules import definitions, runs
from taskmanager.queue.task_types import TaskDefaults
from tests.conftest import Api, Clock, make_key

DEFAULTS = TaskDefaults(max_attempts=3, lease_seconds=300)
NOON = "2026-01-15T12:00:00.000Z"


@pytest.fixture
def job(api: Api, clock: Clock) -> None:
    """A type for the schedules' tasks; it is noon."""
    clock.now = parse_time(NOON)
    api.register()


def add(api: Api, status: int = 201, **fields: Any) -> Any:
    """Makes a schedule, hourly unless told otherwise."""
    body = {"name": "report", "type": "job", "params": {}, **fields}
    if not {"cron", "interval_seconds"} & set(fields):
        body["cron"] = "0 * * * *"
    return api.post("/api/schedules", body, status)


def shown(api: Api, schedule: Any) -> Any:
    return api.get(f"/api/schedules/{schedule['id']}")


def run_due(clock: Clock) -> int:
    """What maintenance does, whoever calls it."""
    return runs.run_due_schedules(now=clock.now, defaults=DEFAULTS, deadline=time.monotonic() + 60)


def made(api: Api) -> list[Any]:
    """The tasks there are, oldest first."""
    found: list[Any] = api.get("/api/tasks?sort_by=id&sort_order=asc&include=params")["tasks"]
    return found


@pytest.mark.usefixtures("job")
def test_a_new_schedule_says_when_it_runs_next(api: Api) -> None:
    schedule = add(api, params={"a": 1}, priority=5)
    assert schedule["next_run_at"] == "2026-01-15T13:00:00.000Z"
    assert schedule["next_runs"] == [f"2026-01-15T{hour}:00:00.000Z" for hour in range(13, 18)]
    assert schedule | {"id": 0, "task_type_id": 0, "next_runs": []} == {
        "id": 0,
        "name": "report",
        "type": "job",
        "task_type_id": 0,
        "params": {"a": 1},
        "priority": 5,
        "max_attempts": None,
        "tags": [],
        "notify": None,
        "concurrency_key": None,
        "group_key": None,
        "overlap": "allow",
        "cron": "0 * * * *",
        "timezone": "UTC",
        "interval_seconds": None,
        "is_active": True,
        "next_run_at": "2026-01-15T13:00:00.000Z",
        "next_runs": [],
        "last_run_at": None,
        "last_outcome": None,
        "last_task_id": None,
        "last_error": None,
        "created_at": NOON,
        "updated_at": NOON,
    }
    assert shown(api, schedule) == schedule


@pytest.mark.usefixtures("job")
def test_a_due_schedule_makes_its_task_once(api: Api, clock: Clock) -> None:
    schedule = add(api, params={"b": 1, "a": 2}, priority=5, max_attempts=7)
    assert run_due(clock) == 0

    clock.advance(3600)
    assert run_due(clock) == 1
    assert run_due(clock) == 0

    [task] = made(api)
    assert (task["type"], task["status"], task["params"]) == ("job", "pending", {"b": 1, "a": 2})
    assert (task["priority"], task["max_attempts"]) == (5, 7)
    after = shown(api, schedule)
    assert (after["last_run_at"], after["last_task_id"]) == (schedule["next_run_at"], task["id"])
    assert (after["last_outcome"], after["last_error"]) == ("created", None)
    assert after["next_runs"] == [f"2026-01-15T{hour}:00:00.000Z" for hour in range(14, 19)]


@pytest.mark.usefixtures("job")
def test_each_due_time_makes_a_task_of_its_own(api: Api, clock: Clock) -> None:
    add(api)
    for _ in range(3):
        clock.advance(3600)
        assert run_due(clock) == 1
    assert len(made(api)) == 3


@pytest.mark.usefixtures("job")
def test_the_history_of_the_task_names_its_schedule(api: Api, clock: Clock) -> None:
    schedule = add(api)
    clock.advance(3601)
    run_due(clock)
    [log] = api.get(f"/api/tasks/{made(api)[0]['id']}/logs")["logs"]
    assert (log["event"], log["status"]) == ("created", "pending")
    assert log["message"] == "schedule 'report' was due 2026-01-15T13:00:00.000Z"
    assert log["metadata"] == {
        "schedule_id": schedule["id"],
        "due_at": "2026-01-15T13:00:00.000Z",
    }


@pytest.mark.usefixtures("job")
def test_priority_and_attempts_come_from_the_type_where_the_schedule_leaves_them_open(
    api: Api, clock: Clock
) -> None:
    api.patch("/api/task-types/job", {"priority": 8, "max_attempts": 9})
    add(api)
    clock.advance(3600)
    run_due(clock)
    [task] = made(api)
    assert (task["priority"], task["max_attempts"]) == (8, 9)


@pytest.mark.usefixtures("job")
def test_tags_and_the_webhook_come_from_the_schedule_or_from_the_type(
    api: Api, clock: Clock
) -> None:
    for name in ("billing", "ops"):
        api.post("/api/webhooks", {"name": name, "url": "https://nowhere.invalid/"}, 201)
    api.patch("/api/task-types/job", {"notify": "ops"})
    schedule = add(api, tags=["nightly", "a b", "nightly"], notify="billing")
    assert (schedule["tags"], schedule["notify"]) == (["nightly", "a b"], "billing")
    clock.advance(3_600)
    run_due(clock)
    api.post(f"/api/schedules/{schedule['id']}/run", {}, 201)
    for task in made(api):
        assert (task["tags"], task["notify"]) == (["nightly", "a b"], "billing")
    assert api.get("/api/tasks?tag=nightly")["count"] == 2
    changed = api.patch(f"/api/schedules/{schedule['id']}", {"tags": [], "notify": None})
    assert (changed["tags"], changed["notify"]) == ([], None)
    api.post(f"/api/schedules/{schedule['id']}/run", {}, 201)
    last = made(api)[-1]
    assert (last["tags"], last["notify"]) == ([], "ops")


@pytest.mark.usefixtures("job")
def test_a_webhook_that_does_not_exist_is_refused(api: Api) -> None:
    assert add(api, status=400, notify="nobody")["code"] == "webhook_not_found"
    schedule = add(api)
    refused = api.patch(f"/api/schedules/{schedule['id']}", {"notify": "nobody"}, 400)
    assert refused["code"] == "webhook_not_found"
    assert shown(api, schedule) == schedule


@pytest.mark.usefixtures("job")
def test_a_host_that_was_asleep_catches_up_once(api: Api, clock: Clock) -> None:
    cron = add(api, cron="*/10 * * * *")
    interval = add(api, name="often", interval_seconds=7)
    clock.advance(30 * 86_400 + 65 * 60)  # 4,326 and 370,842 due times have passed
    assert run_due(clock) == 2
    assert run_due(clock) == 0
    assert len(made(api)) == 2

    assert shown(api, cron)["last_run_at"] == "2026-02-14T13:00:00.000Z"
    assert shown(api, cron)["next_run_at"] == "2026-02-14T13:10:00.000Z"
    seconds = 30 * 86_400 + 65 * 60
    latest, following = seconds - seconds % 7, seconds - seconds % 7 + 7
    assert parse_time(shown(api, interval)["last_run_at"]) == parse_time(NOON) + latest * 1000
    assert parse_time(shown(api, interval)["next_run_at"]) == parse_time(NOON) + following * 1000


@pytest.mark.usefixtures("job")
def test_an_interval_keeps_its_step_however_late_it_is_noticed(api: Api, clock: Clock) -> None:
    schedule = add(api, interval_seconds=60)
    assert schedule["next_run_at"] == "2026-01-15T12:01:00.000Z"
    clock.advance(60 + 59)
    assert run_due(clock) == 1
    assert shown(api, schedule)["next_run_at"] == "2026-01-15T12:02:00.000Z"


@pytest.mark.usefixtures("job")
def test_several_schedules_run_the_longest_overdue_first(api: Api, clock: Clock) -> None:
    add(api, name="second", cron="30 12 * * *", params={"n": 2})
    add(api, name="first", cron="10 12 * * *", params={"n": 1})
    add(api, name="later", cron="0 14 * * *", params={"n": 3})
    clock.advance(3600)
    assert run_due(clock) == 2
    assert [task["params"]["n"] for task in made(api)] == [1, 2]


@pytest.mark.usefixtures("job")
def test_a_run_stops_at_its_deadline_and_the_rest_is_left_for_the_next(
    api: Api, clock: Clock
) -> None:
    for number in range(3):
        add(api, name=f"report {number}")
    clock.advance(3600)
    past = time.monotonic() - 1
    assert runs.run_due_schedules(now=clock.now, defaults=DEFAULTS, deadline=past) == 1
    assert run_due(clock) == 2


@pytest.mark.usefixtures("job")
def test_an_inactive_schedule_makes_nothing_and_nothing_is_made_up_for(
    api: Api, clock: Clock
) -> None:
    schedule = add(api, is_active=False)
    assert (schedule["is_active"], schedule["next_run_at"], schedule["next_runs"]) == (
        False,
        None,
        [],
    )
    clock.advance(3 * 3600)
    assert run_due(clock) == 0

    active = api.patch(f"/api/schedules/{schedule['id']}", {"is_active": True})
    assert active["next_run_at"] == "2026-01-15T16:00:00.000Z"
    assert run_due(clock) == 0

    api.patch(f"/api/schedules/{schedule['id']}", {"is_active": False})
    clock.advance(3 * 3600)
    assert run_due(clock) == 0
    assert made(api) == []


@pytest.mark.usefixtures("job")
def test_a_changed_timing_moves_the_next_run(api: Api, clock: Clock) -> None:
    schedule = add(api)
    path = f"/api/schedules/{schedule['id']}"
    assert api.patch(path, {"cron": "30  6 * * *"})["cron"] == "30 6 * * *"
    assert api.get(path)["next_run_at"] == "2026-01-16T06:30:00.000Z"

    in_berlin = api.patch(path, {"timezone": "Europe/Berlin"})
    assert in_berlin["next_run_at"] == "2026-01-16T05:30:00.000Z"

    every_minute = api.patch(path, {"interval_seconds": 60})
    assert (every_minute["cron"], every_minute["timezone"]) == (None, "UTC")
    assert every_minute["next_run_at"] == "2026-01-15T12:01:00.000Z"

    clock.advance(30)
    assert api.patch(path, {"interval_seconds": 60})["next_run_at"] == every_minute["next_run_at"]
    again = api.patch(path, {"cron": "0 0 * * *", "timezone": "America/New_York"})
    assert (again["interval_seconds"], again["next_run_at"]) == (None, "2026-01-16T05:00:00.000Z")


@pytest.mark.usefixtures("job")
def test_changed_params_and_name_are_used_by_the_next_run_and_leave_its_time(
    api: Api, clock: Clock
) -> None:
    schedule = add(api)
    clock.advance(60)
    changes = {"name": "other", "params": {"x": 1}, "priority": 3, "max_attempts": 2}
    changed = api.patch(f"/api/schedules/{schedule['id']}", changes)
    assert {name: changed[name] for name in changes} == changes
    assert changed["next_run_at"] == schedule["next_run_at"]
    assert changed["updated_at"] == "2026-01-15T12:01:00.000Z"

    clock.advance(3600)
    run_due(clock)
    [task] = made(api)
    assert (task["params"], task["priority"], task["max_attempts"]) == ({"x": 1}, 3, 2)

    unset = api.patch(f"/api/schedules/{schedule['id']}", {"priority": None, "max_attempts": None})
    assert (unset["priority"], unset["max_attempts"]) == (None, None)


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize(
    "cron", ["*/60 * * * *", "0 */24 * * *", "0 0 */31 * *", "0 0 1 */12 *", "0 0 * * */7"]
)
def test_a_step_as_long_as_its_field_is_taken(api: Api, cron: str) -> None:
    assert add(api, cron=cron)["cron"] == cron


@pytest.mark.usefixtures("job")
def test_a_schedule_with_a_step_beyond_its_field_from_before_runs_and_can_be_changed(
    api: Api, clock: Clock
) -> None:
    schedule = add(api)
    execute("UPDATE schedules SET cron = '*/90 * * * *'")
    clock.advance(3600)
    assert run_due(clock) == 1
    path = f"/api/schedules/{schedule['id']}"
    for changes in ({"name": "renamed"}, {"is_active": False}, {"is_active": True}):
        changed = api.patch(path, changes)
    assert changed["next_run_at"] == "2026-01-15T14:00:00.000Z"
    assert "in steps of 90" in api.patch(path, {"cron": "*/90 * * * *"}, 400)["message"]


@pytest.mark.usefixtures("job")
def test_a_deleted_schedule_makes_nothing_more_and_leaves_its_tasks(api: Api, clock: Clock) -> None:
    schedule = add(api)
    clock.advance(3600)
    run_due(clock)
    assert api.delete(f"/api/schedules/{schedule['id']}")["name"] == "report"
    clock.advance(3600)
    assert run_due(clock) == 0
    assert len(made(api)) == 1
    gone = api.get(f"/api/schedules/{schedule['id']}", 404)
    assert gone["code"] == "schedule_not_found"
    assert api.delete(f"/api/schedules/{schedule['id']}", 404)["code"] == "schedule_not_found"
    assert api.patch(f"/api/schedules/{schedule['id']}", {"cron": "* * * * *"}, 404)
    assert add(api)["id"] != schedule["id"]


@pytest.mark.usefixtures("job")
def test_a_run_for_an_inactive_type_fails_and_the_next_one_is_awaited(
    api: Api, clock: Clock
) -> None:
    schedule = add(api)
    api.patch("/api/task-types/job", {"is_active": False})
    clock.advance(3600)
    assert run_due(clock) == 0
    after = shown(api, schedule)
    assert (after["last_outcome"], after["last_task_id"]) == ("failed", None)
    assert after["last_error"] == "Task type 'job' is not active and takes no new tasks."
    assert (after["last_run_at"], after["next_run_at"], after["is_active"]) == (
        "2026-01-15T13:00:00.000Z",
        "2026-01-15T14:00:00.000Z",
        True,
    )

    api.patch("/api/task-types/job", {"is_active": True})
    clock.advance(3600)
    assert run_due(clock) == 1
    after = shown(api, schedule)
    assert (after["last_outcome"], after["last_error"]) == ("created", None)


@pytest.mark.usefixtures("job")
def test_a_run_whose_params_no_longer_fit_the_type_fails(api: Api, clock: Clock) -> None:
    schedule = add(api, params={"a": 1})
    api.register(schema={"type": "object", "required": ["b"]})
    clock.advance(3600)
    assert run_due(clock) == 0
    after = shown(api, schedule)
    assert after["last_outcome"] == "failed"
    assert "params.b is required" in after["last_error"]
    assert after["next_run_at"] == "2026-01-15T14:00:00.000Z"
    assert made(api) == []


@pytest.mark.usefixtures("job")
def test_a_schedule_whose_zone_is_gone_from_the_host_becomes_inactive(
    api: Api, clock: Clock
) -> None:
    schedule = add(api)
    execute("UPDATE schedules SET timezone = 'Atlantis/Capital'")
    assert shown(api, schedule)["next_runs"] == [schedule["next_run_at"]]
    clock.advance(3600)
    assert run_due(clock) == 0
    after = shown(api, schedule)
    assert (after["is_active"], after["next_run_at"], after["last_outcome"]) == (
        False,
        None,
        "failed",
    )
    assert "Atlantis/Capital" in after["last_error"]
    mended = api.patch(f"/api/schedules/{schedule['id']}", {"timezone": "UTC", "is_active": True})
    assert mended["next_run_at"] == "2026-01-15T14:00:00.000Z"


@pytest.mark.usefixtures("job")
def test_runs_that_may_not_overlap_are_skipped_while_the_last_task_is_unfinished(
    api: Api, clock: Clock
) -> None:
    schedule = add(api, overlap="skip")
    clock.advance(3600)
    assert run_due(clock) == 1
    claimed = api.claim()

    clock.advance(60 * 60)
    assert run_due(clock) == 0
    after = shown(api, schedule)
    assert (after["last_outcome"], after["last_task_id"]) == ("skipped", claimed["id"])
    assert (after["last_run_at"], after["next_run_at"]) == (
        "2026-01-15T14:00:00.000Z",
        "2026-01-15T15:00:00.000Z",
    )

    api.complete(claimed)
    clock.advance(3600)
    assert run_due(clock) == 1
    assert shown(api, schedule)["last_outcome"] == "created"
    assert len(made(api)) == 2


@pytest.mark.usefixtures("job")
def test_the_task_of_a_due_time_is_not_made_twice_where_the_schedule_is_set_back(
    api: Api, clock: Clock
) -> None:
    schedule = add(api)
    clock.advance(3600)
    assert run_due(clock) == 1
    execute("UPDATE schedules SET next_run_at = last_run_at")  # an older backup was put back
    assert run_due(clock) == 0
    after = shown(api, schedule)
    assert (after["last_outcome"], after["last_task_id"]) == ("skipped", made(api)[0]["id"])
    assert len(made(api)) == 1


@pytest.mark.usefixtures("job")
def test_a_run_that_dies_in_the_middle_leaves_the_schedule_due(
    api: Api, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    schedule = add(api)
    clock.advance(3600)
    with monkeypatch.context() as patch:
        patch.setattr(history, "record", die)  # the task's row is in, its history is not
        with pytest.raises(KeyboardInterrupt):
            run_due(clock)
    assert shown(api, schedule) == schedule
    assert made(api) == []
    assert run_due(clock) == 1


@pytest.mark.usefixtures("job")
def test_a_run_leaves_alone_what_a_caller_has_changed_since_it_looked(
    api: Api, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = add(api, params={"old": True})
    clock.advance(3600)
    now, prepare_task = clock.now, create.prepare_task

    def change_meanwhile(*arguments: Any, **options: Any) -> Any:
        definitions.change_schedule(
            schedule_id=schedule["id"],
            changes={"params": {"new": True}},
            caller=OPERATOR,
            now=now,
        )
        return prepare_task(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(create, "prepare_task", change_meanwhile)
        assert run_due(clock) == 0
    assert run_due(clock) == 1
    assert [task["params"] for task in made(api)] == [{"new": True}]


@pytest.mark.usefixtures("job")
def test_two_schedules_of_the_same_type_and_params_both_run(api: Api, clock: Clock) -> None:
    add(api, name="a")
    add(api, name="b")
    api.create(dedupe="forever")
    clock.advance(3600)
    assert run_due(clock) == 2
    assert len(made(api)) == 3


@pytest.mark.usefixtures("job")
def test_a_schedule_can_be_run_by_hand(api: Api, clock: Clock) -> None:
    schedule = add(api, params={"a": 1}, is_active=False)
    path = f"/api/schedules/{schedule['id']}/run"
    first, second = api.post(path, status=201), api.post(path, status=201)
    assert first["id"] != second["id"]
    assert (first["params"], first["type"], first["deduplicated"]) == ({"a": 1}, "job", False)
    [log] = api.get(f"/api/tasks/{first['id']}/logs")["logs"]
    assert log["message"] == "schedule 'report' was run by hand"
    assert log["api_key_id"] is not None
    assert shown(api, schedule) == schedule


@pytest.mark.usefixtures("job")
def test_a_run_by_hand_counts_as_the_last_task_where_runs_may_not_overlap(
    api: Api, clock: Clock
) -> None:
    schedule = add(api, overlap="skip")
    by_hand = api.post(f"/api/schedules/{schedule['id']}/run", status=201)
    again = api.post(f"/api/schedules/{schedule['id']}/run")
    assert (again["id"], again["deduplicated"]) == (by_hand["id"], True)
    clock.advance(3600)
    assert run_due(clock) == 0
    assert shown(api, schedule)["last_task_id"] == by_hand["id"]


@pytest.mark.usefixtures("job")
def test_the_claim_that_notices_a_due_schedule_is_given_its_task(api: Api, clock: Clock) -> None:
    schedule = add(api)
    api.claim(status=404)
    clock.advance(3600)
    assert api.claim()["id"] == shown(api, schedule)["last_task_id"]
    api.claim(status=404)


@pytest.mark.usefixtures("job")
def test_a_schedule_that_cannot_run_keeps_no_worker_from_its_tasks(api: Api, clock: Clock) -> None:
    schedule = add(api)
    api.register("other")
    task = api.create("other")
    api.patch("/api/task-types/job", {"is_active": False})
    clock.advance(3600)
    assert api.claim()["id"] == task["id"]
    assert shown(api, schedule)["last_outcome"] == "failed"


@pytest.mark.usefixtures("job")
def test_maintenance_by_url_runs_what_is_due(api: Api, clock: Clock) -> None:
    add(api)
    clock.advance(3600)
    assert api.post("/api/maintenance/run")["created"] == 1
    assert api.post("/api/maintenance/run")["created"] == 0
    assert len(made(api)) == 1


@pytest.mark.usefixtures("job")
def test_schedules_are_listed_by_name_page_by_page(api: Api) -> None:
    for name in ("c", "a", "B"):
        add(api, name=name)
    page = api.get("/api/schedules")
    assert ([row["name"] for row in page["schedules"]], page["count"]) == (["B", "a", "c"], 3)
    second = api.get("/api/schedules?limit=2&offset=1")
    assert ([row["name"] for row in second["schedules"]], second["count"]) == (["a", "c"], 2)
    assert api.get("/api/schedules?limit=0", 400)["code"] == "invalid_request"
    assert api.get("/api/schedules?page=2", 400)["code"] == "invalid_request"
    assert api.get("/api/schedules?cursor=a&offset=1", 400)["code"] == "invalid_request"


@pytest.mark.usefixtures("job")
def test_a_list_of_schedules_says_that_there_are_more(api: Api) -> None:
    for n in range(60):
        add(api, name=f"schedule {n:02}")
    first = api.get("/api/schedules")
    assert (first["count"], first["total"]) == (50, 60)
    rest = api.get(f"/api/schedules?cursor={quote(first['next_cursor'])}")
    assert (rest["count"], rest["total"], rest["next_cursor"]) == (10, 60, None)
    names = [row["name"] for row in first["schedules"] + rest["schedules"]]
    assert names == [f"schedule {n:02}" for n in range(60)]


@pytest.mark.usefixtures("job")
def test_a_name_is_taken_once(api: Api) -> None:
    add(api)
    assert add(api, status=409)["code"] == "schedule_exists"
    other = add(api, name="Report")
    refused = api.patch(f"/api/schedules/{other['id']}", {"name": "report"}, 409)
    assert refused["code"] == "schedule_exists"
    assert shown(api, other)["name"] == "Report"


def test_changes_by_callers_are_recorded(api: Api, clock: Clock, job: None) -> None:
    schedule = add(api)
    path = f"/api/schedules/{schedule['id']}"
    api.patch(path, {"cron": "5 * * * *", "params": {"secret": 1}})
    api.patch(path, {"cron": "5 * * * *"})  # changes nothing
    api.delete(path)
    events = reversed(api.get("/api/admin/audit")["events"])
    named = f"schedule {schedule['id']} (report)"
    recorded = [(row["event"], row["message"]) for row in events]
    assert [one for one in recorded if one[0].startswith("schedule_")] == [
        ("schedule_created", f"{named} made by admin"),
        ("schedule_changed", f"{named} changed by admin: cron = 5 * * * *, params"),
        ("schedule_deleted", f"{named} removed by admin"),
    ]


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize(
    ("cron", "says"),
    [
        ("61 * * * *", "bad minute: '61'"),
        ("0 24 * * *", "bad hour: '24'"),
        ("0 0 32 * *", "bad day of month: '32'"),
        ("0 0 1 FOO *", "bad month: 'FOO'"),
        ("0 0 * * 9", "bad day of week: '9'"),
        ("*/0 * * * *", "bad minute: '*/0'"),
        ("*/90 * * * *", "in steps of 90 in its minute '*/90', which has 60 values"),
        ("5,0-59/61 * * * *", "in steps of 61 in its minute '5,0-59/61'"),
        ("0 8/25 * * *", "in steps of 25 in its hour '8/25', which has 24 values"),
        ("0 0 */32 * *", "in steps of 32 in its day of month '*/32', which has 31 values"),
        ("0 0 1 JAN/13 *", "in steps of 13 in its month 'JAN/13', which has 12 values"),
        ("0 0 * * */8", "in steps of 8 in its day of week '*/8', which has 7 values"),
        ("0 0 31 2 *", "never falls due"),
        ("0 0 */20 * 1L", "never falls due"),
        ("* * * *", "must have five fields"),
        ("0 * * * * *", "must have five fields"),
        ("@daily", "must have five fields"),
        ("", "must have five fields"),
    ],
)
def test_a_cron_expression_that_cannot_be_used_is_refused_by_its_field(
    api: Api, cron: str, says: str
) -> None:
    refused = add(api, status=400, cron=cron)
    assert refused["code"] == "invalid_request"
    assert refused["details"][0]["path"] == "cron"
    assert says in refused["message"]

    schedule = add(api)
    refused = api.patch(f"/api/schedules/{schedule['id']}", {"cron": cron}, 400)
    assert says in refused["message"]
    assert shown(api, schedule) == schedule


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize(
    "zone",
    ["Europe/Berln", "europe/berlin", "../UTC", "/etc/localtime", "", "localtime", "right/UTC"],
)
def test_a_time_zone_that_is_none_is_refused(api: Api, zone: str) -> None:
    refused = add(api, status=400, timezone=zone)
    assert refused["details"][0]["path"] == "timezone"
    assert "is not a known time zone" in refused["message"]


@pytest.mark.usefixtures("job")
def test_a_misspelt_time_zone_is_answered_with_the_nearest_one(api: Api) -> None:
    refused = add(api, status=400, timezone="Europe/Berln")
    assert refused["message"].endswith("did you mean 'Europe/Berlin'?")


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"cron": "* * * * *", "interval_seconds": 5}, "not both"),
        ({"interval_seconds": 5, "timezone": "UTC"}, "timezone goes with cron"),
        ({"interval_seconds": 0}, "interval_seconds must be at least 1"),
        ({"interval_seconds": 31_622_401}, "interval_seconds must be at most"),
        ({"interval_seconds": 1.5}, "interval_seconds must be of type integer"),
        ({"cron": 5}, "cron must be of type string"),
        ({"cron": "0 " * 60}, "cron must have at most 100 characters"),
        ({"name": ""}, "name must have at least 1"),
        ({"name": "n" * 256}, "name must have at most 255"),
        ({"overlap": "maybe"}, "overlap must be one of"),
        ({"params": [1]}, "params must be of type object"),
        ({"tags": "nightly"}, "tags must be of type array"),
        ({"tags": [str(n) for n in range(11)]}, "tags must have at most 10"),
        ({"max_attempts": 0}, "max_attempts must be at least 1"),
        ({"crn": "* * * * *"}, "did you mean 'cron'?"),
    ],
)
def test_a_field_that_is_wrong_is_refused_by_name(
    api: Api, fields: dict[str, Any], says: str
) -> None:
    refused = add(api, status=400, **fields)
    assert refused["code"] == "invalid_request"
    assert says in refused["message"]


@pytest.mark.usefixtures("job")
def test_a_schedule_needs_a_timing_and_a_change_something_to_change(api: Api) -> None:
    body = {"name": "report", "type": "job", "params": {}}
    assert "needs a cron expression" in api.post("/api/schedules", body, 400)["message"]
    schedule = add(api)
    path = f"/api/schedules/{schedule['id']}"
    assert "Nothing to change" in api.patch(path, {}, 400)["message"]
    assert "type" in api.patch(path, {"type": "other"}, 400)["message"]
    both = {"cron": "* * * * *", "interval_seconds": 5}
    assert "not both" in api.patch(path, both, 400)["message"]


@pytest.mark.usefixtures("job")
def test_params_must_fit_the_type_when_the_schedule_is_made_and_changed(api: Api) -> None:
    api.register(schema={"type": "object", "properties": {"a": {"type": "integer"}}})
    refused = add(api, status=400, params={"a": "x"})
    assert (refused["code"], refused["details"][0]["path"]) == ("validation_failed", "params.a")
    schedule = add(api, params={"a": 1})
    refused = api.patch(f"/api/schedules/{schedule['id']}", {"params": {"a": "x"}}, 400)
    assert refused["code"] == "validation_failed"
    assert shown(api, schedule)["params"] == {"a": 1}


@pytest.mark.usefixtures("job")
def test_a_schedule_needs_a_type_that_is_registered_and_active(api: Api) -> None:
    assert add(api, status=404, type="nothing")["code"] == "task_type_not_found"
    api.patch("/api/task-types/job", {"is_active": False})
    assert add(api, status=400)["code"] == "task_type_inactive"


@pytest.mark.usefixtures("job")
def test_to_a_key_limited_to_other_types_a_schedule_is_not_there(api: Api) -> None:
    api.register("mine")
    schedule = add(api)
    limited = api.with_key(make_key("admin", task_types=["mine"]))
    path = f"/api/schedules/{schedule['id']}"
    refusals = [
        limited.get(path, 404),
        limited.patch(path, {"is_active": False}, 404),
        limited.delete(path, 404),
        limited.post(f"{path}/run", status=404),
    ]
    assert {refused["code"] for refused in refusals} == {"schedule_not_found"}
    assert add(limited, status=403)["code"] == "task_type_not_allowed"
    own = add(limited, name="own", type="mine")
    assert [row["id"] for row in limited.get("/api/schedules")["schedules"]] == [own["id"]]
    nobody = api.with_key(make_key("admin", task_types=["other.%"]))
    empty = nobody.get("/api/schedules")
    nothing = {"schedules": [], "count": 0, "total": 0, "total_is_exact": True}
    assert empty == {**nothing, "next_cursor": None}
    assert shown(api, schedule) == schedule


@pytest.mark.usefixtures("job")
def test_each_call_needs_its_scope(api: Api) -> None:
    schedule = add(api)
    path = f"/api/schedules/{schedule['id']}"
    viewer, worker = api.with_key(make_key("viewer")), api.with_key(make_key("worker"))
    assert viewer.get(path) == schedule
    assert worker.get("/api/schedules")["count"] == 1
    refusals = [
        add(viewer, status=403),
        viewer.patch(path, {"is_active": False}, 403),
        viewer.delete(path, 403),
        viewer.post(f"{path}/run", status=403),
    ]
    assert {refused["code"] for refused in refusals} == {"scope_missing"}
    producer = api.with_key(make_key("producer"))
    assert producer.post(f"{path}/run", status=201)["type"] == "job"
    assert producer.delete(path)["id"] == schedule["id"]


def due_times_around(api: Api, clock: Clock, start: str, cron: str) -> list[str]:
    """When a schedule in Berlin makes its tasks, the clock moved from one due time to the next."""
    clock.now = parse_time(start)
    schedule = add(api, cron=cron, timezone="Europe/Berlin")
    assert schedule["next_runs"][0] == schedule["next_run_at"]
    for due_at in schedule["next_runs"]:
        clock.now = parse_time(due_at)
        assert run_due(clock) == 1
    assert len(made(api)) == 5
    times: list[str] = [due_at[5:16] for due_at in schedule["next_runs"]]
    return times


# On 29 March 2026 the clocks of Berlin go from 2:00 to 3:00 (01:00 UTC), on 25 October from
# 3:00 back to 2:00 (01:00 UTC).
@pytest.mark.usefixtures("job")
@pytest.mark.parametrize(
    ("start", "cron", "expected"),
    [
        # In the hour that is left out: at once when it is over.
        (
            "2026-03-28T00:00:00Z",
            "30 2 * * *",
            ["03-28T01:30", "03-29T01:00", "03-30T00:30", "03-31T00:30", "04-01T00:30"],
        ),
        # In the hour that comes twice: the first time only.
        (
            "2026-10-24T00:00:00Z",
            "30 2 * * *",
            ["10-24T00:30", "10-25T00:30", "10-26T01:30", "10-27T01:30", "10-28T01:30"],
        ),
        # More often than hourly: by the time that really passes.
        (
            "2026-03-29T00:00:00Z",
            "*/30 * * * *",
            ["03-29T00:30", "03-29T01:00", "03-29T01:30", "03-29T02:00", "03-29T02:30"],
        ),
        (
            "2026-10-25T00:00:00Z",
            "*/30 * * * *",
            ["10-25T00:30", "10-25T01:00", "10-25T01:30", "10-25T02:00", "10-25T02:30"],
        ),
        # Begun in the second of the two hours: the first one is not made up for.
        (
            "2026-10-25T01:15:00Z",
            "30 2 * * *",
            ["10-26T01:30", "10-27T01:30", "10-28T01:30", "10-29T01:30", "10-30T01:30"],
        ),
    ],
)
def test_clocks_that_change_neither_lose_nor_double_a_run(
    api: Api, clock: Clock, start: str, cron: str, expected: list[str]
) -> None:
    assert due_times_around(api, clock, start, cron) == expected


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize(
    ("asleep_until", "last", "following"),
    [
        ("2026-03-29T00:59:00Z", "2026-03-28T01:30", "2026-03-29T01:00"),
        ("2026-03-29T01:00:00Z", "2026-03-29T01:00", "2026-03-30T00:30"),
        ("2026-10-25T00:29:00Z", "2026-10-24T00:30", "2026-10-25T00:30"),
        ("2026-10-25T00:45:00Z", "2026-10-25T00:30", "2026-10-26T01:30"),
        ("2026-10-25T01:15:00Z", "2026-10-25T00:30", "2026-10-26T01:30"),
        ("2026-10-25T01:45:00Z", "2026-10-25T00:30", "2026-10-26T01:30"),
    ],
)
def test_a_host_that_wakes_while_clocks_change_takes_the_latest_due_time(
    api: Api, clock: Clock, asleep_until: str, last: str, following: str
) -> None:
    schedule = add(api, cron="30 2 * * *", timezone="Europe/Berlin")
    clock.now = parse_time(asleep_until)
    assert run_due(clock) == 1
    after = shown(api, schedule)
    assert (after["last_run_at"][:16], after["next_run_at"][:16]) == (last, following)
