"""What the workers find to do: each feature that counts something or waits for something.

Locks of other nodes are not seen, so what is checked here is what certification must keep right.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from taskmanager.db.statements import fetch_all, fetch_value
from tests.support.server import Server

BATCH = 20  # tasks in each
KEYS = 10
GROUPS = 10
LARGE = 4  # times as many tasks has the first group
LIMIT = 3
TYPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "member": {},
    "after": {},
    "keyed": {"concurrency": {"limit": 1, "per": "key"}},
    "limited": {"concurrency": {"limit": LIMIT}},
    "fair": {"fair": True},
}
HELD_FOR_A_WHILE = {"keyed", "limited"}


class Done(NamedTuple):
    """A task whose end was acknowledged. Times are monotonic, in seconds.

    The worker held the task at least from `begun_at`, when it had the answer to its claim, until
    `ended_at`, when it sent its first report.
    """

    id: int
    type: str
    attempt: int
    concurrency_key: str | None
    group_key: str | None
    begun_at: float
    ended_at: float


def create(servers: Sequence[Server], count: int) -> int:
    """Fills the queue through all servers; returns how many tasks there will be in the end."""
    for name, fields in TYPES.items():
        body = {"name": name, "version": "1", "param_schema": {"type": "object"}, **fields}
        answer = servers[0].call("POST", "/api/task-types/register", {**body, "lease_seconds": 10})
        assert answer.status == 201
    several = itertools.cycle(servers)
    shares = {"keyed": count // 6, "limited": count // 10, "fair": count // 6}
    members = count // 5 // BATCH * BATCH
    for tasks in (
        [job("keyed", n, concurrency_key=f"key-{n % KEYS}") for n in range(shares["keyed"])],
        [job("limited", n) for n in range(shares["limited"])],
        [job("fair", n, group_key=group) for n, group in enumerate(groups(shares["fair"]))],
        [job("plain", n) for n in range(count - members - sum(shares.values()))],
    ):
        for start in range(0, len(tasks), 500):
            some = tasks[start : start + 500]
            answer = next(several).call("POST", "/api/tasks/batch", {"tasks": some})
            assert answer.data["created"] == len(some)
    follow = {
        name: {"type": "after", "params": {"batch": {"$batch": "id"}, "as": name}}
        for name in ("on_completed", "on_failed", "on_finished")
    }
    for first in range(0, members, BATCH):
        tasks = [job("member", n) for n in range(first, first + BATCH)]
        assert next(several).call("POST", "/api/batches", {"tasks": tasks, **follow}).status == 201
    return count + 2 * members // BATCH


def job(name: str, number: int, **keys: str) -> dict[str, Any]:
    return {"type": name, "params": {"n": number}, "dedupe": "none", **keys}


def groups(count: int) -> list[str]:
    """Of so many tasks; all of the large group come first."""
    of_each = count // (GROUPS - 1 + LARGE)
    small = [f"group-{n % (GROUPS - 1)}" for n in range(of_each * (GROUPS - 1))]
    return ["large"] * (count - len(small)) + small


def check(done: Sequence[Done], total: int) -> None:
    """Every task ended once, with what was acknowledged, and no attempt was given away twice."""
    tasks = {row["id"]: row for row in fetch_all("SELECT id, status, result FROM {tasks}")}
    assert {row["status"] for row in tasks.values()} == {"completed"}
    assert len(tasks) == total
    for task in done:
        assert tasks[task.id]["result"] == str(task.attempt)
    history = fetch_all(
        "SELECT task_id, event, attempt, COUNT(*) AS times FROM {task_logs} "
        "WHERE event IN ('claimed', 'completed') GROUP BY task_id, event, attempt"
    )
    assert [row for row in history if row["times"] != 1] == []
    assert len([row for row in history if row["event"] == "completed"]) == total
    check_batches()
    check_limits(done)
    check_shares([task for task in done if task.type == "fair"])


def check_batches() -> None:
    """Each has created what follows it, once, and knows that it has ended."""
    batches = fetch_all("SELECT * FROM {batches}")
    assert batches
    for batch in batches:
        assert (batch["tasks"], batch["completed"]) == (BATCH, BATCH)
        assert batch["finished_at"] is not None
    named = [batch[f"on_{end}_task_id"] for batch in batches for end in ("completed", "finished")]
    made = fetch_all(
        "SELECT task.id FROM {tasks} AS task JOIN {task_types} AS type "
        "ON type.id = task.task_type_id WHERE type.name = 'after'"
    )
    assert sorted(named) == sorted(row["id"] for row in made)
    assert [batch["on_failed_task_id"] for batch in batches] == [None] * len(batches)
    assert fetch_value("SELECT COUNT(*) FROM {batch_members} WHERE is_open = 1") == 0


def check_limits(done: Iterable[Done]) -> None:
    """By what the workers have seen: ids and times of history are not in the order of commits."""
    of_key = defaultdict(list)
    for task in done:
        of_key[task.type, task.concurrency_key].append(task)
    keyed = [tasks for (name, _), tasks in of_key.items() if name == "keyed"]
    assert len(keyed) == KEYS
    assert [most_at_once(tasks) for tasks in keyed] == [1] * KEYS
    assert most_at_once(of_key["limited", None]) <= LIMIT


def check_lanes() -> None:
    """Nothing is left in lanes once all tasks have ended."""
    left = [fetch_all(f"SELECT * FROM {{{table}}}") for table in ("lanes", "lane_members")]
    assert left == [[], []]


def most_at_once(done: Iterable[Done]) -> int:
    changes = [change for task in done for change in ((task.begun_at, 1), (task.ended_at, -1))]
    return max(itertools.accumulate(change for _, change in sorted(changes)))


def check_shares(done: Sequence[Done]) -> None:
    """The small groups did not wait for the large one."""
    in_order = [task.group_key for task in sorted(done, key=lambda task: task.begun_at)]
    last_small = max(n for n, group in enumerate(in_order) if group != "large")
    of_each = in_order.count("group-0")
    before = in_order[:last_small].count("large")
    assert before <= 2 * of_each, f"{before} of the large group before the last of {of_each}"
