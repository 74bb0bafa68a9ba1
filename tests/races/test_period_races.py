"""Several processes count the same history at once, and some of them die while they do."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from threading import Barrier

import pytest

from taskmanager.access.caller import OPERATOR
from taskmanager.db.connection import close_connection, connect_database
from taskmanager.db.schema import create_schema
from taskmanager.db.statements import fetch_all, insert_many
from taskmanager.db.transactions import write_transaction
from taskmanager.queue import create, feed, maintenance, task_types
from taskmanager.queue.figures import periods
from taskmanager.queue.task_types import TaskDefaults
from tests.support.processes import CONTEXT

PROCESSES = 4
TASKS = 400
START = 1_768_478_400_000  # 2026-01-15T12:00:00Z
SLICE = 25
DEFAULTS = TaskDefaults(max_attempts=3, lease_seconds=300)
LATER = START + 3 * periods.DAY_MS  # the counts of minutes are folded into hours

together: Barrier


def _meet_at(barrier: Barrier) -> None:
    """Runs once in each process."""
    global together
    together = barrier


def count_all(database_url: str, now: int) -> None:
    """In a process of its own: what maintenance does."""
    connect_database(database_url)
    feed.SETTLED_MS = 0
    periods.SLICE_EVENTS = SLICE
    together.wait(60)
    for _ in range(TASKS * 4 // SLICE):  # it stops where another process was faster
        maintenance.count_events(now=now, deadline=float("inf"))
    close_connection()


def die_while_counting(database_url: str, slices: int) -> None:
    """In a process of its own: the same, killed within the transaction of the last slice."""
    connect_database(database_url)
    feed.SETTLED_MS = 0
    periods.SLICE_EVENTS = SLICE
    add, left = periods._add, [slices]

    def killed(tally: periods._Tally) -> None:
        add(tally)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    periods._add = killed
    periods.count_events(now=START + 60_000, deadline=float("inf"))


@pytest.fixture
def history(fresh_database_url: str) -> Iterator[str]:
    """Tasks that came, were claimed after a second, and ended after two; one event each a row."""
    connect_database(fresh_database_url)
    create_schema()
    type_fields = {"name": "job", "version": "1", "param_schema": {"type": "object"}}
    task_types.register_task_type(**type_fields, defaults={}, now=START, caller=OPERATOR)
    requests = [{"type": "job", "params": {}, "dedupe": "none"}] * TASKS
    made = create.create_tasks(requests, atomic=True, defaults=DEFAULTS, caller=OPERATOR, now=START)
    ids = [outcome.task["id"] for outcome in made if outcome.task]
    rows = [
        {
            "task_id": task_id,
            "event": event,
            "status": event,
            "worker_id": "w",
            "created_at": START + after,
        }
        for event, after in (("claimed", 1_000), ("completed", 3_000))
        for task_id in ids
    ]
    write_transaction(insert_many)("task_logs", rows)
    yield fresh_database_url
    close_connection()


def counts(period_seconds: int) -> Counter[str]:
    found: Counter[str] = Counter()
    rows = fetch_all(
        "SELECT measure, events FROM {period_counts} WHERE period_seconds = ?", (period_seconds,)
    )
    for row in rows:
        found[row["measure"]] += row["events"]
    return found


def run_in_processes(history: str, now: int) -> None:
    with ProcessPoolExecutor(
        PROCESSES,
        mp_context=CONTEXT,
        initializer=_meet_at,
        initargs=(CONTEXT.Barrier(PROCESSES),),
    ) as pool:
        for future in [pool.submit(count_all, history, now) for _ in range(PROCESSES)]:
            future.result(120)


ALL = ("wait", "run", "created", "finished", "reported")


def test_processes_that_count_at_once_count_nothing_twice(history: str) -> None:
    run_in_processes(history, START + 60_000)
    assert counts(60) == Counter(dict.fromkeys(ALL, TASKS))
    assert counts(0) == Counter(wait=TASKS, run=TASKS)
    run_in_processes(history, LATER)
    assert counts(60) == Counter()
    assert counts(3_600) == Counter(wait=TASKS, run=TASKS, finished=TASKS)
    assert counts(0) == Counter(wait=TASKS, run=TASKS)


@pytest.mark.parametrize("slices", [1, 3])
def test_a_process_that_is_killed_while_it_counts_leaves_whole_slices(
    history: str, slices: int
) -> None:
    with ProcessPoolExecutor(1, mp_context=CONTEXT) as pool, pytest.raises(BrokenProcessPool):
        pool.submit(die_while_counting, history, slices).result(120)
    assert counts(60)["created"] == (slices - 1) * SLICE
    run_in_processes(history, START + 60_000)
    assert counts(60) == Counter(dict.fromkeys(ALL, TASKS))
