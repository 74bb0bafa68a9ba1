"""The examples of docs/workers.md, run as they are printed."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import PYTHON
from tests.support.server import Server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs/workers.md").read_text(encoding="utf-8")
FOLDER = ROOT / "docs"
# By the first words of their row in the table: page, heading and language of the example.
WORKERS = {
    "Python": ("workers.md", "Python", "python"),
    "PHP": ("workers-php.md", "A worker", "php"),
    "JavaScript": ("workers-javascript.md", "A worker", "js"),
    "anything else": ("workers.md", "Any program", "sh"),
}


def blocks(heading: str, language: str, page: str = PAGE) -> list[str]:
    """The code blocks of a language below a heading, up to the next one."""
    section = re.split(r"^## ", page.split(f"\n## {heading}\n")[1], flags=re.MULTILINE)[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "instance"
    folder.mkdir()
    server = Server(folder).start()
    body = {"name": "video.fetch", "version": "1", "param_schema": {"type": "object"}}
    assert server.call("POST", "/api/task-types/register", body).status == 201
    yield server
    server.kill()


def run(queue: Server, command: list[str], folder: Path, **more: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ
        | PYTHON
        | {"TASKMANAGER_URL": queue.url, "TASKMANAGER_KEY": queue.key, **more},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def create(queue: Server, params: dict[str, str]) -> int:
    body = {"type": "video.fetch", "params": params, "dedupe": "none"}
    task_id: int = queue.call("POST", "/api/tasks", body).data["id"]
    return task_id


@pytest.mark.parametrize("language", WORKERS)
def test_the_table_says_how_many_lines_a_worker_takes(language: str) -> None:
    name, heading, block = WORKERS[language]
    example = blocks(heading, block, (FOLDER / name).read_text(encoding="utf-8"))[0]
    count = len([line for line in example.splitlines() if line.strip()])
    [said] = re.findall(rf"^\| {language}.*\| (\d+) lines? \|", PAGE, re.MULTILINE)
    assert int(said) == count


def test_the_worker_in_python_works(queue: Server, tmp_path: Path) -> None:
    worker = blocks("Python", "python")[0]
    task_id = create(queue, {"id": "x"})
    program = worker.replace("worker.run()", "worker.run(burst=True)")
    assert program != worker
    (tmp_path / "worker.py").write_text(program, encoding="utf-8")
    run(queue, [sys.executable, "worker.py"], tmp_path)
    assert queue.call("GET", f"/api/tasks/{task_id}").data["result"] == {"id": "x", "attempt": 1}


def test_what_a_handler_can_say_and_the_producer_and_the_test_run(
    queue: Server, tmp_path: Path
) -> None:
    _, ends, producer, testing = blocks("Python", "python")
    for line in ends.splitlines()[2:]:
        run(
            queue,
            [
                sys.executable,
                "-c",
                f"{ends.splitlines()[0]}\ntry:\n    {line}\n"
                "except (Fail, Release, Retry):\n    pass",
            ],
            tmp_path,
        )
    assert "timeout=60" in producer
    quick = producer.replace("timeout=60", "timeout=0")
    failed = subprocess.run(
        [sys.executable, "-c", quick],
        env=os.environ | PYTHON | {"TASKMANAGER_URL": queue.url, "TASKMANAGER_KEY": queue.key},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "is still pending" in failed.stderr
    run(
        queue,
        [sys.executable, "-c", testing],
        tmp_path,
        PYTHONPATH=f"{ROOT}:{PYTHON['PYTHONPATH']}",
    )


def test_the_worker_command_runs_any_program(queue: Server, tmp_path: Path) -> None:
    command = blocks("Any program", "sh")[0].strip()
    program = tmp_path / "fetch.sh"
    program.write_text(
        '#!/bin/sh\necho "50 half way" >&$TASKMANAGER_PROGRESS_FD\ncat\n', encoding="utf-8"
    )
    program.chmod(0o755)
    task_id = create(queue, {"url": "x"})
    arguments = command.split()[1:]
    arguments.insert(arguments.index("--"), "--burst")
    run(queue, [sys.executable, "-m", "taskmanager_client.command", *arguments], tmp_path)
    task = queue.call("GET", f"/api/tasks/{task_id}").data
    assert (task["result"], task["status"]) == ({"url": "x"}, "completed")


def test_the_server_has_the_same_command(queue: Server, tmp_path: Path) -> None:
    task_id = create(queue, {"n": "1"})
    command = [sys.executable, "-m", "taskmanager", "worker", "--type", "video.fetch", "--burst"]
    run(queue, [*command, "--", "cat"], ROOT)
    assert queue.call("GET", f"/api/tasks/{task_id}").data["result"] == {"n": "1"}


def test_the_calls_with_curl_work(queue: Server, tmp_path: Path) -> None:
    claim, complete = blocks("Curl", "sh")
    task_id = create(queue, {})
    answer = run(queue, ["sh", "-c", claim], tmp_path)
    token = re.findall(r'"claim_token":"([^"]+)"', answer)[0]
    answer = run(queue, ["sh", "-c", complete], tmp_path, ID=str(task_id), TOKEN=token)
    assert '"success":true' in answer
    assert queue.call("GET", f"/api/tasks/{task_id}").data["result"] == 42


@pytest.mark.parametrize(
    ("program", "status", "code", "words"),
    [
        ("exit 75", "pending", "exit_75", "ended with exit status 75"),
        ("echo no >&2; exit 65", "failed", "exit_65", "no"),
        ("echo one >&2; echo two >&2; exit 3", "pending", "exit_3", "two\n\none\ntwo"),
        ("kill -9 $$", "pending", "killed_SIGKILL", "SIGKILL"),
        ("sleep 60", "pending", "timed_out", "1 seconds"),
        ("trap '' TERM; sleep 60", "pending", "timed_out", "1 seconds"),
    ],
)
def test_how_a_program_ends_is_how_the_attempt_ends(
    queue: Server, tmp_path: Path, program: str, status: str, code: str, words: str
) -> None:
    task_id = create(queue, {})
    command = [sys.executable, "-m", "taskmanager_client.command", "--type", "video.fetch"]
    options = ["--max-tasks", "1", "--timeout", "1"]
    run(queue, [*command, *options, "--", "sh", "-c", program], tmp_path)
    task = queue.call("GET", f"/api/tasks/{task_id}").data
    assert (task["status"], task["error_code"]) == (status, code)
    assert words in task["error_message"]


def test_the_same_burst_does_not_run_twice_at_once(queue: Server, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "taskmanager_client.command", "--type", "video.fetch"]
    command += ["--burst", "--", "sh", "-c", "touch began; while [ ! -e go ]; do sleep 0.1; done"]
    places = {"TASKMANAGER_URL": queue.url, "TASKMANAGER_KEY": queue.key}
    create(queue, {})
    with subprocess.Popen(command, cwd=tmp_path, env=os.environ | PYTHON | places) as first:
        while not (tmp_path / "began").exists():
            assert first.poll() is None
        second = create(queue, {})
        run(queue, command, tmp_path)
        assert queue.call("GET", f"/api/tasks/{second}").data["status"] == "pending"
        (tmp_path / "go").touch()
    assert queue.call("GET", f"/api/tasks/{second}").data["status"] == "completed"
