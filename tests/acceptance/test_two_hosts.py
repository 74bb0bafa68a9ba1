"""Two hosts on one database: what one of them does in the background, the other does not do again.

Each has an instance folder of its own, so the lock files of one mean nothing to the other.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskmanager.cli import main
from taskmanager.clock import utc_now
from taskmanager.db.connection import close_connection, connect_database
from taskmanager.db.statements import execute, fetch_all, fetch_value
from taskmanager.db.transactions import write_transaction
from tests.alerts.conftest import Receiver as AlertReceiver
from tests.notify.conftest import LOOPBACK, Receiver
from tests.support.mariadb import MariaDB
from tests.support.processes import CONTEXT
from tests.support.receivers import serving
from tests.support.server import Server

ROUNDS = 3  # fewer than the alert messages of a day that are sent at once
TASKS = 60  # in a round; more than a slice
SCHEDULES = 10
PATIENCE_SECONDS = 120
LONG_AGO_MS = 3_600_000


@pytest.fixture
def webhook() -> Iterator[Receiver]:
    with serving(Receiver()) as server:
        yield server


@pytest.fixture
def alerts() -> Iterator[AlertReceiver]:
    with serving(AlertReceiver()) as server:
        yield server


@pytest.fixture
def hosts(
    mariadb_server: MariaDB,
    webhook: Receiver,
    alerts: AlertReceiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[list[Server]]:
    """Two servers; the test itself may read their database."""
    monkeypatch.setenv("TASKMANAGER_WEBHOOKS_ALLOW_HTTP", "1")
    monkeypatch.setenv("TASKMANAGER_WEBHOOKS_ALLOW_NETWORKS", LOOPBACK)
    monkeypatch.setenv("TASKMANAGER_ALERT_WEBHOOK", alerts.url)
    monkeypatch.setenv("TASKMANAGER_ALERT_RULES", "oldest_pending=off, disk_space=off")
    url = mariadb_server.create_database("hosts")
    servers: list[Server] = []
    for number in range(2):
        folder = tmp_path / f"host{number}"
        folder.mkdir()
        server = Server(folder, url)
        server.key = servers[0].key if servers else ""
        servers.append(server.start())
    connect_database(url)
    yield servers
    close_connection()
    for server in servers:
        server.stop()
    assert "Traceback" not in "".join(server.log() for server in servers)


def maintain(environment: dict[str, str], begin: Any) -> None:
    os.environ.update(environment)
    begin.wait(PATIENCE_SECONDS)
    main(["maintain"], standalone_mode=False)


def maintain_at_once(hosts: list[Server]) -> None:
    """Cron's command on all hosts at the same moment, while the servers work."""
    begin = CONTEXT.Barrier(len(hosts))
    running = [
        CONTEXT.Process(target=maintain, args=(host.environment, begin), daemon=True)
        for host in hosts
    ]
    for process in running:
        process.start()
    for process in running:
        process.join(PATIENCE_SECONDS)
    assert [process.exitcode for process in running] == [0] * len(hosts)


def post(host: Server, path: str, body: Any) -> Any:
    answer = host.call("POST", path, body)
    assert answer.status < 300, answer.body
    return answer.data


def register(host: Server, name: str, **fields: Any) -> None:
    body = {"name": name, "version": "1", "param_schema": {"type": "object"}, **fields}
    post(host, "/api/task-types/register", body)


def create(host: Server, name: str, count: int) -> None:
    tasks = [{"type": name, "params": {}, "dedupe": "none"}] * count
    assert post(host, "/api/tasks/batch", {"tasks": tasks})["created"] == count


def claim(host: Server, name: str, count: int) -> None:
    left = count
    while left:
        asked = {"worker_id": "w", "type": name, "limit": min(left, 50)}
        left -= len(post(host, "/api/tasks/claim", asked)["tasks"])


change = write_transaction(execute)


def test_each_message_is_sent_by_one_of_them(hosts: list[Server], webhook: Receiver) -> None:
    post(hosts[0], "/api/webhooks", {"name": "hook", "url": webhook.url})
    register(hosts[0], "job", notify="hook")
    for number in range(ROUNDS):
        create(hosts[0], "job", TASKS)
        ended = {"filter": {"type": "job", "status": "pending"}}
        assert post(hosts[number % 2], "/api/tasks/cancel", ended)["changed"] == TASKS
        maintain_at_once(hosts)
    waiting = "SELECT COUNT(*) FROM {webhook_deliveries} WHERE status = 'pending'"
    while fetch_value(waiting):
        maintain_at_once(hosts)
    times = Counter(webhook.ids())
    assert len(times) == ROUNDS * TASKS
    assert set(times.values()) == {1}


def test_each_alert_is_told_by_one_of_them(hosts: list[Server], alerts: AlertReceiver) -> None:
    names = [f"type-{number}" for number in range(ROUNDS)]
    for name in names:
        register(hosts[0], name)
        create(hosts[0], name, 1)
        change("UPDATE {tasks} SET available_at = available_at - ?", (LONG_AGO_MS,))
        change("UPDATE {maintenance_runs} SET last_run_at = 0 WHERE road = 'alerts'")
        change("UPDATE {alert_channels} SET next_attempt_at = 0")
        maintain_at_once(hosts)
    told = [alert["subject"] for message in alerts.received for alert in message["alerts"]]
    assert sorted(told) == names
    assert fetch_value("SELECT COUNT(*) FROM {alerts}") == ROUNDS


def test_maintenance_moves_each_task_and_runs_each_schedule_once(hosts: list[Server]) -> None:
    """Expired leases, delays that are over, schedules that are due, and what is to be pruned."""
    for name in ("lost", "delayed", "old", "regular"):
        register(hosts[0], name)
    for number in range(SCHEDULES):
        body = {"name": f"s{number}", "type": "regular", "params": {}, "interval_seconds": 86_400}
        post(hosts[0], "/api/schedules", body)
    pruned = 0
    for _ in range(ROUNDS):
        create(hosts[0], "old", TASKS)
        post(hosts[0], "/api/tasks/cancel", {"filter": {"type": "old", "status": "pending"}})
        create(hosts[0], "delayed", TASKS)
        create(hosts[0], "lost", TASKS)
        claim(hosts[0], "lost", TASKS)
        make_everything_due()
        maintain_at_once(hosts)
        pruned += TASKS
        require_moved_once()
        said = fetch_all("SELECT message FROM {audit_events} WHERE event = 'pruned'")
        assert sum(int(row["message"].split()[0]) for row in said) == pruned
        change("DELETE FROM {task_logs}")
        change("DELETE FROM {tasks}")


def make_everything_due() -> None:
    now = utc_now()
    of_type = "task_type_id = (SELECT id FROM {task_types} WHERE name = ?)"
    change(f"UPDATE {{tasks}} SET lease_expires_at = ? WHERE {of_type}", (now - 1, "lost"))
    change(
        f"UPDATE {{tasks}} SET status = 'scheduled', available_at = ? WHERE {of_type}",
        (now - 1, "delayed"),
    )
    change(f"UPDATE {{tasks}} SET completed_at = 1 WHERE {of_type}", ("old",))
    change("UPDATE {schedules} SET next_run_at = ?", (now - 1,))


def require_moved_once() -> None:
    found = fetch_all(
        "SELECT type.name, task.status, COUNT(*) AS tasks FROM {tasks} AS task "
        "JOIN {task_types} AS type ON type.id = task.task_type_id GROUP BY type.name, task.status"
    )
    assert {(row["name"], row["status"]): row["tasks"] for row in found} == {
        ("lost", "pending"): TASKS,
        ("delayed", "pending"): TASKS,
        ("regular", "pending"): SCHEDULES,
    }
    events = fetch_all(
        "SELECT event, COUNT(*) AS times, COUNT(DISTINCT task_id) AS tasks FROM {task_logs} "
        "WHERE event IN ('lease_expired', 'due') GROUP BY event"
    )
    assert {row["event"]: (row["times"], row["tasks"]) for row in events} == {
        "lease_expired": (TASKS, TASKS),
        "due": (TASKS, TASKS),
    }
