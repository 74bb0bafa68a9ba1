"""How many tasks a second a Galera cluster does, and how many transactions it repeats.

    python -m benchmarks.cluster [--tasks 1500] [--rounds 3]

Starts three nodes on this machine and two servers of TaskManager, which use one, two or all three
of them. Twelve workers claim and report single tasks of one type until all are done. The rounds
alternate. "Repeated" counts transactions that another node had got in the way of, as the nodes
count them, for each hundred claims and reports.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from taskmanager.db.statements import parts_of
from tests.cluster.work import job
from tests.cluster.workers import Crew
from tests.support import galera
from tests.support.server import Server

WORKERS = 12
HOSTS = 2
BATCH = 500


class Round(NamedTuple):
    tasks_per_second: float
    repeated: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1_500)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
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
    with tempfile.TemporaryDirectory() as folder:
        servers: list[Server] = []
        try:
            for number in range(HOSTS):
                place = Path(folder) / f"host{number}"
                place.mkdir()
                servers.append(Server(place, url).start())
                servers[-1].key = servers[0].key
            create(servers[0], tasks)
            crew = Crew(servers, WORKERS, tasks, types=["plain"])
            began = time.monotonic()
            crew.start()
            crew.join()
            seconds = time.monotonic() - began
        finally:
            for server in servers:
                server.stop()
    if crew.wrong:
        raise SystemExit(f"a call failed: {crew.wrong[:3]}")
    return Round(tasks / seconds, 100 * (conflicts(cluster) - before) / (2 * tasks))


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
