"""One queue on three nodes: nothing is lost and nothing is held twice, whatever becomes of a node.

Locks are local to a node. Which of two claims has a task is decided when they commit.
"""

import re
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from taskmanager.db.connection import connect_database
from tests.cluster.conftest import Site
from tests.cluster.work import check, create
from tests.cluster.workers import Crew
from tests.support.galera import Galera
from tests.support.server import Server

pytestmark = pytest.mark.timeout(900)  # the crew gives up before, so that what is missing is seen
WORKERS = 12


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
    node = cluster.nodes[0]
    node.cut_off()
    crew.wait_for(0.7)
    node.reconnect()


def kill_all_nodes(cluster: Galera, crew: Crew) -> None:
    cluster.stop()
    cluster.restart_all()


@pytest.mark.parametrize(
    "fault", [no_fault, kill_a_node, stop_a_node, cut_a_node_off, kill_all_nodes]
)
def test_nothing_is_lost_or_held_twice(
    site: Site, fault: Callable[[Galera, Crew], None], pytestconfig: pytest.Config
) -> None:
    total = create(site.servers, pytestconfig.getoption("--cluster-tasks"))
    crew = Crew(site.servers, WORKERS, total)
    crew.start()
    crew.wait_for(0.3)
    fault(site.cluster, crew)
    crew.join()
    crew.require_well()
    connect_database(f"mysql://root@127.0.0.1:{site.cluster.nodes[0].port}/queue")
    check(crew.done, total)


def test_duplicates_within_a_call_leave_no_node_behind(site: Site) -> None:
    """A refused INSERT of several rows is undone on its node, but would be sent to the others."""
    body = {"name": "job", "version": "1", "param_schema": {"type": "object"}}
    one, other = site.servers
    assert one.call("POST", "/api/task-types/register", body).status == 201
    tasks = [{"type": "job", "params": {"n": n}} for n in range(400)]
    assert one.call("POST", "/api/tasks", tasks[350]).status == 201
    for server, created in ((one, 399), (other, 0), (one, 0)):
        answer = server.call("POST", "/api/tasks/batch", {"tasks": tasks})
        assert answer.data["created"] == created
    for node in site.cluster.nodes:
        assert node.status("wsrep_cluster_size") == "3"
        node.wait_until(lambda node=node: node.rows("SELECT COUNT(*) FROM queue.tasks") == [(400,)])


def test_an_admin_key_is_left_when_two_hosts_revoke_each_others_at_once(site: Site) -> None:
    key = site.servers[0].key
    barrier = threading.Barrier(2)

    def revoke(server: Server, by: str, key_id: int) -> int:
        barrier.wait(30)
        return server.call("DELETE", f"/api/admin/keys/{key_id}", key=by).status

    for round_ in range(20):
        body = {"role": "admin", "rate_limit": "0"}
        made = [
            site.servers[0].call("POST", "/api/admin/keys", {**body, "name": name}, key=key).data
            for name in (f"a{round_}", f"b{round_}")
        ]
        for each in site.servers[0].call("GET", "/api/admin/keys", key=key).data["keys"]:
            if each["revoked_at"] is None and each["id"] not in [one["id"] for one in made]:
                path = f"/api/admin/keys/{each['id']}"
                assert site.servers[0].call("DELETE", path, key=made[0]["key"]).status == 200
        with ThreadPoolExecutor(2) as pool:
            keys, others = [one["key"] for one in made], [one["id"] for one in reversed(made)]
            found = list(pool.map(revoke, site.servers, keys, others))
        assert found.count(200) == 1, found
        key = keys[found.index(200)]


def metric(site: Site, name: str) -> dict[int, float]:
    """The values of a metric of the nodes, by the port of the node."""
    server = site.servers[0]
    asked = urllib.request.Request(server.url + "/api/metrics", headers={"X-API-Key": server.key})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        text = answer.read().decode()
    pattern = rf'^taskmanager_database_node_{name}\{{node="[^"]*:(\d+)"\}} (.+)$'
    found = re.findall(pattern, text, re.MULTILINE)
    return {int(port): float(value) for port, value in found}


def test_the_metrics_show_which_nodes_take_work(site: Site) -> None:
    killed, *left = site.cluster.nodes
    killed.kill()
    try:
        expected = {killed.port: 0, **{node.port: 1 for node in left}}
        assert metric(site, "up") == metric(site, "synced") == expected
        assert metric(site, "paused_seconds").keys() == {node.port for node in left}
    finally:
        killed.start_again()
    assert set(metric(site, "up").values()) == {1}
