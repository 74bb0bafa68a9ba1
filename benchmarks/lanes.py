"""A claim of a type with a limit per key, of a fair and of a rated type, at 1,000 and 1,000,000.

    python -m benchmarks.lanes [--rows 1000,1000000] [--engine sqlite|mariadb] [--rounds 5]
        [--calls 40]

Of the type with a limit per key all tasks but a few are of one key, which has its limit held
already: they are passed by. One group of the fair type has all tasks but a few. Each claim is
completed, by a call that is timed apart. The queues are measured in turns, in one process.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from benchmarks.queues import ENGINES, open_queue
from taskmanager.access import keys
from taskmanager.access.caller import OPERATOR
from taskmanager.app import create_app
from taskmanager.clock import utc_now
from taskmanager.db.connection import close_connection
from taskmanager.db.statements import Row, execute, fetch_all, fetch_value, insert_many
from taskmanager.db.transactions import write_transaction
from taskmanager.queue import task_types
from taskmanager.queue.flow import lanes
from tests.conftest import Api

BATCH = 2_000
FEW = 300  # tasks of each type that a claim may take beside the long lane
TYPES = {
    "limited per key": {"concurrency": {"limit": 1, "per": "key"}},
    "fair": {"fair": True},
    "rated": {"start_rate": "1000000/second"},
    "plain": {},
}
COLUMNS = "id, task_type_id, status, priority, concurrency_key, group_key"


def fill(rows: int) -> None:
    """Makes the types, each with its share of the tasks."""
    for name, defaults in TYPES.items():
        task_types.register_task_type(
            name=_name(name),
            version="1",
            param_schema={"type": "object"},
            defaults=defaults,
            now=utc_now(),
            caller=OPERATOR,
        )
        type_id = fetch_value("SELECT id FROM task_types WHERE name = ?", (_name(name),))
        _ids[name] = type_id
        of_type = max(FEW, rows // len(TYPES))
        for start in range(0, of_type, BATCH):
            _insert([_task(type_id, n) for n in range(start, min(of_type, start + BATCH))])


def _name(name: str) -> str:
    return name.replace(" ", ".")


def _task(type_id: int, n: int) -> Row:
    key = "long" if n % 2 == 0 or n >= 2 * FEW else f"key-{n}"
    now = utc_now()
    return {
        "task_type_id": type_id,
        "type_version": "1",
        "status": "pending",
        "params": f'{{"n": {n}}}',
        "priority": 0,
        "claim_rank": 0,
        "attempts": 0,
        "max_attempts": 3,
        "dedupe": "none",
        "dedupe_key": f"{type_id}-{n}".rjust(64, "0"),
        "concurrency_key": key if type_id == _type_id("limited per key") else None,
        "group_key": key if type_id == _type_id("fair") else None,
        "available_at": now,
        "created_at": now,
        "updated_at": now,
    }


_ids: dict[str, int] = {}


def _type_id(name: str) -> int | None:
    return _ids.get(name)


@write_transaction
def _insert(tasks: list[Row]) -> None:
    insert_many("tasks", tasks)
    last = fetch_value("SELECT MAX(id) FROM tasks")
    stored = fetch_all(f"SELECT {COLUMNS} FROM tasks WHERE id > ?", (last - len(tasks),))
    lanes.record(stored)


def measure(engine: str, sizes: list[int], rounds: int, calls: int) -> None:
    """Prints the median of each sort of call on each queue, and the ratio of the ends."""
    times: dict[tuple[str, int], list[float]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        queues = []
        for rows in sizes:
            url = stack.enter_context(open_queue(engine))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            app = create_app({"database_url": url, "instance_path": folder, "rate_limit": "0"})
            _, key = keys.create_key(
                name="bench", scopes=keys.ROLES["admin"], now=utc_now(), caller=OPERATOR
            )
            fill(rows)
            if engine == "mariadb":
                execute("ANALYZE TABLE tasks, lanes, lane_members")
            api = Api(app.test_client(), key)
            api.claim("holder", type=_name("limited per key"))  # the first task of the long lane
            queues.append((rows, api))
        for _ in range(rounds):
            for name in TYPES:
                for rows, api in queues:
                    for _ in range(calls // rounds):
                        started = time.perf_counter()
                        task = api.claim("bench", type=_name(name))
                        times[f"claim, {name}", rows].append(time.perf_counter() - started)
                        started = time.perf_counter()
                        api.complete(task)
                        times[f"complete, {name}", rows].append(time.perf_counter() - started)
        close_connection()
    print(f"{engine:28}" + "".join(f"{rows:>12}" for rows in sizes) + f"{'ratio':>8}")
    for what in dict.fromkeys(what for what, _ in times):
        medians = [statistics.median(times[what, rows]) * 1000 for rows in sizes]
        cells = "".join(f"{one:>10.2f}ms" for one in medians)
        print(f"{what:28}{cells}{medians[-1] / medians[0]:>8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows",
        type=lambda text: sorted(int(part) for part in text.split(",")),
        default=[1_000, 1_000_000],
    )
    parser.add_argument("--engine", choices=ENGINES, action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=40)
    arguments = parser.parse_args()
    for engine in arguments.engine or ENGINES:
        measure(engine, arguments.rows, arguments.rounds, arguments.calls)


if __name__ == "__main__":
    main()
