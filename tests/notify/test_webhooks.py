"""Webhooks from the end of a task to a real receiver on this machine."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from taskmanager.clock import format_time, utc_now
from taskmanager.db.connection import database
from taskmanager.db.statements import fetch_value, insert_many, update
from taskmanager.notify import deliveries, endpoints
from taskmanager.notify.addresses import AddressRefused
from taskmanager.notify.sending import Rules, post
from taskmanager.queue import maintenance, outbox
from tests.conftest import Api, Clock
from tests.notify.conftest import LOOPBACK, Receiver

DAY = 86_400


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
    off = job.get(f"/api/webhooks/{hook['id']}")
    assert off["is_active"] is False
    assert off["disabled_at"] == format_time(clock.now)
    assert off["disabled_reason"] == "The receiver answered 500."
    events = [event["event"] for event in job.get("/api/admin/audit")["events"]]
    assert "webhook_switched_off" in events

    receiver.answer = 200
    on = job.patch(f"/api/webhooks/{hook['id']}", {"is_active": True})
    assert (on["disabled_at"], on["disabled_reason"], on["failing_since"]) == (None, None, None)
    job.post(f"/api/webhooks/{hook['id']}/deliveries/{delivery(job, hook)['id']}/resend", {})
    run(job)
    assert delivery(job, hook)["status"] == "delivered"


def test_a_clock_that_was_ahead_keeps_no_message_back(
    job: Api, hook: Any, receiver: Receiver, clock: Clock
) -> None:
    clock.advance(365 * DAY)
    job.create()
    complete(job)
    clock.advance(-365 * DAY)
    run(job)
    assert delivery(job, hook)["status"] == "delivered"


def test_one_that_was_switched_off_stays_so_when_its_address_is_changed(
    api: Api, hook: Any, receiver: Receiver, clock: Clock
) -> None:
    off = {"is_active": 0, "failing_since": clock.now, "disabled_at": clock.now}
    update("webhooks", off, "id = ?", [hook["id"]])
    path = f"/api/webhooks/{hook['id']}"
    before = api.get(path)
    changed = api.patch(path, {"url": f"{receiver.url}/new"})
    for name in ("is_active", "failing_since", "disabled_at"):
        assert changed[name] == before[name]
    on = api.patch(path, {"is_active": True})
    assert (on["failing_since"], on["disabled_at"]) == (None, None)


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


PRIVATE = [
    "https://127.0.0.1/",
    "https://2130706433/",
    "https://0x7f.1:8443/a",
    "https://localhost/",
    "https://10.0.0.1/",
    "https://169.254.169.254/latest/meta-data",
    "https://[::1]/",
    "https://[fe80::1]/",
    "https://[::ffff:10.0.0.1]/",
]


@pytest.mark.parametrize("settings", [{}])
@pytest.mark.parametrize("url", PRIVATE)
def test_an_address_that_is_not_public_is_refused_when_it_is_entered(api: Api, url: str) -> None:
    """With the sentence that a delivery to it would fail with."""
    with pytest.raises(AddressRefused) as sending:
        post(url, b"", {}, rules=Rules())
    hook = api.post("/api/webhooks", {"name": "ok", "url": "https://8.8.8.8/"}, 201)
    for refused in (
        api.post("/api/webhooks", {"name": "h", "url": url}, 400),
        api.patch(f"/api/webhooks/{hook['id']}", {"url": url}, 400),
    ):
        assert refused["code"] == "invalid_request"
        assert refused["message"] == f"url: {sending.value}"
        assert "which is not public" in refused["message"]
    assert [one["url"] for one in api.get("/api/webhooks")["webhooks"]] == ["https://8.8.8.8/"]


@pytest.mark.parametrize("settings", [{}])
def test_a_name_that_cannot_be_resolved_yet_is_accepted(api: Api) -> None:
    hook = api.post("/api/webhooks", {"name": "h", "url": "https://nowhere.invalid/"}, 201)
    assert (hook["url"], hook["is_active"]) == ("https://nowhere.invalid/", True)


def test_an_address_is_looked_up_before_the_database_is_locked(
    job: Api, hook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up(*_: Any, **__: Any) -> list[Any]:
        assert not database.in_transaction()
        return []

    monkeypatch.setattr(endpoints, "permitted_addresses", look_up)
    job.post("/api/webhooks", {"name": "new", "url": "https://example.org/"}, 201)
    job.patch(f"/api/webhooks/{hook['id']}", {"url": "https://example.org/"})


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


def store_deliveries(hook: Any, count: int, **fields: Any) -> None:
    now = utc_now()
    row = {"webhook_id": hook["id"], "message_id": "m", "task_id": 1, "event": "e", "body": "{}"}
    row |= {"status": "pending", "attempts": 0, "next_attempt_at": now}
    row["give_up_at"] = now + outbox.RETRIED_MS
    insert_many("webhook_deliveries", [{**row, "created_at": now, **fields}] * count)


def count_deliveries() -> int:
    return int(fetch_value("SELECT COUNT(*) FROM {webhook_deliveries}"))


def test_one_run_prunes_all_that_is_old(job: Api, hook: Any, clock: Clock) -> None:
    store_deliveries(hook, 2 * deliveries.PRUNED_AT_ONCE + 1, status="delivered")
    clock.advance(34 * DAY)
    run(job)
    assert count_deliveries() == 0


def test_a_webhook_is_deleted_with_all_its_deliveries(api: Api, hook: Any) -> None:
    other = api.post("/api/webhooks", {"name": "other", "url": hook["url"]}, 201)
    store_deliveries(hook, 2 * endpoints.DELETED_AT_ONCE + 1)
    store_deliveries(other, 1)
    api.delete(f"/api/webhooks/{hook['id']}")
    assert count_deliveries() == 1


def test_a_webhook_that_a_schedule_names_is_not_deleted(job: Api, hook: Any) -> None:
    job.patch("/api/task-types/job", {"notify": None})
    schedule = {"name": "s", "type": "job", "params": {}, "cron": "0 * * * *", "notify": "billing"}
    schedule = job.post("/api/schedules", schedule, 201)
    refused = job.delete(f"/api/webhooks/{hook['id']}", 409)
    assert (refused["code"], "'s'" in refused["message"]) == ("webhook_in_use", True)
    job.patch(f"/api/schedules/{schedule['id']}", {"notify": None})
    job.delete(f"/api/webhooks/{hook['id']}")


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


def test_two_senders_do_not_send_the_same(job: Api, hook: Any, receiver: Receiver) -> None:
    job.create()
    complete(job)
    [row] = deliveries._due(hook)
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
