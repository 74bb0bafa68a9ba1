"""Where alerts arrive in tests: a real mail server and a real HTTP receiver on this machine."""

import json
import ssl
import subprocess
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from taskmanager.config import Settings
from tests.conftest import Api
from tests.support.ports import free_port
from tests.support.receivers import serving

LOOPBACK = "127.0.0.0/8"
USER, PASSWORD = "queue@example.org", "p@ss word/1"


class Receiver(ThreadingHTTPServer):
    """Answers `answer` and keeps what was posted."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[Any] = []
        self.answer = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook/secret-path"

    def told(self) -> list[list[tuple[str, bool]]]:
        """Of each message, the rules of its alerts, each with whether it has ended."""
        return [
            [(alert["rule"], alert["ended_at"] is not None) for alert in message["alerts"]]
            for message in self.received
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append(json.loads(body))
        self.send_response(self.server.answer)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with serving(Receiver()) as server:
        yield server


class Mailbox:
    """A mail server: what it was sent, and the recipient that it refuses."""

    def __init__(self, address: str = "127.0.0.1", **options: Any) -> None:
        self.mails: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        self.refused = "nobody@example.org"
        self.answer = "250 2.0.0 Ok: queued as 4711"
        self._address, self._options = address, options
        self.start()

    def start(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self._controller = Controller(self, self._address, self.port, **self._options)
        self._controller.start()

    def stop(self) -> None:
        self._controller.stop()

    def url(self, scheme: str = "smtp", login: str = "", options: str = "") -> str:
        return f"{scheme}://{login}127.0.0.1:{self.port}{options}"

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, _: Any
    ) -> str:
        if address == self.refused:
            return f"550 5.1.1 {address} is unknown here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.answer.startswith("250"):
            mail = message_from_bytes(envelope.content, policy=policy.default)
            assert isinstance(mail, EmailMessage)
            self.mails.append(mail)
            self.recipients.append(envelope.rcpt_tos)
        return self.answer


def authenticator(
    server: Any, session: Any, envelope: Any, mechanism: str, data: Any
) -> AuthResult:
    is_right = (data.login, data.password) == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=is_right, handled=False)


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    """A mail server as there is one on every shared host: no TLS, no password."""
    server = Mailbox()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-out", str(cert), "-keyout", str(key)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


@pytest.fixture
def tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    return context


@pytest.fixture
def trusted(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the certificate one that is trusted, as OpenSSL reads it from the environment."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))


@pytest.fixture
def alerts(api: Api) -> Callable[[], dict[str, list[str]]]:
    """Runs maintenance; returns what is open then, by rule, each as a sentence."""

    def look() -> dict[str, list[str]]:
        api.post("/api/maintenance/run", {})
        found: dict[str, list[str]] = {}
        for one in api.get("/api/alerts")["alerts"]:
            if one["ended_at"] is None:
                found.setdefault(one["rule"], []).append(f"{one['subject']} {one['message']}")
        return found

    return look


@pytest.fixture
def loaded(api: Api) -> Settings:
    """The settings of the application."""
    found: Settings = api.client.application.extensions["taskmanager"]
    return found
