"""Workers: heartbeats with and without tasks, statuses by the clock, and shutdown."""

from typing import Any
from urllib.parse import quote

import pytest

from taskmanager.clock import format_time
from taskmanager.db.connection import database
from taskmanager.db.statements import execute, insert_many
from taskmanager.errors import DatabaseUnavailable
from taskmanager.queue import holder, lease, maintenance, workers
from tests.api.tables import dump_tables
from tests.conftest import Api, Clock, make_key


def beat(api: Api, worker_id: str = "w1", status: int = 200, **fields: Any) -> Any:
    return api.post("/api/workers/heartbeat", {"worker_id": worker_id, **fields}, status)


@pytest.fixture
def held(api: Api, clock: Clock) -> Any:
    """Three tasks in the hands of w1, for leases of sixty seconds."""
    api.register()
    for _ in range(3):
        api.create()
    return api.claim("w1", limit=3, lease_seconds=60)["tasks"]


def named(*tasks: Any) -> list[dict[str, Any]]:
    return [{"id": task["id"], "claim_token": task["claim_token"]} for task in tasks]


def expiry(api: Api, task: Any) -> str:
    return str(api.get(f"/api/tasks/{task['id']}")["lease_expires_at"])


def test_a_worker_is_known_from_its_first_sign_of_life(api: Api, clock: Clock) -> None:
    missing = api.get("/api/workers/w1", 404)
    assert missing["code"] == "worker_not_found"
    answer = beat(api, metadata={"host": "höst", "pid": 7})
    assert answer == {
        "lease_seconds": None,
        "next_heartbeat_in": 30,
        "renewed": [],
        "lost": [],
        "cancelled": [],
    }
    worker = api.get("/api/workers/w1")
    now = format_time(clock.now)
    assert worker == {
        "id": "w1",
        "worker_id": "w1",
        "status": "active",
        "first_seen_at": now,
        "last_seen_at": now,
        "tasks_held": 0,
        "tasks_completed": 0,
        "tasks_failed": 0,
        "metadata": {"host": "höst", "pid": 7},
        "done_per_minute": None,
    }


@pytest.mark.parametrize("names_tasks", [True, False])
def test_a_heartbeat_follows_the_shortest_lease_that_it_renewed(
    api: Api, held: Any, names_tasks: bool
) -> None:
    api.create()
    short = api.claim("w1", lease_seconds=7)
    tasks = {"tasks": named(*held, short)} if names_tasks else {}
    told = beat(api, **tasks)
    assert (told["lease_seconds"], told["next_heartbeat_in"]) == (7, 2)
    api.complete(short)
    told = beat(api, **tasks)
    assert (told["lease_seconds"], told["next_heartbeat_in"]) == (60, 20)


def test_metadata_stays_until_it_is_sent_again(api: Api) -> None:
    beat(api, metadata={"a": 1})
    beat(api)
    assert api.get("/api/workers/w1")["metadata"] == {"a": 1}
    beat(api, metadata={})
    assert api.get("/api/workers/w1")["metadata"] == {}


def test_a_worker_whose_row_is_gone_has_one_again_within_ten_seconds(
    api: Api, held: Any, clock: Clock
) -> None:
    api.complete(held[0])
    execute("DELETE FROM workers")
    clock.advance(9)
    api.complete(held[1])
    api.get("/api/workers/w1", 404)
    clock.advance(1)
    api.complete(held[2])
    assert api.get("/api/workers/w1")["tasks_completed"] == 1


def test_what_a_worker_says_of_itself_is_stored_though_its_row_was_gone(
    api: Api, held: Any
) -> None:
    execute("DELETE FROM workers")
    beat(api, metadata={"pid": 7})
    assert api.get("/api/workers/w1")["metadata"] == {"pid": 7}


def test_a_worker_grows_stale_and_then_inactive(api: Api, clock: Clock) -> None:
    beat(api)
    steps = [(90, "active"), (0.001, "stale"), (509.999, "stale"), (0.001, "inactive")]
    for seconds, status in steps:
        clock.advance(seconds)
        assert api.get("/api/workers/w1")["status"] == status
    beat(api)
    assert api.get("/api/workers/w1")["status"] == "active"


@pytest.mark.parametrize("settings", [{"heartbeat_seconds": 1}])
def test_a_worker_that_works_is_active_however_short_its_heartbeat(api: Api, clock: Clock) -> None:
    api.register()
    for _ in range(12):
        api.create()
        api.complete(api.claim("w1"))
        assert api.get("/api/workers/w1")["status"] == "active"
        clock.advance(1)
    clock.advance(10)
    assert api.get("/api/workers/w1")["status"] == "stale"


@pytest.mark.parametrize("what", ["claim", "progress", "heartbeat", "complete", "release"])
def test_everything_a_worker_says_is_a_sign_of_life(
    api: Api, held: Any, clock: Clock, what: str
) -> None:
    clock.advance(50)
    task = held[0]
    if what == "claim":
        api.create()
        api.claim("w1")
    elif what == "complete":
        api.complete(task)
    else:
        body = {"worker_id": "w1", **({"progress": 1} if what == "progress" else {})}
        api.post(f"/api/tasks/{task['id']}/{what}", body)
    assert api.get("/api/workers/w1")["last_seen_at"] == format_time(clock.now)


def test_a_heartbeat_without_tasks_renews_every_lease_of_the_worker(
    api: Api, held: Any, clock: Clock
) -> None:
    api.create()
    other = api.claim("w2", lease_seconds=60)
    clock.advance(30)
    answer = beat(api)
    assert answer["renewed"] == [task["id"] for task in held]
    assert {expiry(api, task) for task in held} == {format_time(clock.now + 60_000)}
    assert expiry(api, other) == other["lease_expires_at"]


def test_a_heartbeat_that_names_tasks_renews_only_those(api: Api, held: Any, clock: Clock) -> None:
    clock.advance(30)
    answer = beat(api, tasks=named(held[0], held[2]))
    assert (answer["renewed"], answer["lost"]) == ([held[0]["id"], held[2]["id"]], [])
    assert expiry(api, held[1]) == held[1]["lease_expires_at"]
    assert expiry(api, held[0]) == format_time(clock.now + 60_000)


def test_an_empty_list_of_tasks_renews_nothing(api: Api, held: Any, clock: Clock) -> None:
    clock.advance(30)
    assert beat(api, tasks=[])["renewed"] == []
    assert expiry(api, held[0]) == held[0]["lease_expires_at"]


def test_a_heartbeat_tells_which_tasks_are_lost_or_cancelled(
    api: Api, held: Any, clock: Clock
) -> None:
    one, two, three = held
    api.post(f"/api/tasks/{two['id']}/cancel", {})
    api.complete(three)
    made_up = {"id": one["id"], "claim_token": "made-up"}
    answer = beat(api, tasks=[*named(one, two, three), made_up, {"id": 10**12}, {"id": one["id"]}])
    assert answer["renewed"] == [one["id"], one["id"]]
    assert answer["cancelled"] == [two["id"]]
    assert answer["lost"] == [three["id"], one["id"], 10**12]


def test_a_restarted_worker_does_not_keep_dead_tasks_alive(
    api: Api, held: Any, clock: Clock
) -> None:
    clock.advance(61)
    fresh = api.claim("w1", limit=1)["tasks"]
    beat(api, tasks=named(*fresh))
    assert api.get("/api/workers/w1")["tasks_held"] == 1
    assert beat(api, tasks=named(*held))["lost"] == [fresh[0]["id"]]


def test_shutting_down_gives_everything_back(api: Api, held: Any, clock: Clock) -> None:
    api.complete(held[0])
    answer = api.post("/api/workers/w1/shutdown")
    assert answer == {
        "worker_id": "w1",
        "status": "inactive",
        "released": [held[1]["id"], held[2]["id"]],
    }
    worker = api.get("/api/workers/w1")
    assert (worker["status"], worker["tasks_held"], worker["tasks_completed"]) == ("inactive", 0, 1)
    again = api.claim("w2", limit=5)["tasks"]
    assert [(task["id"], task["attempts"]) for task in again] == [
        (held[1]["id"], 1),
        (held[2]["id"], 1),
    ]
    beat(api)
    assert api.get("/api/workers/w1")["status"] == "active"


def test_the_list_shows_the_worker_seen_last_first(api: Api, clock: Clock) -> None:
    for worker_id in ("b", "a", "c"):
        clock.advance(1)
        beat(api, worker_id)
    listed = api.get("/api/workers")
    assert ([row["id"] for row in listed["workers"]], listed["count"]) == (["c", "a", "b"], 3)
    page = api.get("/api/workers?limit=1&offset=1")
    assert ([row["id"] for row in page["workers"]], page["count"]) == (["a"], 1)


def test_a_list_of_workers_says_that_there_are_more(api: Api, clock: Clock) -> None:
    for n in range(60):
        beat(api, f"host/{n:02}")
        clock.advance(n % 2)  # two of them are seen at the same moment
    first = api.get("/api/workers")
    assert (first["count"], first["total"]) == (50, 60)
    rest = api.get(f"/api/workers?cursor={quote(first['next_cursor'])}")
    assert (rest["count"], rest["total"], rest["next_cursor"]) == (10, 60, None)
    assert len({row["id"] for row in first["workers"] + rest["workers"]}) == 60
    for made_up in ("x", "", "-1.a", "9" * 19 + ".a"):
        assert "cursor" in api.get(f"/api/workers?cursor={made_up}", 400)["message"]


@pytest.mark.parametrize(
    "worker_id",
    [
        "host/1",
        "a b",
        "ü🦄",
        "a\u00a0b",
        "100%",
        "x/",
        "/x",
        "//",
        "/x/shutdown",
        "?a=b#c",
        "'; DROP TABLE workers",
    ],
)
def test_a_worker_of_any_name_can_be_looked_up_and_shut_down(api: Api, worker_id: str) -> None:
    beat(api, worker_id)
    path = f"/api/workers/{quote(worker_id, safe='/')}"
    assert api.get(path)["id"] == worker_id
    assert api.post(f"{path}/shutdown")["worker_id"] == worker_id
    assert api.get(path)["status"] == "inactive"


@pytest.mark.parametrize("worker_id", ["x" * 256, "%00", "a%09b", "%20a"])
def test_a_name_that_no_worker_can_have_is_refused(api: Api, worker_id: str) -> None:
    before = dump_tables()
    api.get(f"/api/workers/{worker_id}", 400)
    api.post(f"/api/workers/{worker_id}/shutdown", status=400)
    assert dump_tables() == before


def test_a_limited_key_neither_renews_nor_releases_what_it_may_not_touch(
    api: Api, held: Any, clock: Clock
) -> None:
    limited = api.with_key(make_key("worker", task_types=("other.%",)))
    clock.advance(30)
    answer = beat(limited)
    assert (answer["renewed"], answer["lost"]) == ([], [])
    assert expiry(api, held[0]) == held[0]["lease_expires_at"]
    assert limited.post("/api/workers/w1/shutdown")["released"] == []
    assert api.get("/api/workers/w1")["tasks_held"] == 3


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"tasks": [{"id": 1}] * 1_001}, "tasks"),
        ({"tasks": [1]}, "tasks[0]"),
        ({"tasks": [{"claim_token": "x"}]}, "tasks[0].id"),
        ({"tasks": [{"id": 1, "token": "x"}]}, "tasks[0].token"),
        ({"metadata": [1]}, "metadata"),
        ({"worker_id": ""}, "worker_id"),
    ],
)
def test_a_heartbeat_that_makes_no_sense_is_refused(
    api: Api, fields: dict[str, Any], path: str
) -> None:
    before = dump_tables()
    assert beat(api, status=400, **{"worker_id": "w1", **fields})["details"][0]["path"] == path
    assert dump_tables() == before


class TestAKeyLimitedToTaskTypes:
    """`a` works on tasks of A.one, `b` of B.one, `both` of both, and `idle` has had no task."""

    @pytest.fixture
    def limited(self, api: Api, clock: Clock) -> Api:
        for name in ("A.one", "B.one"):
            api.register(name)
            for _ in range(3):
                api.create(name)
        for worker_id, name in (("a", "A.one"), ("b", "B.one"), ("both", "A.one")):
            beat(api, worker_id, metadata={"of": worker_id})
            api.claim(worker_id, type=name)
        api.claim("both", type="B.one")
        beat(api, "idle")
        return api.with_key(make_key("admin", task_types=("A.%",)))

    def test_sees_the_workers_of_its_types_alone(self, api: Api, limited: Api) -> None:
        listed = limited.get("/api/workers")
        assert [row["id"] for row in listed["workers"]] == ["a", "both"]
        assert (listed["total"], listed["total_is_exact"]) == (2, True)
        assert limited.get("/api/workers/a")["metadata"] == {"of": "a"}
        for hidden in ("b", "idle"):
            there = limited.get(f"/api/workers/{hidden}", 404)["message"]
            nowhere = limited.get("/api/workers/zz", 404)["message"]
            assert there.replace(f"'{hidden}'", "'zz'") == nowhere

    def test_pages_through_them(self, api: Api, limited: Api) -> None:
        first = limited.get("/api/workers?limit=1")
        assert ([row["id"] for row in first["workers"]], first["total"]) == (["a"], 2)
        rest = limited.get(f"/api/workers?cursor={first['next_cursor']}")
        assert ([row["id"] for row in rest["workers"]], rest["next_cursor"]) == (["both"], None)
        second = limited.get("/api/workers?limit=1&offset=1")
        assert ([row["id"] for row in second["workers"]], second["next_cursor"]) == (["both"], None)

    def test_counts_only_what_is_of_its_types(self, api: Api, limited: Api) -> None:
        assert api.get("/api/workers/both")["tasks_held"] == 2
        seen = limited.get("/api/workers/both")
        assert seen["tasks_held"] == 1
        assert (seen["tasks_completed"], seen["tasks_failed"]) == (None, None)

    def test_still_sees_a_worker_that_holds_nothing_any_more(self, api: Api, limited: Api) -> None:
        task = api.get("/api/tasks?worker_id=a")["tasks"][0]
        limited.post(f"/api/tasks/{task['id']}/complete", {"worker_id": "a", "success": True})
        assert limited.get("/api/workers/a")["tasks_held"] == 0

    @pytest.mark.parametrize("worker_id", ["b", "both"])
    def test_sets_no_metadata_of_a_worker_that_holds_tasks_of_other_types(
        self, api: Api, limited: Api, worker_id: str
    ) -> None:
        before = dump_tables()
        refused = beat(limited, worker_id, 403, metadata={"mine": True})
        assert refused["code"] == "task_type_not_allowed"
        assert "B.one" not in str(refused)
        assert dump_tables() == before
        assert len(beat(limited, worker_id)["renewed"]) == (worker_id == "both")

    def test_sets_metadata_of_its_own_and_of_new_workers(self, api: Api, limited: Api) -> None:
        for worker_id in ("a", "new"):
            beat(limited, worker_id, metadata={"mine": True})
            assert api.get(f"/api/workers/{worker_id}")["metadata"] == {"mine": True}

    @pytest.mark.parametrize("worker_id", ["b", "both"])
    def test_shuts_down_no_worker_that_holds_tasks_of_other_types(
        self, api: Api, limited: Api, worker_id: str
    ) -> None:
        answer = limited.post(f"/api/workers/{worker_id}/shutdown")
        assert (answer["status"], len(answer["released"])) == ("active", worker_id == "both")
        worker = api.get(f"/api/workers/{worker_id}")
        assert (worker["status"], worker["tasks_held"]) == ("active", 1)

    def test_shuts_down_its_own_workers(self, api: Api, limited: Api) -> None:
        assert limited.post("/api/workers/a/shutdown")["status"] == "inactive"
        assert api.get("/api/workers/a")["status"] == "inactive"


def test_the_counts_of_a_list_of_workers_are_bounded(
    api: Api, held: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for worker_id in ("w2", "w3"):
        beat(api, worker_id)
    monkeypatch.setattr(workers, "WORKERS_COUNTED", 3)
    exact = api.get("/api/workers?limit=1")
    assert (exact["total"], exact["total_is_exact"]) == (3, True)
    monkeypatch.setattr(workers, "WORKERS_COUNTED", 2)
    monkeypatch.setattr(workers, "HELD_TASKS_COUNTED", 2)
    listed = api.get("/api/workers")
    assert (listed["total"], listed["total_is_exact"], listed["count"]) == (2, False, 3)
    assert {row["id"]: row["tasks_held"] for row in listed["workers"]}["w1"] == 2


def test_old_workers_are_pruned_in_slices(api: Api, clock: Clock) -> None:
    old = [
        {"id": f"old-{n}", "first_seen_at": 1, "last_seen_at": clock.now - 31 * 86_400_000}
        for n in range(maintenance.MAX_SLICE_ROWS + 30)
    ]
    insert_many("workers", old)
    beat(api)
    deleted: list[int] = []

    def count_values(event: Any) -> None:
        if event.sql.startswith("DELETE FROM") and "last_seen_at" in event.sql:
            deleted.append(len(event.params) - 1)

    database.query_hooks.append(count_values)
    try:
        api.post("/api/maintenance/run")
    finally:
        database.query_hooks.remove(count_values)
    assert [row["id"] for row in api.get("/api/workers")["workers"]] == ["w1"]
    assert sum(deleted) == len(old)
    assert max(deleted) <= maintenance.MAX_SLICE_ROWS


class TestInSlices:
    """What a worker holds is renewed and released two tasks at a time."""

    @pytest.fixture(autouse=True)
    def transactions(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """How many tasks each transaction locked."""
        locked: list[int] = []

        def lock_tasks(ids: Any, caller: Any) -> Any:
            locked.append(len(ids))
            return holder.lock_tasks(ids, caller)

        monkeypatch.setattr(lease, "SLICE_TASKS", 2)
        monkeypatch.setattr(lease, "lock_tasks", lock_tasks)
        return locked

    def test_every_lease_of_a_worker_is_renewed(
        self, api: Api, held: Any, clock: Clock, transactions: list[int]
    ) -> None:
        clock.advance(30)
        answer = beat(api)
        assert answer["renewed"] == [task["id"] for task in held]
        assert answer["next_heartbeat_in"] == 20
        assert transactions == [2, 1]
        assert {expiry(api, task) for task in held} == {format_time(clock.now + 60_000)}

    def test_everything_is_given_back(
        self, api: Api, held: Any, clock: Clock, transactions: list[int]
    ) -> None:
        answer = api.post("/api/workers/w1/shutdown")
        assert answer["released"] == [task["id"] for task in held]
        assert transactions == [2, 1]

    def test_a_shutdown_that_breaks_off_is_ended_by_the_next(
        self, api: Api, held: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def die(seconds: float) -> None:
            raise DatabaseUnavailable("The server was killed between two slices.")

        with monkeypatch.context() as broken:
            broken.setattr(lease.time, "sleep", die)
            api.post("/api/workers/w1/shutdown", status=503)
        worker = api.get("/api/workers/w1")
        assert (worker["status"], worker["tasks_held"]) == ("active", 1)
        assert [task["status"] for task in api.get("/api/tasks?sort_order=asc")["tasks"]] == [
            "pending",
            "pending",
            "claimed",
        ]
        assert api.post("/api/workers/w1/shutdown")["released"] == [held[2]["id"]]
        assert api.get("/api/workers/w1")["status"] == "inactive"

    def test_a_heartbeat_that_breaks_off_leaves_the_later_leases_as_they_were(
        self, api: Api, held: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def die(seconds: float) -> None:
            raise DatabaseUnavailable("The server was killed between two slices.")

        clock.advance(30)
        with monkeypatch.context() as broken:
            broken.setattr(lease.time, "sleep", die)
            beat(api, status=503)
        assert [expiry(api, task) for task in held] == [
            *[format_time(clock.now + 60_000)] * 2,
            held[2]["lease_expires_at"],
        ]
