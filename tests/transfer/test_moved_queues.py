"""A queue that was moved goes on where it was: the same tasks, workers, keys and ids."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskmanager.app import create_app
from taskmanager.db.connection import close_connection
from taskmanager.db.statements import execute
from taskmanager.queue import feed
from tests.conftest import ENGINES, Api, make_key
from tests.transfer.conftest import MakeQueue
from tests.transfer.queues import Queue, rewrite

EVERY_WAY = [(source, target) for source in ENGINES for target in ENGINES]
every_way = pytest.mark.parametrize(("source", "target"), EVERY_WAY)


def opened(queue: Queue, key: str | None = None) -> Api:
    application = create_app({"instance_path": queue.folder, "database_url": queue.url})
    return Api(application.test_client(), key or make_key("admin"))


@pytest.fixture
def move(tmp_path: Path) -> Iterator[Callable[[Queue, Queue], None]]:
    def move(old: Queue, new: Queue) -> None:
        close_connection()
        old.run("export", str(tmp_path / "queue.jsonl"))
        new.run("import", str(tmp_path / "queue.jsonl"))

    yield move
    close_connection()


@every_way
def test_workers_producers_and_schedules_go_on(
    make_queue: MakeQueue, source: str, target: str, move: Callable[[Queue, Queue], None]
) -> None:
    old, new = make_queue(source, "old"), make_queue(target, "new")
    api = opened(old)
    api.register()
    body: dict[str, Any] = {"type": "job", "params": {"text": "ß😀", "n": 1.50}}
    done = api.post("/api/tasks", body, 201)
    api.complete(api.claim("steady"))
    held = api.create(params={"held": True})
    claimed = api.claim("steady", lease_seconds=3600)
    api.create(params={"last": True}, priority=5)
    schedule = {"name": "hourly", "type": "job", "params": {}, "interval_seconds": 3600}
    api.post("/api/schedules", schedule, 201)
    history = api.events(held["id"])

    move(old, new)
    api = opened(new, key=api.key)

    again = api.post("/api/tasks", {**body, "params": {"n": 1.5, "text": "ß😀"}})
    assert (again["deduplicated"], again["id"], again["status"]) == (True, done["id"], "completed")
    assert api.events(held["id"]) == history
    assert api.complete(claimed)["status"] == "completed"
    assert api.complete(claimed)["replayed"] is True
    worker = api.get("/api/workers/steady")
    assert worker["tasks_completed"] == 2
    assert [one["name"] for one in api.get("/api/schedules")["schedules"]] == ["hourly"]
    assert api.claim()["params"] == {"last": True}


@every_way
def test_ids_of_rows_that_are_gone_are_not_given_out_again(
    make_queue: MakeQueue, source: str, target: str, move: Callable[[Queue, Queue], None]
) -> None:
    """The last tasks were pruned, and all schedules: somebody may still ask for them by id."""
    old, new = make_queue(source, "old"), make_queue(target, "new")
    api = opened(old)
    api.register()
    tasks = [api.create()["id"] for _ in range(9)]
    body = {"name": "a", "type": "job", "params": {}, "interval_seconds": 60}
    schedule = api.post("/api/schedules", body, 201)
    execute("DELETE FROM tasks WHERE id > ?", (tasks[3],))
    execute("DELETE FROM schedules")

    move(old, new)
    api = opened(new, key=api.key)

    made = api.create()
    assert made["id"] > tasks[-1]
    assert api.post("/api/schedules", body, 201)["id"] > schedule["id"]


@every_way
def test_the_follower_of_events_goes_on(
    make_queue: MakeQueue,
    source: str,
    target: str,
    move: Callable[[Queue, Queue], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The newest events that it has seen were deleted with their tasks before the move."""
    monkeypatch.setattr(feed, "STORED_SECONDS", 0.0)
    old, new = make_queue(source, "old"), make_queue(target, "new")
    api = opened(old)
    api.register()
    api.create()
    gone = [api.post(f"/api/tasks/{api.create()['id']}/cancel")["id"] for _ in range(3)]
    cursor = api.get("/api/events?after=latest")["next_cursor"]
    assert api.post("/api/tasks/delete", {"ids": gone})["changed"] == 3

    move(old, new)
    api = opened(new, key=api.key)
    made = api.create()["id"]
    events = []
    for _ in range(3):  # MariaDB: see how ids that are missing are given up, in queue/feed.py
        page = api.get(f"/api/events?after={cursor}")
        cursor = page["next_cursor"]
        events += page["events"]
    assert [(event["task_id"], event["event"]) for event in events] == [(made, "created")]


def test_a_file_that_names_wrong_free_ids_is_refused(
    old: Queue, new: Queue, tmp_path: Path
) -> None:
    old.fill()
    file = tmp_path / "queue.jsonl"
    for wrong in ('{"workers":5}', '{"tasks":"5"}', '{"tasks":9223372036854775807}', "[]"):
        old.run("export", str(file))
        rewrite(
            file,
            lambda lines, wrong=wrong: [
                lines[0].replace('"next_ids":{}', f'"next_ids":{wrong}'),
                *lines[1:],
            ],
        )
        assert "which ids are free" in new.run("import", str(file), exit_code=1).stderr


@pytest.mark.slow
def test_an_import_that_is_killed_leaves_the_queue_empty(
    old: Queue, new: Queue, tmp_path: Path
) -> None:
    old.fill()
    old.run("export", str(tmp_path / "queue.jsonl"))
    before = new.rows()
    text = (tmp_path / "queue.jsonl").read_bytes()
    process = new.start("import", "-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stderr is not None
    # A pipe holds 64 KB: when all is written but the last bytes, nearly all of it is stored.
    process.stdin.write(text[:-100])
    process.stdin.flush()
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    process.stdin.close()
    process.stderr.close()

    assert new.rows() == before
    new.run("import", str(tmp_path / "queue.jsonl"))
    assert new.moved_rows() == old.rows()


@pytest.mark.slow
def test_texts_of_the_greatest_size_arrive(make_queue: MakeQueue, tmp_path: Path) -> None:
    """Params and a result of 1 MB in characters that an INSERT has to escape."""
    old, new = make_queue("sqlite", "old"), make_queue("mariadb", "new")
    old.fill()
    old.open()
    execute("UPDATE tasks SET params = ?, result = ?", ("'\\" * 500_000, '"\\' * 500_000))
    close_connection()
    old.run("export", str(tmp_path / "queue.jsonl"))
    new.run("import", str(tmp_path / "queue.jsonl"))
    assert new.moved_rows() == old.rows()
