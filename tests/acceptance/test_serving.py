"""`taskmanager serve` and many clients that keep their connections open."""

import http.client
import json
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from tests.support.server import Server

CLIENTS = 16
BURSTS = 8
LISTENING = "0A"


@pytest.fixture
def two_processes(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, workers=2, threads=2)
    try:
        server.start()
        with ExitStack() as stack:
            deadline = time.monotonic() + 60
            while len(held(server)) < 2:  # the second starts a little later
                assert time.monotonic() < deadline
                assert_answered(server, stack.enter_context(closing(connect(server))))
                time.sleep(0.05)
        yield server
    finally:
        server.stop()


@pytest.fixture
def one_thread(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, workers=1, threads=1)
    try:
        yield server.start()
    finally:
        server.stop()


def connect(server: Server) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.connect()
    return connection


def assert_answered(server: Server, connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/api/task-types", headers={"X-API-Key": server.key})
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200


def connections_by_process(parent: int, port: int) -> Counter[int]:
    """How many clients each process below `parent` talks to on `port`, as Linux counts them."""
    ours = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_, inode = line.split()[:10]
        if state != LISTENING and int(local.rpartition(":")[2], 16) == port:
            ours.add(f"socket:[{inode}]")
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    held: Counter[int] = Counter()
    for child in children:
        for handle in Path(f"/proc/{child}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                held[int(child)] += str(handle.readlink()) in ours
    return +held


def held(server: Server) -> Counter[int]:
    assert server.process is not None
    return connections_by_process(server.process.pid, server.port)


def test_a_burst_of_connections_is_shared_by_the_processes(two_processes: Server) -> None:
    fullest = []
    for _ in range(BURSTS):
        deadline = time.monotonic() + 60
        while held(two_processes):  # of the burst before
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with ExitStack() as stack:
            connections = [
                stack.enter_context(closing(connect(two_processes))) for _ in range(CLIENTS)
            ]
            asking = [
                threading.Thread(target=assert_answered, args=(two_processes, one))
                for one in connections
            ]
            for thread in asking:
                thread.start()
            for thread in asking:
                thread.join()
            fullest.append(max(held(two_processes).values()))
    # The system deals them out at random: 9.6 of 16 to one of the two on average.
    assert sum(fullest) <= 12 * BURSTS


def test_a_client_that_asks_without_pause_does_not_keep_the_thread_from_others(
    one_thread: Server,
) -> None:
    answered = 0
    done = threading.Event()

    def ask_without_pause() -> None:
        nonlocal answered
        with closing(connect(one_thread)) as connection:
            while not done.is_set():
                assert_answered(one_thread, connection)
                answered += 1

    def answered_first() -> int:
        """How many requests of the busy client are answered while one of ours waits."""
        before = answered
        while answered < before + 10:
            time.sleep(0.001)
        before = answered
        assert_answered(one_thread, connection)
        return answered - before

    busy = threading.Thread(target=ask_without_pause)
    busy.start()
    try:
        with closing(connect(one_thread)) as connection:
            assert statistics.median(answered_first() for _ in range(20)) < 5
    finally:
        done.set()
        busy.join()


def test_a_client_that_says_nothing_more_does_not_keep_the_only_thread(one_thread: Server) -> None:
    with closing(connect(one_thread)) as silent, closing(connect(one_thread)) as other:
        assert_answered(one_thread, silent)
        assert_answered(one_thread, other)
        assert_answered(one_thread, silent)


def test_requests_sent_at_once_are_answered_one_after_the_other(one_thread: Server) -> None:
    request = b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n"
    with socket.create_connection(("127.0.0.1", one_thread.port), timeout=60) as connection:
        connection.sendall(request + b"\r\n" + request + b"Connection: close\r\n\r\n")
        answers = b""
        while part := connection.recv(65_536):
            answers += part
    assert answers.count(b"HTTP/1.1 200 OK") == 2


def test_an_answer_without_a_body_arrives(one_thread: Server) -> None:
    assert f"The queue is in {one_thread.folder}/taskmanager.db\n" in one_thread.log()
    with closing(connect(one_thread)) as connection:
        connection.request("HEAD", "/api/health")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"")
        assert_answered(one_thread, connection)


def test_with_log_format_json_every_line_of_the_log_is_an_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKMANAGER_LOG_FORMAT", "json")
    server = Server(tmp_path, workers=1, threads=1).start()
    server.call("GET", "/api/stats")
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"NONSENSE\r\n\r\n")
        connection.recv(1)
    server.stop()
    lines = [json.loads(line) for line in server.log().splitlines()]
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, lines))
    assert any("is listening on" in line["message"] for line in lines)
    [request] = [line for line in lines if line.get("route") == "/api/stats"]
    assert (request["status"], request["key"], request["method"]) == (200, "test", "GET")
    assert any(line["logger"].startswith("gunicorn") for line in lines)
