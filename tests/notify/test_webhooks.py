"""Webhooks from the end of a task to a real receiver on this machine."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from taskmanager.clock import utc_now
from taskmanager.db.statements import fetch_value
from taskmanager.notify import deliveries
from taskmanager.queue import maintenance, outbox
from tests.conftest import Api, Clock

LOOPBACK = "127.0.0.0/8"
DAY = 86_400


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
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


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


def run(api: Api) -> None:
    api.post("/api/maintenance/run", {})


def delivery(api: Api, hook: Any) -> Any:
    [only] = api.get(f"/api/webhooks/{hook['id']}/deliveries")["deliveries"]
    return only


def complete(api: Api) -> None:
    api.complete(api.claim())


def fail(api: Api) -> None:
    api.complete(api.claim(), success=False, is_retryable=False)


def complete_many(api: Api) -> None:
    task = api.claim()
    one = {"id": task["id"], "claim_token": task["claim_token"], "success": True}
    api.post("/api/tasks/complete", {"worker_id": "worker-1", "completions": [one]})


def cancel(api: Api) -> None:
    task_id = api.get("/api/tasks")["tasks"][0]["id"]
    api.post(f"/api/tasks/{task_id}/cancel", {})


def cancel_many(api: Api) -> None:
    api.post("/api/tasks/cancel", {"filter": {"type": "job"}})


def lose(api: Api) -> None:
    api.claim(lease_seconds=1)


ENDS = [
    (complete, "task.completed"),
    (complete_many, "task.completed"),
    (fail, "task.failed"),
    (cancel, "task.cancelled"),
    (cancel_many, "task.cancelled"),
    (lose, "task.failed"),
]


@pytest.mark.parametrize(("end", "event"), ENDS, ids=lambda value: getattr(value, "__name__", ""))
def test_each_end_of_a_task_is_told(
    job: Api, receiver: Receiver, clock: Clock, end: Callable[[Api], None], event: str
) -> None:
    task = job.create(max_attempts=1)
    end(job)
    clock.advance(2)
    run(job)
    assert receiver.events() == [(event, task["id"])]
    run(job)
    assert len(receiver.received) == 1


def test_a_retry_and_a_wait_are_not_told(job: Api, receiver: Receiver) -> None:
    job.create(max_attempts=2)
    job.complete(job.claim(), success=False)
    run(job)
    assert receiver.received == []


def test_receivers_verify_with_the_public_library(job: Api, hook: Any, receiver: Receiver) -> None:
    job.create()
    complete(job)
    run(job)
    headers, body = receiver.received[0]
    assert Webhook(hook["secret"]).verify(body, headers)["data"]["status"] == "completed"


def test_during_a_rotation_both_secrets_verify(
    job: Api, hook: Any, receiver: Receiver, clock: Clock
) -> None:
    path = f"/api/webhooks/{hook['id']}/rotate"
    new = job.post(path, {"overlap_seconds": 60})["secret"]
    for _ in range(2):
        job.create()
        complete(job)
        run(job)
        clock.advance(61)
    during, after = receiver.received
    for secret in (hook["secret"], new):
        assert Webhook(secret).verify(during[1], during[0])
    assert len(after[0]["webhook-signature"].split()) == 1


def test_the_endpoint_of_a_task_wins_over_that_of_its_type(job: Api, receiver: Receiver) -> None:
    job.post("/api/webhooks", {"name": "other", "url": f"{receiver.url}/other"}, 201)
    assert job.create(notify="other")["notify"] == "other"
    assert job.create()["notify"] == "billing"


def test_a_name_that_no_endpoint_has_is_refused(job: Api) -> None:
    body = {"type": "job", "params": {}, "notify": "nobody"}
    assert job.post("/api/tasks", body, 400)["code"] == "webhook_not_found"
    results = job.post("/api/tasks/batch", {"tasks": [body], "atomic": False})["results"]
    assert results[0]["error"]["code"] == "webhook_not_found"
    changed = job.patch("/api/task-types/job", {"notify": "nobody"}, 400)
    assert changed["code"] == "webhook_not_found"
    new = {"name": "n", "version": "1", "param_schema": {}, "notify": "nobody"}
    assert job.post("/api/task-types/register", new, 400)["code"] == "webhook_not_found"


def test_a_failed_delivery_is_tried_again_under_the_same_id(
    job: Api, hook: Any, receiver: Receiver, clock: Clock
) -> None:
    job.create()
    complete(job)
    receiver.answer = 500
    run(job)
    run(job)  # not before its pause is over
    assert len(receiver.received) == 1
    assert delivery(job, hook)["response_status"] == 500
    receiver.answer = 200
    clock.advance(31)
    run(job)
    assert delivery(job, hook)["status"] == "delivered"
    assert len(set(receiver.ids())) == 1
    assert job.get(f"/api/webhooks/{hook['id']}")["failing_since"] is None


def test_after_three_days_the_endpoint_is_switched_off(
    job: Api, hook: Any, receiver: Receiver, clock: Clock
) -> None:
    job.create()
    complete(job)
    receiver.answer = 500
    run(job)
    clock.advance(3 * DAY + 1)
    run(job)
    assert delivery(job, hook)["status"] == "failed"
    assert job.get(f"/api/webhooks/{hook['id']}")["is_active"] is False
    events = [event["event"] for event in job.get("/api/admin/audit")["events"]]
    assert "webhook_switched_off" in events

    receiver.answer = 200
    job.patch(f"/api/webhooks/{hook['id']}", {"is_active": True})
    job.post(f"/api/webhooks/{hook['id']}/deliveries/{delivery(job, hook)['id']}/resend", {})
    run(job)
    assert delivery(job, hook)["status"] == "delivered"


def test_a_redirect_is_a_failure(job: Api, hook: Any, receiver: Receiver) -> None:
    job.create()
    complete(job)
    receiver.answer = 302
    run(job)
    assert delivery(job, hook)["status"] == "pending"


def test_one_broken_endpoint_does_not_hold_up_another(job: Api, receiver: Receiver) -> None:
    job.post("/api/webhooks", {"name": "broken", "url": "http://127.0.0.1:1/"}, 201)
    for _ in range(3):
        job.create(notify="broken")
        complete(job)
    working = job.create()
    complete(job)
    run(job)
    assert receiver.events() == [("task.completed", working["id"])]
    assert fetch_value("SELECT SUM(attempts) FROM {webhook_deliveries}") == 2


def test_an_endpoint_that_is_deleted_or_off_hinders_no_task(
    job: Api, hook: Any, receiver: Receiver
) -> None:
    path = f"/api/webhooks/{hook['id']}"
    job.patch(path, {"is_active": False})
    job.create()
    complete(job)
    assert job.get(f"{path}/deliveries")["count"] == 0
    assert job.call("DELETE", path).get_json()["code"] == "webhook_in_use"
    job.create()
    job.patch("/api/task-types/job", {"notify": None})
    job.delete(path)
    complete(job)
    run(job)
    assert receiver.received == []


@pytest.mark.parametrize(
    "url", ["ftp://example.org/", "https://", "https://u:p@example.org/", "https://a b/", "//x:y/"]
)
def test_an_address_that_cannot_be_is_refused(api: Api, url: str) -> None:
    assert api.post("/api/webhooks", {"name": "h", "url": url}, 400)["code"] == "invalid_request"


def test_a_name_is_taken_once(job: Api, receiver: Receiver) -> None:
    taken = job.post("/api/webhooks", {"name": "billing", "url": receiver.url}, 409)
    assert taken["code"] == "webhook_exists"


def test_no_answer_shows_a_secret_again(job: Api, hook: Any) -> None:
    for path in ("/api/webhooks", f"/api/webhooks/{hook['id']}", "/api/admin/audit"):
        assert "whsec_" not in json.dumps(job.get(path))


def test_old_deliveries_are_pruned(job: Api, hook: Any, clock: Clock) -> None:
    job.create()
    complete(job)
    run(job)
    clock.advance(29 * DAY)
    run(job)
    assert job.get(f"/api/webhooks/{hook['id']}/deliveries")["count"] == 1
    clock.advance(6 * DAY)
    run(job)
    assert job.get(f"/api/webhooks/{hook['id']}/deliveries")["count"] == 0


def test_without_an_endpoint_the_end_of_a_task_runs_no_statement_for_it(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[Any] = []
    api.register()
    api.create()
    monkeypatch.setattr(outbox, "fetch_all", lambda *values: statements.append(values))
    monkeypatch.setattr(outbox, "insert_many", lambda *values: statements.append(values))
    api.create()
    complete(api)
    assert statements == []


def environment_of(database_url: str, folder: Path) -> dict[str, str]:
    """For another process that sends what is in the outbox."""
    return {
        **os.environ,
        "TASKMANAGER_DATABASE_URL": database_url,
        "TASKMANAGER_INSTANCE_PATH": str(folder / "instance"),
        "TASKMANAGER_WEBHOOKS_ALLOW_HTTP": "1",
        "TASKMANAGER_WEBHOOKS_ALLOW_NETWORKS": LOOPBACK,
    }


KILLED_WHILE_SENDING = """
import os, signal, sys
from taskmanager.bootstrap import open_database
from taskmanager.config import load_settings
from taskmanager.notify import deliveries
if sys.argv[1] == "after":  # the receiver has it, and nobody knows
    deliveries._record_success = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
else:
    deliveries.post = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
settings = load_settings()
open_database(settings)
deliveries.send_due(rules=deliveries.rules_of(settings), budget_seconds=10)
"""


@pytest.mark.parametrize(("moment", "messages"), [("before", 1), ("after", 2)])
def test_a_killed_sender_costs_a_minute_and_no_message(
    job: Api,
    hook: Any,
    receiver: Receiver,
    clock: Clock,
    database_url: str,
    tmp_path: Any,
    moment: str,
    messages: int,
) -> None:
    job.create()
    complete(job)
    environment = environment_of(database_url, tmp_path)
    command = [sys.executable, "-c", KILLED_WHILE_SENDING, moment]
    killed = subprocess.run(command, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    run(job)
    assert delivery(job, hook)["status"] == "pending"
    clock.advance(90)
    run(job)
    assert delivery(job, hook)["status"] == "delivered"
    assert len(receiver.received) == messages
    assert len(set(receiver.ids())) == 1


def test_two_senders_do_not_send_the_same(job: Api, receiver: Receiver) -> None:
    job.create()
    complete(job)
    row = next(deliveries._due(set(), float("inf")))
    assert deliveries._claim(row, utc_now())
    assert not deliveries._claim(row, utc_now())  # another had read it before
    run(job)
    assert receiver.received == []


def test_a_transition_that_is_undone_tells_nobody(
    job: Api, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.create(max_attempts=1)
    lose(job)
    clock.advance(2)

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr("taskmanager.queue.outbox.insert_many", crash)
        with pytest.raises(RuntimeError):
            maintenance.requeue_expired_claims(now=clock.now, deadline=float("inf"))
    assert job.get("/api/tasks")["tasks"][0]["status"] == "claimed"
    assert fetch_value("SELECT COUNT(*) FROM {webhook_deliveries}") == 0


def test_the_command_for_cron_sends_too(
    job: Api, hook: Any, receiver: Receiver, database_url: str, tmp_path: Any
) -> None:
    job.create()
    complete(job)
    environment = environment_of(database_url, tmp_path)
    command = [sys.executable, "-m", "taskmanager", "maintain"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert "delivered: 1" in done.stderr
    assert delivery(job, hook)["status"] == "delivered"
