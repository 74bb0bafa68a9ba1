"""A bad night for the workers of all languages: they, and the server, are killed at random, and one
answer in twenty is lost on its way.
"""

import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import DRIVERS, Worker
from tests.clients.proxy import Proxy
from tests.conftest import require
from tests.support.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]

TASKS = 3_000
KEYS = 20  # of each of which one task may be held
WORKERS = {"python": 6, "php": 2, "javascript": 2, "command": 2}
LEASE_SECONDS = 3
LIMIT = {"limit": 1, "per": "key"}
KILL_WORKER_SECONDS = 0.7
TASKS_A_KILL = 10  # at the least, or on a busy machine no worker would live until it works
KILL_SERVER_SECONDS = 5.0
WORK_SECONDS = 0.1
PATIENCE_SECONDS = 1_500
FINISHED_WITHOUT_KILLS = 0.9  # of the tasks: then the rest has to end in peace


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "instance"
    folder.mkdir()
    server = Server(folder, workers=2, threads=8)
    server.environment["TASKMANAGER_HEARTBEAT_SECONDS"] = "1"
    server.start()
    yield server
    server.stop()
    assert "Traceback" not in server.log()


def test_a_bad_night(queue: Server, tmp_path: Path) -> None:
    for name in WORKERS:
        require(DRIVERS[name].program, shutil.which(DRIVERS[name].program) is not None)
    for name in ("echo", "retry", "fail", "error", "slow", "wait", "hang"):
        body = {"name": f"scenario.{name}", "version": "1", "param_schema": {"type": "object"}}
        more = {"lease_seconds": LEASE_SECONDS, "max_attempts": 100, "concurrency": LIMIT}
        assert queue.call("POST", "/api/task-types/register", {**body, **more}).status == 201
    ids = []
    for start in range(0, TASKS, 1_000):
        tasks = [
            {
                "type": "scenario.slow",
                "params": {"n": n, "seconds": WORK_SECONDS},
                "concurrency_key": f"key-{n % KEYS}",
            }
            for n in range(start, start + 1_000)
        ]
        made = queue.call("POST", "/api/tasks/batch", {"tasks": tasks}).data["results"]
        ids += [result["task"]["id"] for result in made]

    kills = Counter[str]()
    with Proxy(queue.url, lose_one_in=20) as proxy:
        workers = [
            (name, _start(name, n, proxy, queue, tmp_path))
            for name, count in WORKERS.items()
            for n in range(count)
        ]
        try:
            began = server_killed_at = time.monotonic()
            done_at_kill = 0
            while (done := _completed(queue)) < TASKS:
                assert time.monotonic() < began + PATIENCE_SECONDS, (done, kills)
                time.sleep(KILL_WORKER_SECONDS)
                if done > TASKS * FINISHED_WITHOUT_KILLS or done < done_at_kill + TASKS_A_KILL:
                    continue
                done_at_kill = done
                at = random.randrange(len(workers))
                name, victim = workers[at]
                victim.kill()
                kills[name] += 1
                workers[at] = (name, _start(name, f"{at}-{kills.total()}", proxy, queue, tmp_path))
                if time.monotonic() > server_killed_at + KILL_SERVER_SECONDS:
                    queue.kill()
                    queue.start()
                    kills["server"] += 1
                    server_killed_at = time.monotonic()
            for _, worker in workers:
                worker.terminate()
            for _, worker in workers:
                worker.end()
        finally:
            for _, worker in workers:
                worker.kill()
        lost = Counter(seen.outcome for seen in proxy.seen)["lose_answer"]
    assert kills["server"] >= 2
    assert kills.total() >= 10
    assert lost >= 10
    print(f"{kills} killed, {lost} answers lost", file=sys.stderr)
    _assert_each_was_finished_once(queue, ids)


def _start(name: str, number: object, proxy: Proxy, queue: Server, folder: Path) -> Worker:
    home = folder / f"{name}-{number}"
    home.mkdir()
    return Worker(DRIVERS[name], proxy, queue.key, home)


def _completed(queue: Server) -> int:
    count: int = queue.call("GET", "/api/stats").data["by_status"]["completed"]
    return count


def _assert_each_was_finished_once(queue: Server, ids: list[int]) -> None:
    by_status = queue.call("GET", "/api/stats").data["by_status"]
    assert by_status == {**dict.fromkeys(by_status, 0), "completed": TASKS}
    everything = []
    for n, task_id in enumerate(ids):
        logs = queue.call("GET", f"/api/tasks/{task_id}/logs").data["logs"]
        everything += [(log["id"], n % KEYS, task_id, log["event"]) for log in logs]
        events = [log["event"] for log in logs]
        assert events.count("completed") == 1, events
        # Between two claims the first attempt must have ended.
        held = False
        for event in events:
            assert not (event == "claimed" and held), events
            held = event in ("claimed", "lease_restored") or (held and event == "progress")
    _assert_one_of_each_key_was_held(sorted(everything))
    for worker in queue.call("GET", "/api/workers?limit=100").data["workers"]:
        assert worker["tasks_held"] == 0


def _assert_one_of_each_key_was_held(events: list[tuple[int, int, int, str]]) -> None:
    held: dict[int, int] = {}
    for _, key, task_id, event in events:
        if event in ("claimed", "lease_restored"):
            assert held.setdefault(key, task_id) == task_id, (key, task_id, held[key])
        elif event != "created" and held.get(key) == task_id:
            del held[key]
    assert held == {}
