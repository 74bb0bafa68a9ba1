"""Two hosts that count requests together, in a real Redis, and what holds while it is away."""

import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import require
from tests.support import redis
from tests.support.mariadb import MariaDB
from tests.support.server import Server

PROCESSES = 2  # of each host
LIMIT = 40  # an hour, so that no window ends within a test
PATIENCE_SECONDS = 60


@pytest.fixture
def counters(tmp_path: Path) -> Iterator[redis.Redis]:
    require("Redis (redis-server)", redis.is_installed())
    folder = tmp_path / "redis"
    folder.mkdir()
    server = redis.Redis(folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def hosts(
    mariadb_server: MariaDB,
    counters: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[list[Server]]:
    monkeypatch.setenv("TASKMANAGER_RATE_LIMIT_STORAGE_URI", counters.url)
    url = mariadb_server.create_database("hosts")
    servers: list[Server] = []
    for number in range(2):
        folder = tmp_path / f"host{number}"
        folder.mkdir()
        server = Server(folder, url, workers=PROCESSES)
        server.key = servers[0].key if servers else ""
        servers.append(server.start())
    yield servers
    for server in servers:
        server.stop()
    assert "Traceback" not in "".join(server.log() for server in servers)


def limited_key(host: Server) -> str:
    body = {"name": "limited", "role": "admin", "rate_limit": f"{LIMIT}/hour"}
    answer = host.call("POST", "/api/admin/keys", body)
    assert answer.status == 201
    return str(answer.data["key"])


def ask(hosts: Sequence[Server], key: str, count: int) -> Counter[int]:
    """The statuses of so many requests at once to each of the hosts."""

    def one(number: int) -> int:
        return hosts[number % len(hosts)].call("GET", "/api/task-types", key=key).status

    with ThreadPoolExecutor(8) as pool:
        return Counter(pool.map(one, range(count * len(hosts))))


def require_counting(hosts: Sequence[Server], expected: str) -> None:
    """Every process finds it out with its own next request, or after five seconds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    for host in hosts:
        in_a_row = 0
        while in_a_row < 10 * PROCESSES:
            if host.call("GET", "/api/health").data["rate_limits"] == expected:
                in_a_row += 1
                continue
            in_a_row = 0
            assert time.monotonic() < deadline
            time.sleep(0.5)


def do_a_task(hosts: Sequence[Server]) -> None:
    """One host stores it, the other hands it out and takes the report."""
    task = {"type": "job", "params": {}, "dedupe": "none"}
    assert hosts[0].call("POST", "/api/tasks", task).status == 201
    claimed = hosts[1].call("POST", "/api/tasks/claim", {"worker_id": "w", "type": "job"})
    assert claimed.status == 200
    report = {"worker_id": "w", "claim_token": claimed.data["claim_token"], "success": True}
    path = f"/api/tasks/{claimed.data['id']}/complete"
    assert hosts[0].call("POST", path, report).status == 200


def test_two_hosts_let_as_many_requests_pass_as_one(hosts: list[Server]) -> None:
    key = limited_key(hosts[0])
    assert ask(hosts, key, LIMIT) == {200: LIMIT, 429: LIMIT}
    assert [host.call("GET", "/api/health").data["rate_limits"] for host in hosts] == ["shared"] * 2


@pytest.mark.parametrize("fault", ["killed", "stopped"])
def test_the_queue_goes_on_without_redis_and_counts_together_again_with_it(
    hosts: list[Server], counters: redis.Redis, fault: str
) -> None:
    body = {"name": "job", "version": "1", "param_schema": {"type": "object"}}
    assert hosts[0].call("POST", "/api/task-types/register", body).status == 201
    key = limited_key(hosts[0])
    assert ask(hosts, key, LIMIT)[200] == LIMIT

    if fault == "killed":
        counters.kill()
    else:
        counters.send_signal(signal.SIGSTOP)
    do_a_task(hosts)
    require_counting(hosts, "per_process")
    # Each process begins to count anew, and the limit holds within it.
    found = ask(hosts, key, 2 * PROCESSES * LIMIT)
    assert found.keys() == {200, 429}
    assert LIMIT <= found[200] <= 2 * PROCESSES * LIMIT

    if fault == "killed":
        counters.start()
    else:
        counters.send_signal(signal.SIGCONT)
    require_counting(hosts, "shared")
    # A server that was killed has forgotten what it had counted; one that was stopped has not.
    assert ask(hosts, key, LIMIT)[200] == (LIMIT if fault == "killed" else 0)
    do_a_task(hosts)
