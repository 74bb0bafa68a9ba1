"""The examples of docs/workers-php.md and docs/workers-javascript.md, run as they are printed."""

import fcntl
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import require
from tests.support.server import Server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
CLIENTS = ROOT / "taskmanager" / "clients"
SCHEMA = {"type": "object"}


class Page(NamedTuple):
    """One page of the documentation: the language of its examples and how they are run."""

    path: Path
    block: str
    program: str
    client: Path

    def examples(self, heading: str) -> list[str]:
        """The code below a heading, up to the next one."""
        text = self.path.read_text(encoding="utf-8")
        section = re.split(r"^##+ ", text.split(f"# {heading}\n")[1], flags=re.MULTILINE)[0]
        return re.findall(rf"^```{self.block}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


PHP = Page(ROOT / "docs/workers-php.md", "php", "php", CLIENTS / "php/TaskManager.php")
JAVASCRIPT = Page(
    ROOT / "docs/workers-javascript.md", "js", "node", CLIENTS / "javascript/taskmanager.mjs"
)
PAGES = {"php": PHP, "javascript": JAVASCRIPT}


@pytest.fixture(params=list(PAGES))
def page(request: pytest.FixtureRequest) -> Page:
    return PAGES[request.param]


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("queue")).start()
    for name in ("video.fetch", "numbers.count"):
        body = {"name": name, "version": "1", "param_schema": SCHEMA, "lease_seconds": 2}
        assert server.call("POST", "/api/task-types/register", body).status == 201
    yield server
    server.kill()


Run = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def run(tmp_path: Path, queue: Server) -> Iterator[Run]:
    """Starts a script with the client beside it and a key of a role; its output is one text."""
    started = []

    def start(page: Page, script: str, role: str, **more_files: str) -> "subprocess.Popen[str]":
        require(page.program, shutil.which(page.program) is not None)
        shutil.copy(page.client, tmp_path)
        file = tmp_path / f"script{len(started)}{page.client.suffix}"
        file.write_text(script, encoding="utf-8")
        for name, text in more_files.items():
            (tmp_path / f"{name}{page.client.suffix}").write_text(text, encoding="utf-8")
        key = queue.command("keys", "create", "--name", role, "--role", role).strip()
        environment = {"TASKMANAGER_URL": queue.url, "TASKMANAGER_KEY": key}
        started.append(
            subprocess.Popen(
                [page.program, str(file)],
                cwd=tmp_path,
                env=os.environ | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def create(queue: Server, type_name: str, params: dict[str, Any]) -> int:
    body = {"type": type_name, "params": params, "dedupe": "none"}
    return int(queue.call("POST", "/api/tasks", body).data["id"])


def finished(queue: Server, task_id: int, worker: "subprocess.Popen[str]") -> Any:
    """The task once it is finished; the worker is then asked to end and has to."""
    for _ in range(300):
        task = queue.call("GET", f"/api/tasks/{task_id}").data
        if task["completed_at"] is not None:
            break
        try:
            worker.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        break
    worker.send_signal(signal.SIGTERM)
    output, _ = worker.communicate(timeout=30)
    assert worker.returncode == 0, output
    return task


def test_the_worker_on_the_page_works_and_producer_gets_its_result(
    page: Page, queue: Server, run: Run
) -> None:
    worker = run(page, page.examples("A worker")[0], "worker")
    producer = run(page, page.examples("A producer")[0], "producer")
    output, _ = producer.communicate(timeout=60)
    assert output == 'completed: {"title":"X"}\n'
    task = queue.call("GET", "/api/tasks?type=video.fetch&limit=1&include=result").data["tasks"][0]
    assert finished(queue, task["id"], worker)["result"] == {"title": "X"}


def test_a_php_worker_for_cron_runs_alone_and_ends_by_itself(
    queue: Server, run: Run, tmp_path: Path
) -> None:
    plain = "$worker->run();\n"
    [once] = PHP.examples("Keeping it running")
    script = PHP.examples("A worker")[0].replace(plain, once)
    assert once in script
    task_id = create(queue, "video.fetch", {"id": "y"})
    with (tmp_path / "worker.lock").open("w") as another_worker:
        fcntl.flock(another_worker, fcntl.LOCK_EX)
        assert run(PHP, script, "worker").communicate(timeout=60)[0] == ""
    worker = run(PHP, script, "worker")
    output, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0, output
    assert queue.call("GET", f"/api/tasks/{task_id}").data["result"] == {"title": "Y"}


def test_the_other_php_examples_are_php(tmp_path: Path) -> None:
    require("php", shutil.which("php") is not None)
    fragments = [
        *PHP.examples("Where a host forbids processes"),
        *PHP.examples("From a worker of the PHP TaskManager"),
    ]
    assert len(fragments) == 2
    for fragment in fragments:
        (tmp_path / "fragment.php").write_text(f"<?php\n{fragment}")
        subprocess.run(["php", "-l", tmp_path / "fragment.php"], check=True, capture_output=True)


def test_a_thread_computes_for_three_leases_and_keeps_its_task(queue: Server, run: Run) -> None:
    script, thread = JAVASCRIPT.examples("Handlers that compute")
    task_id = create(queue, "numbers.count", {"seconds": 6})
    worker = run(JAVASCRIPT, script, "worker", count=thread)
    task = finished(queue, task_id, worker)
    assert (task["status"], task["result"], task["attempts"]) == ("completed", True, 1)


def test_a_thread_ends_when_its_task_is_cancelled(queue: Server, run: Run) -> None:
    script, thread = JAVASCRIPT.examples("Handlers that compute")
    task_id = create(queue, "numbers.count", {"seconds": 600})
    worker = run(JAVASCRIPT, script, "worker", count=thread)
    while queue.call("GET", f"/api/tasks/{task_id}").data["status"] != "claimed":
        assert worker.poll() is None
    queue.call("POST", f"/api/tasks/{task_id}/cancel", {})
    after = create(queue, "numbers.count", {"seconds": 0})
    assert finished(queue, after, worker)["status"] == "completed"
