"""Sixteen workers claim tasks of a type of which only so many may be held, or may start."""

import time
from typing import Any

from taskmanager.db.statements import fetch_all
from tests.races.processes import Connection, Shared, run_processes
from tests.races.queues import register
from tests.support.server import Server

PROCESSES = 16
TASKS = 150
LIMIT = 3


def work(connection: Connection, shared: Shared, number: int, total: int) -> int:
    """Claims and completes until all is done; returns how many it has completed."""
    done = 0
    shared.barrier.wait()
    while shared.done.value < total and not shared.failed.is_set():
        claim = {"worker_id": f"worker-{number}", "type": "job", "limit": 2}
        reply = connection.post("/api/tasks/claim", claim)
        if reply.status == 404:
            time.sleep(0.005)
            continue
        for task in reply.data["tasks"]:
            body = {"worker_id": claim["worker_id"], "claim_token": task["claim_token"]}
            answer = connection.post(f"/api/tasks/{task['id']}/complete", {**body, "success": True})
            assert answer.status == 200, answer
            done += 1
            with shared.done.get_lock():
                shared.done.value += 1
    return done


def create(queue: Server, count: int) -> None:
    tasks = [{"type": "job", "params": {"n": n}} for n in range(count)]
    queue.call("POST", "/api/tasks/batch", {"tasks": tasks})


def most_held_at_once() -> int:
    """By the history: its rows are in the order in which the claims and the ends were stored."""
    rows: list[Any] = fetch_all(
        "SELECT event FROM task_logs WHERE event IN ('claimed', 'completed') ORDER BY id"
    )
    held = most = 0
    for row in rows:
        held += 1 if row["event"] == "claimed" else -1
        most = max(most, held)
    return most


def test_no_more_tasks_are_held_than_the_limit_says(queue: Server) -> None:
    register(queue, "job", concurrency={"limit": LIMIT})
    create(queue, TASKS)
    done = run_processes(work, PROCESSES, port=queue.port, key=queue.key, arguments=TASKS)
    assert sum(done) == TASKS
    assert 1 <= most_held_at_once() <= LIMIT


def claim_once(connection: Connection, shared: Shared, number: int, _: Any) -> int:
    shared.barrier.wait()
    claim = {"worker_id": f"worker-{number}", "type": "job", "limit": 3}
    reply = connection.post("/api/tasks/claim", claim)
    return len(reply.data["tasks"]) if reply.status == 200 else 0


def test_no_more_tasks_start_than_the_rate_says(queue: Server) -> None:
    register(queue, "job", start_rate="10/hour")
    create(queue, TASKS)
    counts = run_processes(claim_once, PROCESSES, port=queue.port, key=queue.key)
    assert sum(counts) == 10
