"""Claims a second of one type while 1 to 64 workers claim at once.

    python -m benchmarks.contention [--workers 1,4,16,64] [--rounds 5] [--seconds 3] [--json]

Needs wrk and mariadbd. The product runs as `taskmanager serve` starts it, on SQLite
with synchronous FULL and NORMAL and on MariaDB. In each round every number of workers
has its turn on every database, each worker a connection and a name of its own; there
are always more tasks than claims.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.http_load import MOST_PER_SECOND, products, run_wrk

FEW = 4


def measure(workers: list[int], rounds: int, seconds: int) -> dict[str, Any]:
    """Database → number of workers → every round's figures, with the ratio to 4 workers."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, products(Path(name)) as all_products:
        for number in range(rounds):
            for product in all_products:
                figures = {}
                for count in workers:
                    requests = product.claim_requests(MOST_PER_SECOND * seconds, count)
                    figures[count] = run_wrk(
                        product.folder,
                        product.url,
                        product.keys,
                        requests,
                        seconds,
                        repeatable=False,
                        connections=count,
                    )
                for count, one in figures.items():
                    if FEW in figures:
                        one["ratio"] = one["per_second"] / figures[FEW]["per_second"]
                    results.setdefault(product.name, {}).setdefault(count, []).append(one)
            print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--workers",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[1, FEW, 16, 64],
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = measure(arguments.workers, arguments.rounds, arguments.seconds)
    if arguments.json:
        json.dump(results, sys.stdout, indent=2)
        return
    print(f"{'':24}{'claims a second':>28}{f'÷ {FEW} workers':>24}{'p95':>10}{'refused':>9}")
    for name, by_workers in results.items():
        for count, rounds in by_workers.items():
            line = f"{name + f', {count} workers':24}" + _spread(rounds, "per_second", 0, 28)
            line += _spread(rounds, "ratio", 2, 24) if "ratio" in rounds[0] else " " * 24
            line += f"{statistics.median(one['p95_ms'] for one in rounds):>8.1f}ms"
            print(line + f"{sum(one['refused'] for one in rounds):>9}")


def _spread(rounds: list[dict[str, float]], figure: str, digits: int, width: int) -> str:
    some = [one[figure] for one in rounds]
    low, middle, high = (f"{of(some):.{digits}f}" for of in (min, statistics.median, max))
    return f"{middle} ({low} - {high})".rjust(width)


if __name__ == "__main__":
    main()
