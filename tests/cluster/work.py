"""What the workers find to do: each feature that counts something or waits for something.

Locks of other nodes are not seen, so what is checked here is what certification must keep right.
"""

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from taskmanager.db.statements import Row, fetch_all, fetch_value
from tests.support.server import Server

BATCH = 20  # tasks in each
KEYS = 10
GROUPS = 10
LARGE = 4  # times as many tasks has the first group
LIMIT = 3
LINKS = 5  # tasks of a chain, each of which waits for the one before
PARTS = 6  # tasks that each of two others waits for
# Of so many chains, and of so many sums, one has a task that fails: its third, and its last part.
FAILING = 3
THIRD = 2
TYPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "member": {},
    "after": {},
    "keyed": {"concurrency": {"limit": 1, "per": "key"}},
    "limited": {"concurrency": {"limit": LIMIT}},
    "fair": {"fair": True},
    "link": {},
    "part": {},
    "sum": {},
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
    has_failed: bool
    begun_at: float
    ended_at: float


def create(servers: Sequence[Server], count: int) -> int:
    """Fills the queue through all servers; returns how many tasks workers will end.

    Those that wait for a task that fails come in addition: nobody gets them.
    """
    for name, fields in TYPES.items():
        body = {"name": name, "version": "1", "param_schema": {"type": "object"}, **fields}
        answer = servers[0].call("POST", "/api/task-types/register", {**body, "lease_seconds": 10})
        assert answer.status == 201
    several = itertools.cycle(servers)
    shares = {"keyed": count // 6, "limited": count // 10, "fair": count // 6}
    members = count // 5 // BATCH * BATCH
    chains, fans = range(count // 10 // LINKS), range(count // 10 // (PARTS + 2))
    waiting = [*map(chain, chains), *map(fan, fans)]
    plain = count - members - sum(shares.values()) - sum(map(len, waiting))
    for tasks in (
        [job("keyed", {"n": n}, concurrency_key=f"key-{n % KEYS}") for n in range(shares["keyed"])],
        [job("limited", {"n": n}) for n in range(shares["limited"])],
        [job("fair", {"n": n}, group_key=group) for n, group in enumerate(groups(shares["fair"]))],
        [job("plain", {"n": n}) for n in range(plain)],
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
        tasks = [job("member", {"n": n}) for n in range(first, first + BATCH)]
        assert next(several).call("POST", "/api/batches", {"tasks": tasks, **follow}).status == 201
    for tasks in waiting:
        answer = next(several).call("POST", "/api/tasks/batch", {"tasks": tasks})
        assert answer.data["created"] == len(tasks)
    never = len(chains[::FAILING]) * (LINKS - THIRD - 1) + len(fans[::FAILING])
    return count + 2 * members // BATCH - never


def job(name: str, params: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"type": name, "params": params, "dedupe": "none", **fields}


def chain(number: int) -> list[dict[str, Any]]:
    """Tasks of which each waits for the one before."""
    return [
        job(
            "link",
            {"chain": number, "link": n, "fails": number % FAILING == 0 and n == THIRD},
            depends_on=[{"index": n - 1}] if n else [],
        )
        for n in range(LINKS)
    ]


def fan(number: int) -> list[dict[str, Any]]:
    """Tasks that can be done at once, and two that take their results: one whatever they are."""
    fails = [number % FAILING == 0 and n == PARTS - 1 for n in range(PARTS)]
    parts = [job("part", {"fan": number, "fails": each}) for each in fails]
    params = {"fan": number, "of": [{"$result_of": n} for n in range(PARTS)]}
    every = [{"index": n} for n in range(PARTS)]
    strict = job("sum", params, depends_on=every)
    return [*parts, strict, {**strict, "on_dependency_failed": "run"}]


def groups(count: int) -> list[str]:
    """Of so many tasks; all of the large group come first."""
    of_each = count // (GROUPS - 1 + LARGE)
    small = [f"group-{n % (GROUPS - 1)}" for n in range(of_each * (GROUPS - 1))]
    return ["large"] * (count - len(small)) + small


def check(done: Sequence[Done], total: int) -> None:
    """Every task ended once, with what was acknowledged, and no attempt was given away twice."""
    rows = fetch_all("SELECT id, status, result FROM {tasks} WHERE status <> 'cancelled'")
    tasks = {row["id"]: row for row in rows}
    assert len(tasks) == total
    failed = {task.id for task in done if task.has_failed}
    assert {id for id, row in tasks.items() if row["status"] != "completed"} == failed
    assert {tasks[id]["status"] for id in failed} == {"failed"}
    for task in done:
        assert tasks[task.id]["result"] == (None if task.has_failed else str(task.attempt))
    history = fetch_all(
        "SELECT task_id, event, attempt, COUNT(*) AS times FROM {task_logs} "
        "WHERE event IN ('claimed', 'completed', 'failed') GROUP BY task_id, event, attempt"
    )
    assert [row for row in history if row["times"] != 1] == []
    assert len([row for row in history if row["event"] != "claimed"]) == total
    check_batches()
    check_dependencies(done)
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


def check_dependencies(done: Iterable[Done]) -> None:
    """Each task began after all that it waits for had ended, and had their results."""
    ended = {task.id: task for task in done}
    chains: dict[int, dict[int, Row]] = defaultdict(dict)
    parts: dict[int, list[Row]] = defaultdict(list)
    sums: dict[int, list[Row]] = defaultdict(list)
    for row in fetch_all(
        "SELECT task.id, type.name, status, error_code, params, on_dependency_failed "
        "FROM {tasks} AS task JOIN {task_types} AS type ON type.id = task.task_type_id "
        "WHERE type.name IN ('link', 'part', 'sum') ORDER BY task.id"
    ):
        params = json.loads(row["params"])
        if row["name"] == "link":
            chains[params["chain"]][params["link"]] = row
        else:
            (parts if row["name"] == "part" else sums)[params["fan"]].append(row)
    assert chains
    assert sums
    for number, links in chains.items():
        ran = [links[link] for link in range(THIRD + 1 if number % FAILING == 0 else LINKS)]
        require_cancelled([links[link] for link in range(len(ran), LINKS)])
        for before, after in itertools.pairwise(ran):
            assert ended[before["id"]].ended_at < ended[after["id"]].begun_at
    for number, of_fan in sums.items():
        needed = [ended[part["id"]] for part in parts[number]]
        results = [None if part.has_failed else part.attempt for part in needed]
        assert results.count(None) == (number % FAILING == 0)
        for row in of_fan:
            if None in results and row["on_dependency_failed"] == "cancel":
                require_cancelled([row])
                continue
            assert json.loads(row["params"])["of"] == results
            assert max(part.ended_at for part in needed) < ended[row["id"]].begun_at


def require_cancelled(tasks: Iterable[Row]) -> None:
    assert {(row["status"], row["error_code"]) for row in tasks} <= {
        ("cancelled", "dependency_failed")
    }


def check_limits(done: Iterable[Done]) -> None:
    """By what the workers have seen: ids and times of history are not in the order of commits."""
    of_key = defaultdict(list)
    for task in done:
        of_key[task.type, task.concurrency_key].append(task)
    keyed = [tasks for (name, _), tasks in of_key.items() if name == "keyed"]
    assert len(keyed) == KEYS
    assert [most_at_once(tasks) for tasks in keyed] == [1] * KEYS
    assert most_at_once(of_key["limited", None]) <= LIMIT
    left = [fetch_all(f"SELECT * FROM {{{table}}}") for table in ("lanes", "lane_members")]
    assert left == [[], []], left


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
