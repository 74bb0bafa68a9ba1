"""How a burst of connections spreads over gunicorn's processes, and what that does to speed.

    python -m benchmarks.bursts [--rounds 10] [--seconds 2]

Needs wrk. Runs bare Flask (benchmarks/floor.py) under gunicorn with as many
processes and threads as `taskmanager serve` starts: once with one listening socket
for all processes, as gunicorn does by default, and once with a socket for each
(`reuse_port`), as `taskmanager serve` does. In each round both answer 8 connections
that open together and stay open. Prints how many of them the fullest process held,
and the requests a second.
"""

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from benchmarks.http_load import CONNECTIONS, THREADS, WORKERS, Target, bare_flask, run_wrk
from tests.acceptance.test_serving import connections_by_process

SERVERS: dict[str, tuple[str, ...]] = {
    "one socket for all": (),
    "a socket for each": ("--reuse-port",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=2)
    arguments = parser.parse_args()
    fullest: dict[str, list[int]] = {name: [] for name in SERVERS}
    per_second: dict[str, list[float]] = {name: [] for name in SERVERS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        size = (f"--workers={WORKERS}", f"--threads={THREADS}")
        running = {
            name: stack.enter_context(bare_flask(*size, *options))
            for name, options in SERVERS.items()
        }
        time.sleep(3)  # until every process has started
        for _ in range(arguments.rounds):
            for name, (process, port) in running.items():
                url = f"http://127.0.0.1:{port}"
                requests = Target(folder, name).empty_requests(CONNECTIONS)
                wrk = pool.submit(
                    run_wrk, folder, url, ["none"], requests, arguments.seconds, repeatable=True
                )
                time.sleep(arguments.seconds / 2)
                fullest[name].append(max(connections_by_process(process.pid, port).values()))
                per_second[name].append(wrk.result()["per_second"])
    for name in SERVERS:
        held = statistics.mean(fullest[name])
        speeds = sorted(per_second[name])
        print(
            f"{name:20} the fullest of {WORKERS} processes held {held:.1f} of {CONNECTIONS} "
            f"connections; {statistics.median(speeds):.0f} requests a second "
            f"({speeds[0]:.0f} to {speeds[-1]:.0f})"
        )


if __name__ == "__main__":
    main()
