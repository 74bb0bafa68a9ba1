"""`taskmanager serve` and clients that are slow, say nothing, or do not take their answer."""

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from taskmanager.serving import patient_worker
from tests.support.server import Server

HEAD = b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /api/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = b"Content-Length: 60000\r\n\r\n" + b"[" * 50_000
SHORT_DEADLINES = """
from taskmanager.serving import patient_worker
patient_worker.REQUEST_SECONDS = patient_worker.READ_SECONDS = patient_worker.SEND_SECONDS = 1
patient_worker.MAX_RECEIVED_BYTES = 200_000
from taskmanager.cli import main
main()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """One process with one thread: whoever keeps the thread keeps everybody."""
    server = Server(tmp_path, workers=1, threads=1)
    try:
        yield server.start()
    finally:
        server.kill()


@pytest.fixture
def hasty_server(tmp_path: Path) -> Iterator[Server]:
    """The same with deadlines of a second."""
    server = Server(tmp_path, workers=1, threads=1)
    server._program = [sys.executable, "-c", SHORT_DEADLINES]
    try:
        yield server.start()
    finally:
        server.kill()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connect(server: Server, stack: ExitStack, data: bytes = b"") -> socket.socket:
    sock = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
    sock.sendall(data)
    return sock


def answer(sock: socket.socket) -> bytes:
    """All that the server sends until it ends the connection."""
    received = b""
    while part := sock.recv(65_536):
        received += part
    return received


def assert_healthy(server: Server) -> None:
    assert server.call("GET", "/api/health", timeout=20).status == 200


@pytest.mark.parametrize(
    ("clients", "sent"),
    [
        (200, b""),
        (24, HEAD),
        (24, b"G"),
        (24, b"\r\n\r\n"),
        (24, POST + BODY),
        # Each is answered with 400 and then ended by the server, which waits for the client's end.
        (24, b"nonsense\r\n\r\n"),
    ],
    ids=["nothing", "half a head", "one byte", "empty lines", "half a body", "nonsense"],
)
def test_clients_that_end_no_request_keep_nobody_from_an_answer(
    server: Server, stack: ExitStack, clients: int, sent: bytes
) -> None:
    for _ in range(clients):
        connect(server, stack, sent)
    assert_healthy(server)


def test_more_silent_clients_than_connections_keep_nobody_from_an_answer(
    server: Server, stack: ExitStack
) -> None:
    first = connect(server, stack)
    for _ in range(810):
        connect(server, stack)
    assert_healthy(server)
    assert answer(first) == b""


def test_a_request_in_pieces_is_answered_once_it_is_whole(server: Server, stack: ExitStack) -> None:
    body = b'{"type": "none", "params": {}}'
    request = POST + b"X-API-Key: %s\r\nContent-Length: %d\r\n" % (server.key.encode(), len(body))
    sock = connect(server, stack)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in b"\r\n" + request + b"Connection: close\r\n\r\n" + body:
        sock.sendall(bytes([byte]))
    assert b"task_type_not_found" in answer(sock)


def test_what_the_loop_cannot_measure_is_read_by_a_thread(server: Server, stack: ExitStack) -> None:
    key = b"X-API-Key: %s\r\nConnection: close\r\n" % server.key.encode()
    chunked = connect(server, stack, POST + key + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
    chunked.sendall(b"0\r\n\r\n")
    assert b'"path":"type","message":"is required"' in answer(chunked)
    expected = b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    expecting = connect(server, stack, POST + key + expected)
    assert expecting.recv(65_536).startswith(b"HTTP/1.1 100 Continue")
    expecting.sendall(b"{}")
    assert b'"path":"type","message":"is required"' in answer(expecting)
    large = connect(server, stack, POST + key + b"Content-Length: 2000000\r\n\r\n")
    assert b" 413 " in answer(large)


def test_unfinished_requests_are_ended_at_the_deadline(
    hasty_server: Server, stack: ExitStack
) -> None:
    unfinished = [connect(hasty_server, stack, sent) for sent in (b"", HEAD, POST + BODY)]
    assert [answer(sock) for sock in unfinished] == [b"", b"", b""]


def test_a_body_that_a_thread_waits_for_has_a_deadline(
    hasty_server: Server, stack: ExitStack
) -> None:
    key = b"X-API-Key: %s\r\n" % hasty_server.key.encode()
    waiting = connect(hasty_server, stack, POST + key + b"Transfer-Encoding: chunked\r\n\r\n9\r\n{")
    assert_healthy(hasty_server)
    assert b"HTTP/1.1 400 " in answer(waiting)


def test_what_comes_after_the_deadline_of_a_body_is_not_read_as_a_request(
    hasty_server: Server, stack: ExitStack
) -> None:
    large = connect(hasty_server, stack, POST + b"Content-Length: 2000000\r\n\r\n")
    received = large.recv(65_536)
    assert received.startswith(b"HTTP/1.1 4")
    assert_healthy(hasty_server)  # the only thread waits for the body no longer
    large.sendall(HEAD + b"\r\n")
    assert b"200 OK" not in received + answer(large)


def test_clients_that_take_no_answer_keep_the_thread_for_a_bounded_time(
    hasty_server: Server, stack: ExitStack
) -> None:
    request = b"GET /api/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    connect(hasty_server, stack, request * 200)
    for _ in range(100):  # each lets one more answer go out, until the system's buffers are full
        assert_healthy(hasty_server)


def test_what_is_received_of_unfinished_requests_is_bounded(
    hasty_server: Server, stack: ExitStack
) -> None:
    unfinished = [connect(hasty_server, stack, POST + BODY) for _ in range(6)]
    assert answer(unfinished[0]) == b""
    unfinished[-1].sendall(b"[" * 10_000)
    assert answer(unfinished[-1]).startswith(b"HTTP/1.1 401 ")


def test_a_server_that_stops_does_not_wait_for_silent_clients(
    server: Server, stack: ExitStack
) -> None:
    connect(server, stack)
    assert_healthy(server)
    assert server.process is not None
    server.process.terminate()
    server.process.wait(8)  # the grace of a request that is being answered is ten seconds


def test_the_deadlines_are_those_of_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    for seconds in ("REQUEST_SECONDS", "READ_SECONDS", "SEND_SECONDS"):
        assert f"{getattr(patient_worker, seconds)} seconds" in text
