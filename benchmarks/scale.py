"""Whether a call takes as long on 5,000,000 tasks as on 1,000.

    python -m benchmarks.scale [--rows 1000,100000,1000000,5000000] [--engine sqlite|mariadb]
        [--only claim] [--rounds 5] [--calls 50] [--buffer-pool 6G] [--synchronous FULL]
        [--folder FOLDER] [--json]

Grows one queue from size to size (benchmarks/grown_queues.py), keeps a copy of each, and
times requests and maintenance on all of them in turns of ten, each queue in a process of
its own, which reads all of it before each round. Per round and sort of call it takes the median
and the 95th percentile, and divides them by those of the smallest queue; printed are the medians
over the rounds. `cpu` compares the work of this process alone, which a disk does not disturb.
`--folder` keeps the queues for the next run, some 10 GB of them. MariaDB writes as durably as
it does by default and has `--buffer-pool` of memory for each queue.
"""

import argparse
import contextlib
import json
import math
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.grown_queues import build_queues, served_queues
from benchmarks.queues import ENGINES
from benchmarks.scale_calls import MAINTENANCE, REQUESTS, Times, answer

TURN = 10
ALLOWED = 1.3

Round = dict[int, dict[str, float]]  # size → figure → milliseconds


def measure(engine: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    sizes = arguments.rows
    built = build_queues(engine, sizes, folder)
    for rows, seconds in built.items():
        print(f"{engine}: grown to {rows} tasks in {seconds:.0f} s", file=sys.stderr)
    names = [name for name in (*REQUESTS, *MAINTENANCE) if name.startswith(arguments.only)]
    results: dict[str, list[Round]] = {name: [] for name in names}
    with (
        served_queues(engine, sizes, folder, buffer_pool=arguments.buffer_pool) as queues,
        _processes(queues, arguments.synchronous) as processes,
    ):
        for number in range(arguments.rounds):
            _all(processes, "warm up")
            for name in names:
                calls = arguments.calls if name in REQUESTS else max(1, arguments.calls // 10)
                results[name].append(_round(processes, name, calls))
            print(f"{engine}: round {number + 1} of {arguments.rounds} done", file=sys.stderr)
    return {"built_seconds": built, "rounds": results}


@contextlib.contextmanager
def _processes(
    queues: Mapping[int, tuple[Path, str]], synchronous: str
) -> Iterator[dict[int, Connection]]:
    context = get_context("spawn")
    with contextlib.ExitStack() as stack:
        found = {}
        for rows, (home, url) in queues.items():
            found[rows], theirs = context.Pipe()
            process = context.Process(target=answer, args=(theirs, home, url, synchronous, rows))
            process.start()
            stack.callback(process.join)
            stack.callback(found[rows].send, None)
        yield found


def _round(processes: Mapping[int, Connection], name: str, calls: int) -> Round:
    times: dict[int, list[Times]] = {rows: [] for rows in processes}
    for made in range(0, calls, TURN):
        for rows in random.sample(list(processes), len(processes)):
            processes[rows].send((name, min(TURN, calls - made)))
            times[rows] += processes[rows].recv()
    _all(processes, "settle")
    return {rows: _figures(some) for rows, some in times.items()}


def _all(processes: Mapping[int, Connection], what: str) -> None:
    for process in processes.values():
        process.send(what)
    for process in processes.values():
        process.recv()


def _figures(times: Sequence[Times]) -> dict[str, float]:
    walls = sorted(wall for wall, _ in times)
    return {
        "p50": statistics.median(walls),
        "p95": walls[math.ceil(len(walls) * 0.95) - 1],
        "cpu": statistics.median(cpu for _, cpu in times),
    }


def _show(engine: str, rounds: Mapping[str, Sequence[Round]], sizes: Sequence[int]) -> None:
    smallest, largest = min(sizes), max(sizes)
    print(
        f"\n{engine:36}"
        + "".join(f"{f'p50 of {rows}':>16}" for rows in sizes)
        + f"{'p50 ratio (rounds)':>26}{'p95 ratio (rounds)':>26}{'cpu':>7}"
    )
    for name, some in rounds.items():
        line = f"{name:36}"
        for rows in sizes:
            line += f"{statistics.median(one[rows]['p50'] for one in some):>14.2f}ms"
        for figure in ("p50", "p95"):
            ratios = [one[largest][figure] / one[smallest][figure] for one in some]
            line += f"{statistics.median(ratios):>11.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
            line += "*" if statistics.median(ratios) > ALLOWED else " "
        cpu = [one[largest]["cpu"] / one[smallest]["cpu"] for one in some]
        print(line + f"{statistics.median(cpu):>7.2f}")
    print(f"ratio: {largest} ÷ {smallest} tasks; * more than {ALLOWED}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows",
        type=lambda text: sorted(int(part) for part in text.split(",")),
        default=[1_000, 100_000, 1_000_000, 5_000_000],
    )
    parser.add_argument("--engine", choices=ENGINES, action="append")
    parser.add_argument("--only", default="", help="sorts of calls that begin so")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--buffer-pool", default="6G")
    parser.add_argument("--synchronous", choices=("FULL", "NORMAL"), default="FULL")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        figures = {
            engine: measure(engine, arguments, folder) for engine in arguments.engine or ENGINES
        }
    if arguments.json:
        json.dump(figures, sys.stdout, indent=2)
        return
    for engine, found in figures.items():
        _show(engine, found["rounds"], arguments.rows)


if __name__ == "__main__":
    main()
