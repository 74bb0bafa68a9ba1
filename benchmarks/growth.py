"""How many machines 1,000, 10,000 and 100,000 tasks a second need, and what gives way first.

    python -m benchmarks.growth [--tasks 4000] [--calls-of 1] [--cores 16] [--busy 0.6] …

First measures what a task costs, here and now: eight workers create, claim and report tasks over
HTTP on a real server with a MariaDB that waits for the disk at every commit. Counted is the
processor time of both, from the system, and what the database writes and stores, from its own
counters. Of these, other load on the machine changes only the processor time, which it may double.
Then multiplies. Nothing here has been tried at these rates: what is assumed of the machines is
printed, and each assumption is an option.
"""

import argparse
import math
import os
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tests.races.processes import Connection
from tests.support.mariadb import MariaDB
from tests.support.server import Server

RATES = (1_000, 10_000, 100_000)
NODES = 3  # of a cluster
WORKERS = 8
DAY_SECONDS = 86_400
MEGABYTE, TERABYTE = 1e6, 1e12
PARAMS = {"url": "https://example.org/a/document/of/ordinary/length", "size": 12_345}
TASK = {"type": "job", "params": PARAMS, "dedupe": "none"}
RESULT = {"title": "What a task may return", "pages": 17}


class Cost(NamedTuple):
    """What one task needs, from its creation to its end. Processor time in seconds."""

    host_seconds: float
    database_seconds: float
    statements: float
    commits: float
    log_bytes: float
    stored_bytes: float


class Need(NamedTuple):
    """What one task takes of a machine of the database, and how much of that it has a second."""

    per_task: float
    capacity: float

    @property
    def tasks_per_second(self) -> float:
        return self.capacity / self.per_task


def measure(tasks: int, calls_of: int) -> Cost:
    """The cost of a task in calls of so many tasks, after a tenth as many to warm up."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        database = MariaDB(folder, durable=True, buffer_pool="512M")
        database.start()
        server = Server(folder, database.create_database("queue"))
        try:
            server.start()
            body = {"name": "job", "version": "1", "param_schema": {"type": "object"}}
            server.call("POST", "/api/task-types/register", body)
            _work(server, tasks // 10, calls_of)
            before = _readings(server, database)
            _work(server, tasks, calls_of)
            after = _readings(server, database)
            stored = _stored_bytes(database) / (tasks + tasks // 10)
        finally:
            server.stop()
            database.stop()
    each = {name: (after[name] - before[name]) / tasks for name in before}
    return Cost(**each, stored_bytes=stored)


def _work(server: Server, tasks: int, calls_of: int) -> None:
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda _: _take_part(server, tasks // WORKERS, calls_of), range(WORKERS)))


def _take_part(server: Server, tasks: int, calls_of: int) -> None:
    connection = Connection(server.port, server.key)

    def call(path: str, body: Any) -> Any:
        answer = connection.post(path, body)
        if answer.status not in (200, 201):
            raise SystemExit(f"{path} answered {answer.status}: {answer.body}")
        return answer.data

    worker: dict[str, Any] = {"worker_id": threading.current_thread().name}
    for _ in range(math.ceil(tasks / calls_of)):
        if calls_of == 1:
            call("/api/tasks", TASK)
            claimed = call("/api/tasks/claim", {**worker, "type": "job"})
            call(f"/api/tasks/{claimed['id']}/complete", {**worker, **_report(claimed)})
            continue
        call("/api/tasks/batch", {"tasks": [TASK] * calls_of})
        several = call("/api/tasks/claim", {**worker, "type": "job", "limit": calls_of})["tasks"]
        reports = [{"id": one["id"], **_report(one)} for one in several]
        if reports:  # the others may have claimed more than they have created
            call("/api/tasks/complete", {**worker, "completions": reports, "with_tasks": False})
    connection.close()


def _report(task: Any) -> dict[str, Any]:
    return {"claim_token": task["claim_token"], "success": True, "result": RESULT}


def _readings(server: Server, database: MariaDB) -> dict[str, float]:
    assert server.process is not None
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    counters = {name: float(value) for name, value in database.rows(COUNTERS)}
    return {
        "host_seconds": sum(_processor_seconds(one) for one in (pid, *map(int, children))),
        "database_seconds": _processor_seconds(int((database.folder / "pid").read_text())),
        "statements": counters["Questions"],
        "commits": counters["Com_commit"],
        "log_bytes": counters["Innodb_os_log_written"],
    }


COUNTERS = (
    "SHOW GLOBAL STATUS WHERE Variable_name IN ('Questions', 'Com_commit', 'Innodb_os_log_written')"
)


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _stored_bytes(database: MariaDB) -> float:
    """Of all tables with their indexes, history included, and no task pruned."""
    database.run("FLUSH TABLES")
    files = (database.folder / "data" / "queue").glob("*.ibd")
    return sum(file.stat().st_size for file in files)


def needs(cost: Cost, assumed: argparse.Namespace) -> Mapping[str, Need]:
    """Of one database machine. Each node of a cluster does the work of every task."""
    kept_seconds = assumed.kept_days * DAY_SECONDS
    return {
        "processor": Need(cost.database_seconds, assumed.cores * assumed.busy),
        "commits": Need(cost.commits, assumed.syncs * assumed.commits_of_sync),
        "log to the disk": Need(cost.log_bytes, assumed.disk_mb * MEGABYTE),
        "network": Need(cost.log_bytes * (NODES - 1), assumed.network_mb * MEGABYTE),
        "room on the disk": Need(cost.stored_bytes * kept_seconds, assumed.disk_tb * TERABYTE),
    }


def report(cost: Cost, assumed: argparse.Namespace) -> None:
    print(f"Measured, of one task in calls of {assumed.calls_of}:")
    print(f"  processor of a host          {cost.host_seconds * 1e6:10,.0f} µs")
    print(f"  processor of the database    {cost.database_seconds * 1e6:10,.0f} µs")
    print(f"  statements, commits          {cost.statements:10.2f}, {cost.commits:.2f}")
    print(f"  written to the log           {cost.log_bytes:10,.0f} bytes")
    print(f"  stored with its history      {cost.stored_bytes:10,.0f} bytes")
    print("Assumed, not measured:")
    print(f"  a machine has {assumed.cores} cores as fast as one here, {assumed.busy:.0%} busy")
    print(f"  its disk: {assumed.syncs:,} syncs a second, each for {assumed.commits_of_sync}")
    print(f"    commits; {assumed.disk_mb:,} MB a second; {assumed.disk_tb} TB")
    print(f"  its network: {assumed.network_mb:,} MB a second to the other nodes")
    print(f"  days for which finished tasks are kept: {assumed.kept_days:g}")
    print(f"  a cluster of {NODES} nodes does what one of them can do: each stores every task")
    print("  types are spread evenly over several clusters, and no task waits for one of another")
    limits = needs(cost, assumed)
    print("One cluster gives way, first to last, at so many tasks a second:")
    for name, need in sorted(limits.items(), key=lambda item: item[1].tasks_per_second):
        print(f"  {name:20} {need.tasks_per_second:12,.0f}")
    print("tasks a second   hosts   clusters   database machines   TB a machine   too much for one")
    for rate in RATES:
        hosts = math.ceil(rate * cost.host_seconds / (assumed.cores * assumed.busy))
        over = [name for name, need in limits.items() if rate > need.tasks_per_second]
        clusters = math.ceil(max(rate / need.tasks_per_second for need in limits.values()))
        stored = rate * limits["room on the disk"].per_task / clusters / TERABYTE
        print(
            f"{rate:14,}{hosts:8,}{clusters:11,}{NODES * clusters:20,}{stored:15.1f}   "
            f"{', '.join(over) or 'nothing'}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=4_000, help="to measure with")
    parser.add_argument("--calls-of", type=int, default=1, help="tasks in one call, up to 100")
    parser.add_argument("--cores", type=int, default=16)
    parser.add_argument("--busy", type=float, default=0.6, help="part of them that is used")
    parser.add_argument("--syncs", type=int, default=2_000, help="of the disk, a second")
    parser.add_argument(
        "--commits-of-sync", type=int, default=8, help="that share one (group commit)"
    )
    parser.add_argument("--disk-mb", type=int, default=500, help="written a second")
    parser.add_argument("--disk-tb", type=float, default=4)
    parser.add_argument("--network-mb", type=int, default=1_000, help="a second")
    parser.add_argument("--kept-days", type=float, default=1)
    assumed = parser.parse_args()
    report(measure(assumed.tasks, assumed.calls_of), assumed)


if __name__ == "__main__":
    main()
