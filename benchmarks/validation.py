"""What it costs to check ordinary params, against jsonschema as it comes.

    python -m benchmarks.validation

Both check the same object against the same compiled schema, in rounds that take
turns so that a busy machine slows both. Printed are the median of each round,
the median of those, and the ratio, which is below 1 where the checks of this
project are the faster ones.
"""

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jsonschema
from referencing import Registry

from taskmanager.params.validation import param_problems

ROUNDS = 9
CHECKS_A_ROUND = 2_000
LIMIT = 1.5

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "video_id": {"type": "string", "pattern": "^[A-Za-z0-9_-]{11}$"},
        "url": {"type": "string", "pattern": "^https?://.+$", "maxLength": 2000},
        "day": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"},
        "quality": {"enum": ["low", "medium", "high"]},
        "attempt": {"type": "integer", "minimum": 1},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 10},
    },
    "required": ["video_id"],
    "additionalProperties": False,
}
PARAMS = {
    "video_id": "dQw4w9WgXcQ",
    "url": "https://example.com/watch?v=dQw4w9WgXcQ",
    "day": "2026-01-31",
    "quality": "high",
    "attempt": 3,
    "tags": ["music", "video"],
}


def median_microseconds(check: Callable[[], object]) -> float:
    times = []
    for _ in range(CHECKS_A_ROUND):
        start = time.perf_counter_ns()
        check()
        times.append(time.perf_counter_ns() - start)
    return statistics.median(times) / 1000


def main() -> None:
    text = json.dumps(SCHEMA)
    stock = jsonschema.Draft202012Validator(SCHEMA, registry=Registry())
    assert param_problems(text, PARAMS) == [] == list(stock.iter_errors(PARAMS))
    mine, theirs = [], []
    for number in range(1, ROUNDS + 1):
        mine.append(median_microseconds(lambda: param_problems(text, PARAMS)))
        theirs.append(median_microseconds(lambda: list(stock.iter_errors(PARAMS))))
        print(f"round {number}: {mine[-1]:7.1f} µs here {theirs[-1]:7.1f} µs jsonschema")
    ratio = statistics.median(mine) / statistics.median(theirs)
    print(
        f"median: {statistics.median(mine):.1f} µs here, {statistics.median(theirs):.1f} µs "
        f"jsonschema; ratio {ratio:.2f}"
    )
    raise SystemExit(ratio > LIMIT)


if __name__ == "__main__":
    main()
