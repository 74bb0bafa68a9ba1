"""One queue on three nodes: nothing is lost and nothing is held twice, whatever becomes of a node.

Locks are local to a node. Which of two claims has a task is decided when they commit.
"""

import signal
import time
from collections.abc import Callable, Sequence

import pytest

from taskmanager.db.connection import connect_database
from taskmanager.db.statements import fetch_all
from tests.cluster.conftest import Site
from tests.cluster.workers import Crew
from tests.support.galera import PRIMARY, Galera
from tests.support.server import Server

TASKS = 1_500
WORKERS = 12


def create(servers: Sequence[Server], count: int) -> None:
    body = {"name": "job", "version": "1", "param_schema": {"type": "object"}, "lease_seconds": 10}
    assert servers[0].call("POST", "/api/task-types/register", body).status == 201
    for start in range(0, count, 500):
        tasks = [{"type": "job", "params": {"n": n}} for n in range(start, start + 500)]
        answer = servers[1].call("POST", "/api/tasks/batch", {"tasks": tasks})
        assert answer.data["created"] == 500


def check(site: Site, crew: Crew, url: str) -> None:
    """Every task ended once, with what was acknowledged, and no attempt was given away twice."""
    crew.require_well()
    connect_database(url)
    tasks = {row["id"]: row for row in fetch_all("SELECT id, status, result FROM {tasks}")}
    assert {row["status"] for row in tasks.values()} == {"completed"}
    assert len(tasks) == TASKS
    for task_id, attempt in crew.done:
        assert tasks[task_id]["result"] == str(attempt)
    history = fetch_all(
        "SELECT task_id, event, attempt, COUNT(*) AS times FROM {task_logs} "
        "WHERE event IN ('claimed', 'completed') GROUP BY task_id, event, attempt"
    )
    assert [row for row in history if row["times"] != 1] == []
    assert len([row for row in history if row["event"] == "completed"]) == TASKS


def no_fault(cluster: Galera, crew: Crew) -> None:
    crew.wait_for(1)


def kill_a_node(cluster: Galera, crew: Crew) -> None:
    node = cluster.nodes[1]
    node.kill()
    crew.wait_for(0.7)
    node.start_again()


def stop_a_node(cluster: Galera, crew: Crew) -> None:
    """Longer than the others wait for it, so that it must come back by itself."""
    node = cluster.nodes[2]
    node.send_signal(signal.SIGSTOP)
    time.sleep(20)
    node.send_signal(signal.SIGCONT)
    node.wait_until(lambda: node.status("wsrep_local_state") == "4")


def cut_a_node_off(cluster: Galera, crew: Crew) -> None:
    """It lives, but hears nothing of the others."""
    node = cluster.nodes[0]
    node.run("SET GLOBAL wsrep_provider_options = 'gmcast.isolate=1'")
    node.wait_until(lambda: node.status("wsrep_cluster_status") != PRIMARY)
    crew.wait_for(0.7)
    node.run("SET GLOBAL wsrep_provider_options = 'gmcast.isolate=0'")
    node.wait_until(lambda: node.status("wsrep_local_state") == "4")


def kill_all_nodes(cluster: Galera, crew: Crew) -> None:
    for node in cluster.nodes:
        node.kill()
    cluster.restart_all()


@pytest.mark.parametrize(
    "fault", [no_fault, kill_a_node, stop_a_node, cut_a_node_off, kill_all_nodes]
)
def test_nothing_is_lost_or_held_twice(site: Site, fault: Callable[[Galera, Crew], None]) -> None:
    create(site.servers, TASKS)
    crew = Crew(site.servers, WORKERS, TASKS)
    crew.start()
    crew.wait_for(0.3)
    fault(site.cluster, crew)
    crew.join()
    check(site, crew, f"mysql://root@127.0.0.1:{site.cluster.nodes[0].port}/queue")
