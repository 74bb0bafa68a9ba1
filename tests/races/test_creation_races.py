"""Many producers at once: the same task sent by all of them is made once."""

import collections
import random
from typing import Any

from taskmanager.db.statements import fetch_all
from tests.races.processes import Connection, Shared, run_processes
from tests.races.queues import register
from tests.support.server import Server

PRODUCERS = 16


def create_one_task(
    connection: Connection, shared: Shared, number: int, rounds: int
) -> list[tuple[int, bool, int]]:
    """Sends the same task as all others, a new one each round; status, deduplicated, id."""
    answers = []
    for n in range(rounds):
        shared.barrier.wait()
        reply = connection.post("/api/tasks", {"type": "job", "params": {"n": n}})
        answers.append((reply.status, reply.data["deduplicated"], reply.data["id"]))
    return answers


def test_sixteen_producers_of_one_task_make_it_once(queue: Server) -> None:
    rounds = 20
    register(queue, "job")

    answers = run_processes(
        create_one_task, PRODUCERS, port=queue.port, key=queue.key, arguments=rounds
    )

    for of_round in zip(*answers, strict=True):
        outcomes = collections.Counter((status, existed) for status, existed, _ in of_round)
        assert outcomes == {(201, False): 1, (200, True): PRODUCERS - 1}
        assert len({task_id for _, _, task_id in of_round}) == 1
    rows = fetch_all("SELECT params FROM tasks")
    assert sorted(row["params"] for row in rows) == sorted(f'{{"n":{n}}}' for n in range(rounds))
    created = fetch_all("SELECT task_id FROM task_logs WHERE event = 'created'")
    assert len(created) == len({row["task_id"] for row in created}) == rounds


BATCH = 50
KEYS_PER_ROUND = 70


def create_a_batch(
    connection: Connection, shared: Shared, number: int, rounds: int
) -> list[list[tuple[str, str, int]]]:
    """Sends 50 of 70 tasks in an order of its own; the outcome of each, its key and its id."""
    mine = random.Random(number)
    answers = []
    for turn in range(rounds):
        keys = [f"{turn} {key}" for key in mine.sample(range(KEYS_PER_ROUND), BATCH)]
        bodies = [{"type": "job", "params": {}, "dedupe_key": key} for key in keys]
        shared.barrier.wait()
        reply = connection.post("/api/tasks/batch", {"tasks": bodies})
        assert reply.status in (200, 201), reply
        assert reply.data["failed"] == 0, reply
        answers.append(
            [
                (result["outcome"], key, result["task"]["id"])
                for key, result in zip(keys, reply.data["results"], strict=True)
            ]
        )
    return answers


def test_overlapping_batches_in_any_order_make_each_task_once(queue: Server) -> None:
    register(queue, "job")

    answers = run_processes(create_a_batch, PRODUCERS, port=queue.port, key=queue.key, arguments=5)

    everything = [result for answer in answers for batch in answer for result in batch]
    creations = collections.Counter(key for outcome, key, _ in everything if outcome == "created")
    assert set(creations) == {key for _, key, _ in everything}
    assert set(creations.values()) == {1}
    ids = {(key, task_id) for _, key, task_id in everything}
    assert len(ids) == len(creations), "one key was answered with two tasks"
    stored = fetch_all("SELECT id FROM tasks")
    assert {row["id"] for row in stored} == {task_id for _, task_id in ids}


TURNS = 15


def create_or_finish(
    connection: Connection, shared: Shared, number: int, turns: int
) -> collections.Counter[str]:
    """Process 0 claims and completes `turns` times; until then the others create the task."""
    outcomes: collections.Counter[str] = collections.Counter()
    body: dict[str, Any] = {"type": "job", "params": {"same": True}, "dedupe": "active"}
    shared.barrier.wait()
    while shared.done.value < turns and not shared.failed.is_set():
        if number == 0:
            outcomes["finished"] += claim_and_complete(connection)
            shared.done.value = outcomes["finished"]
        else:
            reply = connection.post("/api/tasks", body)
            assert reply.status in (200, 201), reply
            outcomes["deduplicated" if reply.data["deduplicated"] else "created"] += 1
    return outcomes


def claim_and_complete(connection: Connection) -> int:
    claimed = connection.post("/api/tasks/claim", {"worker_id": "finisher"})
    if claimed.status == 404:
        return 0
    body = {"worker_id": "finisher", "claim_token": claimed.data["claim_token"], "success": True}
    assert connection.post(f"/api/tasks/{claimed.data['id']}/complete", body).status == 200
    return 1


def test_an_active_task_is_alone_however_often_it_is_finished_and_made_again(
    queue: Server,
) -> None:
    register(queue, "job")

    answers = run_processes(
        create_or_finish, PRODUCERS, port=queue.port, key=queue.key, arguments=TURNS
    )

    outcomes = sum(answers, collections.Counter())
    rows = fetch_all("SELECT status FROM tasks ORDER BY id")
    open_tasks = [row for row in rows if row["status"] != "completed"]
    assert len(open_tasks) <= 1
    assert outcomes["created"] == len(rows) == TURNS + len(open_tasks)
    assert outcomes["finished"] == TURNS
    assert outcomes["deduplicated"] > TURNS, "there was no race"
