"""What handlers in processes may do without harm to the worker, and how the worker imports them."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import PYTHON
from tests.clients.proxy import Fault, Proxy
from tests.support.server import Server

pytestmark = pytest.mark.slow

HANDLERS = """
import asyncio, os, signal, subprocess, sys, time
from taskmanager_client import Client, Fail, Release, Retry, Worker

worker = Worker(Client.from_env(), concurrency=2, grace=1)


@worker.task("job", lease_seconds=3, timeout=11)
def job(task):
    kind = task.params.get("kind")
    if kind == "compute":
        ends_at = time.monotonic() + 9
        while time.monotonic() < ends_at:
            sum(range(1000))
    elif kind == "exit":
        os._exit(3)
    elif kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(1)
    elif kind == "print":
        print("to stdout", flush=True)
        os.write(1, b"and below it\\n")
        return sys.stdin.read()
    elif kind == "progress":
        task.progress(50, "half")
        time.sleep(0.5)
    elif kind == "nan":
        return float("nan")
    elif kind == "surrogate":
        return os.fsdecode(b"\\xff")
    elif kind == "nul":
        return "\\0"
    elif kind == "odd message":
        raise LookupError("\\0 and " + os.fsdecode(b"\\xff"))
    elif kind == "odd code":
        raise Fail(404, "no such page")
    elif kind == "far":
        raise Retry("Next century.", after=4e9)
    elif kind == "back":
        raise Release(delay=-1)
    elif kind == "sys.exit":
        sys.exit("enough")
    elif kind == "cancelled":
        raise asyncio.CancelledError
    elif kind == "orphan":
        if os.fork() == 0:
            os.closerange(1, 3)  # what this test reads to its end
            time.sleep(30)
        os._exit(3)
    elif kind == "arguments":
        command = [sys.executable, "-c", "import os; print(os.environ.get('PYTHONPATH'))"]
        return [sys.argv, subprocess.check_output(command, text=True).strip()]
    return os.getpid()
"""


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("queue"))
    server.environment["TASKMANAGER_HEARTBEAT_SECONDS"] = "1"
    server.start()
    body = {"name": "job", "version": "1", "param_schema": {"type": "object"}, "max_attempts": 1}
    assert server.call("POST", "/api/task-types/register", body).status == 201
    yield server
    server.kill()
    assert "Traceback" not in server.log()


Work = Callable[..., tuple[list[Any], str]]


@pytest.fixture
def work(queue: Server, tmp_path: Path) -> Iterator[Work]:
    """Creates tasks, runs a program until nothing is left; the tasks then, and the log."""

    def run(
        *params: dict[str, Any],
        end: str = "worker.run(burst=True)",
        command: tuple[str, ...] = ("worker.py",),
        url: str = "",
    ) -> tuple[list[Any], str]:
        tasks = [{"type": "job", "params": one, "dedupe": "none"} for one in params]
        made = []
        if tasks:
            made = queue.call("POST", "/api/tasks/batch", {"tasks": tasks}).data["results"]
        (tmp_path / "worker.py").write_text(f"{HANDLERS}\n\n{end}\n", encoding="utf-8")
        places = {"TASKMANAGER_URL": url or queue.url, "TASKMANAGER_KEY": queue.key}
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=os.environ | PYTHON | places,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = [queue.call("GET", f"/api/tasks/{result['task']['id']}").data for result in made]
        return found, done.stdout + done.stderr

    yield run
    left = queue.call("POST", "/api/tasks/cancel", {"filter": {"type": "job"}})
    assert left.status == 200


def test_a_handler_that_computes_for_three_leases_keeps_its_task(work: Work) -> None:
    [task], log = work({"kind": "compute"})
    assert (task["status"], task["attempts"]) == ("completed", 1), log


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("exit", "worker_died", "exit status 3"),
        ("killed", "worker_died", "SIGKILL"),
        ("deaf", "timed_out", "11 seconds"),
        ("nan", "invalid_result", "JSON"),
        ("surrogate", "invalid_result", "surrogate"),
        ("nul", "result_refused", "U+0000"),
        ("odd message", "exception", "LookupError: \ufffd and ?"),
        ("odd code", "404", "no such page"),
        ("far", "result_refused", "retry_after_seconds"),
        ("back", "result_refused", "delay_seconds"),
        ("sys.exit", "exception", "SystemExit: enough"),
        ("cancelled", "exception", "CancelledError"),
        ("orphan", "worker_died", "exit status 3"),
    ],
)
def test_a_handler_that_ends_badly_fails_its_attempt_alone(
    work: Work, kind: str, code: str, words: str
) -> None:
    [bad, good], log = work({"kind": kind}, {})
    assert (bad["status"], bad["error_code"]) == ("failed", code), log
    assert words in bad["error_message"]
    assert good["status"] == "completed"
    assert f"task {bad['id']} failed ({code})" in log


def test_what_a_handler_prints_does_not_disturb_the_worker(work: Work) -> None:
    [task], log = work({"kind": "print"})
    assert task["result"] == ""
    assert "to stdout\nand below it" in log


def test_a_timeout_is_kept_while_a_heartbeat_is_not_answered(queue: Server, work: Work) -> None:
    with Proxy(queue.url) as proxy:
        proxy.spoil([Fault("/workers/heartbeat", "delay", seconds=60)])
        end = "worker.task('job', lease_seconds=120, timeout=2)(job)\nworker.run(burst=True)"
        [task], log = work({"kind": "deaf"}, url=proxy.url, end=end)
        assert task["error_code"] == "timed_out", log
        [heartbeat, *_], [report] = map(proxy.requests, ("/workers/heartbeat", "/complete"))
        assert report.at - heartbeat.at < 30, "which is how long the worker waits for an answer"


def test_a_stop_that_comes_together_with_its_task_is_not_lost(tmp_path: Path) -> None:
    source = "def handler(task):\n    return task.wait_stopping(3)\n"
    (tmp_path / "stopped.py").write_text(source, encoding="utf-8")
    names = ("attempts", "max_attempts", "lease_seconds")
    task = {"id": 1, "type": "job", "params": {}, **dict.fromkeys(names, 1)}
    task |= {"handler": ("stopped", "handler"), "is_measured": False}
    lines = [json.dumps(message) for message in ([], [None, None], task, "stop")]
    child = subprocess.Popen(
        [sys.executable, "-c", "from taskmanager_client import child; child.main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{PYTHON['PYTHONPATH']}"},
        text=True,
    )
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write("".join(f"{line}\n" for line in lines))
        child.stdin.flush()
        assert json.loads(child.stdout.readline())["report"]["result"] is True
        child.stdin.close()


def test_the_pipes_of_a_process_that_has_ended_are_closed(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "default::ResourceWarning")
    end = "worker.limits = worker.limits._replace(max_tasks=1)\nworker.run(burst=True)"
    tasks, log = work(*[{}] * 3, {"kind": "exit"}, {"kind": "killed"}, {}, end=end)
    assert [task["status"] for task in tasks].count("completed") == 4
    assert "ResourceWarning" not in log


def test_progress_is_reported(work: Work) -> None:
    [task], log = work({"kind": "progress"})
    assert task["progress_message"] == "half", log


@pytest.mark.parametrize(
    "end",
    [
        "worker.run(burst=True)\nprint('after the run')",
        "if __name__ == '__main__':\n    worker.run(burst=True)\n    print('after the run')",
    ],
)
def test_a_child_imports_the_program_without_starting_a_worker(work: Work, end: str) -> None:
    [task], log = work({}, end=end)
    assert task["status"] == "completed", log
    assert log.count("after the run") == 1
    assert log.count("started, for job") == 1


def test_a_child_that_has_imported_multiprocessing_finds_the_handlers(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text("def job(task):\n    return 7\n", encoding="utf-8")
    load = (
        "import multiprocessing\nfrom taskmanager_client import child\n"
        "program = child.Program(None, 'worker.py')\n"
        "print(child.load_handler('__main__', 'job', program)(None))"
    )
    done = subprocess.run(
        [sys.executable, "-c", load],
        cwd=tmp_path,
        env=os.environ | PYTHON,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "7\n", done.stderr


def test_a_program_started_as_a_module_is_imported_as_one(work: Work) -> None:
    [task], log = work({}, command=("-m", "worker"))
    assert task["status"] == "completed", log


def test_where_no_process_can_be_started_the_task_is_put_back(work: Work) -> None:
    [task], log = work({}, end="sys.executable = '/missing'\nworker.run(burst=True)")
    assert task["attempts"] == 0
    assert task["status"] in {"scheduled", "pending"}, task  # the delay may be over by now
    assert "cannot start a process" in log


def test_a_handler_sees_the_arguments_and_the_environment_of_its_worker(work: Work) -> None:
    [task], log = work({"kind": "arguments"}, command=("worker.py", "--name", "x"))
    assert task["result"] == [["worker.py", "--name", "x"], PYTHON["PYTHONPATH"]], log


def test_a_process_stays_for_the_next_task_until_it_has_reached_a_limit(work: Work) -> None:
    tasks, _ = work(*[{}] * 12)
    assert len({task["result"] for task in tasks}) <= 2
    limited = "worker.limits = worker.limits._replace(max_tasks=3)\nworker.run(burst=True)"
    tasks, _ = work(*[{}] * 12, end=limited)
    processes = Counter(task["result"] for task in tasks)
    assert max(processes.values()) <= 3
    assert len(processes) >= 4


def test_tasks_of_short_handlers_are_claimed_ahead_and_reported_together(
    queue: Server, work: Work
) -> None:
    with Proxy(queue.url) as proxy:
        tasks, log = work(*[{}] * 300, url=proxy.url)
        assert {task["status"] for task in tasks} == {"completed"}, log
        assert len(proxy.requests("/tasks/claim")) < 60
        assert len(proxy.requests("/complete")) < 150


def test_a_run_ends_after_so_many_tasks_or_seconds(work: Work) -> None:
    tasks, _ = work(*[{}] * 9, end="worker.run(max_tasks=4)")
    assert Counter(task["status"] for task in tasks) == {"completed": 4, "pending": 5}
    began = time.monotonic()
    work(end="worker.run(max_runtime=1)")
    assert time.monotonic() - began < 60


def test_a_handler_that_no_child_could_import_is_refused_at_once(work: Work) -> None:
    end = (
        "try:\n    worker.task('other')(lambda task: 1)\n"
        "except ValueError as error:\n    print('refused:', error)"
    )
    _, log = work(end=end)
    assert "refused:" in log
    assert "processes=False" in log
