"""What the tests of this folder ask of a running server before the race begins."""

from typing import Any

from tests.support.server import Server


def register(server: Server, name: str, **fields: Any) -> None:
    body = {"name": name, "version": "1", "param_schema": {"type": "object"}, **fields}
    assert server.call("POST", "/api/task-types/register", body).status == 201
