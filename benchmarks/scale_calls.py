"""The calls that benchmarks/scale.py times, made in this process on one queue.

What a call uses up is put back before the next sort of call, so that the queue
keeps its size and mixture: for tasks that were claimed the same are added at the
end, for those that were pruned finished ones are.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.grown_queues import RARE_WORKER, YEAR_MS, hash_expression
from benchmarks.queues import TYPES, connect_queue
from taskmanager.clock import utc_now
from taskmanager.database import (
    MYSQL,
    dialect,
    execute,
    fetch_all,
    fetch_one,
    placeholders,
    write_transaction,
)
from taskmanager.exceptions import NotFound
from taskmanager.models import Task
from taskmanager.services import claiming, completion, maintenance, task_queries, tasks
from taskmanager.services.claim_orders import CLAIM_ORDERS, ClaimOrder, claim_order
from taskmanager.services.keys import OPERATOR

DEFAULTS = tasks.TaskDefaults(max_attempts=3, lease_seconds=300)
WORKER = "bench"
PAGE = 20
SLICE = 10
PURGE_SECONDS = 30
FAR_AWAY = 2 * YEAR_MS
GENERATION_MS = 7_200_000  # later than all that a queue was built with

Times = tuple[float, float]  # milliseconds: by the clock, and of this process's work


@dataclass
class Queue:
    """One queue of `rows` tasks, and what the calls since the last `settle` have used up."""

    rows: int
    last_id: int
    task: Any = None
    made: list[int] = field(default_factory=list)
    pruned: int = 0
    requeued: int = 0
    started: int = 0

    def measure(self, name: str, count: int) -> list[Times]:
        """Makes `count` calls of one sort."""
        call = CALLS[name]
        times: list[Times] = []
        while len(times) < count:
            if call.prepare is not None:
                call.prepare(self)
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                call.run(self)
            except NotFound:
                if name != "get":
                    raise
                continue  # the task of this id was claimed and replaced before
            taken = time.perf_counter() - wall, time.process_time() - cpu
            times.append((taken[0] * 1000, taken[1] * 1000))
        return times

    def newer_id(self, parts: int) -> int:
        """An id that may be a task's, of the newest of so many equal parts of the queue."""
        return random.randint(self.last_id - self.rows // parts + 1, self.last_id)

    def settle(self) -> None:
        """Puts back what the calls have used up, and lets InnoDB's purge catch up."""
        self._restore()
        self.made.clear()
        self.pruned = self.requeued = self.started = 0
        deadline = time.monotonic() + PURGE_SECONDS
        while dialect() is MYSQL and _unpurged() > 0 and time.monotonic() < deadline:
            time.sleep(0.05)

    @write_transaction
    def _restore(self) -> None:
        later = f"{utc_now() + FAR_AWAY} + id"
        _undo("due", self.started, f"status = 'scheduled', available_at = {later}")
        _undo(
            "lease_expired",
            self.requeued,
            f"status = 'claimed', lease_expires_at = {later}, worker_id = 'gone'",
        )
        for task_id in self.made:
            execute("DELETE FROM tasks WHERE id = ?", (task_id,))
        _copy("worker_id = ?", WORKER, status="'pending'", attempts="attempts - 1")
        execute("DELETE FROM tasks WHERE worker_id = ?", (WORKER,))
        _copy(
            "completed_at < 4000000000000 ORDER BY completed_at LIMIT ?",
            self.pruned,
            completed_at=f"completed_at + {GENERATION_MS}",
            worker_id="worker_id",
            result="result",
            holds_key_while_open="NULL",
        )
        self.last_id = _last_id()


def _undo(event: str, count: int, changes: str) -> None:
    """Changes back the tasks of the latest events of a sort."""
    if count:
        rows = fetch_all(
            "SELECT task_id FROM task_logs WHERE event = ? ORDER BY id DESC LIMIT ?", (event, count)
        )
        ids = [row["task_id"] for row in rows]
        execute(f"UPDATE tasks SET {changes} WHERE id IN ({placeholders(ids)})", ids)


def _copy(condition: str, value: Any, **changes: str) -> None:
    """Adds tasks like those that meet the condition, at the end and with keys of their own."""
    fresh = {
        **dict.fromkeys(("worker_id", "claim_token", "lease_seconds", "claimed_at"), "NULL"),
        **dict.fromkeys(("lease_expires_at", "completed_at", "result", "claim_request_id"), "NULL"),
        "dedupe_key": hash_expression(),
        "holds_key_while_open": "1",
        **changes,
    }
    names = [name for name in Task._meta.columns if name != "id"]
    before = _last_id()
    execute(
        f"INSERT INTO tasks ({', '.join(names)}) "
        f"SELECT {', '.join(fresh.get(name, name) for name in names)} FROM tasks WHERE {condition}",
        (value,),
    )
    execute(
        "INSERT INTO task_logs (task_id, event, status, created_at) "
        "SELECT id, 'created', 'pending', created_at FROM tasks WHERE id > ?",
        (before,),
    )


def _last_id() -> int:
    row = fetch_one("SELECT MAX(id) AS id FROM tasks")
    return int(row["id"]) if row else 0


def _unpurged() -> int:
    row = fetch_one(
        "SELECT count AS left_over FROM information_schema.innodb_metrics "
        "WHERE name = 'trx_rseg_history_len'"
    )
    return int(row["left_over"]) if row else 0


@dataclass(frozen=True)
class Call:
    """`run` is timed, `prepare` before each of them is not. `share`: of the calls asked for."""

    run: Callable[[Queue], Any]
    prepare: Callable[[Queue], None] | None = None
    share: float = 1.0


def _claim(order: ClaimOrder, **filters: Any) -> Call:
    request = claiming.ClaimRequest(worker_id=WORKER, order=order, **filters)

    def run(queue: Queue) -> None:
        claimed = claiming.claim_tasks(request, defaults=DEFAULTS, caller=OPERATOR, now=utc_now())
        [queue.task] = claimed

    return Call(run)


def _create(queue: Queue) -> None:
    request = {"type": "job.3", "params": {"url": f"https://example.com/{random.random()}"}}
    made = tasks.create_task(request, defaults=DEFAULTS, caller=OPERATOR, now=utc_now())
    queue.made.append(made.task["id"])  # type: ignore[index]


def _complete(queue: Queue) -> None:
    report = completion.Completion(
        task_id=queue.task["id"],
        claim_token=queue.task["claim_token"],
        success=True,
        result={"bytes": 1},
    )
    completion.complete_task(report, worker_id=WORKER, caller=OPERATOR, now=utc_now())


def _get(queue: Queue) -> None:
    task_queries.get_task(task_id=queue.newer_id(1), caller=OPERATOR)


def _list(sort_by: str, **filters: Any) -> Call:
    task_filter = task_queries.TaskFilter(**filters)
    column = "claim_rank" if sort_by == "priority" else "id"

    def run(queue: Queue) -> None:
        # At every size a whole page is left.
        last = {"id": queue.newer_id(4), "claim_rank": -2}
        page = task_queries.list_tasks(
            task_filter=task_filter,
            sort_by=sort_by,
            descending=True,
            limit=PAGE,
            offset=0,
            cursor=task_queries._cursor(last, column),
            with_total=False,
            caller=OPERATOR,
        )
        assert page.tasks

    return Call(run)


def _requeue(queue: Queue) -> None:
    queue.requeued += maintenance._requeue_slice(utc_now() + 2 * FAR_AWAY, SLICE)


def _start(queue: Queue) -> None:
    queue.started += maintenance._start_slice(utc_now() + 2 * FAR_AWAY, SLICE)


def _prune(queue: Queue) -> None:
    queue.pruned += maintenance._prune_slice(utc_now() - YEAR_MS // 2, SLICE)


CLAIM_FILTERS: dict[str, dict[str, Any]] = {
    "one type": {"type_names": ["job.3"]},
    "ten types": {"type_names": [f"job.{number}" for number in range(TYPES)]},
    "pattern": {"type_pattern": "job.%"},
    "any type": {},
    "type id": {"type_ids": [5]},
}
LIST_FILTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "status": {"status": "completed"},
    "rare status": {"status": "cancelled"},
    "type": {"type_pattern": "job.3"},
    "type pattern": {"type_pattern": "job.%"},
    "worker": {"worker_id": "worker-1"},
    "rare worker": {"worker_id": RARE_WORKER},
}
FIRST = claim_order(None, None)

CALLS: dict[str, Call] = {
    f"claim, {name}, {column} {direction}": _claim(order, **filters)
    for name, filters in CLAIM_FILTERS.items()
    for (column, direction), order in CLAIM_ORDERS.items()
}
CALLS |= {
    "create": Call(_create),
    "complete": Call(_complete, _claim(FIRST).run),
    "get": Call(_get),
}
CALLS |= {
    f"list, {name}, by {column}": _list(column, **filters)
    for name, filters in LIST_FILTERS.items()
    for column in ("id", "priority")
}
CALLS |= {
    f"requeue {SLICE}": Call(_requeue, share=0.1),
    f"start {SLICE} due": Call(_start, share=0.1),
    f"prune {SLICE}": Call(_prune, share=0.1),
}


def answer(asked: Connection, home: Path, url: str, synchronous: str, rows: int) -> None:
    """A process for one queue: measures what it is asked for until it is asked for nothing."""
    connect_queue(home, url, synchronous=synchronous)
    queue = Queue(rows, _last_id())
    while (what := asked.recv()) is not None:
        if what == "settle":
            asked.send(queue.settle())
        else:
            asked.send(queue.measure(*what))
