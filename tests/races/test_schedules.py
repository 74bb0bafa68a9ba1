"""Many processes notice the same due time: its task is made once."""

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from taskmanager.access.caller import OPERATOR
from taskmanager.clock import utc_now
from taskmanager.db.connection import close_connection, connect_database
from taskmanager.db.schema import create_schema
from taskmanager.db.statements import execute, fetch_all
from taskmanager.queue import task_types
from taskmanager.queue.schedules import definitions, runs
from taskmanager.queue.task_types import TaskDefaults
from tests.races.processes import Connection, Shared, run_processes
from tests.races.queues import register
from tests.support.processes import CONTEXT
from tests.support.server import Server

PROCESSES = 6
SCHEDULES = 10
MOMENTS = 8
HOUR_MS = 3_600_000
START = 1_768_478_400_000  # 2026-01-15T12:00:00Z
DEFAULTS = TaskDefaults(max_attempts=3, lease_seconds=300)

together: Barrier


def _meet_at(barrier: Barrier) -> None:
    """Runs once in each process."""
    global together
    together = barrier


def notice_due_schedules(database_url: str, moments: list[int]) -> list[int]:
    """In a process of its own: at each of `moments` all processes look at once."""
    connect_database(database_url)
    made = []
    for now in moments:
        together.wait(60)
        made.append(
            runs.run_due_schedules(now=now, defaults=DEFAULTS, deadline=time.monotonic() + 60)
        )
    close_connection()
    return made


def run_in_processes(database_url: str, moments: list[int]) -> list[list[int]]:
    with ProcessPoolExecutor(
        PROCESSES,
        mp_context=CONTEXT,
        initializer=_meet_at,
        initargs=(CONTEXT.Barrier(PROCESSES),),
    ) as pool:
        futures = [
            pool.submit(notice_due_schedules, database_url, moments) for _ in range(PROCESSES)
        ]
        return [future.result(120) for future in futures]


@pytest.fixture
def database(fresh_database_url: str) -> Iterator[str]:
    """A database with one task type."""
    connect_database(fresh_database_url)
    create_schema()
    task_types.register_task_type(
        name="job",
        version="1",
        param_schema={"type": "object"},
        defaults={},
        now=START,
        caller=OPERATOR,
    )
    yield fresh_database_url
    close_connection()


def add_schedules(**fields: Any) -> None:
    for number in range(SCHEDULES):
        definitions.create_schedule(
            {"name": f"schedule {number}", "type": "job", "params": {}, **fields},
            defaults=DEFAULTS,
            caller=OPERATOR,
            now=START,
        )


def test_a_due_time_that_many_processes_notice_makes_one_task(database: str) -> None:
    add_schedules(cron="0 * * * *")
    moments = [START + hours * HOUR_MS for hours in range(1, MOMENTS + 1)]
    made = run_in_processes(database, moments)

    assert [sum(counts) for counts in zip(*made, strict=True)] == [SCHEDULES] * MOMENTS
    tasks = fetch_all("SELECT created_at FROM tasks ORDER BY id")
    assert [task["created_at"] for task in tasks] == sorted(moments * SCHEDULES)
    # One that came too late found nothing to do: it did not even try to make the task again.
    after = fetch_all("SELECT last_outcome, last_run_at, next_run_at FROM schedules")
    assert (
        after
        == [
            {
                "last_outcome": "created",
                "last_run_at": moments[-1],
                "next_run_at": moments[-1] + HOUR_MS,
            }
        ]
        * SCHEDULES
    )


def test_many_processes_that_wake_together_catch_up_once(database: str) -> None:
    add_schedules(interval_seconds=1)
    made = run_in_processes(database, [START + 24 * HOUR_MS])

    assert sum(counts[0] for counts in made) == SCHEDULES
    assert len(fetch_all("SELECT id FROM tasks")) == SCHEDULES


def test_runs_that_may_not_overlap_leave_one_unfinished_task(database: str) -> None:
    add_schedules(interval_seconds=1, overlap="skip")
    made = run_in_processes(database, [START + seconds * 1000 for seconds in range(1, 5)])

    assert [sum(counts) for counts in zip(*made, strict=True)] == [SCHEDULES, 0, 0, 0]
    assert len(fetch_all("SELECT id FROM tasks")) == SCHEDULES
    outcomes = {row["last_outcome"] for row in fetch_all("SELECT last_outcome FROM schedules")}
    assert outcomes == {"skipped"}


def claim_until_nothing_is_left(
    connection: Connection, shared: Shared, number: int, _: None
) -> list[int]:
    """One worker that begins together with the others; the tasks it was given."""
    shared.barrier.wait()
    given = []
    while True:
        answer = connection.post("/api/tasks/claim", {"worker_id": f"worker-{number}"})
        if answer.status == 404:
            return given
        given.append(answer.data["id"])


def test_workers_whose_claims_notice_a_due_time_are_given_its_task_once(queue: Server) -> None:
    register(queue, "job")
    for number in range(SCHEDULES):
        body = {"name": f"schedule {number}", "type": "job", "params": {}, "cron": "0 0 1 1 *"}
        assert queue.call("POST", "/api/schedules", body).status == 201
    execute("UPDATE schedules SET next_run_at = ?", (utc_now(),))
    given = run_processes(claim_until_nothing_is_left, PROCESSES, port=queue.port, key=queue.key)

    ids = [task_id for some in given for task_id in some]
    assert len(set(ids)) == len(ids) == SCHEDULES
    assert len(fetch_all("SELECT id FROM tasks")) == SCHEDULES
    outcomes = {row["last_outcome"] for row in fetch_all("SELECT last_outcome FROM schedules")}
    assert outcomes == {"created"}
