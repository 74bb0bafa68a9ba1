"""Workers claim at once tasks of which only one of each key may be held, and tasks of groups."""

import time
from collections import Counter, defaultdict
from typing import Any

import pytest

from taskmanager.db.statements import fetch_all, fetch_value
from tests.races.processes import Connection, Shared, run_processes
from tests.races.queues import register
from tests.support.server import Server

PROCESSES = 16
KEYS = 5
TASKS_OF_KEY = 20
WORKERS = 12
GROUPS = 100
TASKS_OF_GROUP = 60
CLAIMED = 4_000


def create(queue: Server, name: str, field: str, keys: int, of_each: int) -> None:
    tasks = [
        {"type": name, "params": {"n": n}, "dedupe": "none", field: f"key-{key}"}
        for key in range(keys)
        for n in range(of_each)
    ]
    for start in range(0, len(tasks), 1_000):
        queue.call("POST", "/api/tasks/batch", {"tasks": tasks[start : start + 1_000]})


def work(connection: Connection, shared: Shared, number: int, total: int) -> int:
    """Claims, and completes, fails or releases until all is done; returns how many it completed."""
    done = attempts = 0
    shared.barrier.wait()
    while shared.done.value < total and not shared.failed.is_set():
        claim = {"worker_id": f"worker-{number}", "type": "job", "limit": 2}
        reply = connection.post("/api/tasks/claim", claim)
        if reply.status == 404:
            time.sleep(0.005)
            continue
        for task in reply.data["tasks"]:
            attempts += 1
            path = f"/api/tasks/{task['id']}"
            body = {"worker_id": claim["worker_id"], "claim_token": task["claim_token"]}
            if attempts % 5 == 0:
                assert connection.post(f"{path}/release", body).status == 200
                continue
            answer = connection.post(f"{path}/complete", {**body, "success": True})
            assert answer.status == 200, answer
            done += 1
            with shared.done.get_lock():
                shared.done.value += 1
    return done


def most_held_at_once() -> int:
    """Of one key, by the history: its rows are in the order in which the claims were stored."""
    rows: list[Any] = fetch_all(
        "SELECT log.event, task.concurrency_key FROM task_logs AS log "
        "JOIN tasks AS task ON task.id = log.task_id "
        "WHERE log.event IN ('claimed', 'completed', 'released') ORDER BY log.id"
    )
    held: dict[str, int] = defaultdict(int)
    most = 0
    for row in rows:
        held[row["concurrency_key"]] += 1 if row["event"] == "claimed" else -1
        most = max(most, held[row["concurrency_key"]])
    return most


def test_no_two_tasks_of_a_key_are_ever_held_at_once(queue: Server) -> None:
    register(queue, "job", concurrency={"limit": 1, "per": "key"})
    create(queue, "job", "concurrency_key", KEYS, TASKS_OF_KEY)
    total = KEYS * TASKS_OF_KEY
    done = run_processes(work, PROCESSES, port=queue.port, key=queue.key, arguments=total)
    assert sum(done) == total
    assert most_held_at_once() == 1
    assert fetch_value("SELECT COUNT(*) FROM lanes") == 0


def claim_shares(connection: Connection, shared: Shared, number: int, total: int) -> list[str]:
    """Claims until all workers together have claimed `total`; returns the groups of its tasks."""
    groups = []
    shared.barrier.wait()
    while shared.done.value < total and not shared.failed.is_set():
        reply = connection.post("/api/tasks/claim", {"worker_id": f"worker-{number}"})
        assert reply.status == 200, reply
        groups.append(reply.data["group_key"])
        with shared.done.get_lock():
            shared.done.value += 1
    return groups


# Whose turn it is does not depend on how rows are locked.
@pytest.mark.parametrize("engine", ["sqlite", "mariadb"], indirect=True)
def test_each_group_gets_its_share(queue: Server) -> None:
    register(queue, "fair", fair=True)
    create(queue, "fair", "group_key", 1, 5 * TASKS_OF_GROUP)  # one has many more than the others
    create(queue, "fair", "group_key", GROUPS, TASKS_OF_GROUP)
    claimed = run_processes(
        claim_shares, WORKERS, port=queue.port, key=queue.key, arguments=CLAIMED
    )
    shares = Counter(group for groups in claimed for group in groups)
    assert len(shares) == GROUPS
    fair = CLAIMED / GROUPS
    # The last claims of the workers are one more than were asked for.
    assert all(0.9 * fair <= share <= 1.1 * fair + 0.2 for share in shares.values()), shares


def come_and_go(connection: Connection, shared: Shared, number: int, rounds: int) -> int:
    """Creates, claims and completes tasks of the same few keys: their lanes come and go."""
    done = 0
    shared.barrier.wait()
    worker = f"worker-{number}"
    for n in range(rounds):
        task = {"type": "job", "params": {}, "dedupe": "none", "concurrency_key": f"key-{n % 2}"}
        assert connection.post("/api/tasks", task).status == 201
        reply = connection.post("/api/tasks/claim", {"worker_id": worker})
        if reply.status == 200:
            body = {"worker_id": worker, "claim_token": reply.data["claim_token"], "success": True}
            assert connection.post(f"/api/tasks/{reply.data['id']}/complete", body).status == 200
            done += 1
    return done


def test_keys_that_come_and_go_lose_no_task(queue: Server) -> None:
    register(queue, "job", concurrency={"limit": 1, "per": "key"})
    done = run_processes(come_and_go, 8, port=queue.port, key=queue.key, arguments=20)
    left = 8 * 20 - sum(done)
    assert fetch_value("SELECT COUNT(*) FROM tasks WHERE status = 'pending'") == left
    assert most_held_at_once() == 1
    assert fetch_value("SELECT COUNT(*) FROM lane_members WHERE is_held = 0") == left
    assert fetch_value("SELECT COUNT(*) FROM lane_members WHERE is_held = 1") == 0
    assert fetch_value("SELECT COUNT(*) FROM lanes WHERE is_ready = 0") == 0
