"""The workers of every language in the situations of scenarios.py, against a real server."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from tests.clients.conftest import Driver, Worker
from tests.clients.proxy import Fault, Proxy
from tests.clients.scenarios import ALWAYS, SCENARIOS, Scenario
from tests.support.server import Server

pytestmark = pytest.mark.slow

Start = Callable[..., Worker]
Create = Callable[..., int]


def task(queue: Server, task_id: int) -> Any:
    return queue.call("GET", f"/api/tasks/{task_id}").data


def events(queue: Server, task_id: int) -> list[str]:
    logs = queue.call("GET", f"/api/tasks/{task_id}/logs").data["logs"]
    return [log["event"] for log in logs]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_the_worker_masters(
    scenario: Scenario, driver: Driver, queue: Server, proxy: Proxy, start: Start, create: Create
) -> None:
    if scenario.type in driver.types_left_out:
        pytest.skip("nothing can end such a handler there")
    task_id = create(scenario.type, scenario.params)
    proxy.spoil(scenario.faults)
    worker = start(BURST="1")
    worker.end()
    found = task(queue, task_id)
    expected = dict(scenario.expected)
    if expected.get("error_code") == "broken":
        expected["error_code"] = driver.error_code
    assert {name: found[name] for name in expected} == expected, worker.log
    assert tuple(worker.notes) == scenario.notes
    assert events(queue, task_id).count("completed") == (found["status"] == "completed")
    assert {fault.kind for fault in scenario.faults} <= {seen.outcome for seen in proxy.seen}
    assert_that_retry_after_was_honoured(proxy)


def assert_that_retry_after_was_honoured(proxy: Proxy) -> None:
    for path in {seen.path for seen in proxy.seen}:
        for refused, following in pairwise(proxy.requests(path)):
            if refused.outcome == "refuse":
                assert following.at - refused.at >= 1


def test_an_empty_queue_is_asked_once_for_each_lease_and_left(
    driver: Driver, proxy: Proxy, start: Start
) -> None:
    start(BURST="1").end()
    claims = [seen.outcome for seen in proxy.requests("/tasks/claim")]
    assert claims == ["404"] * driver.leases
    assert len(proxy.seen) == driver.leases + 1, "the claims, and the worker signs off"


def test_no_heartbeat_is_sent_while_nothing_is_held(proxy: Proxy, start: Start) -> None:
    worker = start()
    worker.wait_for(lambda: len(proxy.requests("/tasks/claim")) > 2)
    worker.terminate()
    worker.end()
    assert proxy.requests("/heartbeat") == []


def test_a_cancelled_task_stops_its_handler(
    queue: Server, proxy: Proxy, start: Start, create: Create
) -> None:
    task_id = create("scenario.wait")
    worker = start(BURST="1")
    worker.wait_for(lambda: worker.notes == ["began"])
    queue.call("POST", f"/api/tasks/{task_id}/cancel", {})
    worker.end()
    assert worker.notes == ["began", "stopping"]
    assert events(queue, task_id) == ["created", "claimed", "cancelled"]


def test_a_lost_lease_stops_its_handler_and_spoils_nothing(
    queue: Server, proxy: Proxy, start: Start, create: Create
) -> None:
    task_id = create("scenario.wait")
    worker = start(BURST="1")
    worker.wait_for(lambda: worker.notes == ["began"])
    holder = task(queue, task_id)["worker_id"]
    queue.call("POST", f"/api/workers/{holder}/shutdown", {})
    body = {"worker_id": "other", "type": "scenario.wait", "lease_seconds": 600}
    other = queue.call("POST", "/api/tasks/claim", body).data
    assert other["id"] == task_id
    worker.end()
    assert worker.notes == ["began", "stopping"]
    assert task(queue, task_id)["worker_id"] == "other"
    body = {"worker_id": "other", "claim_token": other["claim_token"], "success": True}
    assert queue.call("POST", f"/api/tasks/{task_id}/complete", body).data["replayed"] is False


def test_sigterm_lets_a_handler_end_within_the_grace(
    queue: Server, proxy: Proxy, start: Start, create: Create
) -> None:
    task_id = create("scenario.wait")
    worker = start()
    worker.wait_for(lambda: worker.notes == ["began"])
    holder = task(queue, task_id)["worker_id"]
    worker.terminate()
    worker.end()
    assert task(queue, task_id)["result"] == "stopped"
    assert queue.call("GET", f"/api/workers/{holder}").data["status"] == "inactive"


def test_sigterm_releases_what_does_not_end_within_the_grace(
    driver: Driver, queue: Server, proxy: Proxy, start: Start, create: Create
) -> None:
    if driver.types_left_out:
        pytest.skip("nothing can end such a handler there")
    task_id = create("scenario.slow", {"seconds": 120})
    worker = start()
    worker.wait_for(lambda: worker.notes == ["began"])
    worker.terminate()
    worker.process.wait(30)
    found = task(queue, task_id)
    assert (found["status"], found["attempts"]) == ("pending", 0)
    assert worker.notes == ["began"]


def test_a_second_sigterm_waits_for_nothing(
    driver: Driver, queue: Server, proxy: Proxy, start: Start, create: Create
) -> None:
    if driver.types_left_out:
        pytest.skip("nothing can end such a handler there")
    task_id = create("scenario.slow", {"seconds": 120})
    worker = start(GRACE="600")
    worker.wait_for(lambda: worker.notes == ["began"])
    worker.terminate()
    worker.wait_for(lambda: "stopping" in worker.log)
    worker.terminate()
    worker.process.wait(30)
    assert task(queue, task_id)["status"] == "pending"


def test_claims_that_arrive_after_sigterm_are_released(
    queue: Server, proxy: Proxy, start: Start, create: Create
) -> None:
    task_id = create("scenario.echo")
    proxy.spoil([Fault("/tasks/claim", "delay", seconds=2)])
    worker = start()
    worker.wait_for(lambda: proxy.requests("/tasks/claim"))
    worker.terminate()
    worker.end()
    found = task(queue, task_id)
    assert (found["status"], found["attempts"]) == ("pending", 0)


def test_a_worker_ends_on_sigterm_while_the_server_is_away(
    queue: Server, proxy: Proxy, start: Start, create: Create
) -> None:
    task_id = create("scenario.echo")
    proxy.spoil([Fault("/complete", "lose_request", times=ALWAYS)])
    worker = start()
    worker.wait_for(lambda: len(proxy.requests("/complete")) > 1)
    worker.terminate()
    worker.end()
    assert "completed" not in events(queue, task_id)


def test_a_refused_key_ends_the_worker_with_the_reason(
    driver: Driver, queue: Server, proxy: Proxy, start: Start
) -> None:
    worker = start(TASKMANAGER_KEY="tm_wrong")
    assert worker.process.wait(30) != 0
    assert "key" in worker.log
    assert len(proxy.requests("/tasks/claim")) == 1


def test_a_worker_waits_while_another_program_answers_for_its_server(
    queue: Server, proxy: Proxy, start: Start, create: Create
) -> None:
    worker = start()
    worker.wait_for(lambda: proxy.requests("/tasks/claim"))
    proxy.spoil([Fault("/tasks/claim", "refuse", status=404, times=2)])
    worker.wait_for(
        lambda: [seen.outcome for seen in proxy.requests("/tasks/claim")].count("refuse") == 2
    )
    task_id = create("scenario.echo")
    worker.wait_for(lambda: task(queue, task_id)["status"] not in ("pending", "claimed"))
    worker.terminate()
    worker.end()
    assert task(queue, task_id)["status"] == "completed"
    assert events(queue, task_id) == ["created", "claimed", "completed"]


@pytest.mark.parametrize("kind", ["lose_request", "lose_answer", "cut_answer"])
def test_a_creation_without_deduplication_makes_one_task_whatever_is_lost(
    kind: str, queue: Server, proxy: Proxy, start: Start
) -> None:
    proxy.spoil([Fault("/tasks", kind, times=2)])
    before = {item["id"] for item in all_tasks(queue)}
    task_id = int(start(CREATE="scenario.echo").end())
    assert {item["id"] for item in all_tasks(queue)} - before == {task_id}
    assert len(proxy.requests("/tasks")) == 3
    queue.call("POST", f"/api/tasks/{task_id}/cancel", {})


def all_tasks(queue: Server) -> list[Any]:
    found: list[Any] = queue.call("GET", "/api/tasks?limit=100&type=scenario.echo").data["tasks"]
    return found
