"""A real receiver on this machine, and a type whose tasks notify it."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.conftest import Api
from tests.support.receivers import serving

LOOPBACK = "127.0.0.0/8"


class Receiver(ThreadingHTTPServer):
    """Answers `answer` and keeps what it got: headers and body."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[tuple[dict[str, str], str]] = []
        self.answer = 204

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"

    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.received]

    def events(self) -> list[tuple[str, int]]:
        messages = [json.loads(body) for _, body in self.received]
        return [(message["type"], message["data"]["id"]) for message in messages]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.received.append((headers, body))
        self.send_response(self.server.answer)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with serving(Receiver()) as server:
        yield server


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"webhooks_allow_http": "1", "webhooks_allow_networks": LOOPBACK}


@pytest.fixture
def hook(api: Api, receiver: Receiver) -> Any:
    return api.post("/api/webhooks", {"name": "billing", "url": receiver.url}, 201)


@pytest.fixture
def job(api: Api, hook: Any) -> Api:
    api.register(notify="billing")
    return api
