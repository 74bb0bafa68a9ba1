"""Alerts of a real `taskmanager serve` that no cron helps, to a real receiver and a mail server."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.alerts.conftest import LOOPBACK, Mailbox, Receiver
from tests.support.receivers import serving
from tests.support.server import Server

PATIENCE_SECONDS = 60


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with serving(Receiver()) as server:
        yield server


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    server = Mailbox()
    yield server
    server.stop()


def wait_until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("engine", ["sqlite", "mariadb"], indirect=True)
def test_the_server_says_that_nobody_runs_maintenance(
    tmp_path: Path, fresh_database_url: str, receiver: Receiver, mailbox: Mailbox
) -> None:
    (tmp_path / "instance").mkdir()
    server = Server(tmp_path / "instance", fresh_database_url, workers=3)
    server.environment |= {
        "TASKMANAGER_ALERT_WEBHOOK": receiver.url,
        "TASKMANAGER_WEBHOOKS_ALLOW_HTTP": "1",
        "TASKMANAGER_WEBHOOKS_ALLOW_NETWORKS": LOOPBACK,
        "TASKMANAGER_ALERT_EMAIL": "me@example.org",
        "TASKMANAGER_SMTP_URL": mailbox.url(),
        "TASKMANAGER_ALERT_RULES": "disk_space=off, maintenance_silent=0.1",
    }
    server.start()
    try:
        wait_until(lambda: receiver.received and mailbox.mails)
        assert receiver.told() == [[("maintenance_silent", False)]]
        said = "[TaskManager] Maintenance has never run: schedules and retries wait for the next "
        assert mailbox.mails[0]["Subject"].startswith(said)
        server.call("POST", "/api/maintenance/run", {})
        [alert] = server.call("GET", "/api/alerts").data["alerts"]
        assert (alert["rule"], alert["ended_at"]) == ("maintenance_silent", None)
    finally:
        server.stop()
    assert (len(receiver.received), len(mailbox.mails)) == (1, 1)
