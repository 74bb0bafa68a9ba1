"""Many processes ask for the figures of a large queue when those that are kept are old."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from threading import Barrier

import pytest

from taskmanager.access.caller import OPERATOR
from taskmanager.db.connection import close_connection, connect_database
from taskmanager.db.schema import create_schema
from taskmanager.db.statements import fetch_all
from taskmanager.queue import create, task_types
from taskmanager.queue.figures import counts
from taskmanager.queue.figures.counts import TaskCounts
from taskmanager.queue.task_types import TaskDefaults
from tests.support.processes import CONTEXT

PROCESSES = 6
MOMENTS = 10
START = 1_768_478_400_000  # 2026-01-15T12:00:00Z
DEFAULTS = TaskDefaults(max_attempts=3, lease_seconds=300)

together: Barrier


def _meet_at(barrier: Barrier) -> None:
    """Runs once in each process."""
    global together
    together = barrier


def ask(database_url: str, moments: list[int]) -> list[tuple[int, int]]:
    """In a process of its own: at each moment, of when the figures are, and whether it counted."""
    connect_database(database_url)
    counts.EXACT_UP_TO_TASKS = 0
    counted: list[int] = []
    count = counts._count

    def watched(now: int) -> TaskCounts:
        counted.append(now)
        return count(now)

    counts._count = watched
    answers = []
    for now in moments:
        together.wait(60)
        figures = counts.task_counts(now=now)
        assert figures.tasks == 1
        answers.append((figures.counted_at, counted.count(now)))
    close_connection()
    return answers


@pytest.fixture
def database(fresh_database_url: str) -> Iterator[str]:
    """A database with one task."""
    connect_database(fresh_database_url)
    create_schema()
    type_fields = {"name": "job", "version": "1", "param_schema": {"type": "object"}}
    task_types.register_task_type(**type_fields, defaults={}, now=START, caller=OPERATOR)
    create.create_task({"type": "job", "params": {}}, defaults=DEFAULTS, caller=OPERATOR, now=START)
    yield fresh_database_url
    close_connection()


def test_one_process_counts_and_the_others_take_what_there_is(database: str) -> None:
    moments = [START + n * counts.SNAPSHOT_MS for n in range(MOMENTS)]
    with ProcessPoolExecutor(
        PROCESSES,
        mp_context=CONTEXT,
        initializer=_meet_at,
        initargs=(CONTEXT.Barrier(PROCESSES),),
    ) as pool:
        futures = [pool.submit(ask, database, moments) for _ in range(PROCESSES)]
        answers = [future.result(120) for future in futures]

    # The first time there is nothing to take: whoever comes before it is kept counts.
    assert {counted_at for (counted_at, _), *_ in answers} == {START}
    for number in range(1, MOMENTS):
        seen = [of_process[number] for of_process in answers]
        assert sum(counts for _, counts in seen) == 1
        assert {counted_at for counted_at, _ in seen} <= {moments[number - 1], moments[number]}
        assert all(counted_at == moments[number] for counted_at, counts in seen if counts)
    assert fetch_all("SELECT counted_at, counting_since FROM statistics_snapshots") == [
        {"counted_at": moments[-1], "counting_since": None}
    ]
