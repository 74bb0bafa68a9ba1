"""What counting one request costs: python benchmarks/rate_limits.py

A hit is counted by the strategy and the storage that the application uses, alone and
with three other processes counting at the same time, and by the storage in memory
that `limits` brings. Then the same request is answered by the whole application
for a key with a limit and for one without: the difference is what a request
pays in all, headers included.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

from flask import Flask
from limits import parse
from limits.storage import Storage, storage_from_string
from limits.strategies import FixedWindowRateLimiter
from werkzeug.test import EnvironBuilder

from taskmanager.access import keys
from taskmanager.access.caller import OPERATOR
from taskmanager.app import create_app
from taskmanager.clock import utc_now
from taskmanager.ratelimits.storage import GUARDED, SHARED_FILE

ROUNDS = 9
ALLOWED_MICROSECONDS = 60.0


def median_microseconds(operation: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        begin = time.perf_counter_ns()
        operation()
        taken.append(time.perf_counter_ns() - begin)
    return statistics.median(taken) / 1000


def medians_side_by_side(
    one: Callable[[], object], other: Callable[[], object], times: int
) -> tuple[float, float]:
    """Takes turns, so that whatever else the machine does falls on both alike."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(times):
        for operation, into in zip((one, other), taken, strict=True):
            into.append(median_microseconds(operation, 1))
    return statistics.median(taken[0]), statistics.median(taken[1])


def report(name: str, medians: list[float]) -> float:
    middle = statistics.median(medians)
    print(f"{name:<58} {middle:8.1f} µs   rounds {min(medians):.1f} to {max(medians):.1f}")
    return middle


def one_hit(uri: str) -> Callable[[], object]:
    """Counts a request and reads what is left, as the API does for each."""
    storage = storage_from_string(uri)
    assert isinstance(storage, Storage)
    strategy, limit = FixedWindowRateLimiter(storage), parse("1000/minute")

    def hit() -> None:
        strategy.hit(limit, "key", "1")
        strategy.get_window_stats(limit, "key", "1")

    return hit


def count_forever(uri: str) -> None:
    hit = one_hit(uri)
    while True:
        hit()
        time.sleep(0.0005)  # some 1,500 requests a second from each


def one_request(app: Flask, rate_limit: str) -> Callable[[], object]:
    _, key = keys.create_key(
        name="benchmark",
        scopes=("admin",),
        rate_limit=rate_limit,
        now=utc_now(),
        caller=OPERATOR,
    )
    environ = EnvironBuilder("/api/admin/keys/1", headers={"X-API-Key": key}).get_environ()
    return lambda: list(app.wsgi_app(dict(environ), lambda *_: lambda _: None))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        uri = f"{GUARDED}{SHARED_FILE}{folder / 'counters'}"
        own, memory = one_hit(uri), one_hit("memory://")
        app = create_app({"instance_path": folder})
        limited = one_request(app, "900000000/minute")
        unlimited = one_request(app, "0")
        names = ("own", "memory", "limited", "unlimited")
        results: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(ROUNDS):
            results["own"].append(median_microseconds(own, 2_000))
            results["memory"].append(median_microseconds(memory, 2_000))
            with_limit, without = medians_side_by_side(limited, unlimited, 500)
            results["limited"].append(with_limit)
            results["unlimited"].append(without)
        crowd = [get_context("spawn").Process(target=count_forever, args=(uri,)) for _ in range(3)]
        for process in crowd:
            process.start()
        time.sleep(2)
        crowded = [median_microseconds(own, 2_000) for _ in range(ROUNDS)]
        for process in crowd:
            process.kill()
    hit = report("one hit, in the file that all processes share", results["own"])
    report("one hit, three other processes counting too", crowded)
    report("one hit, in memory of one process (limits' own)", results["memory"])
    report("one request, key with a limit", results["limited"])
    report("one request, key without a limit", results["unlimited"])
    pairs = zip(results["limited"], results["unlimited"], strict=True)
    report("what a request pays for its limit, headers included", [a - b for a, b in pairs])
    kept = "kept" if hit <= ALLOWED_MICROSECONDS else "NOT KEPT"
    print(f"allowed for a hit: {ALLOWED_MICROSECONDS} µs: {kept}")


if __name__ == "__main__":
    main()
