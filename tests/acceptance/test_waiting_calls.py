"""Calls that wait, under `taskmanager serve`: several processes, SIGTERM, SIGKILL."""

import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import pytest

from taskmanager.wakeups import pipes
from tests.support.server import Server

PATIENCE_SECONDS = 60
ANSWER_SECONDS = 15  # less than a call waits, so that only a wake-up can answer it in time
# No call looks by itself: whoever gets an answer before its time was woken.
ONLY_WOKEN = """
from taskmanager.api import waiting_calls
waiting_calls.LOOK_SECONDS = 3_600
from taskmanager.cli import main
main()
"""
MANY = 40


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack
    while Call.sockets:
        Call.sockets.pop().close()


@pytest.fixture
def serve(tmp_path: Path, fresh_database_url: str, stack: ExitStack) -> Callable[..., Server]:
    """Starts a server, by default with one process of one thread, that has the type `job`."""

    def start(
        folder: str = "instance", *, most: int | None = None, program: str = "", **options: Any
    ) -> Server:
        (tmp_path / folder).mkdir()
        options = {"workers": 1, "threads": 1, **options}
        server = Server(tmp_path / folder, fresh_database_url, **options)
        if program:
            server._program = [sys.executable, "-c", program]
        if most is not None:
            server.environment["TASKMANAGER_WAITING_CALLS"] = str(most)
        stack.callback(server.stop)
        server.start()
        body = {"name": "job", "version": "1", "param_schema": {"type": "object"}}
        assert server.call("POST", "/api/task-types/register", body).status in (200, 201)
        return server

    return start


@pytest.fixture
def serve_only_woken(serve: Callable[..., Server]) -> Callable[..., Server]:
    """The same, whose calls do not look by themselves."""
    return functools.partial(serve, program=ONLY_WOKEN)


class Call:
    """A request that was sent and is not answered yet."""

    sockets: ClassVar[list[socket.socket]] = []

    def __init__(self, server: Server, method: str, path: str, body: Any = None) -> None:
        content = json.dumps(body or {}).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {server.key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        self.socket = socket.create_connection(("127.0.0.1", server.port))
        self.sockets.append(self.socket)
        self.socket.settimeout(ANSWER_SECONDS)
        self.socket.sendall(head.encode() + content)

    def is_answered(self) -> bool:
        return bool(select.select([self.socket], [], [], 0)[0])

    def answer(self) -> tuple[int, Any]:
        received = b""
        while True:
            head, end, body = received.partition(b"\r\n\r\n")
            if end and body.endswith(b"\n"):
                return int(head.split()[1]), json.loads(body)
            some = self.socket.recv(65_536)
            assert some, received
            received += some


def claim(server: Server, worker_id: str = "worker-1", **fields: Any) -> Call:
    return Call(
        server, "POST", "/api/tasks/claim", {"worker_id": worker_id, "wait_seconds": 20, **fields}
    )


def create(server: Server) -> int:
    answer = server.call("POST", "/api/tasks", {"type": "job", "params": {}, "dedupe": "none"})
    assert answer.status == 201
    return int(answer.data["id"])


def until(is_so: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := is_so()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def until_it_waits(server: Server, call: Call) -> None:
    until(lambda: pipes.listening(server.folder / "waiting"))
    assert not call.is_answered()


def processes_of(server: Server) -> list[int]:
    assert server.process is not None
    listed = subprocess.run(
        ["ps", "--ppid", str(server.process.pid), "-o", "pid="],
        capture_output=True,
        text=True,
        check=False,  # without children it fails
    )
    return [int(word) for word in listed.stdout.split()]


def test_a_task_that_any_process_of_the_host_creates_wakes_a_claim(
    serve_only_woken: Callable[..., Server],
) -> None:
    server = serve_only_woken()
    waiting = claim(server)
    until_it_waits(server, waiting)
    made = server.command("tasks", "create", "job", "{}", "dedupe=none")
    status, body = waiting.answer()
    assert (status, body["data"]["id"]) == (200, int(made))


def test_the_end_of_a_task_wakes_who_reads_it_in_another_process(
    serve_only_woken: Callable[..., Server],
) -> None:
    server = serve_only_woken()
    task_id = create(server)
    waiting = Call(server, "GET", f"/api/tasks/{task_id}?wait_seconds=20")
    until_it_waits(server, waiting)
    server.command("tasks", "cancel", str(task_id))
    assert waiting.answer()[1]["data"]["status"] == "cancelled"


def test_a_task_that_another_host_creates_is_found_by_a_look(
    serve: Callable[..., Server],
) -> None:
    here, there = serve("here"), serve("there")
    waiting = claim(here)
    until_it_waits(here, waiting)
    task_id = create(there)
    status, body = waiting.answer()
    assert (status, body["data"]["id"]) == (200, task_id)


def test_forty_calls_that_wait_keep_the_only_thread_for_nobody(
    serve: Callable[..., Server],
) -> None:
    server = serve()
    waiting = [claim(server, f"worker-{number}") for number in range(MANY)]
    for _ in range(20):
        assert server.call("GET", "/api/stats").status == 200
    assert not any(call.is_answered() for call in waiting)
    tasks = {create(server) for _ in waiting}
    answers = [call.answer() for call in waiting]
    assert {status for status, _ in answers} == {200}
    assert {body["data"]["id"] for _, body in answers} == tasks


def test_beyond_the_bound_the_answer_comes_at_once_with_the_hint(
    serve: Callable[..., Server],
) -> None:
    server = serve(most=1)
    waiting = claim(server)
    until_it_waits(server, waiting)
    status, body = claim(server, "worker-2").answer()
    assert (status, body["details"]) == (404, {"poll_after_seconds": 5})
    assert not waiting.is_answered()
    create(server)
    assert waiting.answer()[0] == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_stops_answers_the_calls_that_wait(
    serve: Callable[..., Server], number: signal.Signals
) -> None:
    server = serve()
    calls = [claim(server), Call(server, "GET", "/api/events?after=latest&wait_seconds=20")]
    until_it_waits(server, calls[0])
    assert server.call("GET", "/api/health").status == 200  # its turn is after theirs
    assert server.process is not None
    server.process.send_signal(number)
    assert server.process.wait(PATIENCE_SECONDS) == 0
    if number == signal.SIGTERM:
        status, body = calls[0].answer()
        assert (status, body["details"]) == (404, {"poll_after_seconds": 5})
        assert calls[1].answer()[1]["data"]["events"] == []


def test_a_killed_process_leaves_nothing_of_its_calls_that_waited(
    serve_only_woken: Callable[..., Server],
) -> None:
    server = serve_only_woken(most=1)
    waiting = claim(server)
    until_it_waits(server, waiting)
    [killed] = processes_of(server)
    [left] = pipes.listening(server.folder / "waiting")
    os.kill(killed, signal.SIGKILL)
    until(lambda: set(processes_of(server)) - {killed})
    waiting = claim(server)
    until(lambda: set(pipes.listening(server.folder / "waiting")) - {left})
    task_id = create(server)
    status, body = waiting.answer()
    assert (status, body["data"]["id"]) == (200, task_id)
    assert left not in pipes.listening(server.folder / "waiting")


def test_a_key_that_another_process_revokes_gets_no_task_any_more(
    serve: Callable[..., Server],
) -> None:
    server = serve()
    key = server.command("keys", "create", "--name", "w", "--role", "worker").strip()
    listed = json.loads(server.command("keys", "list", "--json"))
    [key_id] = [row["id"] for row in listed if row["name"] == "w"]
    admin, server.key = server.key, key
    waiting = claim(server)
    server.key = admin
    until_it_waits(server, waiting)
    server.command("keys", "revoke", str(key_id))
    task_id = create(server)
    assert waiting.answer()[0] == 401
    assert server.call("GET", f"/api/tasks/{task_id}").data["status"] == "pending"


def test_a_client_that_hangs_up_leaves_its_task_and_its_place_to_others(
    serve: Callable[..., Server],
) -> None:
    server = serve(most=1)
    waiting = claim(server)
    until_it_waits(server, waiting)
    waiting.socket.close()
    task_id = create(server)
    assert server.call("GET", f"/api/tasks/{task_id}").data["status"] == "pending"
    assert server.call("POST", "/api/tasks/claim", {"worker_id": "w"}).data["id"] == task_id

    def waits_again() -> bool:
        call = claim(server)
        time.sleep(0.1)
        return not call.is_answered()

    until(waits_again)
