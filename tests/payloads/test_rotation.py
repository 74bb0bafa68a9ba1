"""Changing the key: `taskmanager payloads rotate`, in one go and in several."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from taskmanager.db.statements import execute, fetch_all, fetch_value
from taskmanager.errors import PayloadUnreadable
from taskmanager.payloads import rotation
from tests.conftest import Api
from tests.payloads.conftest import HIDDEN, KEY, NEW_KEY, stored
from tests.support.commands import run_command

SCHEDULE = {"name": "nightly", "type": "secret", "params": {"card": HIDDEN}, "cron": "0 3 * * *"}


def work(queue: Api, count: int) -> list[int]:
    """Tasks with everything that is encrypted; the last is still claimed."""
    ids = [queue.create("secret", {"card": f"{HIDDEN} {at}"})["id"] for at in range(count)]
    for at in range(count - 1):
        task = queue.claim()
        if at % 2:
            queue.complete(task, success=False, error=f"no {HIDDEN}", is_retryable=False)
        else:
            queue.complete(task, result={"played": HIDDEN})
    progress = {"worker_id": "worker-1", "progress": 10, "message": f"tuned the {HIDDEN}"}
    queue.post(f"/api/tasks/{queue.claim()['id']}/progress", progress)
    return ids


def shown(queue: Api, ids: list[int]) -> list[Any]:
    tasks = [queue.get(f"/api/tasks/{task_id}") for task_id in ids]
    logs = [queue.get(f"/api/tasks/{task_id}/logs")["logs"] for task_id in ids]
    return [tasks, logs, queue.get("/api/schedules")["schedules"]]


def rotate() -> int:
    return rotation.rotate(report=lambda table, done: None)


def key_ids() -> set[str | None]:
    """Of every row that has encrypted texts, and of the keys that the database needs."""
    rows = fetch_all(
        "SELECT payload_key FROM {tasks} UNION ALL SELECT payload_key FROM {schedules} "
        "UNION ALL SELECT payload_key FROM {task_logs} WHERE message IS NOT NULL "
        "UNION ALL SELECT id AS payload_key FROM {payload_keys}"
    )
    return {row["payload_key"] for row in rows}


def test_everything_has_the_first_key_afterwards_and_reads_the_same(
    queue: Api, restart: Any
) -> None:
    ids = work(queue, 25)
    queue.post("/api/schedules", SCHEDULE, 201)
    [old_key] = key_ids()
    both = restart(NEW_KEY, KEY)
    before = shown(both, ids)

    assert rotate() == 25 + 12 + 1  # tasks, messages of their histories, and the schedule

    [new_key] = key_ids()
    assert new_key != old_key
    only_new = restart(NEW_KEY)
    assert shown(only_new, ids) == before
    assert rotate() == 0


def test_dedupe_keys_stay(queue: Api, restart: Any) -> None:
    task = queue.create("secret", {"card": HIDDEN}, dedupe="forever")
    restart(NEW_KEY, KEY)
    rotate()
    body = {"type": "secret", "params": {"card": HIDDEN}}
    assert restart(NEW_KEY).post("/api/tasks", body)["id"] == task["id"]


def test_the_old_key_is_needed_until_then(queue: Api, restart: Any) -> None:
    queue.create("secret", {"card": HIDDEN})
    both = restart(NEW_KEY, KEY)
    both.create("secret", {"card": HIDDEN})
    with pytest.raises(Exception, match="Put that key back"):
        restart(NEW_KEY)


def test_what_was_stored_before_a_type_was_encrypted_is_encrypted_too(queue: Api) -> None:
    queue.patch("/api/task-types/secret", {"is_encrypted": False})
    ids = work(queue, 4)
    queue.post("/api/schedules", SCHEDULE, 201)
    queue.create("open", {"card": "left alone"})
    before = shown(queue, ids)
    queue.patch("/api/task-types/secret", {"is_encrypted": True})

    assert rotate() == 4 + 1 + 1

    assert shown(queue, ids) == before
    columns = "id, params, result, error_message, progress_message"
    readable = [
        fetch_all(f"SELECT {columns} FROM {{tasks}}"),
        fetch_all("SELECT message FROM {task_logs}"),
        fetch_all("SELECT params FROM {schedules}"),
    ]
    assert HIDDEN not in repr(readable)
    assert "left alone" in repr(readable)


def test_so_is_the_task_that_a_batch_will_create(queue: Api) -> None:
    queue.patch("/api/task-types/secret", {"is_encrypted": False})
    callback = {"type": "secret", "params": {"card": HIDDEN}}
    batch = queue.post("/api/batches", {"on_finished": callback, "on_failed": callback}, 201)
    queue.post("/api/batches", {}, 201)
    queue.patch("/api/task-types/secret", {"is_encrypted": True})

    assert [rotate(), rotate()] == [1, 0]

    assert HIDDEN not in repr(fetch_all("SELECT on_finished, on_failed FROM {batches}"))
    queue.post(f"/api/batches/{batch['id']}/close")
    made = queue.get(f"/api/batches/{batch['id']}")["on_finished_task_id"]
    assert queue.get(f"/api/tasks/{made}")["params"] == {"card": HIDDEN}
    assert HIDDEN not in repr(fetch_all("SELECT params FROM {tasks}"))


def test_pruned_tasks_are_left_alone(queue: Api, clock: Any) -> None:
    queue.patch("/api/task-types/secret", {"dedupe_days": 300})
    queue.create("secret", {"card": HIDDEN}, dedupe="forever")
    queue.complete(queue.claim())
    clock.advance(100 * 86_400)
    queue.post("/api/maintenance/run", {})
    assert rotate() == 0


def test_a_text_that_cannot_be_read_is_named_and_no_key_is_given_up(
    queue: Api, restart: Any
) -> None:
    task_id = queue.create("secret", {"card": HIDDEN})["id"]
    execute("UPDATE {tasks} SET params = 'AAAA'")
    restart(NEW_KEY, KEY)
    with pytest.raises(PayloadUnreadable, match=f"tasks.params of id {task_id} cannot"):
        rotate()
    assert fetch_value("SELECT COUNT(*) FROM {payload_keys}") == 2


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Callable[..., Result]:
    def command(*arguments: str, keys: str, exit_code: int = 0) -> Result:
        result = run_command(*arguments, environment=environment(database_url, tmp_path, keys))
        assert result.exit_code == exit_code, result.output
        return result

    return command


def environment(database_url: str, folder: Path, keys: str) -> dict[str, str]:
    return {
        "TASKMANAGER_DATABASE_URL": database_url,
        "TASKMANAGER_INSTANCE_PATH": str(folder / "instance"),
        "TASKMANAGER_PAYLOAD_KEY": keys,
    }


def test_the_command_says_how_much_it_changed(queue: Api, run: Callable[..., Result]) -> None:
    work(queue, 3)
    done = run("payloads", "rotate", keys=f"{NEW_KEY},{KEY}")
    assert "4 rows encrypted with the first key" in done.stderr  # a task has failed
    again = run("payloads", "rotate", keys=NEW_KEY)
    assert again.stderr.startswith("0 rows")
    refused = run("payloads", "rotate", keys=KEY, exit_code=1)
    assert "Put that key back" in refused.stderr


def test_without_a_key_there_is_nothing_to_rotate(api: Api, run: Callable[..., Result]) -> None:
    assert "is empty" in run("payloads", "rotate", keys="", exit_code=1).stderr


@pytest.mark.slow
def test_kills_on_the_way_lose_nothing(
    queue: Api, restart: Any, database_url: str, tmp_path: Path
) -> None:
    ids = work(queue, 120)
    [old_key] = key_ids()
    both = restart(NEW_KEY, KEY)
    before = shown(both, ids)
    env = {**os.environ, **environment(database_url, tmp_path, f"{NEW_KEY},{KEY}")}
    command = [sys.executable, "-m", "taskmanager", "payloads", "rotate"]
    for left in (110, 90, 60):
        process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE)
        while tasks_with(old_key) > left:
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert tasks_with(old_key) > 0
        assert shown(both, ids) == before
    subprocess.run(command, env=env, check=True, capture_output=True)
    assert old_key not in key_ids()
    assert len(key_ids()) == 1
    assert shown(restart(NEW_KEY), ids) == before


def tasks_with(key_id: str) -> int:
    found: int = fetch_value("SELECT COUNT(*) FROM {tasks} WHERE payload_key = ?", (key_id,))
    return found


def test_nothing_of_it_is_in_the_database_in_plain(queue: Api, restart: Any) -> None:
    work(queue, 3)
    restart(NEW_KEY, KEY)
    rotate()
    assert HIDDEN not in stored()
