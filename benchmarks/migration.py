"""How long an upgrade takes on a large queue, how much disk it needs, and whether a kill harms it.

    python -m benchmarks.migration [--tasks 1000000] [--engine sqlite|mariadb] [--json]

Makes a queue of the previous release with tasks of all states and their history. One copy is
upgraded by `taskmanager migrate`: printed are the seconds of each step, and how large the
database was before, at most and after. On the other the command is killed (SIGKILL) at five
points of that time. On MariaDB each kill leaves less to do, so the later ones may come too late.
Then the command is run once more and must complete the upgrade, and every row must be there. A
queue of a million tasks takes about 2 GB in the folder for temporary files.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.grown_queues import grow, served
from benchmarks.queues import ENGINES, TYPES
from taskmanager.clock import utc_now
from taskmanager.db import schema
from taskmanager.db.connection import close_connection, connect_database, database
from taskmanager.db.statements import fetch_value, insert
from tests.support.releases import previous

KILLED_AT = (0.1, 0.25, 0.4, 0.55, 0.7)  # parts of the time that the upgrade takes
STEP = re.compile(r"schema version (\d+): (.*)")


def measure(engine: str, tasks: int, folder: Path) -> dict[str, Any]:
    killed, whole = folder / "killed", folder / "whole"
    killed.mkdir()
    with served(engine, killed, buffer_pool="1G", durable=False) as url:
        _make_previous_release(url, tasks)
        rows = _rows(url)
    shutil.copytree(killed, whole, ignore=shutil.ignore_patterns("s", "pid", "*.lock"))
    with served(engine, whole, buffer_pool="256M", durable=True) as url:
        before = _size(whole)
        steps, largest = _upgrade(url, whole)
        figures = {"steps": steps, "bytes": [before, largest, _size(whole)]}
        _require_complete(url, rows)
    shutil.rmtree(whole)
    with served(engine, killed, buffer_pool="256M", durable=True) as url:
        kills = sum(_is_killed(url, killed, after=part * sum(steps.values())) for part in KILLED_AT)
        _upgrade(url, killed)
        _require_complete(url, rows)
    return {**figures, "kills": kills}


def _make_previous_release(url: str, tasks: int) -> None:
    connect_database(url)
    if url.startswith("sqlite"):
        database.switch_journal()
    previous.make_previous_tables()
    times = {"created_at": utc_now(), "updated_at": utc_now()}
    for number in range(TYPES):
        type_id = insert("task_types", {"name": f"job.{number}", "version": "1", **times})
        version = {"task_type_id": type_id, "version": "1", "param_schema": "{}"}
        insert("task_type_versions", {**version, **times})
    grow(tasks, 0)


def _start(url: str, home: Path) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "TASKMANAGER_DATABASE_URL": url,
        "TASKMANAGER_INSTANCE_PATH": str(home),
    }
    command = [sys.executable, "-m", "taskmanager", "migrate"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def _upgrade(url: str, home: Path) -> tuple[dict[str, float], int]:
    """Seconds by step, and the most bytes that `home` had meanwhile."""
    process = _start(url, home)
    sizes = [_size(home)]
    watcher = threading.Thread(target=_watch, args=(process, home, sizes))
    watcher.start()
    seconds: dict[str, float] = {}
    name, since = "", 0.0
    for line in process.stderr or ():
        now = time.perf_counter()
        if name:
            seconds[name] = now - since
        step = STEP.search(line)
        name, since = f"{step[1]}: {step[2]}" if step else "", now
    watcher.join()
    if process.wait():
        raise SystemExit(f"the upgrade has failed with status {process.returncode}")
    return seconds, max(sizes)


def _is_killed(url: str, home: Path, *, after: float) -> bool:
    """Whether an upgrade was killed so many seconds after its first step began: it may be over."""
    process = _start(url, home)
    for line in process.stderr or ():
        if STEP.search(line):
            break
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.kill()
    return process.wait() == -signal.SIGKILL


def _watch(process: subprocess.Popen[str], home: Path, sizes: list[int]) -> None:
    while process.poll() is None:
        sizes.append(_size(home))
        time.sleep(0.1)


def _size(home: Path) -> int:
    """Bytes of all files, those that are removed meanwhile left out."""
    size = 0
    for path in home.rglob("*"):
        try:
            size += path.stat().st_size
        except FileNotFoundError:
            continue
    return size


def _rows(url: str) -> dict[str, int]:
    connect_database(url)
    tables = ("task_types", "tasks", "task_logs")
    found = {table: fetch_value(f"SELECT COUNT(*) FROM {{{table}}}") for table in tables}
    close_connection()
    return found


def _require_complete(url: str, rows: dict[str, int]) -> None:
    found = _rows(url)
    version = schema.schema_version()
    close_connection()
    if (version, found) != (schema.SCHEMA_VERSION, rows):
        raise SystemExit(f"version {version} with {found} rows, of {rows}")


def _print(engine: str, tasks: int, figures: dict[str, Any]) -> None:
    sys.stdout.write(f"{engine}, {tasks:,} tasks\n")
    for name, seconds in figures["steps"].items():
        sys.stdout.write(f"  {seconds:8.2f} s  {name}\n")
    before, largest, after = (size / 1e6 for size in figures["bytes"])
    sys.stdout.write(f"  {sum(figures['steps'].values()):8.2f} s  together\n")
    sys.stdout.write(f"  {before:,.0f} MB before, {largest:,.0f} at most, {after:,.0f} after\n")
    sys.stdout.write(f"  killed {figures['kills']} times, then completed\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--engine", choices=ENGINES, action="append")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = {}
    for engine in arguments.engine or ENGINES:
        with tempfile.TemporaryDirectory() as folder:
            results[engine] = measure(engine, arguments.tasks, Path(folder))
        if not arguments.json:
            _print(engine, arguments.tasks, results[engine])
    if arguments.json:
        json.dump(results, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
