"""`concurrency` per key, and groups that take turns."""

import threading
import time
from collections import Counter
from typing import Any

import pytest

from taskmanager.access.caller import OPERATOR
from taskmanager.clock import utc_now
from taskmanager.db.connection import close_connection, database
from taskmanager.db.statements import execute, fetch_all, fetch_value
from taskmanager.db.transactions import write_transaction
from taskmanager.queue.complete import Completion, complete_task
from taskmanager.queue.flow import lanes
from tests.conftest import Api, Clock

PER_KEY = {"limit": 1, "per": "key"}


@pytest.fixture
def job(api: Api) -> Api:
    api.register("job", concurrency={"limit": 1, "per": "key"})
    return api


@pytest.fixture
def fair(api: Api) -> Api:
    api.register("fair", fair=True)
    return api


def create(
    api: Api, key: str | None, count: int = 1, name: str = "job", **fields: Any
) -> list[Any]:
    if key is not None:
        fields["group_key" if name == "fair" else "concurrency_key"] = key
    made = []
    for n in range(count):
        body = {"type": name, "params": {"key": key, "n": n}, "dedupe": "none", **fields}
        made.append(api.post("/api/tasks", body, 201))
    return made


def claim_all(api: Api, **fields: Any) -> list[Any]:
    """Claims one task after the other until there is none."""
    held = []
    while True:
        answer = api.call("POST", "/api/tasks/claim", {"worker_id": "worker-1", **fields})
        if answer.status_code == 404:
            return held
        held.append(answer.get_json()["data"])


def keys(tasks: list[Any]) -> list[str | None]:
    return [task["params"]["key"] for task in tasks]


def assert_all_gone() -> None:
    assert fetch_all("SELECT * FROM {lanes}") == []
    assert fetch_all("SELECT * FROM {lane_members}") == []


def test_one_task_of_each_key_is_held_at_a_time(job: Api) -> None:
    create(job, "a", 3)
    create(job, "b", 2)
    held = claim_all(job)
    assert keys(held) == ["a", "b"]
    job.complete(held[0])
    assert keys(claim_all(job)) == ["a"]


def test_a_claim_of_several_passes_by_what_may_not_run(job: Api) -> None:
    create(job, "a", 30)
    create(job, "b", 2)
    create(job, "c", 1)
    assert keys(job.claim(limit=10)["tasks"]) == ["a", "b", "c"]
    job.claim(limit=10, status=404)


def test_the_most_urgent_of_a_key_is_next_and_the_most_urgent_key_first(job: Api) -> None:
    create(job, "a", 1)
    create(job, "b", 1)
    [urgent] = create(job, "b", 1, priority=5)
    held = claim_all(job)
    assert keys(held) == ["b", "a"]
    assert held[0]["id"] == urgent["id"]


def test_another_priority_counts_within_the_key(job: Api) -> None:
    first, second = create(job, "a", 2)
    job.patch(f"/api/tasks/{second['id']}", {"priority": 9})
    assert job.claim()["id"] == second["id"]
    job.post("/api/tasks/update", {"ids": [first["id"]], "priority": -3})
    assert fetch_value("SELECT claim_rank FROM {lane_members} WHERE is_held = 0") == 3


def test_tasks_without_a_key_have_no_limit(job: Api) -> None:
    created = create(job, None, 3)
    assert created[0]["concurrency_key"] is None
    create(job, "a", 2)
    held = claim_all(job)
    assert keys(held) == [None, None, None, "a"]
    for task in held:
        job.complete(task)
    job.complete(job.claim())
    assert_all_gone()


def test_a_limit_above_one_holds_for_each_key(job: Api) -> None:
    job.patch("/api/task-types/job", {"concurrency": {"limit": 3, "per": "key"}})
    create(job, "a", 5)
    create(job, "b", 2)
    assert Counter(keys(job.claim(limit=100)["tasks"])) == {"a": 3, "b": 2}


@pytest.mark.parametrize(
    "ending", ["complete", "fail", "retry", "delay", "release", "cancel", "bulk", "shutdown"]
)
def test_whatever_ends_an_attempt_lets_the_next_of_the_key_run(job: Api, ending: str) -> None:
    [one, two] = create(job, "a", 2)
    held = job.claim()
    assert held["id"] == one["id"]
    path = f"/api/tasks/{held['id']}"
    body = {"worker_id": "worker-1", "claim_token": held["claim_token"]}
    failure = {**body, "success": False, "error": "x"}
    if ending == "complete":
        job.complete(held)
    elif ending == "fail":
        job.post(f"{path}/complete", {**failure, "is_retryable": False})
    elif ending == "retry":
        job.post(f"{path}/complete", failure)
    elif ending == "delay":
        job.post(f"{path}/complete", {**failure, "retry_after_seconds": 60})
    elif ending == "release":
        job.post(f"{path}/release", {**body, "delay_seconds": 60})
    elif ending == "cancel":
        job.post(f"{path}/cancel", {})
    elif ending == "bulk":
        job.post("/api/tasks/cancel", {"ids": [held["id"]]})
    else:
        job.post("/api/workers/worker-1/shutdown", {})
    [again] = claim_all(job)
    assert again["id"] == (one if ending in ("retry", "shutdown") else two)["id"]


def test_a_delayed_and_a_retried_task_wait_for_their_key(job: Api, clock: Clock) -> None:
    [one] = create(job, "a", 1, delay_seconds=60)
    [two] = create(job, "a", 1)
    job.post(f"/api/tasks/{two['id']}/cancel", {})
    [three] = create(job, "a", 1)
    assert job.claim()["id"] == three["id"]
    job.post(f"/api/tasks/{two['id']}/retry", {})
    clock.advance(61)
    job.claim(status=404)
    job.post(f"/api/tasks/{three['id']}/cancel", {})
    assert job.claim()["id"] == one["id"]


def test_a_task_that_waits_for_its_key_says_so(job: Api) -> None:
    [one, two] = create(job, "a", 2)
    assert job.get(f"/api/tasks/{one['id']}")["waiting_because"]["code"] == "no_worker"
    job.claim()
    reason = job.get(f"/api/tasks/{two['id']}")["waiting_because"]
    assert reason["code"] == "concurrency"
    assert "'a'" in reason["message"]


def test_an_expired_lease_is_restored_only_where_the_key_has_room(job: Api, clock: Clock) -> None:
    [one, two] = create(job, "a", 2)
    late = job.claim(lease_seconds=10)
    clock.advance(11)
    job.post("/api/maintenance/run", {})
    job.patch(f"/api/tasks/{two['id']}", {"priority": 9})
    other = job.claim(lease_seconds=10)
    assert other["id"] == two["id"]
    path, body = f"/api/tasks/{one['id']}/heartbeat", {"worker_id": "worker-1"}
    body["claim_token"] = late["claim_token"]
    assert job.post(path, body, 409)["code"] == "claim_lost"
    job.complete(other)
    job.post(path, body)
    create(job, "a", 1)
    job.claim(status=404)


def test_one_heartbeat_restores_no_more_than_the_key_has_room_for(job: Api, clock: Clock) -> None:
    job.patch("/api/task-types/job", {"concurrency": {"limit": 3, "per": "key"}})
    create(job, "a", 3)
    held = job.claim(limit=3, lease_seconds=10)["tasks"]
    clock.advance(11)
    job.post("/api/maintenance/run", {})
    job.patch("/api/task-types/job", {"concurrency": {"limit": 2, "per": "key"}})
    named = [{"id": task["id"], "claim_token": task["claim_token"]} for task in held]
    beat = job.post("/api/workers/heartbeat", {"worker_id": "worker-1", "tasks": named})
    assert (len(beat["renewed"]), len(beat["lost"])) == (2, 1)


def test_an_expired_task_makes_room_in_its_lane(job: Api, clock: Clock) -> None:
    create(job, "a", 1, expires_in_seconds=5)
    [two] = create(job, "a", 1)
    clock.advance(6)
    assert job.claim()["id"] == two["id"]


def test_a_limit_per_key_counts_what_is_held_already(api: Api) -> None:
    api.register("job")
    create(api, "a", 3)
    create(api, "b", 1)
    assert keys([api.claim()]) == ["a"]
    api.patch("/api/task-types/job", {"concurrency": {"limit": 1, "per": "key"}})
    assert keys(claim_all(api)) == ["b"]
    api.patch("/api/task-types/job", {"concurrency": {"limit": 2, "per": "key"}})
    assert keys(claim_all(api)) == ["a"]
    api.patch("/api/task-types/job", {"concurrency": None})
    assert keys(claim_all(api)) == ["a"]


def test_tasks_from_before_the_limit_that_have_no_key_are_claimed(api: Api) -> None:
    api.register("job")
    create(api, None, 120)
    api.patch("/api/task-types/job", {"concurrency": {"limit": 1, "per": "key"}})
    create(api, "a", 2)
    held = [task for _ in range(2) for task in api.claim(limit=100)["tasks"]]
    assert Counter(keys(held)) == {None: 120, "a": 1}


@pytest.mark.parametrize("is_fair", [False, True])
@pytest.mark.parametrize("how", ["change", "register", "maintenance"])
def test_tasks_without_a_key_take_their_turn_though_many_with_a_key_come_before(
    api: Api, how: str, is_fair: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "STRAGGLERS_READ", 2)
    monkeypatch.setattr(lanes, "WALKED", 3)
    name, setting = ("fair", {"fair": True}) if is_fair else ("job", {"concurrency": PER_KEY})
    api.register(name)
    create(api, "a", 5, name)
    create(api, None, 4, name)
    if how == "maintenance":
        monkeypatch.setattr(lanes, "WALKED_AT_ONCE", 0)
    if how == "register":
        api.register(name, **setting)
    else:
        api.patch(f"/api/task-types/{name}", setting)
    if how == "maintenance":
        api.post("/api/maintenance/run", {})
    create(api, "b", 1, name)
    taken = keys(claim_all(api))
    assert taken[:3] == ["a", None, "b"] if is_fair else taken == ["a", *[None] * 4, "b"]


def test_tasks_that_did_not_wait_for_a_worker_when_the_type_got_its_limit_have_their_lane(
    api: Api, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "STRAGGLERS_READ", 1)
    api.register("job")
    held = [create(api, None)[0], api.claim()][1]
    create(api, "a", 3)
    [delayed] = create(api, None, delay_seconds=60)
    [blocked] = create(api, None, depends_on=[held["id"]])
    api.patch("/api/task-types/job", {"concurrency": PER_KEY})
    api.complete(held)
    clock.advance(61)
    assert {task["id"] for task in claim_all(api)} >= {delayed["id"], blocked["id"]}
    assert fetch_value("SELECT adopted_until FROM {task_types}") is not None
    api.post("/api/maintenance/run", {})
    assert fetch_value("SELECT adopted_until FROM {task_types}") is None


@pytest.mark.parametrize("setting", [{"fair": True}, {"concurrency": PER_KEY}])
@pytest.mark.parametrize("how", ["retry", "bulk", "blocked", "callback"])
def test_a_task_from_before_the_type_had_lanes_has_one_when_it_is_tried_again(
    api: Api, monkeypatch: pytest.MonkeyPatch, setting: Any, how: str
) -> None:
    """And so has a task that a batch creates only then."""
    monkeypatch.setattr(lanes, "STRAGGLERS_READ", 0)
    api.register("job")
    api.register("other")
    [first] = create(api, None, name="other")
    depends_on = {"depends_on": [first["id"]]} if how == "blocked" else {}
    if how == "callback":
        [member, then] = [{"type": name, "params": {}} for name in ("other", "job")]
        api.post("/api/batches", {"tasks": [member], "on_finished": then}, 201)
    else:
        [task] = create(api, None, **depends_on)
        api.post(f"/api/tasks/{task['id']}/cancel", {})
    api.patch("/api/task-types/job", setting)
    if how == "callback":
        for held in api.claim(type="other", limit=10)["tasks"]:
            api.complete(held)
    elif how == "bulk":
        api.post("/api/tasks/retry", {"ids": [task["id"]]})
    else:
        api.post(f"/api/tasks/{task['id']}/retry", {})
    if how == "blocked":
        assert fetch_value("SELECT is_held FROM {lane_members}") == (
            1 if "fair" in setting else None
        )
        api.complete(api.claim(type="other"))
    [held] = claim_all(api, type="job")
    assert held["concurrency_key"] is held["group_key"] is None
    api.complete(held)
    assert_all_gone()


def test_maintenance_brings_tasks_without_a_key_into_their_lane(api: Api) -> None:
    api.register("job")
    create(api, None, 3)
    api.patch("/api/task-types/job", {"concurrency": {"limit": 1, "per": "key"}})
    api.post("/api/maintenance/run", {})
    assert fetch_value("SELECT COUNT(*) FROM {lane_members}") == 3


def test_claims_of_several_types_take_from_lanes_too(job: Api) -> None:
    job.register("other")
    create(job, "a", 3)
    create(job, None, 2, "other", priority=1)
    taken = job.claim(limit=10)["tasks"]
    assert [task["type"] for task in taken] == ["other", "other", "job"]
    create(job, "b", 1, priority=3)
    create(job, None, 1, "other", priority=2)
    assert job.claim()["type"] == "job"


def test_a_key_keeps_the_type_wide_start_rate(job: Api) -> None:
    job.patch("/api/task-types/job", {"start_rate": "2/hour"})
    for key in "abc":
        create(job, key, 1)
    assert keys(claim_all(job)) == ["a", "b"]


def test_keys_come_with_batches_and_schedules(job: Api, clock: Clock) -> None:
    task = {"type": "job", "params": {}, "dedupe": "none", "concurrency_key": "a"}
    callback = {"type": "job", "params": {"end": 1}, "concurrency_key": "a"}
    job.post("/api/batches", {"tasks": [task, task], "on_finished": callback}, 201)
    fields = {"name": "s", "type": "job", "params": {}, "interval_seconds": 60}
    schedule = job.post("/api/schedules", {**fields, "concurrency_key": "a"}, 201)
    assert schedule["concurrency_key"] == "a"
    job.post(f"/api/schedules/{schedule['id']}/run", {}, 201)
    done = 0
    while True:
        held = claim_all(job)
        if not held:
            break
        [one] = held
        assert one["concurrency_key"] == "a"
        job.complete(one)
        done += 1
    assert done == 4
    assert_all_gone()


def test_a_task_that_depended_on_others_waits_for_its_key_then(job: Api) -> None:
    [first] = create(job, "b", 1)
    [one] = create(job, "a", 1)
    [two] = create(job, "a", 1, depends_on=[first["id"]], priority=9)
    assert two["status"] == "blocked"
    assert fetch_value("SELECT COUNT(*) FROM {lane_members}") == 2
    held = claim_all(job)
    assert [task["id"] for task in held] == [first["id"], one["id"]]
    job.complete(held[0])
    found = job.get(f"/api/tasks/{two['id']}")
    assert (found["status"], found["waiting_because"]["code"]) == ("pending", "concurrency")
    job.complete(held[1])
    again = job.claim()
    assert again["id"] == two["id"]
    job.complete(again)
    assert_all_gone()


def test_a_task_that_is_tried_again_with_its_dependency_is_in_no_lane(job: Api) -> None:
    [first] = create(job, "b", 1)
    [two] = create(job, "a", 1, depends_on=[first["id"]])
    job.post(f"/api/tasks/{first['id']}/cancel", {})
    job.post(f"/api/tasks/{first['id']}/retry", {})
    assert job.post(f"/api/tasks/{two['id']}/retry", {})["id"] == two["id"]
    assert job.get(f"/api/tasks/{two['id']}")["status"] == "blocked"
    held = claim_all(job)
    assert [task["id"] for task in held] == [first["id"]]
    job.complete(held[0])
    assert job.claim()["id"] == two["id"]


def test_groups_of_a_fair_type_take_turns(fair: Api) -> None:
    create(fair, "large", 8, "fair")
    create(fair, "small", 3, "fair")
    held = claim_all(fair)
    assert keys(held) == ["large", "small"] * 3 + ["large"] * 5
    for task in held:
        fair.complete(task)
    assert_all_gone()


def test_a_claim_of_several_takes_from_each_group(fair: Api) -> None:
    for key in ("a", "b", "c"):
        create(fair, key, 5, "fair")
    assert Counter(keys(fair.claim(limit=6)["tasks"])) == {"a": 2, "b": 2, "c": 2}
    assert len(fair.claim(limit=100)["tasks"]) == 9


def test_priority_decides_within_a_group_alone(fair: Api) -> None:
    create(fair, "a", 2, "fair", priority=5)
    [plain] = create(fair, "b", 1, "fair")
    [urgent] = create(fair, "b", 1, "fair", priority=9)
    held = claim_all(fair)
    assert keys(held) == ["a", "b", "a", "b"]
    assert [held[1]["id"], held[3]["id"]] == [urgent["id"], plain["id"]]


def test_a_group_that_comes_later_does_not_catch_up(fair: Api) -> None:
    create(fair, "a", 30, "fair")
    for _ in range(20):
        fair.claim()
    create(fair, "b", 4, "fair")
    taken = keys([fair.claim() for _ in range(8)])
    assert Counter(taken) == {"a": 4, "b": 4}


def test_a_group_that_comes_back_for_each_task_has_no_more_than_its_share(fair: Api) -> None:
    create(fair, "a", 20, "fair")
    taken = []
    for _ in range(10):
        if fetch_value("SELECT COUNT(*) FROM {lanes} WHERE name = 'b' AND is_ready = 1") == 0:
            create(fair, "b", 1, "fair", priority=5)
        taken.append(fair.claim())
    assert Counter(keys(taken)) == {"a": 5, "b": 5}


def test_tasks_without_a_group_are_a_group(fair: Api) -> None:
    create(fair, None, 3, "fair")
    create(fair, "a", 3, "fair")
    assert keys(claim_all(fair)) == [None, "a"] * 3


def test_a_task_of_a_group_says_that_others_are_first(fair: Api) -> None:
    [one, two] = create(fair, "a", 2, "fair")
    assert fair.get(f"/api/tasks/{two['id']}")["waiting_because"]["code"] == "group"
    assert fair.get(f"/api/tasks/{one['id']}")["waiting_because"]["code"] == "no_worker"


def test_a_type_becomes_fair_while_tasks_wait(api: Api) -> None:
    api.register("fair")
    create(api, "a", 3, "fair")
    create(api, None, 2, "fair")
    create(api, "b", 2, "fair")
    assert api.patch("/api/task-types/fair", {"fair": True})["fair"] is True
    api.post("/api/maintenance/run", {})
    assert keys(claim_all(api)) == ["a", None, "b", "a", None, "b", "a"]


def test_a_type_is_not_fair_and_limited_per_key(job: Api) -> None:
    message = job.patch("/api/task-types/job", {"fair": True}, 400)["message"]
    assert "cannot be fair" in message
    job.patch("/api/task-types/job", {"fair": True, "concurrency": {"limit": 5}})
    create(job, "a", 1)
    body = {"name": "job", "version": "1", "param_schema": {}}
    job.post("/api/task-types/register", {**body, "concurrency": {"limit": 1, "per": "key"}}, 400)


def test_a_fair_type_may_have_a_limit_of_its_own(fair: Api) -> None:
    fair.patch("/api/task-types/fair", {"concurrency": {"limit": 3}})
    create(fair, "a", 5, "fair")
    create(fair, "b", 5, "fair")
    assert keys(claim_all(fair)) == ["a", "b", "a"]


def test_a_plain_type_runs_no_statement_for_lanes(api: Api, monkeypatch: Any) -> None:
    seen: list[str] = []
    spelled = database.obj.spelled

    def listen(template: str) -> Any:
        seen.append(template)
        return spelled(template)

    monkeypatch.setattr(database.obj, "spelled", listen)
    api.register("plain")
    create(api, None, 2, "plain")
    api.complete(api.claim())
    assert seen
    assert [text for text in seen if "{lane" in text] == []


def test_a_limit_that_many_keys_are_at_already_leaves_the_others_to_claims(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "MAX_FULL_LOOKS", 2)
    api.register("job")
    for key in [*range(30), *range(30), "free"]:
        api.create("job", concurrency_key=f"key-{key}")
    assert len(api.claim("w", limit=30)["tasks"]) == 30
    api.patch("/api/task-types/job", {"concurrency": {"limit": 1, "per": "key"}})
    assert api.claim("w")["concurrency_key"] == "key-free"


# SQLite has one writer at a time.
@pytest.mark.parametrize("engine", ["mariadb"], indirect=True)
def test_the_end_of_a_task_finds_its_lane_though_that_moves_back_while_it_waits(fair: Api) -> None:
    """In the order of claims: a task whose lease has expired is the next of its group again."""
    create(fair, "a", 2, "fair")
    held = fair.claim()

    def finish() -> None:
        completion = Completion(held["id"], success=True, claim_token=held["claim_token"])
        complete_task(completion, worker_id="worker-1", caller=OPERATOR, now=utc_now())
        close_connection()

    @write_transaction
    def move_back() -> threading.Thread:
        lane = fetch_all("SELECT * FROM {lanes}")[0]
        execute(lanes.TOUCH, (lane["task_type_id"], lanes.GROUP, "a"))
        finisher = threading.Thread(target=finish)
        finisher.start()
        waiting = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
        deadline = time.monotonic() + 30
        while not fetch_value(waiting) and time.monotonic() < deadline:
            time.sleep(0.2)  # InnoDB collects what the table shows anew after a tenth of a second
        assert fetch_value(waiting) == 1
        execute("UPDATE {lanes} SET next_task_id = 0 WHERE id = ?", (lane["id"],))
        return finisher

    move_back().join(60)

    assert fetch_value("SELECT COUNT(*) FROM {lane_members}") == 1
