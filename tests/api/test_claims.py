"""Claiming: orders, filters, leases, repeated requests, and polls that find nothing."""

import sqlite3
from itertools import product
from typing import Any

import pytest

from taskmanager.clock import format_time
from taskmanager.db.connection import database
from taskmanager.db.statements import fetch_all
from tests.api.tables import dump_tables
from tests.conftest import Api, Clock, in_every_mode, make_key

pytestmark = in_every_mode

NAMES = ("a.x", "a.y", "a_x", "A.x", "b.x")


@pytest.fixture
def types(api: Api) -> dict[str, int]:
    """Five types, two tasks of each; their ids by name."""
    made = {name: api.register(name)["id"] for name in NAMES}
    for name in NAMES * 2:
        api.create(name)
    return made


@pytest.fixture
def ranked(api: Api) -> list[dict[str, Any]]:
    """Tasks of three types with few priorities and numbers of attempts, so that there are ties."""
    for name in ("x", "y", "z"):
        api.register(name)
    for n in range(18):
        priority = (2, 0, -1, 0)[n % 4]
        api.create("xyz"[n % 3], {"n": n}, priority=priority, max_attempts=10)
    for round_number in range(2):
        for task in api.claim(limit=100)["tasks"]:
            n = task["params"]["n"]
            fails = (n + round_number) % 3 == 0 or n % 5 == 0
            if fails:
                api.complete(task, success=False)
        api.post("/api/workers/worker-1/shutdown")
    tasks = list(api.get("/api/tasks?status=pending&limit=100")["tasks"])
    assert len({task["attempts"] for task in tasks}) == 3
    return tasks


# Each order as the contract words it: the key for the order's forward direction, and that word.
FORWARD: dict[str, tuple[Any, str]] = {
    "priority": (lambda task: (-task["priority"], task["id"]), "DESC"),
    "created_at": (lambda task: task["id"], "ASC"),
    "id": (lambda task: task["id"], "ASC"),
    "attempts": (lambda task: (task["attempts"], task["id"]), "ASC"),
}


@pytest.mark.parametrize("sort_by", [None, *FORWARD])
def test_every_order_is_exact_and_its_opposite_exactly_the_other_way_round(
    api: Api, ranked: list[dict[str, Any]], sort_by: str | None
) -> None:
    key, forward = FORWARD[sort_by or "priority"]
    first_to_last = [task["id"] for task in sorted(ranked, key=key)]
    for sort_order in (None, "ASC", "DESC", "asc", "desc"):
        order = {
            name: value
            for name, value in (("sort_by", sort_by), ("sort_order", sort_order))
            if value is not None
        }
        ahead = sort_order is None or sort_order.upper() == forward
        wanted = first_to_last if ahead else first_to_last[::-1]
        found = [task["id"] for task in api.claim(limit=100, **order)["tasks"]]
        assert found == wanted, order
        api.post("/api/workers/worker-1/shutdown")
        found = [task["id"] for n in (1, 5, 100) for task in api.claim(limit=n, **order)["tasks"]]
        assert found == wanted, order
        api.post("/api/workers/worker-1/shutdown")


@pytest.mark.smoke
def test_one_by_one_the_most_urgent_and_oldest_comes_first(
    api: Api, ranked: list[dict[str, Any]]
) -> None:
    wanted = [task["id"] for task in sorted(ranked, key=FORWARD["priority"][0])]
    assert [api.claim()["id"] for _ in ranked] == wanted
    api.claim(status=404)


def test_the_order_within_one_type_is_the_same(api: Api, ranked: list[dict[str, Any]]) -> None:
    of_type = [task for task in ranked if task["type"] == "y"]
    for sort_by, (key, forward) in FORWARD.items():
        found = api.claim(type="y", limit=100, sort_by=sort_by, sort_order=forward)["tasks"]
        assert [task["id"] for task in found] == [t["id"] for t in sorted(of_type, key=key)]
        api.post("/api/workers/worker-1/shutdown")


def test_a_claimed_task_says_who_holds_it_how_long_and_by_which_token(
    api: Api, clock: Clock
) -> None:
    api.register()
    made = api.create(params={"a": 1})
    task = api.claim("host-7:42", lease_seconds=77)
    assert task["id"] == made["id"]
    assert (task["status"], task["attempts"], task["params"]) == ("claimed", 1, {"a": 1})
    assert (task["worker_id"], task["claimed_by"]) == ("host-7:42", "host-7:42")
    assert task["claimed_at"] == format_time(clock.now)
    assert task["lease_expires_at"] == format_time(clock.now + 77_000)
    assert len(task["claim_token"]) > 20
    stored = api.get(f"/api/tasks/{task['id']}")
    assert "claim_token" not in stored
    assert stored["lease_expires_at"] == task["lease_expires_at"]


def test_the_lease_comes_from_the_request_else_the_type_else_the_settings(
    api: Api, clock: Clock
) -> None:
    api.register("own", lease_seconds=40)
    api.register("plain")
    for name in ("own", "own", "plain"):
        api.create(name)

    def seconds(**fields: Any) -> float:
        expires = api.claim(**fields)["lease_expires_at"]
        return next(s for s in (20, 40, 300) if format_time(clock.now + s * 1000) == expires)

    assert seconds(type="own", lease_seconds=20) == 20
    assert seconds(type="own") == 40
    assert seconds(type="plain") == 300


def test_every_claim_has_a_token_of_its_own(api: Api, types: dict[str, int]) -> None:
    tokens = [task["claim_token"] for task in api.claim(limit=10)["tasks"]]
    assert len(set(tokens)) == 10
    api.post("/api/workers/worker-1/shutdown")
    again = [task["claim_token"] for task in api.claim(limit=10)["tasks"]]
    assert not set(tokens) & set(again)


def test_with_a_limit_the_answer_is_a_list(api: Api, types: dict[str, int]) -> None:
    for limit in (1, 3, 100):
        answer = api.claim(limit=limit)
        assert set(answer) == {"tasks", "count"}
        assert answer["count"] == len(answer["tasks"]) == min(limit, 6)
    api.claim(limit=5, status=404)


FILTERS: dict[str, list[Any]] = {
    "type": [None, "a.x", "none"],
    "task_types": [None, ["a.x", "a_x", "none"], ["b.x"]],
    "type_pattern": [None, "a.%", "%x", "a_x"],
    "task_type_id": [None, "a.x", "A.x"],
    "task_type_ids": [None, ["a.x", "a.y", "b.x"]],
}


def allowed(name: str, filters: dict[str, Any]) -> bool:
    """Whether every filter lets a type of this name through."""
    pattern = filters["type_pattern"]
    before, _, after = (pattern or "%").partition("%")
    fits = name == pattern if pattern == "a_x" else name.startswith(before) and name.endswith(after)
    return (
        filters["type"] in (None, name)
        and (filters["task_types"] is None or name in filters["task_types"])
        and fits
        and filters["task_type_id"] in (None, name)
        and (filters["task_type_ids"] is None or name in filters["task_type_ids"])
    )


def test_all_filters_of_a_claim_must_hold(api: Api, types: dict[str, int]) -> None:
    for values in product(*FILTERS.values()):
        filters = dict(zip(FILTERS, values, strict=True))
        body = {name: value for name, value in filters.items() if value is not None}
        if "task_type_id" in body:
            body["task_type_id"] = types[body["task_type_id"]]
        if "task_type_ids" in body:
            body["task_type_ids"] = [types[name] for name in body["task_type_ids"]]
        wanted = sorted(name for name in NAMES if allowed(name, filters)) * 2
        response = api.call("POST", "/api/tasks/claim", {"worker_id": "w", "limit": 100, **body})
        tasks = response.get_json()["data"]["tasks"] if response.status_code == 200 else []
        assert sorted(task["type"] for task in tasks) == sorted(wanted), filters
        if tasks:
            api.post("/api/workers/w/shutdown")
        else:
            assert response.get_json()["code"] == "no_task_available"


def test_a_claim_that_finds_nothing_says_so_and_when_to_ask_again(
    api: Api, types: dict[str, int]
) -> None:
    empty = api.claim(type="none", status=404)
    assert empty["code"] == "no_task_available"
    assert empty["message"].startswith("No available tasks")
    assert empty["details"]["poll_after_seconds"] == 15
    api.claim(limit=100)
    empty = api.claim(type_pattern="a.%", status=404)
    assert empty["message"] == "No available tasks of type a.%."
    assert empty["details"]["poll_after_seconds"] == 5
    assert api.claim(status=404)["message"] == "No available tasks."


@pytest.mark.parametrize(("delay", "hint"), [(0.5, 1), (2, 2), (2.5, 3), (5, 5), (600, 5)])
def test_the_hint_follows_the_next_scheduled_task(
    api: Api, clock: Clock, delay: float, hint: int
) -> None:
    api.register()
    api.create(delay_seconds=600)
    api.create(delay_seconds=delay)
    assert api.claim(status=404)["details"]["poll_after_seconds"] == hint


def test_a_poll_that_finds_nothing_writes_nothing(api: Api, clock: Clock, engine: str) -> None:
    api.register()
    api.register("paused")
    api.patch("/api/task-types/paused", {"is_paused": True})
    api.create("paused")
    api.create(delay_seconds=600)
    held = [api.create(), api.create()]
    assert {task["id"] for task in api.claim("holder", limit=2)["tasks"]} == {
        task["id"] for task in held
    }
    api.post("/api/maintenance/run")  # counts what has happened so far
    before = dump_tables()
    versions = []
    for n in range(6):
        clock.advance(20)
        versions.append(data_version(engine))
        for fields in ({}, {"limit": 5}, {"type": "paused"}, {"request_id": f"r{n}"}):
            api.claim("never-seen", status=404, **fields)
    versions.append(data_version(engine))
    assert dump_tables() == before
    assert len(set(versions)) == 1


def data_version(engine: str) -> Any:
    """A figure that every committed write changes, as the server itself keeps it."""
    if engine == "mariadb":
        rows = fetch_all(
            "SHOW GLOBAL STATUS WHERE variable_name IN "
            "('Innodb_rows_inserted', 'Innodb_rows_updated', 'Innodb_rows_deleted')"
        )
        return tuple(row["Value"] for row in rows)
    changes = fetch_all("SELECT total_changes() AS n")[0]["n"]
    with sqlite3.connect(database.database) as other:
        pages = other.execute("PRAGMA page_count").fetchone()
    other.close()
    return changes, pages


def test_a_paused_type_is_left_out_of_every_claim(api: Api, types: dict[str, int]) -> None:
    api.patch("/api/task-types/a.x", {"is_paused": True})
    found = api.claim(type_pattern="a%", limit=100)["tasks"]
    assert sorted({task["type"] for task in found}) == ["a.y", "a_x"]
    empty = api.claim(type="a.x", status=404)
    assert empty["details"]["poll_after_seconds"] == 15
    api.patch("/api/task-types/a.x", {"is_paused": False})
    assert api.claim(task_type_id=types["a.x"])["type"] == "a.x"


def test_the_same_request_again_answers_with_the_same_tasks(
    api: Api, types: dict[str, int], clock: Clock
) -> None:
    first = api.claim("w", limit=3, request_id="r1")
    before = dump_tables()
    clock.advance(1)
    assert api.claim("w", limit=3, request_id="r1") == first
    assert dump_tables() == before
    assert api.claim("w", limit=3, request_id="r2")["tasks"] != first["tasks"]
    other = api.claim("other", limit=3, request_id="r1")["tasks"]
    assert not {task["id"] for task in other} & {task["id"] for task in first["tasks"]}


def test_the_same_request_for_one_task_answers_with_that_task(
    api: Api, types: dict[str, int]
) -> None:
    first = api.claim("w", request_id="r")
    assert api.claim("w", request_id="r") == first
    assert first["attempts"] == 1
    api.complete(first)
    assert api.claim("w", request_id="r")["id"] != first["id"]


def test_a_repeated_request_after_the_lease_is_a_new_claim(
    api: Api, types: dict[str, int], clock: Clock
) -> None:
    first = api.claim("w", request_id="r", lease_seconds=10)
    clock.advance(9)
    assert api.claim("w", request_id="r")["claim_token"] == first["claim_token"]
    clock.advance(1)
    assert api.claim("w", request_id="r")["claim_token"] != first["claim_token"]


@pytest.mark.parametrize("more", [{}, {"limit": 2}])
def test_a_claim_answers_with_the_fields_that_it_names(api: Api, more: dict[str, int]) -> None:
    api.register("job")
    whole = [api.create("job", {"n": n}) for n in range(2)]
    added = {"id", "claim_token", "lease_seconds", "next_heartbeat_in"}
    answer = api.claim("w", fields=["params", "attempts", "claim_token"], **more)
    tasks = answer["tasks"] if more else [answer]
    assert [task.keys() for task in tasks] == [added | {"params", "attempts"}] * len(tasks)
    assert [task["params"] for task in tasks] == [task["params"] for task in whole[: len(tasks)]]
    for unknown in (["nothing"], [], "params"):
        api.claim("w", fields=unknown, status=400)


def test_a_repeated_request_shows_a_limited_key_nothing_that_it_may_not_touch(
    api: Api, types: dict[str, int]
) -> None:
    given = api.claim("w", type="b.x", request_id="r")
    limited = api.with_key(make_key("worker", task_types=["a.%"]))
    limited.claim("w", request_id="r", type="b.x", status=404)
    assert limited.claim("w", request_id="r")["type"].startswith("a.")
    assert api.get(f"/api/tasks/{given['id']}")["attempts"] == 1


def test_a_request_that_found_nothing_may_find_something_the_next_time(api: Api) -> None:
    api.register()
    api.claim(request_id="r", status=404)
    made = api.create()
    assert api.claim(request_id="r")["id"] == made["id"]


def test_a_task_whose_lease_ran_out_is_handed_out_again(api: Api, clock: Clock) -> None:
    api.register()
    task = api.create()
    lost = api.claim("w1", lease_seconds=10)
    clock.advance(9.9)
    api.claim("w2", status=404)
    clock.advance(0.1)
    again = api.claim("w2")
    assert (again["id"], again["attempts"], again["worker_id"]) == (task["id"], 2, "w2")
    assert again["claim_token"] != lost["claim_token"]
    assert api.events(task["id"]) == ["created", "claimed", "lease_expired", "claimed"]


def test_a_task_that_kills_its_workers_is_failed_after_its_last_attempt(
    api: Api, clock: Clock
) -> None:
    api.register()
    task = api.create(max_attempts=2, dedupe="active")
    for _ in range(2):
        api.claim(lease_seconds=10)
        clock.advance(11)
    api.claim(status=404)
    dead = api.get(f"/api/tasks/{task['id']}")
    assert (dead["status"], dead["error_code"], dead["attempts"]) == ("failed", "lease_expired", 2)
    assert dead["completed_at"] == format_time(clock.now)
    assert "no attempt is left" in dead["error_message"]
    assert api.create(dedupe="active")["id"] != task["id"]


def test_a_key_limited_to_types_is_handed_only_those(api: Api, types: dict[str, int]) -> None:
    limited = api.with_key(make_key("worker", task_types=("a.%", "b.x")))
    found = limited.claim(limit=100)["tasks"]
    assert sorted({task["type"] for task in found}) == ["a.x", "a.y", "b.x"]
    limited.claim(type="a_x", status=404)
    limited.claim(task_type_id=types["A.x"], status=404)
    limited.claim(type_pattern="%", status=404)
    assert len(api.claim(limit=100)["tasks"]) == 4


def test_more_types_than_one_statement_takes_are_claimed_in_order(api: Api) -> None:
    for n in range(103):
        api.register(f"t{n}")
    made = [api.create(f"t{n}", priority=n % 2) for n in (102, 0, 50, 101, 7)]
    wanted = [task["id"] for task in sorted(made, key=lambda t: (-t["priority"], t["id"]))]
    assert api.claim()["id"] == wanted[0]
    assert [task["id"] for task in api.claim(limit=9)["tasks"]] == wanted[1:]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"worker_id": ""}, "worker_id"),
        ({"worker_id": "x" * 256}, "worker_id"),
        ({"worker_id": "a\tb"}, "worker_id"),
        ({"worker_id": " a"}, "worker_id"),
        ({"worker_id": "a "}, "worker_id"),
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"limit": -(2**60)}, "limit"),
        ({"lease_seconds": 0}, "lease_seconds"),
        ({"lease_seconds": 86_401}, "lease_seconds"),
        ({"sort_by": "type"}, "sort_by"),
        ({"sort_order": "Asc"}, "sort_order"),
        ({"task_types": []}, "task_types"),
        ({"task_type_ids": [1] * 101}, "task_type_ids"),
        ({"type_pattern": "a b"}, "type_pattern"),
        ({"request_id": ""}, "request_id"),
    ],
)
def test_a_claim_that_makes_no_sense_is_refused(
    api: Api, fields: dict[str, Any], path: str
) -> None:
    refused = api.post("/api/tasks/claim", {"worker_id": "w", **fields}, 400)
    assert refused["details"][0]["path"].startswith(path)


@pytest.mark.parametrize(
    "worker_id", ["w", "x" * 255, "🦄" * 255, "a b", "host/1;2", "'--", "%_\\"]
)
def test_a_worker_may_be_called_anything_printable(api: Api, worker_id: str) -> None:
    api.register()
    api.create()
    task = api.claim(worker_id)
    assert task["worker_id"] == worker_id
    assert api.complete(task)["worker_id"] == worker_id


def test_workers_are_told_apart_by_case(api: Api) -> None:
    api.register()
    api.create()
    task = api.claim("Worker")
    refused = api.complete({**task, "worker_id": "worker"}, 403, claim_token=None)
    assert refused["code"] == "claimed_by_other"


def test_many_tasks_due_at_once_start_with_the_next_claims_while_others_wait(
    api: Api, clock: Clock
) -> None:
    api.register()
    later = [
        {"type": "job", "params": {"n": n}, "delay_seconds": 5, "priority": -1} for n in range(60)
    ]
    api.post("/api/tasks/batch", {"tasks": later}, 201)
    for _ in range(4):
        api.create()
    clock.advance(6)
    for _ in range(3):
        api.claim()
    assert api.get("/api/stats")["by_status"]["scheduled"] == 0


def test_a_pause_holds_from_the_next_claim_on_also_for_a_worker_in_full_swing(api: Api) -> None:
    api.register("busy")
    for _ in range(3):
        api.create("busy")
    assert api.claim(type="busy")["type"] == "busy"
    assert api.claim(type="busy")["type"] == "busy"

    api.patch("/api/task-types/busy", {"is_paused": True})
    api.claim(type="busy", status=404)

    api.patch("/api/task-types/busy", {"is_paused": False})
    assert api.claim(type="busy")["type"] == "busy"


def test_a_lease_that_a_type_has_been_given_holds_from_the_next_claim_on(
    api: Api, clock: Clock
) -> None:
    api.register("busy", lease_seconds=60)
    for _ in range(2):
        api.create("busy")
    assert api.claim(type="busy")["lease_expires_at"] == format_time(clock.now + 60_000)

    api.patch("/api/task-types/busy", {"lease_seconds": 7})

    assert api.claim(type="busy")["lease_expires_at"] == format_time(clock.now + 7_000)


def test_a_key_of_other_types_gains_nothing_from_what_another_key_has_just_claimed(
    api: Api,
) -> None:
    api.register("busy")
    for _ in range(2):
        api.create("busy")
    api.claim(type="busy")

    other = api.with_key(make_key("worker", task_types=["other.%"]))

    other.claim(type="busy", status=404)
    assert api.claim(type="busy")["type"] == "busy"


def test_a_type_that_was_empty_at_two_polls_gives_its_next_task_to_the_third(
    api: Api, clock: Clock
) -> None:
    api.register("idle")
    for _ in range(3):
        for _ in range(2):
            assert api.claim(type="idle", status=404)["message"] == (
                "No available tasks of type idle."
            )
        task = api.create("idle")
        assert api.claim(type="idle")["id"] == task["id"]
        api.create("idle", delay_seconds=5)
        api.claim(type="idle", status=404)
        clock.advance(6)
        assert api.claim(type="idle")["type"] == "idle"


def test_a_pause_is_answered_at_once_also_where_a_poll_has_just_found_no_task(api: Api) -> None:
    api.register("idle")
    assert api.claim(type="idle", status=404)["details"]["poll_after_seconds"] == 5
    api.patch("/api/task-types/idle", {"is_paused": True})
    assert api.claim(type="idle", status=404)["details"]["poll_after_seconds"] == 15
    api.create("idle")
    assert api.claim(type="idle", status=404)["details"]["poll_after_seconds"] == 15
    api.patch("/api/task-types/idle", {"is_paused": False})
    api.claim(type="idle")


def test_a_key_of_other_types_hears_nothing_of_what_another_key_has_just_found_empty(
    api: Api,
) -> None:
    api.register("idle")
    api.claim(type="idle", status=404)

    other = api.with_key(make_key("worker", task_types=["other.%"]))

    assert other.claim(type="idle", status=404)["details"]["poll_after_seconds"] == 15
