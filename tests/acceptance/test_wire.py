"""What only shows on the wire: the real server, spoken to byte by byte."""

import json
import socket
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.support.server import Server

REGISTRATION = b'{"name": "job", "version": "1", "param_schema": {}}'
JSON = "Content-Type: application/json"
CHUNKED = f"{JSON}\r\nTransfer-Encoding: chunked"
REGISTER = "POST /api/task-types/register"


@pytest.fixture(params=["sqlite"])
def engine(request: pytest.FixtureRequest) -> str:
    """Nothing here depends on the database."""
    return str(request.param)


@pytest.fixture
def server(start_server: Callable[..., Server]) -> Server:
    return start_server()


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["code"])


def send(server: Server, call: str, headers: str, body: bytes = b"") -> Reply:
    head = f"{call} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-API-Key: {server.key}\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(f"{head}{headers}\r\n\r\n".encode("latin-1") + body)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    first, _, rest = answer.partition(b"\r\n\r\n")
    lines = first.decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in lines[1:])
    return Reply(int(lines[0].split()[1]), {name.lower(): value for name, _, value in pairs}, rest)


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (*parts, b""))


def test_no_forwarded_header_is_believed_where_no_proxy_is_configured(server: Server) -> None:
    for header in (
        "X-Forwarded-Proto: https",
        "X-Forwarded-Protocol: ssl",
        "X-Forwarded-Ssl: on",
    ):
        reply = send(server, "GET /api/health", header)
        assert (reply.status, "strict-transport-security" in reply.headers) == (200, False), header


def test_no_header_moves_the_service_to_another_path(server: Server) -> None:
    for header in ("SCRIPT_NAME: /api", "PATH_INFO: /api/stats", "X-Forwarded-Prefix: /x"):
        reply = send(server, "GET /api/openapi.json", header)
        assert (reply.status, json.loads(reply.body)["servers"]) == (200, [{"url": "/"}]), header


def test_a_body_in_chunks_is_taken_up_to_the_limit_and_refused_beyond_it(server: Server) -> None:
    limit = 1_048_576
    fits = REGISTRATION + b" " * (limit - len(REGISTRATION))
    parts = [fits[start : start + 65_536] for start in range(0, limit, 65_536)]
    assert send(server, REGISTER, CHUNKED, chunks(*parts)).status == 201
    refused = send(server, REGISTER, CHUNKED, chunks(*parts, b" "))
    assert (refused.status, refused.code) == (413, "body_too_large")
    refused = send(server, REGISTER, CHUNKED, chunks(*parts * 3))
    assert (refused.status, refused.code) == (413, "body_too_large")


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\n{}\r\n0\r\n\r\n",
        b"-1\r\n{}\r\n0\r\n\r\n",
        b"1;" + b"a" * 20_000,
        b"2\r\n{}no end of line",
    ],
)
def test_chunks_that_are_none_are_the_clients_mistake(server: Server, body: bytes) -> None:
    reply = send(server, REGISTER, CHUNKED, body)
    assert (reply.status, reply.code) == (400, "bad_request")
    assert "Traceback" not in server.log()
    assert server.call("GET", "/api/health").status == 200


def test_a_request_id_brings_no_header_of_its_own(server: Server) -> None:
    for given in ("a\nSet-Cookie: x=1", "a\rX-Evil: 1", "a\x1b[31m", "a\xe9", "a" * 129, "a b"):
        reply = send(server, "GET /api/health", f"X-Request-ID: {given}")
        assert not {"set-cookie", "x-evil"} & set(reply.headers)
        assert reply.headers.get("x-request-id") != given
