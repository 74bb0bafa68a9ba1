"""The Python client's calls, its test queue, and the files that the server hands out."""

import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from taskmanager import __version__
from taskmanager.clients import PYTHON, WHEEL, client_files, wheel
from tests.conftest import Api

sys.path.insert(0, str(PYTHON))

from taskmanager_client import (
    ApiError,
    Client,
    Fail,
    Release,
    Retry,
    WaitTimeout,
    Worker,
    command,
)
from taskmanager_client import __version__ as client_version
from taskmanager_client.testing import Queue

ANY = {"type": "object"}


@pytest.fixture
def queue() -> Any:
    with Queue() as made:
        made.client.register("job", "1", ANY, max_attempts=3)
        yield made


def worker_of(queue: Any, handler: Any) -> Worker:
    worker = Worker(queue.client, worker_id="w", processes=False)
    worker.task("job")(handler)
    return worker


def test_a_full_queue_is_said_at_once(queue: Any) -> None:
    queue.client.change_type("job", max_open={"type": 1})
    queue.client.create("job", {"n": 1})
    with pytest.raises(ApiError) as refused:
        queue.client.create("job", {"n": 2})
    assert (refused.value.code, refused.value.status) == ("queue_full", 429)
    assert refused.value.details["limit"] == "type"
    assert refused.value.retry_after == 10
    [found, full] = queue.client.create_many(
        [{"type": "job", "params": {"n": 1}}, {"type": "job", "params": {"n": 2}}]
    )
    assert (found.deduplicated, full.code) == (True, "queue_full")


def test_a_task_goes_through_a_worker(queue: Any) -> None:
    task = queue.client.create("job", {"n": 1}, priority=3)
    assert (task.status, task.deduplicated, task.created_at.tzinfo is not None) == (
        *("pending", False),
        True,
    )
    assert queue.client.create("job", {"n": 1}).deduplicated
    assert (
        worker_of(queue, lambda held: {"was": held.params, "a": held.attempt}).run_until_empty()
        == 1
    )
    done = queue.client.wait(task, timeout=1)
    assert (done.status, done.result) == ("completed", {"was": {"n": 1}, "a": 1})
    assert [entry.event for entry in queue.client.logs(task.id)][-1] == "completed"


def test_a_handler_decides_how_its_attempt_ends(queue: Any) -> None:
    ends: dict[int, Exception] = {
        queue.client.create("job", {"n": n}).id: end
        for n, end in enumerate(
            (Retry("later", after=60), Fail("gone", "no"), Release(delay=60), ValueError("bad"))
        )
    }

    def handler(task: Any) -> Any:
        raise ends[task.id]

    worker = worker_of(queue, handler)
    assert worker.run_until_empty() == 6  # the error without a policy is tried again at once
    retried, failed, released, broken = [queue.client.get(one) for one in ends]
    assert (retried.status, retried.error_code, retried.attempts) == ("scheduled", "retry", 1)
    assert (failed.status, failed.error_code, failed.error_message) == ("failed", "gone", "no")
    assert (released.status, released.attempts) == ("scheduled", 0)
    assert broken.error_message.startswith("ValueError: bad\n\nTraceback")
    queue.advance(60)
    assert worker.run_until_empty() >= 2


def test_an_async_handler_runs(queue: Any) -> None:
    async def handler(task: Any) -> str:
        return "from a coroutine"

    task = queue.client.create("job")
    worker_of(queue, handler).run_until_empty()
    assert queue.client.get(task.id).result == "from a coroutine"


def test_an_error_carries_what_the_server_says(queue: Any) -> None:
    with pytest.raises(ApiError) as caught:
        queue.client.get(999)
    assert (caught.value.code, caught.value.status) == ("task_not_found", 404)
    assert caught.value.request_id
    with pytest.raises(ApiError) as caught:
        queue.client.create("job", {}, nonsense=1)
    assert caught.value.details[0]["path"] == "nonsense"


def test_many_tasks_are_created_and_each_refusal_told(queue: Any) -> None:
    made = queue.client.create_many(
        [{"type": "job", "params": {"n": 1}}, {"type": "none", "params": {}}]
    )
    assert made[0].status == "pending"
    assert made[1].code == "task_type_not_found"
    assert [task.id for task in queue.client.tasks(status="pending")] == [made[0].id]
    assert queue.client.cancel_many(filter={"type": "job"})["changed"] == 1


def test_waiting_ends_after_its_time(queue: Any) -> None:
    task = queue.client.create("job")
    with pytest.raises(WaitTimeout, match="still pending"):
        queue.client.wait(task, timeout=0)


class Failing:
    """Carries requests on to a queue, and fails at those whose path ends so."""

    def __init__(self, queue: Any, end: str) -> None:
        self.url = "http://test/api"
        self._next, self._end = queue.client.transport, end

    def send(self, method: str, path: str, content: bytes | None, timeout: float) -> Any:
        if path.endswith(self._end):
            raise MemoryError
        return self._next.send(method, path, content, timeout)


@pytest.mark.parametrize("end", ["/tasks/claim", "/complete"])
def test_a_fault_within_the_worker_ends_its_run(queue: Any, end: str) -> None:
    queue.client.create("job")
    worker = worker_of(queue, lambda held: 1)
    worker.client = Client("http://test", "", transport=Failing(queue, end))
    with pytest.raises(MemoryError):
        worker.run()


def test_two_queues_one_after_the_other_are_apart() -> None:
    for _ in range(2):
        with Queue(max_attempts=7) as made:
            made.client.register("job", "1", ANY)
            assert made.client.create("job").max_attempts == 7
            assert len(list(made.client.tasks())) == 1


def test_the_worker_of_a_cron_line_waits_for_the_same_worker_of_the_same_queue_alone() -> None:
    options = command._parser("worker").parse_args(["--burst", "--type=job", "--", "true"])
    with command._only_one("http://one", options) as is_alone:
        assert is_alone
        with command._only_one("http://one", options) as is_alone:
            assert not is_alone
        with command._only_one("http://two", options) as is_alone:
            assert is_alone


# The files


def test_the_client_has_the_version_of_the_server() -> None:
    assert client_version == __version__


def test_the_wheel_is_the_same_each_time_and_whole() -> None:
    content = wheel()
    assert content == wheel()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        record = archive.read(f"taskmanager_client-{__version__}.dist-info/RECORD").decode()
        assert archive.testzip() is None
    assert "taskmanager_client/worker.py" in names
    assert not [name for name in names if "__pycache__" in name]
    assert {line.partition(",")[0] for line in record.splitlines()} == set(names)


@pytest.mark.slow
def test_the_wheel_installs_with_one_dependency(tmp_path: Path) -> None:
    (tmp_path / WHEEL).write_bytes(wheel())
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pip = [environment / "bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", tmp_path / WHEEL], check=True)
    listed = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    names = {line.partition("=")[0].partition(" ")[0] for line in listed.splitlines()}
    assert names == {"taskmanager-client", "urllib3"}
    shown = subprocess.run(
        [environment / "bin/taskmanager-worker", "--help"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "--burst" in shown


def test_the_server_hands_out_its_clients_to_anybody(api: Api) -> None:
    listed = api.client.get("/api/clients", base_url="https://host/queue").get_json()["data"]
    assert {file["language"] for file in listed["clients"]} == {"python", "php", "javascript"}
    for file in listed["clients"]:
        assert file["url"] == f"https://host/queue/api/clients/{file['name']}"
        assert file["url"] in file["install"]
        answer = api.client.get(f"/api/clients/{file['name']}")
        assert hashlib.sha256(answer.data).hexdigest() == file["sha256"]
        assert len(answer.data) == file["size"]
        assert answer.headers.getlist("Cache-Control") == ["max-age=86400, public"]
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        again = api.client.get(
            f"/api/clients/{file['name']}", headers={"If-None-Match": answer.headers["ETag"]}
        )
        assert (again.status_code, again.data) == (304, b"")
    assert {file["name"] for file in listed["clients"]} == set(client_files())


def test_an_unknown_client_file_is_not_found(api: Api) -> None:
    for name in ("nothing.py", "..%2Fapp.py", "__init__.py"):
        assert api.client.get(f"/api/clients/{name}").status_code == 404
