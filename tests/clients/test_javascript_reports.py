"""What a JavaScript handler can end with, and what becomes of its task."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.support.server import Server

pytestmark = pytest.mark.slow

CLIENT = Path(__file__).parents[2] / "taskmanager/clients/javascript/taskmanager.mjs"
SCRIPT = f"""
import {{ Client, Fail, Release, Retry, Worker }} from "{CLIENT}";
const worker = new Worker(Client.fromEnv());
worker.task("javascript", (task) => eval(task.params.code));
await worker.run({{ burst: true }});
"""


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    require("node", shutil.which("node") is not None)
    server = Server(tmp_path_factory.mktemp("queue")).start()
    body = {"name": "javascript", "version": "1", "param_schema": {"type": "object"}}
    server.call("POST", "/api/task-types/register", body)
    yield server
    server.kill()


@pytest.mark.parametrize(
    ("code", "error_code", "message"),
    [
        ("throw new Error('a\\0b')", "exception", "Error: ab\n    at "),
        ("throw new Error('\\ud800')", "exception", "Error: \ufffd\n"),
        ("throw new Error('x'.repeat(9992) + '\\u{1f600}')", "exception", "Error: xxx"),
        ("throw undefined", "exception", "undefined"),
        ("throw new Fail(404, 'gone')", "404", "gone"),
        ("throw new Retry({ after: 9, message: 'Not yet.', code: 'early' })", "early", "Not yet."),
        ("throw new Release({ delay: -1 })", "result_refused", "The server refused the result"),
        ("Promise.resolve('\\0')", "result_refused", "The server refused the result"),
        ("'x'.repeat(1100000)", "result_refused", "The server refused the result"),
        ("1n", "invalid_result", "The handler's result cannot be written as JSON"),
    ],
)
def test_every_report_is_one_that_the_server_takes(
    code: str, error_code: str, message: str, queue: Server, tmp_path: Path
) -> None:
    body = {"type": "javascript", "params": {"code": code}, "dedupe": "none", "max_attempts": 1}
    task_id = queue.call("POST", "/api/tasks", body).data["id"]
    (tmp_path / "worker.mjs").write_text(SCRIPT)
    environment = {"TASKMANAGER_URL": queue.url, "TASKMANAGER_KEY": queue.key}
    done = subprocess.run(
        ["node", tmp_path / "worker.mjs"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    task = queue.call("GET", f"/api/tasks/{task_id}").data
    assert (task["status"], task["error_code"]) == ("failed", error_code)
    assert task["error_message"].startswith(message)
