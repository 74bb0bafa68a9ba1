"""A name server that changes its answer between two lookups, asked by the system's own resolver.

Everything runs in a namespace of its own: a network that has a public address and 127.0.0.1 on its
loopback alone, and an /etc/resolv.conf that names the server of the test.
"""

import json
import shutil
import socket
import struct
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import require

pytestmark = pytest.mark.slow

PUBLIC, PRIVATE = "93.184.215.14", "127.0.0.1"
NAME = "rebind.test"
RESOLV_CONF = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"
NSSWITCH = "hosts: files dns\n"
A = 1


class Outcome(NamedTuple):
    """What came of some code: the value of its `found`, and who was asked for what."""

    found: Any
    lookups: int  # of an IPv4 address
    received: list[str]  # the addresses to which something was posted


class _NameServer(threading.Thread):
    """Gives each of `answers` to one lookup of an IPv4 address, the last one again and again."""

    def __init__(self, answers: list[list[str]]) -> None:
        super().__init__(daemon=True)
        self.answers, self.lookups = answers, 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))

    def run(self) -> None:
        while True:
            query, asker = self._socket.recvfrom(512)
            self._socket.sendto(self._answer(query), asker)

    def _answer(self, query: bytes) -> bytes:
        end = query.index(b"\0", 12) + 5  # of the question
        kind = struct.unpack("!H", query[end - 4 : end - 2])[0]
        addresses: list[str] = []
        if kind == A:
            addresses = self.answers[min(self.lookups, len(self.answers) - 1)]
            self.lookups += 1
        records = [
            b"\xc0\x0c" + struct.pack("!HHIH", A, 1, 0, 4) + socket.inet_aton(address)
            for address in addresses
        ]
        head = query[:2] + struct.pack("!HHHHH", 0x8580, 1, len(records), 0, 0)
        return head + query[12:end] + b"".join(records)


class _Server(ThreadingHTTPServer):
    """Notes in a list that several share when it has received something."""

    def __init__(self, address: str, received: list[str]) -> None:
        super().__init__((address, 80), _Handler)
        self.received = received


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append(self.connection.getsockname()[0])
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def serve_within(code: str, answers: list[list[str]]) -> None:
    """What the process in the namespace runs: name server and receivers, and then `code`."""
    names = _NameServer(answers)
    names.start()
    received: list[str] = []
    for address in (PUBLIC, PRIVATE):
        server = _Server(address, received)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    values: dict[str, Any] = {}
    exec(code, values)
    print(json.dumps([values["found"], names.lookups, received]))


def inside(tmp_path: Path, code: str, answers: list[list[str]]) -> Outcome:
    """Runs `code` there, which leaves what it finds out in `found`."""
    (tmp_path / "resolv.conf").write_text(RESOLV_CONF)
    (tmp_path / "nsswitch.conf").write_text(NSSWITCH)
    (tmp_path / "code.py").write_text(code)
    script = f"""
        set -e
        ip link set lo up
        ip address add {PUBLIC}/32 dev lo
        mount --bind {tmp_path}/resolv.conf /etc/resolv.conf
        mount --bind {tmp_path}/nsswitch.conf /etc/nsswitch.conf
        exec {sys.executable} -c '
from pathlib import Path
from tests.notify.test_rebinding import serve_within
serve_within(Path("{tmp_path}/code.py").read_text(), {json.dumps(answers)})'
    """
    done = subprocess.run(
        ["unshare", "-rmn", "sh", "-c", script],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Outcome(*json.loads(done.stdout))


@pytest.fixture(autouse=True)
def needs_namespaces() -> None:
    programs = all(shutil.which(name) for name in ("unshare", "ip", "mount"))
    is_permitted = programs and (
        subprocess.run(
            ["unshare", "-rmn", "ip", "link", "set", "lo", "up"], check=False, capture_output=True
        ).returncode
        == 0
    )
    require("Namespaces for a network and mounts (unshare -rmn, ip)", is_permitted)


POST = f"""
from taskmanager.notify.addresses import AddressRefused
from taskmanager.notify.sending import Rules, post
try:
    found = post("http://{NAME}/", b"x", {{}}, rules=Rules(is_http_allowed=True)).status
except AddressRefused as error:
    found = str(error)
"""


def test_the_connection_goes_to_the_address_that_was_checked(tmp_path: Path) -> None:
    outcome = inside(tmp_path, POST, [[PUBLIC], [PRIVATE]])
    assert outcome == Outcome(204, lookups=1, received=[PUBLIC])


@pytest.mark.parametrize("answer", [[PRIVATE], [PUBLIC, PRIVATE], [PRIVATE, PUBLIC]])
def test_a_name_with_an_address_that_is_not_public_is_sent_nothing(
    tmp_path: Path, answer: list[str]
) -> None:
    outcome = inside(tmp_path, POST, [answer])
    refusal = f"{NAME} has the address {PRIVATE}, which is not public."
    assert outcome == Outcome(refusal, lookups=1, received=[])


ENDPOINT = f"""
import tempfile
from taskmanager.access.caller import OPERATOR
from taskmanager.app import create_app
from taskmanager.clock import utc_now
from taskmanager.db.statements import fetch_one, insert
from taskmanager.errors import InvalidRequest
from taskmanager.notify import deliveries, endpoints
from taskmanager.notify.sending import Rules
create_app({{"instance_path": tempfile.mkdtemp(dir=FOLDER), "database_url": ""}})
rules, now = Rules(is_http_allowed=True), utc_now()
fields = {{"name": "hook", "url": "http://{NAME}/"}}
try:
    webhook, _ = endpoints.create_webhook(fields, rules=rules, caller=OPERATOR, now=now)
    row = {{"message_id": "m", "task_id": 1, "event": "task.completed", "body": "{{}}"}}
    row |= {{"webhook_id": webhook["id"], "status": "pending", "attempts": 0, "created_at": now}}
    insert("webhook_deliveries", {{**row, "next_attempt_at": now, "give_up_at": now + 10**9}})
    deliveries.send_due(rules=rules, budget_seconds=10)
    found = fetch_one("SELECT status, error FROM {{webhook_deliveries}}")
except InvalidRequest as error:
    found = error.message
"""


def endpoint(tmp_path: Path, answers: list[list[str]]) -> Outcome:
    """An endpoint is created, and one delivery is sent to it."""
    return inside(tmp_path, f"FOLDER = {str(tmp_path)!r}\n{ENDPOINT}", answers)


def test_a_name_that_was_public_when_it_was_entered_is_looked_at_again(tmp_path: Path) -> None:
    outcome = endpoint(tmp_path, [[PUBLIC], [PRIVATE]])
    refusal = f"{NAME} has the address {PRIVATE}, which is not public."
    assert outcome == Outcome({"status": "pending", "error": refusal}, lookups=2, received=[])


def test_a_name_that_stays_public_is_sent_its_messages(tmp_path: Path) -> None:
    outcome = endpoint(tmp_path, [[PUBLIC], [PUBLIC], [PRIVATE]])
    delivered = {"status": "delivered", "error": None}
    assert outcome == Outcome(delivered, lookups=2, received=[PUBLIC])


def test_a_name_that_is_private_when_it_is_entered_is_refused(tmp_path: Path) -> None:
    outcome = endpoint(tmp_path, [[PRIVATE], [PUBLIC]])
    assert outcome.found == f"url: {NAME} has the address {PRIVATE}, which is not public."
    assert outcome.received == []
