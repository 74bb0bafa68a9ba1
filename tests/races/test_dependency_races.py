"""The last dependencies of a task end at once: it is unblocked once, and never left behind."""

from typing import NamedTuple

from taskmanager.db.statements import fetch_all
from tests.races.processes import Connection, Shared, run_processes
from tests.races.queues import register
from tests.support.server import Server

PROCESSES = 16
ROUNDS = 12


class Held(NamedTuple):
    """A held dependency of the task of one round."""

    id: int
    claim_token: str


def end_one_of_each_round(
    connection: Connection, shared: Shared, number: int, rounds: list[list[Held]]
) -> list[int]:
    """Every third process cancels its task, the others complete theirs."""
    statuses = []
    for held in rounds:
        task = held[number]
        body = {"worker_id": "w", "claim_token": task.claim_token, "success": True}
        shared.barrier.wait()
        if number % 3 == 2:
            statuses.append(connection.post(f"/api/tasks/{task.id}/cancel", {}).status)
        else:
            statuses.append(connection.post(f"/api/tasks/{task.id}/complete", body).status)
    return statuses


def held_round(queue: Server) -> list[Held]:
    tasks = [{"type": "job", "params": {}, "dedupe": "none"} for _ in range(PROCESSES)]
    queue.call("POST", "/api/tasks/batch", {"tasks": tasks})
    claim = {"worker_id": "w", "type": "job", "limit": PROCESSES}
    held = queue.call("POST", "/api/tasks/claim", claim).data["tasks"]
    waiting = {"type": "after", "params": {}, "dedupe": "none"}
    waiting["depends_on"] = [task["id"] for task in held]
    for policy in ("run", "cancel"):
        queue.call("POST", "/api/tasks", {**waiting, "on_dependency_failed": policy})
    return [Held(task["id"], task["claim_token"]) for task in held]


def test_sixteen_dependencies_that_end_at_once_leave_nothing_blocked(queue: Server) -> None:
    for name in ("job", "after"):
        register(queue, name)
    rounds = [held_round(queue) for _ in range(ROUNDS)]

    answers = run_processes(
        end_one_of_each_round, PROCESSES, port=queue.port, key=queue.key, arguments=rounds
    )

    assert {status for statuses in answers for status in statuses} == {200}
    found = fetch_all(
        "SELECT on_dependency_failed AS policy, status FROM tasks "
        "WHERE on_dependency_failed IS NOT NULL"
    )
    ends = sorted((row["policy"], row["status"]) for row in found)
    assert ends == [("cancel", "cancelled")] * ROUNDS + [("run", "pending")] * ROUNDS
    events = fetch_all("SELECT task_id FROM task_logs WHERE event = 'unblocked'")
    assert len(events) == len({row["task_id"] for row in events}) == ROUNDS
    assert fetch_all("SELECT id FROM task_dependencies WHERE is_open = 1") == []
    assert fetch_all("SELECT task_id FROM ended_dependencies") == []
