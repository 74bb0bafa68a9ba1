"""Many workers at once: every task is held once per attempt, and none is lost.

Real processes against the real server, on every database.
"""

import collections
import itertools
import time
from typing import Any, NamedTuple

import pytest

from taskmanager.db.connection import connect_database
from taskmanager.db.statements import execute, fetch_all
from tests.races.processes import Connection, Shared, run_processes
from tests.races.queues import register
from tests.support.server import Server

TASKS = 2_500
WORKERS = 10
TYPES = ("resize.image", "resize.video", "send.mail")
FAILS_FIRST = 7  # every seventh task fails on its first attempt

# The filters and sizes that a worker uses in turn. None: one task, without `limit`.
CLAIMS: list[tuple[dict[str, Any], int | None]] = [
    ({"type": TYPES[0]}, None),
    ({"type": TYPES[1]}, 10),
    ({"task_types": [TYPES[0], TYPES[2]]}, None),
    ({}, None),
    ({"type_pattern": "resize.%"}, 5),
    ({}, 25),
    ({"task_types": list(TYPES), "sort_by": "id", "sort_order": "DESC"}, 10),
    ({"type": TYPES[2], "sort_by": "attempts"}, None),
    ({"type_pattern": "%mail", "sort_by": "priority", "sort_order": "ASC"}, 10),
]


def create(server: Server, count: int, types: tuple[str, ...] = TYPES, **fields: Any) -> list[int]:
    """Makes `count` tasks numbered by their params, a thousand per request; returns their ids."""
    bodies = [
        {"type": types[n % len(types)], "params": {"n": n}, "priority": n % 3, **fields}
        for n in range(count)
    ]
    ids = []
    for start in range(0, count, 1_000):
        some = {"tasks": bodies[start : start + 1_000]}
        answer = server.call("POST", "/api/tasks/batch", some)
        assert answer.data["created"] == len(some["tasks"])
        ids += [result["task"]["id"] for result in answer.data["results"]]
    return ids


def work_until_all_is_done(
    connection: Connection, shared: Shared, number: int, total: int
) -> list[tuple[int, int]]:
    """One worker: claims in every way there is and reports; returns (task, attempt) of each."""
    held: list[tuple[int, int]] = []
    worker_id = f"worker-{number}"
    shared.barrier.wait()
    for turn in itertools.count(number):
        if shared.done.value >= total or shared.failed.is_set():
            return held
        tasks = claim(connection, worker_id, turn)
        held += [(task["id"], task["attempts"]) for task in tasks]
        finished = report(connection, worker_id, tasks)
        with shared.done.get_lock():
            shared.done.value += finished
        if not tasks:
            time.sleep(0.02)
    raise AssertionError("unreachable")


def claim(connection: Connection, worker_id: str, turn: int) -> list[Any]:
    filters, limit = CLAIMS[turn % len(CLAIMS)]
    body = {"worker_id": worker_id, **filters}
    if limit is not None:
        body["limit"] = limit
    repeats = turn % 4 == 0
    if repeats:
        body["request_id"] = f"{worker_id} {turn}"
    reply = connection.post("/api/tasks/claim", body)
    if reply.status == 404:
        assert reply.body["code"] == "no_task_available"
        return []
    assert reply.status == 200, reply
    if repeats:  # as after an answer that was lost
        assert connection.post("/api/tasks/claim", body).data == reply.data
    return [reply.data] if limit is None else list(reply.data["tasks"])


def report(connection: Connection, worker_id: str, tasks: list[Any]) -> int:
    """Completes what was claimed, one or many at once; returns how many are finished by it."""
    reports = [
        {
            "claim_token": task["claim_token"],
            "success": task["attempts"] > 1 or task["params"]["n"] % FAILS_FIRST != 0,
        }
        for task in tasks
    ]
    if len(tasks) == 1:
        body = {"worker_id": worker_id, **reports[0]}
        reply = connection.post(f"/api/tasks/{tasks[0]['id']}/complete", body)
        assert reply.status == 200, reply
    elif tasks:
        completions = [{"id": task["id"], **one} for task, one in zip(tasks, reports, strict=True)]
        body = {"worker_id": worker_id, "completions": completions}
        reply = connection.post("/api/tasks/complete", body)
        assert [one.get("error") for one in reply.data["results"]] == [None] * len(tasks), reply
    return sum(one["success"] for one in reports)


def test_many_workers_hold_each_task_once_per_attempt_and_lose_none(queue: Server) -> None:
    for name in TYPES:
        register(queue, name)
    ids = create(queue, TASKS)

    answers = run_processes(
        work_until_all_is_done, WORKERS, port=queue.port, key=queue.key, arguments=TASKS
    )

    held = collections.Counter(pair for answer in answers for pair in answer)
    assert set(held.values()) == {1}
    fails_first = {task_id for n, task_id in enumerate(ids) if n % FAILS_FIRST == 0}
    expected = {(task_id, 1) for task_id in ids} | {(task_id, 2) for task_id in fails_first}
    assert set(held) == expected
    assert all(answers), "one of the workers was given nothing at all"

    states = fetch_all("SELECT status, COUNT(*) AS counted FROM tasks GROUP BY status")
    assert states == [{"status": "completed", "counted": TASKS}]
    logs = fetch_all("SELECT task_id, attempt FROM task_logs WHERE event = 'claimed'")
    assert collections.Counter((row["task_id"], row["attempt"]) for row in logs) == held
    ends = fetch_all("SELECT task_id, attempt FROM task_logs WHERE event = 'completed'")
    assert sorted(row["task_id"] for row in ends) == sorted(ids)


def claim_the_same_request(
    connection: Connection, shared: Shared, number: int, rounds: int
) -> list[list[tuple[int, str]]]:
    given = []
    for turn in range(rounds):
        body = {"worker_id": "twin", "request_id": f"request {turn}", "limit": 3}
        if turn % 2:
            body["task_types"] = list(TYPES)
        shared.barrier.wait()
        reply = connection.post("/api/tasks/claim", body)
        assert reply.status == 200, reply
        given.append([(task["id"], task["claim_token"]) for task in reply.data["tasks"]])
    return given


def test_one_request_id_sent_twice_at_once_is_given_the_same_tasks(queue: Server) -> None:
    rounds = 30
    for name in TYPES:
        register(queue, name)
    create(queue, rounds * 3)

    one, other = run_processes(
        claim_the_same_request, 2, port=queue.port, key=queue.key, arguments=rounds
    )

    assert [sorted(tasks) for tasks in one] == [sorted(tasks) for tasks in other]
    given = [task_id for tasks in one for task_id, _ in tasks]
    assert len(set(given)) == len(given) == rounds * 3
    claimed = fetch_all("SELECT id FROM tasks WHERE status = 'claimed' AND attempts = 1")
    assert sorted(row["id"] for row in claimed) == sorted(given)


class Ending(NamedTuple):
    database_url: str
    tasks: list[Any]


def end_in_one_of_three_ways(
    connection: Connection, shared: Shared, number: int, ending: Ending
) -> list[int]:
    """Process 0 completes, 1 cancels, 2 takes back what has expired; the statuses answered."""
    answers = []
    if number == 2:
        connect_database(ending.database_url)
    for task in ending.tasks:
        if number == 2:
            execute("UPDATE tasks SET lease_expires_at = 1 WHERE id = ?", (task["id"],))
        shared.barrier.wait()
        if number == 0:
            body = {"worker_id": "slow", "claim_token": task["claim_token"], "success": True}
            answers.append(connection.post(f"/api/tasks/{task['id']}/complete", body).status)
        elif number == 1:
            answers.append(connection.post(f"/api/tasks/{task['id']}/cancel", {}).status)
        else:
            answers.append(connection.post("/api/maintenance/run", {}).status)
        shared.barrier.wait()
    return answers


@pytest.mark.parametrize("max_attempts", [1, 2])
def test_of_completion_cancellation_and_expiry_one_wins(
    queue: Server, fresh_database_url: str, max_attempts: int
) -> None:
    register(queue, "job", max_attempts=max_attempts)
    create(queue, 100, ("job",))
    tasks = queue.call("POST", "/api/tasks/claim", {"worker_id": "slow", "limit": 100}).data[
        "tasks"
    ]

    completed, cancelled, maintained = run_processes(
        end_in_one_of_three_ways,
        3,
        port=queue.port,
        key=queue.key,
        arguments=Ending(fresh_database_url, tasks),
    )

    assert set(maintained) == {200}
    won = {"completed": (200, 409), "cancelled": (409, 200), "failed": (409, 409)}
    winners = collections.Counter[str]()
    for task, completion, cancellation in zip(tasks, completed, cancelled, strict=True):
        row = fetch_all("SELECT status FROM tasks WHERE id = ?", (task["id"],))[0]
        history = fetch_all(
            "SELECT event, status FROM task_logs WHERE task_id = ? ORDER BY id", (task["id"],)
        )
        ends = [log["status"] for log in history if log["status"] in won]
        # A late report of the last attempt counts after the lease has expired.
        assert ends in ([row["status"]], ["failed", "completed"]), history
        assert ends[-1] == row["status"], history
        assert history[-1]["status"] == row["status"], "something happened to a finished task"
        assert (completion, cancellation) == won[row["status"]], history
        assert max_attempts == 1 or "failed" not in ends
        winners[row["status"]] += 1
    assert len(winners) > 1, f"never was there a race: {winners}"
