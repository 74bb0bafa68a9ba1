"""Webhooks of a real `taskmanager serve` to a real receiver, while both are killed."""

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from taskmanager.clock import utc_now
from taskmanager.db.connection import close_connection, connect_database
from taskmanager.db.statements import fetch_all, fetch_value, update
from taskmanager.db.transactions import write_transaction
from tests.support.ports import free_port
from tests.support.server import Server

PATIENCE_SECONDS = 60
ROUNDS = 10
TASKS_A_ROUND = 20
# Keeps each message in a file before it answers, and takes a moment for it, so that a kill may
# come between the two.
RECEIVER = """
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        os.write(log, (json.dumps([headers, body]) + "\\n").encode())
        time.sleep(0.05)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass

log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class Receiver:
    """A process that takes messages, and can be killed and started again on its port."""

    def __init__(self, folder: Path) -> None:
        self._file, self._port = folder / "received", free_port()
        self._file.touch()
        self.url = f"http://127.0.0.1:{self._port}/hook"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        arguments = [str(self._port), str(self._file)]
        self._process = subprocess.Popen([sys.executable, "-c", RECEIVER, *arguments])

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_SECONDS)

    def messages(self) -> list[tuple[dict[str, str], str]]:
        return [tuple(json.loads(line)) for line in self._file.read_text().splitlines()]


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    started = Receiver(tmp_path)
    started.start()
    yield started
    started.kill()


@pytest.fixture
def server(
    start_server: Callable[..., Server], fresh_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    """The test itself may read its database."""
    monkeypatch.setenv("TASKMANAGER_WEBHOOKS_ALLOW_HTTP", "1")
    monkeypatch.setenv("TASKMANAGER_WEBHOOKS_ALLOW_NETWORKS", "127.0.0.0/8")
    started = start_server(workers=2, threads=2)
    connect_database(fresh_database_url)
    yield started
    close_connection()
    assert "Traceback" not in started.log()


def create_webhook(server: Server, url: str) -> Any:
    answer = server.call("POST", "/api/webhooks", {"name": "billing", "url": url})
    assert answer.status == 201
    body = {"name": "job", "version": "1", "param_schema": {}, "max_attempts": 1}
    registered = server.call("POST", "/api/task-types/register", {**body, "notify": "billing"})
    assert registered.status == 201
    return answer.data


def wait_until(is_so: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def insist(server: Server, method: str, path: str, body: Any) -> Any:
    """Calls until there is an answer, as a worker does; None where the state forbids it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            answer = server.call(method, path, body, timeout=10)
            if answer.status not in (500, 503):
                return answer.data if answer.status < 400 else None
        except (OSError, http.client.HTTPException, ValueError):
            pass  # the server is down, or went down in the middle of its answer
        assert time.monotonic() < deadline
        time.sleep(0.05)


def finish_tasks(server: Server, count: int) -> None:
    """Completes, fails or cancels tasks, whatever happens to the server meanwhile."""
    for _ in range(count):
        task = insist(server, "POST", "/api/tasks/claim", {"worker_id": "w"})
        if task is None:
            return
        end = random.choice(("complete", "fail", "cancel"))
        report = {"worker_id": "w", "claim_token": task["claim_token"], "success": end != "fail"}
        call, body = ("cancel", {}) if end == "cancel" else ("complete", report)
        insist(server, "POST", f"/api/tasks/{task['id']}/{call}", body)


def workers_of(server: Server) -> list[int]:
    assert server.process is not None
    pid = server.process.pid
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kill_worker(server: Server) -> None:
    os.kill(random.choice(workers_of(server)), signal.SIGKILL)


def kill_server(server: Server) -> None:
    server.kill()
    server.start()


@write_transaction
def let_pauses_pass() -> None:
    """As if time had passed: the pauses after failures, and the claims of killed senders."""
    update("webhook_deliveries", {"next_attempt_at": utc_now()}, "status = 'pending'")


def test_every_end_of_a_task_is_delivered_through_kills(server: Server, receiver: Receiver) -> None:
    hook = create_webhook(server, receiver.url)
    task = {"type": "job", "params": {}, "dedupe": "none"}
    body = {"tasks": [task] * (ROUNDS * TASKS_A_ROUND)}
    assert server.call("POST", "/api/tasks/batch", body).status == 201

    def kill_receiver(_: Server) -> None:
        receiver.kill()
        receiver.start()

    kills = [kill_server, kill_receiver, kill_worker, kill_receiver, kill_worker] * ROUNDS
    kills = kills[:ROUNDS]
    random.shuffle(kills)
    for kill in kills:
        worker = threading.Thread(target=finish_tasks, args=(server, TASKS_A_ROUND))
        worker.start()
        before = len(receiver.messages())
        # Where the claims of all that was left were lost with the server, nothing ends any more.
        wait_until(
            lambda before=before, worker=worker: (
                len(receiver.messages()) > before or not worker.is_alive()
            )
        )
        if kill is not kill_receiver:  # that one is killed before it answers
            time.sleep(random.uniform(0, 0.1))
        kill(server)
        worker.join()
        let_pauses_pass()
    # Tasks whose claim was lost with the server are still held.
    insist(server, "POST", "/api/tasks/cancel", {"filter": {"type": "job"}})

    deadline = time.monotonic() + PATIENCE_SECONDS
    while fetch_value("SELECT COUNT(*) FROM {webhook_deliveries} WHERE status = 'pending'"):
        assert time.monotonic() < deadline
        let_pauses_pass()
        time.sleep(2)  # a message that is on its way gets its answer: its claim is still good
    messages = receiver.messages()
    assert len(messages) > ROUNDS * TASKS_A_ROUND  # some were sent again
    told, ids = defaultdict(set), defaultdict(set)
    for headers, text in messages:
        message = Webhook(hook["secret"]).verify(text, headers)
        told[message["data"]["id"]].add(message["type"])
        ids[message["data"]["id"]].add(headers["webhook-id"])
    ends = fetch_all("SELECT id, status FROM {tasks}")
    assert told == {row["id"]: {f"task.{row['status']}"} for row in ends}
    assert {row["status"] for row in ends} == {"completed", "failed", "cancelled"}
    assert all(len(of_task) == 1 for of_task in ids.values())
    assert len(set.union(*ids.values())) == ROUNDS * TASKS_A_ROUND


def complete_one(server: Server) -> None:
    created = insist(server, "POST", "/api/tasks", {"type": "job", "params": {}, "dedupe": "none"})
    claimed = insist(server, "POST", "/api/tasks/claim", {"worker_id": "w"})
    assert claimed["id"] == created["id"]
    report = {"worker_id": "w", "claim_token": claimed["claim_token"], "success": True}
    insist(server, "POST", f"/api/tasks/{claimed['id']}/complete", report)


def test_whichever_process_is_killed_another_sends(server: Server, receiver: Receiver) -> None:
    create_webhook(server, receiver.url)
    for count, pid in enumerate(workers_of(server), 1):
        os.kill(pid, signal.SIGKILL)
        complete_one(server)
        wait_until(lambda count=count: len(receiver.messages()) >= count)
        assert len(receiver.messages()) == count


def test_a_receiver_that_never_answers_does_not_keep_a_server_from_stopping(
    server: Server,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE_SECONDS)
        create_webhook(server, f"http://127.0.0.1:{silent.getsockname()[1]}/")
        complete_one(server)
        connection, _ = silent.accept()
        with connection:
            assert server.process is not None
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(PATIENCE_SECONDS) == 0
    server.process = None
    [left] = fetch_all("SELECT status, attempts FROM {webhook_deliveries}")
    assert left == {"status": "pending", "attempts": 1}
