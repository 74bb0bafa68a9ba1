"""The processes in which a PHP worker runs its handlers: how they end, and who notices."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require
from tests.support.server import Server

pytestmark = pytest.mark.slow

CLIENT = Path(__file__).parents[2] / "taskmanager/clients/php/TaskManager.php"
SCRIPT = f"""<?php
require '{CLIENT}';
$options = json_decode(getenv('OPTIONS'), true);
$worker = new TaskManager\\Worker(TaskManager\\Client::fromEnv(), $options);
$worker->task('php', function ($task) {{
    return eval($task->params['code']);
}}, ['schema' => ['type' => 'object']]);
$worker->run(['burst' => true] + json_decode(getenv('LIMITS'), true));
echo "after run\\n";
"""
# Its process stays for a while after the worker has heard of it.
EXIT = "register_shutdown_function(function () { usleep(300000); }); exit(3);"
OUT_OF_MEMORY = """
ini_set('memory_limit', '16M');
for ($text = []; true; ) {
    $text[] = str_repeat('x', 1000);
}
"""


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    require("php", shutil.which("php") is not None)
    server = Server(tmp_path_factory.mktemp("queue")).start()
    body = {"name": "php", "version": "1", "param_schema": {"type": "object"}}
    server.call("POST", "/api/task-types/register", body)
    yield server
    server.kill()


def work(
    queue: Server, folder: Path, *codes: str, options: str = "{}", limits: str = "{}"
) -> list[Any]:
    """The tasks after a worker has run these bodies of handlers, each in a single attempt."""
    made = [
        queue.call(
            "POST",
            "/api/tasks",
            {"type": "php", "params": {"code": code}, "dedupe": "none", "max_attempts": 1},
        ).data["id"]
        for code in codes
    ]
    (folder / "worker.php").write_text(SCRIPT)
    environment = {"TASKMANAGER_URL": queue.url, "TASKMANAGER_KEY": queue.key}
    environment |= {"OPTIONS": options, "LIMITS": limits}
    done = subprocess.run(
        ["php", folder / "worker.php"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("after run") == 1, "the lines after run() belong to the worker"
    return [queue.call("GET", f"/api/tasks/{task_id}").data for task_id in made]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("posix_kill(getmypid(), SIGKILL);", "The handler's process was killed by signal 9."),
        (EXIT, "The handler called exit()."),
        (OUT_OF_MEMORY, "Allowed memory size of 16777216 bytes exhausted"),
    ],
    ids=["killed", "exit", "out of memory"],
)
def test_a_process_that_ends_fails_its_own_attempt_alone(
    code: str, message: str, queue: Server, tmp_path: Path
) -> None:
    fine = "usleep(10000); return 'fine';"
    tasks = work(queue, tmp_path, code, *[fine] * 4, code, options='{"concurrency": 2}')
    assert [task["status"] for task in tasks] == ["failed", *["completed"] * 4, "failed"]
    for task in (tasks[0], tasks[-1]):
        assert message in task["error_message"]
        assert task["error_code"] == "worker_died"


def test_an_error_names_its_class_its_message_and_its_place(queue: Server, tmp_path: Path) -> None:
    [task] = work(queue, tmp_path, 'throw new DomainException("caf\\u{e9} \\xff");')
    assert task["error_code"] == "exception"
    assert task["error_message"].startswith("DomainException: café \ufffd in ")


@pytest.mark.parametrize(
    ("code", "error_code", "message"),
    [
        ('throw new Exception("a\\0b");', "exception", "Exception: ab in "),
        ("throw new TaskManager\\Release(-1);", "result_refused", "The server refused the result"),
        ("return str_repeat('x', 1100000);", "result_refused", "The server refused the result"),
    ],
    ids=["U+0000", "delay out of range", "too large"],
)
def test_every_report_is_one_that_the_server_takes(
    code: str, error_code: str, message: str, queue: Server, tmp_path: Path
) -> None:
    [task] = work(queue, tmp_path, code)
    assert task["error_code"] == error_code
    assert task["error_message"].startswith(message)


def test_a_handler_says_why_it_wants_another_attempt(queue: Server, tmp_path: Path) -> None:
    [task] = work(queue, tmp_path, "throw new TaskManager\\Retry(60, 'Not yet.', 'too_early');")
    assert (task["error_code"], task["error_message"]) == ("too_early", "Not yet.")


def test_handlers_share_a_process_until_it_is_replaced(queue: Server, tmp_path: Path) -> None:
    code = "static $count = 0; return [getmypid(), ++$count];"
    tasks = work(queue, tmp_path, *[code] * 5, options='{"max_tasks": 2}')
    processes = [task["result"][0] for task in tasks]
    assert len(set(processes)) == 3
    assert processes[0] == processes[1]


def test_a_worker_claims_no_more_than_max_tasks(queue: Server, tmp_path: Path) -> None:
    tasks = work(queue, tmp_path, *["return 1;"] * 3, limits='{"max_tasks": 2}')
    assert [task["status"] for task in tasks] == ["completed", "completed", "pending"]
    work(queue, tmp_path)


def test_a_process_that_has_grown_is_replaced(queue: Server, tmp_path: Path) -> None:
    grow = "$GLOBALS['kept'] = str_repeat('x', 40000000); return getmypid();"
    tasks = work(queue, tmp_path, grow, "return getmypid();", options='{"max_memory": 30000000}')
    assert tasks[0]["result"] != tasks[1]["result"]


def test_what_cannot_be_written_as_json_fails_for_good(queue: Server, tmp_path: Path) -> None:
    tasks = work(queue, tmp_path, "return NAN;", 'return "\\xff";', 'return "\\0";')
    codes = [task["error_code"] for task in tasks]
    assert codes == ["invalid_result", "invalid_result", "result_refused"]


def test_results_keep_what_php_can_tell_apart(queue: Server, tmp_path: Path) -> None:
    code = "return [1.0, new stdClass(), [], ['a' => (object) []], PHP_INT_MAX, null];"
    [task] = work(queue, tmp_path, code)
    assert task["result"] == [1.0, {}, [], {"a": {}}, 2**63 - 1, None]
    assert isinstance(task["result"][0], float)


def test_what_a_handler_prints_is_output_of_the_worker(queue: Server, tmp_path: Path) -> None:
    codes = ['echo "{\\"outcome\\": 1}\\n"; return fgets(STDIN);', "return 1;"]
    tasks = work(queue, tmp_path, *codes)
    assert [task["result"] for task in tasks] == [False, 1]
