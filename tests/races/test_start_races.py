"""Many processes that start at once: one schema, whoever is first."""

import collections
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from taskmanager.db.connection import close_connection, connect_database
from taskmanager.db.models import MODELS
from taskmanager.db.schema import find_refusal
from taskmanager.db.statements import fetch_all
from tests.races.processes import Connection, Shared, run_processes
from tests.support.database_structure import structure
from tests.support.server import Server

INIT_DB = [sys.executable, "-m", "taskmanager", "init-db"]
START = [sys.executable, "-c", "from taskmanager.app import create_app; create_app()"]
PROCESSES = 10


@pytest.fixture
def starting(tmp_path: Path, fresh_database_url: str) -> Server:
    """Not started: what a server's processes would be started with."""
    folder = tmp_path / "instance"
    folder.mkdir()
    return Server(folder, fresh_database_url)


def test_ten_processes_at_once_on_an_empty_database_make_one_schema(
    starting: Server, fresh_database_url: str
) -> None:
    processes = [
        subprocess.Popen(
            START if number % 2 else INIT_DB,
            env={**starting.environment, "TASKMANAGER_BOOTSTRAP_ADMIN_KEY": "k" * 40},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    messages = [process.communicate(timeout=120)[1] for process in processes]

    failed = [
        message for process, message in zip(processes, messages, strict=True) if process.returncode
    ]
    assert not failed, "\n".join(failed)
    assert sum("have been created" in message for message in messages) <= 1
    assert not any("Traceback" in message for message in messages), messages
    connect_database(fresh_database_url)
    try:
        assert find_refusal() is None
        assert fetch_all("SELECT COUNT(*) AS counted FROM schema_versions") == [{"counted": 1}]
        assert {model._meta.table_name for model in MODELS} <= set(structure())
        assert fetch_all("SELECT name FROM api_keys") == [{"name": "bootstrap"}]
    finally:
        close_connection()


def register_the_same(
    connection: Connection, shared: Shared, number: int, rounds: int
) -> list[tuple[int, Any]]:
    answers = []
    for turn in range(rounds):
        body = {
            "name": f"type.{turn}",
            "version": "1" if turn % 2 else str(number),
            "param_schema": {"type": "object"},
        }
        shared.barrier.wait()
        reply = connection.post("/api/task-types/register", body)
        answers.append((reply.status, reply.data["id"]))
    return answers


def test_one_type_registered_by_many_at_once_is_made_once(queue: Server) -> None:
    rounds = 20

    answers = run_processes(register_the_same, 8, port=queue.port, key=queue.key, arguments=rounds)

    for of_round in zip(*answers, strict=True):
        assert collections.Counter(status for status, _ in of_round) == {201: 1, 200: 7}
        assert len({type_id for _, type_id in of_round}) == 1
    assert len(fetch_all("SELECT id FROM task_types")) == rounds
    versions = fetch_all("SELECT task_type_id, version FROM task_type_versions")
    assert len(versions) == rounds // 2 * (8 + 1)
    current = fetch_all("SELECT id AS task_type_id, version FROM task_types")
    assert all(row in versions for row in current)
