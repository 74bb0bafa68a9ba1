"""How many tasks a second a Galera cluster does, and how many transactions it repeats.

    python -m benchmarks.cluster [--tasks 1500] [--rounds 3] [--outages]

Starts three nodes on this machine and two servers of TaskManager, which use one, two or all three
of them. Twelve workers claim and report single tasks of one type until all are done. The rounds
alternate. "Repeated" counts transactions that another node had got in the way of, as the nodes
count them, for each hundred claims and reports.

With `--outages`, one client at each server creates task after task while nodes are killed or cut
off. Printed is the longest time between two creations that were answered with 201.
"""

import argparse
import contextlib
import statistics
import threading
import time
from itertools import pairwise
from typing import NamedTuple

from taskmanager.db.statements import parts_of
from tests.cluster.work import job
from tests.cluster.workers import Crew
from tests.support import galera
from tests.support.server import Server, hosts

WORKERS = 12
HOSTS = 2
BATCH = 500
OUTAGE_SECONDS = 20


class Round(NamedTuple):
    tasks_per_second: float
    repeated: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1_500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--outages", action="store_true")
    options = parser.parse_args()
    if options.outages:
        with galera.running() as cluster:
            measure_outages(cluster)
        return
    rounds: dict[int, list[Round]] = {1: [], 2: [], 3: []}
    with galera.running() as cluster:
        for _ in range(options.rounds):
            for nodes, measured in rounds.items():
                measured.append(measure(cluster, nodes, options.tasks))
    print("nodes written to  tasks a second (from - to)  repeated for each 100")
    for nodes, measured in rounds.items():
        rates = sorted(each.tasks_per_second for each in measured)
        repeated = statistics.median(each.repeated for each in measured)
        print(
            f"{nodes:16}  {statistics.median(rates):14.0f} ({rates[0]:.0f} - {rates[-1]:.0f})"
            f"  {repeated:22.1f}"
        )


def measure(cluster: galera.Galera, nodes: int, tasks: int) -> Round:
    """One round on an empty queue; the servers use the first `nodes` of the cluster."""
    url = cluster.create_database("queue", nodes)
    before = conflicts(cluster)
    with hosts(HOSTS, url) as servers:
        create(servers[0], tasks)
        crew = Crew(servers, WORKERS, tasks, types=["plain"])
        began = time.monotonic()
        crew.start()
        crew.join()
        seconds = time.monotonic() - began
    if crew.wrong:
        raise SystemExit(f"a call failed: {crew.wrong[:3]}")
    return Round(tasks / seconds, 100 * (conflicts(cluster) - before) / (2 * tasks))


def measure_outages(cluster: galera.Galera) -> None:
    _, other, third = cluster.nodes

    def stop_and_start() -> None:
        cluster.stop()
        cluster.restart_all()

    with hosts(HOSTS, cluster.create_database("queue")) as servers:
        create(servers[0], 1)
        faults = (
            ("one node killed", other.kill, other.start_again),
            ("one node cut off", third.cut_off, third.reconnect),
            ("all nodes killed, and started again", stop_and_start, lambda: None),
        )
        for name, fault, mend in faults:
            clients = [Client(server) for server in servers]
            for client in clients:
                client.start()
            time.sleep(2)
            fault()
            time.sleep(OUTAGE_SECONDS)
            for client in clients:
                client.stop()
            ends = [[*client.at, time.monotonic()] for client in clients]
            gaps = [after - before for at in ends for before, after in pairwise(at)]
            print(f"{name}: {max(gaps):.1f} s", flush=True)
            mend()


class Client(threading.Thread):
    """Creates task after task; `at` has when each was answered with 201."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.at: list[float] = []
        self._server, self._is_over = server, threading.Event()

    def run(self) -> None:
        while not self._is_over.wait(0.05):
            with contextlib.suppress(OSError):
                if self._server.call("POST", "/api/tasks", job("plain", {})).status == 201:
                    self.at.append(time.monotonic())

    def stop(self) -> None:
        self._is_over.set()
        self.join()


def create(server: Server, count: int) -> None:
    body = {"name": "plain", "version": "1", "param_schema": {"type": "object"}}
    server.call("POST", "/api/task-types/register", body)
    tasks = [job("plain", {"n": n}) for n in range(count)]
    for some in parts_of(tasks, BATCH):
        server.call("POST", "/api/tasks/batch", {"tasks": list(some)})


def conflicts(cluster: galera.Galera) -> int:
    return sum(int(node.status("wsrep_local_cert_failures")) for node in cluster.nodes) + sum(
        int(node.status("wsrep_local_bf_aborts")) for node in cluster.nodes
    )


if __name__ == "__main__":
    main()
