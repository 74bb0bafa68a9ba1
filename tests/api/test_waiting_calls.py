"""Calls with `wait_seconds`, in this process; tests/acceptance has those of a real server."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask

from taskmanager.access import keys
from taskmanager.access.caller import OPERATOR
from taskmanager.access.key_changes import revoke_key
from taskmanager.api import waiting_calls
from taskmanager.clock import utc_now
from taskmanager.db.connection import close_connection, use_database
from tests.conftest import Api, Clock, make_key

PATIENCE_SECONDS = 15  # less than a call waits, so that only a wake-up can answer it in time
MOST = 3


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"waiting_calls": MOST}


class Calls:
    """Runs calls in threads of their own, and knows how many of them wait."""

    def __init__(self, app: Flask, pool: ThreadPoolExecutor) -> None:
        self._engine = app.extensions["taskmanager.database"]
        self._pool = pool

    def start(self, call: Callable[..., Any], *args: Any, **fields: Any) -> "Future[Any]":
        """Comes back once the call waits."""
        wanted = self._engine.wakeups.count() + 1

        def run() -> Any:
            use_database(self._engine)
            try:
                return call(*args, **fields)
            finally:
                close_connection()

        future = self._pool.submit(run)
        pause = threading.Event()
        while self._engine.wakeups.count() < wanted:
            assert not future.done(), future.result()
            pause.wait(0.005)
        return future


@pytest.fixture
def calls(app: Flask) -> Iterator[Calls]:
    with ThreadPoolExecutor(10) as pool:
        try:
            yield Calls(app, pool)
        finally:
            app.extensions["taskmanager.database"].wakeups.stop()


@pytest.fixture
def only_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """No call looks by itself."""
    monkeypatch.setattr(waiting_calls, "LOOK_SECONDS", 3_600)


def answer(future: "Future[Any]") -> Any:
    return future.result(PATIENCE_SECONDS)


def create_at_once(api: Api, count: int) -> list[int]:
    """The ids of tasks that come together.

    The first call of a line looks as soon as it waits, and a test cannot know when. The others
    look after those before them have got their tasks.
    """
    body = [{"type": "job", "params": {}, "dedupe": "none"}] * count
    made = api.post("/api/tasks/batch", {"tasks": body}, 201)
    return [result["task"]["id"] for result in made["results"]]


@pytest.mark.usefixtures("only_woken")
def test_a_claim_that_waits_gets_the_task_that_is_created(api: Api, calls: Calls) -> None:
    api.register()
    claim = calls.start(api.claim, wait_seconds=20)
    task = api.create()
    claimed = answer(claim)
    assert claimed["id"] == task["id"]
    assert api.events(task["id"]) == ["created", "claimed"]


@pytest.mark.usefixtures("only_woken")
def test_each_of_the_claims_that_wait_gets_one_of_the_tasks(api: Api, calls: Calls) -> None:
    api.register()
    claims = [calls.start(api.claim, f"worker-{n}", wait_seconds=20) for n in range(MOST)]
    tasks = create_at_once(api, MOST)
    assert {answer(claim)["id"] for claim in claims} == set(tasks)


@pytest.mark.usefixtures("only_woken")
@pytest.mark.parametrize("ending", ["retry", "release", "shutdown", "progress of time"])
def test_a_claim_that_waits_gets_the_task_that_another_worker_gives_back(
    api: Api, calls: Calls, clock: Clock, ending: str
) -> None:
    api.register(retry={"strategy": "fixed", "base_seconds": 0})
    api.create()
    held = api.claim("other", lease_seconds=30)
    claim = calls.start(api.claim, wait_seconds=20)
    if ending == "retry":
        api.complete(held, success=False, error="again", retry_after_seconds=0)
    elif ending == "release":
        fields = {"worker_id": "other", "claim_token": held["claim_token"]}
        api.post(f"/api/tasks/{held['id']}/release", fields)
    elif ending == "shutdown":
        api.post("/api/workers/other/shutdown")
    else:
        clock.advance(31)
        api.post("/api/maintenance/run")
    assert answer(claim)["id"] == held["id"]


def test_a_claim_that_waits_finds_what_becomes_due_meanwhile(
    api: Api, calls: Calls, clock: Clock
) -> None:
    api.register()
    task = api.create(delay_seconds=60)
    claim = calls.start(api.claim, wait_seconds=20)
    clock.advance(61)
    assert answer(claim)["id"] == task["id"]


@pytest.mark.slow
def test_a_claim_that_waits_finds_a_lease_that_expires_meanwhile(
    api: Api, calls: Calls, clock: Clock
) -> None:
    api.register()
    task = api.create()
    api.claim("other", lease_seconds=30)
    claim = calls.start(api.claim, wait_seconds=20)
    clock.advance(31)
    assert answer(claim)["id"] == task["id"]


@pytest.mark.usefixtures("only_woken")
@pytest.mark.parametrize("per", ["type", "key"])
def test_a_place_within_the_limit_of_a_type_lets_a_claim_that_waits_find_a_task(
    api: Api, calls: Calls, per: str
) -> None:
    api.register(concurrency={"limit": 1, "per": per})
    api.create(concurrency_key="a")
    following = api.create(concurrency_key="a")
    held = api.claim("other")
    claim = calls.start(api.claim, wait_seconds=20)
    api.complete(held)
    assert answer(claim)["id"] == following["id"]


@pytest.mark.slow
def test_a_type_that_is_resumed_lets_a_claim_that_waits_find_a_task(api: Api, calls: Calls) -> None:
    api.register()
    task = api.create()
    api.patch("/api/task-types/job", {"is_paused": True})
    claim = calls.start(api.claim, wait_seconds=20)
    api.patch("/api/task-types/job", {"is_paused": False})
    assert answer(claim)["id"] == task["id"]


@pytest.mark.usefixtures("only_woken")
def test_a_task_of_another_type_does_not_end_the_waiting(api: Api, calls: Calls) -> None:
    api.register("job")
    api.register("other")
    claim = calls.start(api.claim, type="job", wait_seconds=20)
    api.create("other")
    task = api.create("job")
    assert answer(claim)["id"] == task["id"]


@pytest.mark.slow
def test_without_a_task_the_answer_comes_after_the_wait_with_the_hint(api: Api) -> None:
    api.register()
    refused = api.claim(status=404, wait_seconds=1)
    assert refused["code"] == "no_task_available"
    assert refused["details"]["poll_after_seconds"] == 5


def test_a_task_that_is_there_is_claimed_without_waiting(api: Api, calls: Calls) -> None:
    api.register()
    task = api.create()
    assert api.claim(wait_seconds=20)["id"] == task["id"]


@pytest.mark.parametrize("seconds", [-1, 20.5, "5", True])
def test_nobody_waits_longer_than_20_seconds(api: Api, seconds: object) -> None:
    assert api.claim(status=400, wait_seconds=seconds)["code"] == "invalid_request"
    for path in ("/api/tasks/1", "/api/events"):
        api.get(f"{path}?wait_seconds=21", 400)


@pytest.mark.usefixtures("only_woken")
def test_one_call_more_than_may_wait_is_answered_at_once(api: Api, calls: Calls) -> None:
    api.register()
    waiting = [calls.start(api.claim, f"worker-{n}", wait_seconds=20) for n in range(MOST)]
    assert api.claim("one more", 404, wait_seconds=20)["details"]["poll_after_seconds"] == 5
    for _ in waiting:
        api.create()
    for claim in waiting:
        answer(claim)
    again = calls.start(api.claim, wait_seconds=20)
    api.create()
    answer(again)


class TestWithoutTheSetting:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {}

    @pytest.mark.usefixtures("only_woken")
    def test_nobody_waits_under_another_server_than_ours(self, api: Api) -> None:
        api.register()
        task = api.create()
        api.claim(type="job")
        assert api.claim(status=404, wait_seconds=20)["details"]["poll_after_seconds"] == 5
        assert api.get(f"/api/tasks/{task['id']}?wait_seconds=20")["status"] == "claimed"
        page = api.get("/api/events?after=latest&wait_seconds=20")
        assert page["events"] == []


@pytest.mark.usefixtures("only_woken")
def test_a_key_that_is_revoked_while_its_claim_waits_gets_nothing(api: Api, calls: Calls) -> None:
    api.register()
    row, key = keys.create_key(
        name="worker", scopes=keys.ROLES["worker"], now=utc_now(), caller=OPERATOR
    )
    first = calls.start(api.claim, wait_seconds=20)
    second = calls.start(api.with_key(key).claim, "worker-2", 401, wait_seconds=20)
    revoke_key(key_id=row["id"], force=False, caller=OPERATOR, now=utc_now())
    task, left = create_at_once(api, 2)
    assert answer(first)["id"] == task
    assert answer(second)["code"] == "not_authenticated"
    assert api.get(f"/api/tasks/{left}")["status"] == "pending"


@pytest.mark.usefixtures("only_woken")
def test_claims_of_keys_with_other_types_do_not_wait_in_one_line(api: Api, calls: Calls) -> None:
    api.register("a.job")
    api.register("b.job")
    first = calls.start(api.with_key(make_key("worker", task_types=["a.%"])).claim, wait_seconds=20)
    second = calls.start(
        api.with_key(make_key("worker", task_types=["b.%"])).claim, "worker-2", wait_seconds=20
    )
    for name, claim in (("b.job", second), ("a.job", first)):
        task = api.create(name)
        assert answer(claim)["id"] == task["id"]


@pytest.mark.usefixtures("only_woken")
def test_a_worker_that_signs_off_ends_its_claim_that_waits(api: Api, calls: Calls) -> None:
    api.register()
    claim = calls.start(api.claim, "worker 1/2", 404, wait_seconds=20)
    other = calls.start(api.claim, "worker-2", wait_seconds=20)
    api.post("/api/workers/worker%201%2F2/shutdown")
    assert answer(claim)["code"] == "no_task_available"
    task = api.create()
    assert answer(other)["id"] == task["id"]


@pytest.mark.usefixtures("only_woken")
def test_the_same_request_sent_again_gets_the_task_that_was_claimed_for_it(
    api: Api, calls: Calls
) -> None:
    api.register()
    claim = calls.start(api.claim, request_id="r-1", wait_seconds=20)
    task = api.create()
    answer(claim)
    assert api.claim(request_id="r-1", wait_seconds=20)["id"] == task["id"]


@pytest.mark.slow
def test_a_call_that_waits_counts_once(api: Api) -> None:
    api.register()
    limited = api.with_key(make_key("worker", rate_limit="2/hour"))
    for status in (404, 404, 429):
        refused = limited.claim(status=status, wait_seconds=1)
        assert refused["success"] is False


@pytest.mark.usefixtures("only_woken")
@pytest.mark.parametrize("ending", ["completed", "failed", "cancelled"])
def test_reading_a_task_waits_until_it_is_finished(api: Api, calls: Calls, ending: str) -> None:
    api.register()
    task, other = api.create(), api.create()
    held, held_other = api.claim(), api.claim()
    read = calls.start(api.get, f"/api/tasks/{task['id']}?wait_seconds=20")
    api.complete(held_other)
    if ending == "cancelled":
        api.post(f"/api/tasks/{task['id']}/cancel", {})
    else:
        failure = {"success": False, "error": "no", "is_retryable": False}
        api.complete(held, **({} if ending == "completed" else failure))
    assert other["id"] == held_other["id"]
    found = answer(read)
    assert found["status"] == ending
    assert len(found["attempt_errors"]) == (ending == "failed")
    assert api.get(f"/api/tasks/{task['id']}?wait_seconds=20")["status"] == ending


@pytest.mark.usefixtures("only_woken")
def test_many_who_wait_for_one_task_all_get_their_answer(api: Api, calls: Calls) -> None:
    api.register()
    task = api.create()
    held = api.claim()
    path = f"/api/tasks/{task['id']}?wait_seconds=20"
    reads = [calls.start(api.get, path) for _ in range(MOST)]
    api.complete(held, result="done")
    assert [answer(read)["result"] for read in reads] == ["done"] * MOST


@pytest.mark.slow
def test_a_task_that_is_not_finished_in_time_is_answered_as_it_is_then(api: Api) -> None:
    api.register()
    task = api.create()
    assert api.get(f"/api/tasks/{task['id']}?wait_seconds=1")["status"] == "pending"


def test_a_task_that_is_not_there_is_not_waited_for(api: Api) -> None:
    assert api.get("/api/tasks/77?wait_seconds=20", 404)["code"] == "task_not_found"


@pytest.mark.slow
# With MariaDB an event may be held back when the call is woken; then a later look finds it.
@pytest.mark.usefixtures("settled_events")
def test_the_feed_waits_for_an_event_that_matches(api: Api, calls: Calls) -> None:
    api.register("job")
    api.register("other")
    path = "/api/events?after=latest&type=job&status=pending&wait_seconds=20"
    read = calls.start(api.get, path)
    api.create("other")
    task = api.create("job")
    page = answer(read)
    assert [event["task_id"] for event in page["events"]] == [task["id"]]
    following = api.get(f"/api/events?after={page['next_cursor']}&wait_seconds=1")
    assert following["events"] == []


def claim_from(client: socket.socket, api: Api, calls: Calls, worker: str = "worker-1") -> Any:
    """A claim that waits, from a client that is at the other end of a socket."""
    return calls.start(
        api.call,
        "POST",
        "/api/tasks/claim",
        {"worker_id": worker, "wait_seconds": 20},
        environ_overrides={"gunicorn.socket": client},
    )


@pytest.mark.usefixtures("only_woken")
def test_a_client_that_has_hung_up_gets_no_task(api: Api, calls: Calls) -> None:
    api.register()
    here, there = socket.socketpair()
    here.settimeout(20)
    with here, there:
        first = calls.start(api.claim, wait_seconds=20)
        second = claim_from(here, api, calls, "worker-2")
        there.close()
        task, left = create_at_once(api, 2)
        assert answer(first)["id"] == task
        assert answer(second).status_code == 404
    assert api.get(f"/api/tasks/{left}")["status"] == "pending"


@pytest.mark.usefixtures("only_woken")
def test_a_client_that_has_sent_its_next_request_has_not_hung_up(api: Api, calls: Calls) -> None:
    api.register()
    here, there = socket.socketpair()
    with here, there:
        there.send(b"GET / HTTP/1.1\r\n")
        claim = claim_from(here, api, calls)
        api.create()
        assert answer(claim).status_code == 200
