"""The last tasks of a batch end at once: what follows is created once, and never left out."""

from typing import Any, NamedTuple

from taskmanager.db.statements import fetch_all
from tests.races.processes import Connection, Shared, run_processes
from tests.races.queues import register
from tests.support.server import Server

PROCESSES = 16
ROUNDS = 6


class Member(NamedTuple):
    """A held task of the batch of one round."""

    id: int
    claim_token: str


def end_one_of_each_batch(
    connection: Connection, shared: Shared, number: int, batches: list[list[Member]]
) -> list[int]:
    """Every third process fails or cancels its task, the others complete theirs."""
    statuses = []
    for members in batches:
        task = members[number]
        path = f"/api/tasks/{task.id}"
        body: dict[str, Any] = {"worker_id": "w", "claim_token": task.claim_token, "success": True}
        if number % 3 == 1:
            body |= {"success": False, "is_retryable": False}
        shared.barrier.wait()
        if number % 3 == 2:
            statuses.append(connection.post(f"{path}/cancel", {}).status)
        else:
            statuses.append(connection.post(f"{path}/complete", body).status)
    return statuses


def held_batch(queue: Server) -> list[Member]:
    callbacks = {
        name: {"type": "after", "params": {"of": {"$batch": "id"}, "as": name}}
        for name in ("on_finished", "on_completed", "on_failed")
    }
    tasks = [{"type": "job", "params": {}, "dedupe": "none"} for _ in range(PROCESSES)]
    queue.call("POST", "/api/batches", {"tasks": tasks, **callbacks})
    claim = {"worker_id": "w", "type": "job", "limit": PROCESSES}
    held = queue.call("POST", "/api/tasks/claim", claim).data["tasks"]
    return [Member(task["id"], task["claim_token"]) for task in held]


def test_sixteen_ends_at_once_finish_a_batch_once(queue: Server) -> None:
    for name in ("job", "after"):
        register(queue, name)
    batches = [held_batch(queue) for _ in range(ROUNDS)]

    answers = run_processes(
        end_one_of_each_batch, PROCESSES, port=queue.port, key=queue.key, arguments=batches
    )

    assert {status for statuses in answers for status in statuses} == {200}
    found = queue.call("GET", "/api/batches").data["batches"]
    assert [batch["status"] for batch in found] == ["finished"] * ROUNDS
    counts = {"completed": 6, "failed": 5, "cancelled": 5, "unfinished": 0}
    assert [batch["counts"] for batch in found] == [counts] * ROUNDS
    after = queue.call("GET", "/api/tasks?type=after&include=params").data["tasks"]
    made = sorted((task["params"]["of"], task["params"]["as"]) for task in after)
    assert made == sorted(
        (batch["id"], name) for batch in found for name in ("on_finished", "on_failed")
    )
    assert fetch_all("SELECT task_id FROM batch_members WHERE is_open = 1") == []


def test_sixteen_batches_that_end_at_once_finish_the_one_they_lie_in_once(queue: Server) -> None:
    for name in ("job", "after"):
        register(queue, name)
    callbacks = {
        name: {"type": "after", "params": {"as": name}} for name in ("on_completed", "on_failed")
    }
    outer = [queue.call("POST", "/api/batches", callbacks).data["id"] for _ in range(ROUNDS)]
    for batch_id in outer:
        body = {"parent_batch_id": batch_id, "tasks": [{"type": "job", "params": {}}]}
        body["tasks"][0]["dedupe"] = "none"
        for _ in range(PROCESSES):
            queue.call("POST", "/api/batches", body)
        queue.call("POST", f"/api/batches/{batch_id}/close", {})
    batches = []
    for _ in outer:
        claim = {"worker_id": "w", "type": "job", "limit": PROCESSES}
        held = queue.call("POST", "/api/tasks/claim", claim).data["tasks"]
        batches.append([Member(task["id"], task["claim_token"]) for task in held])

    answers = run_processes(
        end_one_of_each_batch, PROCESSES, port=queue.port, key=queue.key, arguments=batches
    )

    assert {status for statuses in answers for status in statuses} == {200}
    after = queue.call("GET", "/api/tasks?type=after&include=params").data["tasks"]
    assert [task["params"]["as"] for task in after] == ["on_failed"] * ROUNDS
    found = [queue.call("GET", f"/api/batches/{batch_id}").data for batch_id in outer]
    assert [batch["status"] for batch in found] == ["finished"] * ROUNDS


def retry_the_batch(
    connection: Connection, shared: Shared, number: int, batch_id: int
) -> list[int]:
    """One process tries what has failed again while the others end it."""
    answers = []
    for _ in range(20):
        shared.barrier.wait()
        if number == 0:
            answers.append(connection.post(f"/api/batches/{batch_id}/retry", {}).status)
        else:
            answers.append(connection.post(f"/api/batches/{batch_id}/cancel", {}).status)
    return answers


def test_a_batch_that_is_retried_and_cancelled_at_once_keeps_its_figures_right(
    queue: Server,
) -> None:
    register(queue, "job")
    tasks = [{"type": "job", "params": {}, "dedupe": "none"} for _ in range(20)]
    batch = queue.call("POST", "/api/batches", {"tasks": tasks}).data

    answers = run_processes(
        retry_the_batch, 3, port=queue.port, key=queue.key, arguments=batch["id"]
    )

    assert {status for statuses in answers for status in statuses} == {200}
    found = queue.call("GET", f"/api/batches/{batch['id']}").data
    states = fetch_all("SELECT status, COUNT(*) AS counted FROM tasks GROUP BY status")
    by_status = {row["status"]: row["counted"] for row in states}
    ended = {name: by_status.get(name, 0) for name in ("completed", "failed", "cancelled")}
    assert found["counts"] == {**ended, "unfinished": 20 - sum(ended.values())}
    [row] = fetch_all("SELECT COUNT(*) AS counted FROM batch_members WHERE is_open = 1")
    assert row["counted"] == found["counts"]["unfinished"]
    assert found["status"] == ("running" if row["counted"] else "finished")
