"""Grows one queue from size to size and keeps a copy of each, for a benchmark of scale.

The tasks are made by the database itself, statement by statement: of ten types and
all states, each with the history that it would have. Which task has what follows from
its number, and in the same way at every size; but 25 tasks are cancelled, and those
are all there are of a worker and of a status, at every size.
"""

import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.queues import connect_queue
from taskmanager.clock import utc_now
from taskmanager.db.connection import close_connection, database, dialect
from taskmanager.db.dialect import SQLITE
from taskmanager.db.statements import execute
from taskmanager.db.transactions import write_transaction
from tests.support import mariadb

BATCH = 50_000
YEAR_MS = 365 * 86_400_000
RARE_WORKER = "rare"

# Of 23 tasks 14 are pending, and so on. The numbers that tasks are told apart by have no common
# factor, so that every type has tasks of every state and priority.
STATUS = (
    "CASE WHEN n <= 1000 AND n % 40 = 0 THEN 'cancelled' WHEN n % 23 < 14 THEN 'pending' "
    "WHEN n % 23 < 16 THEN 'scheduled' WHEN n % 23 < 18 THEN 'claimed' "
    "WHEN n % 23 < 22 THEN 'completed' ELSE 'failed' END"
)
TASK = {
    "id": "n",
    "task_type_id": "1 + n % 10",
    "type_version": "'1'",
    "status": "status",
    "params": """'{"url":"https://example.com/' || n || '","depth":3}'""",
    "result": """CASE WHEN status = 'completed' THEN '{"bytes":' || n || '}' END""",
    "priority": "n % 7 % 5",
    "claim_rank": "-(n % 7 % 5)",
    "attempts": "CASE WHEN status IN ('pending', 'scheduled') THEN n % 3 ELSE 1 + n % 3 END",
    "max_attempts": "4",
    "dedupe": "'forever'",
    "dedupe_key": "{hash}",
    "holds_key_forever": "1",
    "holds_key_while_open": "CASE WHEN status IN ('pending', 'scheduled', 'claimed') THEN 1 END",
    "worker_id": "CASE WHEN status = 'cancelled' THEN '{rare}' "
    "WHEN status IN ('claimed', 'completed', 'failed') THEN 'worker-' || (n % 3) END",
    "claim_token": "CASE WHEN status = 'claimed' THEN 'token.' || n END",
    "lease_seconds": "CASE WHEN status = 'claimed' THEN 300 END",
    "claimed_at": "CASE WHEN status = 'claimed' THEN {now} END",
    "lease_expires_at": "CASE WHEN status = 'claimed' THEN {now} + {year} + n END",
    "available_at": "CASE WHEN status = 'scheduled' THEN {now} + {year} + n ELSE {now} END",
    "completed_at": "CASE WHEN status = 'cancelled' THEN {now} "
    "WHEN status IN ('completed', 'failed') THEN {now} - {year} + n END",
    "created_at": "{now} - {year} + n",
    "updated_at": "{now} - {year} + n",
}
HISTORY = {
    "created": "1 = 1",
    "claimed": "worker_id IS NOT NULL",
    "completed": "status IN ('completed', 'failed')",
}


def hash_expression() -> str:
    """64 hexadecimal digits, others for every row."""
    return "lower(hex(randomblob(32)))" if dialect() is SQLITE else "SHA2(UUID(), 256)"


def _numbers(first: int, last: int) -> str:
    if dialect() is SQLITE:
        return (
            f"WITH RECURSIVE numbers(n) AS (SELECT {first} UNION ALL "
            f"SELECT n + 1 FROM numbers WHERE n < {last}) SELECT n, {STATUS} AS status FROM numbers"
        )
    return f"SELECT n, {STATUS} AS status FROM (SELECT seq AS n FROM seq_{first}_to_{last}) AS s"


@write_transaction
def _add(first: int, last: int, now: int) -> None:
    words = {"{now}": now, "{year}": YEAR_MS, "{hash}": hash_expression(), "{rare}": RARE_WORKER}
    values = ", ".join(TASK.values())
    for word, meaning in words.items():
        values = values.replace(word, str(meaning))
    statement = (
        f"INSERT INTO tasks ({', '.join(TASK)}) SELECT {values} "
        f"FROM ({_numbers(first, last)}) AS numbered"
    )
    # To PyMySQL a % is the beginning of a placeholder.
    # Not a template: its braces are JSON.
    database.execute_sql(statement if dialect() is SQLITE else statement.replace("%", "%%"))
    for event, condition in HISTORY.items():
        execute(
            "INSERT INTO task_logs (task_id, event, status, attempt, worker_id, created_at) "
            f"SELECT id, '{event}', '{event}', attempts, worker_id, updated_at FROM tasks "
            f"WHERE id BETWEEN {first} AND {last} AND {condition} ORDER BY id"
        )


def grow(rows: int, already: int) -> None:
    """Adds tasks with their history to the connected queue, from `already` many up to `rows`."""
    now = utc_now()
    if dialect() is SQLITE:
        execute("PRAGMA cache_size = -2000000")
        execute("PRAGMA synchronous = OFF")
    for first in range(already + 1, rows + 1, BATCH):
        _add(first, min(first + BATCH - 1, rows), now)
    if dialect() is SQLITE:
        execute("PRAGMA wal_checkpoint(TRUNCATE)")
    else:
        execute("ANALYZE TABLE tasks, task_logs")
    close_connection()


def build_queues(engine: str, sizes: Sequence[int], folder: Path) -> dict[int, float]:
    """Makes in `folder` what is not there from an earlier run; returns size → seconds it took."""
    seconds = {}
    smaller, already = None, 0
    for rows in sorted(sizes):
        home = folder / f"{engine}-{rows}"
        if not (home / "built").exists():
            started = time.perf_counter()
            shutil.rmtree(home, ignore_errors=True)
            if smaller is None:
                home.mkdir(parents=True)
            else:
                shutil.copytree(smaller, home, ignore=shutil.ignore_patterns("built", "s", "pid"))
            with served(engine, home, buffer_pool="2G", durable=False) as url:
                connect_queue(home, url)
                grow(rows, already)
            (home / "built").touch()
            seconds[rows] = time.perf_counter() - started
        smaller, already = home, rows
    return seconds


@contextlib.contextmanager
def served_queues(
    engine: str, sizes: Sequence[int], folder: Path, *, buffer_pool: str
) -> Iterator[dict[int, tuple[Path, str]]]:
    """Size → instance folder and database URL of each queue that was built.

    On MariaDB each has a server of its own, so that none takes the memory of another.
    """
    with contextlib.ExitStack() as stack:
        found = {}
        for rows in sizes:
            home = folder / f"{engine}-{rows}"
            queue = served(engine, home, buffer_pool=buffer_pool, durable=True)
            found[rows] = home, stack.enter_context(queue)
        yield found


@contextlib.contextmanager
def served(engine: str, home: Path, *, buffer_pool: str, durable: bool) -> Iterator[str]:
    """The URL of the queue in `home`; on MariaDB while its server runs."""
    if engine == "sqlite":
        yield f"sqlite:///{home / 'queue.db'}"
        return
    server = mariadb.MariaDB(home, durable=durable, buffer_pool=buffer_pool)
    server.start()
    try:
        server.run("CREATE DATABASE IF NOT EXISTS benchmark")
        yield f"mysql://root@127.0.0.1:{server.port}/benchmark"
    finally:
        server.stop()
