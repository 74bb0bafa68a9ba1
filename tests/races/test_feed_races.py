"""A program follows the feed of events while many others write."""

from collections import Counter
from typing import Any

from taskmanager.db.statements import fetch_all
from tests.races.processes import Connection, Shared, run_processes
from tests.races.queues import register
from tests.support.server import Server

WRITERS = 7
ROUNDS = 15


def follow_or_write(connection: Connection, shared: Shared, number: int, _: Any) -> list[Any]:
    """The last process follows; what it was told, each event as it came."""
    shared.barrier.wait()
    if number == WRITERS:
        return follow(connection)
    for round_ in range(ROUNDS):
        write(connection, f"{number}-{round_}", ends_deleted=round_ % 3 == 0)
    with shared.done.get_lock():
        shared.done.value += 1
        is_last = shared.done.value == WRITERS
    if is_last:
        connection.post("/api/tasks", {"type": "end", "params": {}})
    return []


def write(connection: Connection, worker_id: str, *, ends_deleted: bool) -> None:
    """Two tasks come and end; in some rounds they are deleted then, with the newest events."""
    tasks = [{"type": "job", "params": {}, "dedupe": "none"} for _ in range(2)]
    connection.post("/api/tasks/batch", {"tasks": tasks})
    claimed = connection.post(
        "/api/tasks/claim", {"worker_id": worker_id, "type": "job", "limit": 2}
    )
    done = [] if claimed.status == 404 else claimed.data["tasks"]
    for task in done:
        report = {"worker_id": worker_id, "claim_token": task["claim_token"], "success": True}
        assert connection.post(f"/api/tasks/{task['id']}/complete", report).status == 200
    if ends_deleted and done:
        ids = [task["id"] for task in done]
        assert connection.post("/api/tasks/delete", {"ids": ids}).status == 200


def follow(connection: Connection) -> list[Any]:
    seen: list[Any] = []
    cursor = "0.0"
    while not seen or seen[-1][2] != "end":
        reply = connection.call("GET", f"/api/events?limit=20&after={cursor}")
        cursor = reply.data["next_cursor"]
        seen += [
            [event["task_id"], event["event"], event["type"]] for event in reply.data["events"]
        ]
    return seen


def test_the_reader_of_the_feed_is_told_everything_once(queue: Server) -> None:
    for name in ("job", "end"):
        register(queue, name)
    *_, seen = run_processes(follow_or_write, WRITERS + 1, port=queue.port, key=queue.key)
    told = [(task_id, event) for task_id, event, _ in seen]
    rows = fetch_all("SELECT task_id, event FROM {task_logs} ORDER BY id")
    stored = [(row["task_id"], row["event"]) for row in rows]

    assert [pair for pair, count in Counter(told).items() if count > 1] == []
    assert set(stored) - set(told) == set()
    kept = {task_id for task_id, _ in stored}
    assert [pair for pair in told if pair[0] in kept] == stored
