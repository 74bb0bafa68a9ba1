"""Hosts on different nodes prepare the tables at once: each change is made once.

GET_LOCK, by which processes on one server take turns, holds on one node only.
"""

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from taskmanager.db import schema
from taskmanager.db.connection import close_connection, connect_database
from taskmanager.db.migrations import MIGRATIONS
from taskmanager.db.models import MODELS
from taskmanager.db.statements import fetch_all, fetch_value
from taskmanager.errors import DatabaseUnavailable
from tests.support.database_structure import structure
from tests.support.galera import Galera
from tests.support.processes import CONTEXT
from tests.support.releases import planned, previous

ROUNDS = 3
PROCESSES = 4
PATIENCE_SECONDS = 60


@pytest.fixture
def hosts(cluster: Galera) -> Iterator[list[str]]:
    """URLs of an empty database, each with one node."""
    cluster.create_database("prepared")
    urls = [f"mysql://root@127.0.0.1:{node.port}/prepared" for node in cluster.nodes]
    connect_database(urls[0])
    yield urls
    close_connection()


def prepare(url: str, version: int, begin: Any, told: Any) -> None:
    """Tells the steps of an upgrade, and in the end what was done."""
    planned.plan(version == planned.VERSION)
    connect_database(url)
    begin.wait()
    done = schema.create_schema(patience_seconds=PATIENCE_SECONDS, report=told.put)
    told.put(done.value)
    close_connection()


def prepare_at_once(hosts: list[str], version: int) -> Counter[str]:
    """What processes on two of the nodes have told."""
    begin, told = CONTEXT.Barrier(PROCESSES), CONTEXT.SimpleQueue()
    processes = [
        CONTEXT.Process(target=prepare, args=(hosts[number % 2], version, begin, told))
        for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_SECONDS)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    messages = []
    while not told.empty():
        messages.append(told.get())
    return Counter(messages)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_the_tables_are_made_once(hosts: list[str], number: int) -> None:
    assert prepare_at_once(hosts, schema.SCHEMA_VERSION) == {"made": 1, "nothing": PROCESSES - 1}

    assert set(structure()) == {model._meta.table_name for model in MODELS}
    assert fetch_all("SELECT version FROM schema_versions") == [{"version": schema.SCHEMA_VERSION}]
    assert fetch_all("SELECT * FROM migration_steps") == []


@pytest.mark.parametrize("number", range(ROUNDS))
def test_each_step_of_an_upgrade_is_taken_once(hosts: list[str], number: int) -> None:
    before = previous.make_previous_release(more_tasks=500)

    told = prepare_at_once(hosts, planned.VERSION)

    assert told.pop("upgraded") == 1
    assert told.pop("nothing") == PROCESSES - 1
    assert told == dict.fromkeys(steps(), 1)
    require_upgraded(before)


@pytest.mark.parametrize(
    ("number", "last"),
    [(signal.SIGKILL, "make lanes"), (signal.SIGKILL, "count"), (signal.SIGSTOP, "count")],
    ids=["killed at a table", "killed at rows", "stopped at rows"],
)
def test_an_upgrade_that_comes_to_a_halt_is_completed_on_another_node(
    hosts: list[str], number: int, last: str
) -> None:
    before = previous.make_previous_release()
    close_connection()
    reached = CONTEXT.Event()
    process = CONTEXT.Process(target=planned.upgrade_until, args=(hosts[0], last, reached, number))
    process.start()
    assert reached.wait(PATIENCE_SECONDS)

    planned.plan()
    try:
        connect_database(hosts[1])
        with pytest.raises(DatabaseUnavailable, match="Another process"):
            schema.create_schema(patience_seconds=0)
        done = schema.create_schema(patience_seconds=PATIENCE_SECONDS)
    finally:
        planned.plan(next_version=False)

    assert done is schema.Preparation.UPGRADED
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid or 0, signal.SIGCONT)
    process.join(PATIENCE_SECONDS)
    # The one that was stopped finds out that its lock is gone.
    assert process.exitcode == (1 if number == signal.SIGSTOP else -signal.SIGKILL)
    require_upgraded(before)


def steps() -> list[str]:
    """What an upgrade of the previous release tells."""
    versions = {**MIGRATIONS, planned.VERSION: planned.STEPS}
    return [
        f"schema version {version}: {step.name}"
        for version, taken in versions.items()
        for step in taken
    ]


def require_upgraded(before: dict[str, list[Any]]) -> None:
    """All versions are noted, no row is lost, and each slice was counted once."""
    versions = [row["version"] for row in fetch_all("SELECT version FROM schema_versions")]
    assert sorted(versions) == list(range(previous.VERSION, planned.VERSION + 1))
    counted = [
        {**row, "priority": row["priority"] + planned.SLICES}
        | {"claim_rank": row["claim_rank"] - planned.SLICES}
        for row in before["tasks"]
    ]
    assert previous.rows_kept(before) == {**before, "tasks": counted}
    unfinished = "SELECT COUNT(*) FROM migration_steps WHERE finished_at IS NULL"
    assert fetch_value(unfinished) == 0
