"""The calls that benchmarks/scale.py times, made in this process on one queue.

Requests of workers and producers go through the whole application, key, rate limit and
answer included, but through no socket; maintenance is called as cron does.

What a call uses up is put back before the next sort of call, so that the queue
keeps its size and mixture: for tasks that were claimed the same are added at the
end, for those that were pruned finished ones are.
"""

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlencode

from flask import Flask
from werkzeug.test import EnvironBuilder, run_wsgi_app

from benchmarks.grown_queues import RARE_WORKER, YEAR_MS, hash_expression
from benchmarks.queues import TYPES, connect_queue
from taskmanager.access import keys
from taskmanager.access.caller import OPERATOR
from taskmanager.app import create_app
from taskmanager.clock import utc_now
from taskmanager.db.connection import database, dialect
from taskmanager.db.dialect import MYSQL, SQLITE
from taskmanager.db.models import Task
from taskmanager.db.statements import execute, fetch_all, fetch_one
from taskmanager.db.transactions import write_transaction
from taskmanager.queue import maintenance, read
from taskmanager.queue.claim_sql import CLAIM_ORDERS

WORKER = "bench"
PAGE = 20
SLICE = 10
PURGE_SECONDS = 30
FAR_AWAY = 2 * YEAR_MS
GENERATION_MS = 7_200_000  # later than all that a queue was built with

Times = tuple[float, float]  # milliseconds: by the clock, and of this process's work
Request = tuple[str, str, Any]  # method, path, body


@dataclass
class Queue:
    """One queue of `rows` tasks, and what the calls since the last `settle` have used up."""

    rows: int
    last_id: int
    app: Flask
    key: str
    made: list[int] = field(default_factory=list)
    pruned: int = 0
    requeued: int = 0
    started: int = 0

    def measure(self, name: str, count: int) -> list[Times]:
        """Makes `count` calls of one sort."""
        times: list[Times] = []
        while len(times) < count:
            if name in MAINTENANCE:
                times.append(_timed(lambda: MAINTENANCE[name](self))[0])
                continue
            taken, status, data = self.send(REQUESTS[name](self))
            if (name, status) == ("get", 404):
                continue  # the task of this id was claimed and replaced before
            if status >= 400 or data.get("tasks") == []:
                raise AssertionError(f"{name} answered {status}: {data}")
            if name == "create":
                self.made.append(data["id"])
            times.append(taken)
        return times

    def send(self, request: Request) -> tuple[Times, int, Any]:
        """How long one request took, its status and its data."""
        method, path, body = request
        headers = {"X-API-Key": self.key}
        environ = EnvironBuilder(path, method=method, json=body, headers=headers).get_environ()

        def run() -> tuple[str, bytes]:
            chunks, status, _ = run_wsgi_app(self.app, environ)
            return status, b"".join(chunks)

        taken, (line, content) = _timed(run)
        return taken, int(line.split()[0]), json.loads(content).get("data")

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
            "dedupe_until IS NULL AND completed_at < 4000000000000 ORDER BY completed_at LIMIT ?",
            self.pruned,
            completed_at=f"completed_at + {GENERATION_MS}",
            worker_id="worker_id",
            result="result",
            holds_key_while_open="NULL",
        )
        self.last_id = _last_id()


def _timed(call: Callable[[], Any]) -> tuple[Times, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    taken = time.perf_counter() - wall, time.process_time() - cpu
    return (taken[0] * 1000, taken[1] * 1000), result


def _warm_up() -> None:
    """Reads all there is once: what is compared is the work, and not the disk."""
    if dialect() is SQLITE:
        with Path(database.database).open("rb") as file:
            while file.read(2**24):
                pass
        return
    for table in ("tasks", "task_logs"):
        for name in {row["Key_name"] for row in fetch_all(f"SHOW INDEX FROM {table}")}:
            execute(f"SELECT COUNT(*) FROM {table} FORCE INDEX ({name})")
    execute("SELECT COUNT(params), COUNT(result) FROM tasks FORCE INDEX (PRIMARY)")


def _undo(event: str, count: int, changes: str) -> None:
    """Changes back the tasks of the latest events of a sort."""
    if count:
        rows = fetch_all(
            "SELECT task_id FROM task_logs WHERE event = ? ORDER BY id DESC LIMIT ?", (event, count)
        )
        ids = [row["task_id"] for row in rows]
        execute(f"UPDATE {{tasks}} SET {changes} WHERE id IN ?", (ids,))


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


def _claim(**wanted: Any) -> Callable[[Queue], Request]:
    return lambda queue: ("POST", "/api/tasks/claim", {"worker_id": WORKER, **wanted})


def _create(queue: Queue) -> Request:
    params = {"url": f"https://example.com/{random.random()}"}
    return "POST", "/api/tasks", {"type": "job.3", "params": params}


def _complete(queue: Queue) -> Request:
    _, _, task = queue.send(_claim()(queue))
    report = {"worker_id": WORKER, "claim_token": task["claim_token"], "success": True}
    return "POST", f"/api/tasks/{task['id']}/complete", {**report, "result": {"bytes": 1}}


def _get(queue: Queue) -> Request:
    return "GET", f"/api/tasks/{queue.newer_id(1)}", None


def _list(sort_by: str, **filters: Any) -> Callable[[Queue], Request]:
    column = "claim_rank" if sort_by == "priority" else "id"

    def request(queue: Queue) -> Request:
        # At every size a whole page is left.
        last = {"id": queue.newer_id(4), "claim_rank": -2}
        cursor = read._cursor(last, column)
        query = {"sort_by": sort_by, "limit": PAGE, "cursor": cursor, **filters}
        return "GET", f"/api/tasks?{urlencode(query)}", None

    return request


def _requeue(queue: Queue) -> None:
    queue.requeued += maintenance._requeue_slice(utc_now() + 2 * FAR_AWAY, SLICE)


def _start(queue: Queue) -> None:
    queue.started += maintenance._start_slice(utc_now() + 2 * FAR_AWAY, SLICE)


def _prune(queue: Queue) -> None:
    queue.pruned += maintenance._prune_slice(utc_now() - YEAR_MS // 2, SLICE, {}, utc_now())


CLAIM_FILTERS: dict[str, dict[str, Any]] = {
    "one type": {"type": "job.3"},
    "ten types": {"task_types": [f"job.{number}" for number in range(TYPES)]},
    "pattern": {"type_pattern": "job.%"},
    "any type": {},
    "type id": {"task_type_id": 5},
}
LIST_FILTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "status": {"status": "completed"},
    "rare status": {"status": "cancelled"},
    "type": {"type": "job.3"},
    "type pattern": {"type": "job.%"},
    "worker": {"worker_id": "worker-1"},
    "rare worker": {"worker_id": RARE_WORKER},
}

REQUESTS: dict[str, Callable[[Queue], Request]] = {
    f"claim, {name}, {column} {direction}": _claim(sort_by=column, sort_order=direction, **filters)
    for name, filters in CLAIM_FILTERS.items()
    for column, direction in CLAIM_ORDERS
}
REQUESTS |= {"create": _create, "complete": _complete, "get": _get}
REQUESTS |= {
    f"list, {name}, by {column}": _list(column, **filters)
    for name, filters in LIST_FILTERS.items()
    for column in ("id", "priority")
}
MAINTENANCE: dict[str, Callable[[Queue], None]] = {
    f"requeue {SLICE}": _requeue,
    f"start {SLICE} due": _start,
    f"prune {SLICE}": _prune,
}


def answer(asked: Connection, home: Path, url: str, synchronous: str, rows: int) -> None:
    """A process for one queue: measures what it is asked for until it is asked for nothing."""
    connect_queue(home, url, synchronous=synchronous)
    _, key = keys.create_key(
        name="bench", scopes=keys.ROLES["admin"], now=utc_now(), caller=OPERATOR
    )
    with TemporaryDirectory() as folder:
        settings = {"database_url": url, "sqlite_synchronous": synchronous}
        app = create_app({**settings, "instance_path": Path(folder), "rate_limit": "9999999"})
        queue = Queue(rows, _last_id(), app, key)
        while (what := asked.recv()) is not None:
            if what == "warm up":
                asked.send(_warm_up())
            elif what == "settle":
                asked.send(queue.settle())
            else:
                asked.send(queue.measure(*what))
