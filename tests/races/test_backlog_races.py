"""Sixteen producers create tasks of a type of which only so many may be open."""

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

from taskmanager.db.connection import close_connection
from taskmanager.db.statements import fetch_all
from tests.races.processes import Connection, Shared, run_processes
from tests.races.queues import register
from tests.support.server import Server

PROCESSES = 16
LIMIT = 20
GROUP_LIMIT = 8
ROUNDS = 10
ENDS = ("completed", "cancelled")


def fill(connection: Connection, shared: Shared, number: int, groups: list[str]) -> Counter[int]:
    """Creates one by one and in batches; returns how many tasks were created and refused."""
    statuses: Counter[int] = Counter()
    shared.barrier.wait()
    for n in range(ROUNDS):
        tasks = [
            {"type": "job", "params": {"n": n}, "dedupe_key": f"{number}-{n}-{i}", **in_group}
            for i in range(3)
            for in_group in [{"group_key": random.choice(groups)} if groups else {}]
        ]
        if n % 2:
            reply = connection.post("/api/tasks", tasks[0])
            statuses[reply.status] += 1
        else:
            reply = connection.post("/api/tasks/batch", {"tasks": tasks})
            assert reply.status in (200, 201), reply
            statuses[201] += reply.data["created"]
            statuses[429] += reply.data["failed"]
    return statuses


def total(results: list[Counter[int]]) -> Counter[int]:
    added: Counter[int] = Counter()
    for one in results:
        added += one
    return added


def most_open_at_once(column: str) -> dict[Any, int]:
    """By the history: its rows are in the order in which creations and ends were stored."""
    rows: list[Any] = fetch_all(
        f"SELECT event, {column} AS of_what FROM task_logs JOIN tasks ON tasks.id = task_id "
        "WHERE event IN ('created', 'completed', 'cancelled') ORDER BY task_logs.id"
    )
    now: Counter[Any] = Counter()
    most: dict[Any, int] = {}
    for row in rows:
        now[row["of_what"]] += -1 if row["event"] in ENDS else 1
        most[row["of_what"]] = max(most.get(row["of_what"], 0), now[row["of_what"]])
    return most


def test_a_type_is_filled_to_its_limit_and_not_beyond(queue: Server) -> None:
    register(queue, "job", max_open={"type": LIMIT})
    statuses = total(run_processes(fill, PROCESSES, port=queue.port, key=queue.key, arguments=[]))
    assert statuses[201] == LIMIT
    assert statuses.keys() == {201, 429}
    assert list(most_open_at_once("task_type_id").values()) == [LIMIT]


def test_groups_are_filled_to_their_limits_and_not_beyond(queue: Server) -> None:
    register(queue, "job", max_open={"group": GROUP_LIMIT}, fair=True)
    groups = ["a", "b", "c"]
    statuses = total(
        run_processes(fill, PROCESSES, port=queue.port, key=queue.key, arguments=groups)
    )
    assert statuses[201] == GROUP_LIMIT * len(groups)
    assert most_open_at_once("group_key") == dict.fromkeys(groups, GROUP_LIMIT)


def come_and_go(connection: Connection, shared: Shared, number: int, _: Any) -> int:
    """Half create, half claim and complete."""
    done = 0
    shared.barrier.wait()
    for n in range(40):
        if number % 2:
            task = {"type": "job", "params": {}, "dedupe": "none", "group_key": f"g-{n % 2}"}
            done += connection.post("/api/tasks", task).status == 201
            continue
        worker = f"worker-{number}"
        reply = connection.post("/api/tasks/claim", {"worker_id": worker})
        if reply.status == 200:
            body = {"worker_id": worker, "claim_token": reply.data["claim_token"], "success": True}
            assert connection.post(f"/api/tasks/{reply.data['id']}/complete", body).status == 200
    return done


@contextlib.contextmanager
def watched() -> Iterator[list[Counter[str]]]:
    """How many tasks of each group were open, again and again while the block runs.

    By what is committed: a creation is in the history before it counts what is open, so the history
    of MariaDB has it before ends that were committed first.
    """
    seen: list[Counter[str]] = []
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(0.01):
            rows = fetch_all(
                "SELECT group_key, COUNT(*) AS counted FROM tasks "
                "WHERE status IN ('pending', 'claimed') GROUP BY group_key"
            )
            seen.append(Counter({row["group_key"]: row["counted"] for row in rows}))
        close_connection()

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        is_over.set()
        watcher.join()


def test_the_limits_hold_while_tasks_end(queue: Server) -> None:
    register(queue, "job", max_open={"type": 6, "group": 4}, concurrency={"limit": 3})
    with watched() as seen:
        made = sum(run_processes(come_and_go, PROCESSES, port=queue.port, key=queue.key))
    assert made > 6
    assert max(groups.total() for groups in seen) == 6
    assert max(max(groups.values(), default=0) for groups in seen) <= 4
