"""What it costs to move a queue through a file: rows a second, and memory.

    python -m benchmarks.transfer [--tasks 20000] [--engine sqlite|mariadb] [--json]

Fills a queue with finished tasks, each with a row of history, exports it and
imports it into an empty one on the same engine; then the same with five times
as many. Each command is a process of its own, which is asked for its peak of
memory (on Linux). That must not grow with the queue: what both sizes need is
printed one below the other.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.queues import ENGINES, fill_tasks, open_queue
from taskmanager.clock import utc_now
from taskmanager.db.statements import execute, fetch_all

GROWTH = 5
# The operating system's own books would count the memory of the program that started it, too.
WITH_PEAK = """
import pathlib, sys
from taskmanager.cli import main
main(sys.argv[1:], standalone_mode=False)
print(pathlib.Path("/proc/self/status").read_text(), file=sys.stderr)
"""
PARAMS = json.dumps({"url": "https://example.com/", "text": "größer 😀 " * 20})


def measure(engine: str, tasks: int) -> dict[str, dict[str, float]]:
    now = utc_now()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "queue.jsonl"
        with open_queue(engine) as url:
            fill_tasks(
                tasks,
                seed="moved",
                now=now,
                status="completed",
                params=PARAMS,
                result=PARAMS,
                completed_at=now,
            )
            execute(
                "INSERT INTO task_logs (task_id, event, status, created_at) "
                "SELECT id, 'completed', status, completed_at FROM tasks"
            )
            exported = _run("export", file, url)
        with open_queue(engine) as url:
            for table in ("task_type_versions", "task_types"):
                execute(f"DELETE FROM {table}")
            imported = _run("import", file, url)
            arrived = fetch_all("SELECT COUNT(*) AS n FROM task_logs")[0]["n"]
        if arrived != tasks:
            raise AssertionError(f"{arrived} of {tasks} rows of history arrived")
    return {"export": exported, "import": imported}


def _run(command: str, file: Path, url: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "TASKMANAGER_DATABASE_URL": url,
            "TASKMANAGER_INSTANCE_PATH": folder,
        }
        done = subprocess.run(
            [sys.executable, "-c", WITH_PEAK, command, str(file), "--json"],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
    figures = json.loads(done.stdout)
    peak = next(line for line in done.stderr.splitlines() if line.startswith("VmHWM:"))
    rows = sum(figures["rows"].values())
    return {
        "rows": rows,
        "rows_per_second": rows / figures["seconds"],
        "seconds": figures["seconds"],
        "file_mb": file.stat().st_size / 1e6,
        "peak_mb": int(peak.split()[1]) / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--engine", choices=ENGINES, action="append")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sizes = (arguments.tasks, GROWTH * arguments.tasks)
    figures: dict[str, Any] = {
        engine: [measure(engine, tasks) for tasks in sizes]
        for engine in arguments.engine or ENGINES
    }
    if arguments.json:
        json.dump(figures, sys.stdout, indent=2)
        return
    print(f"{'':18}{'rows':>10}{'file':>10}{'seconds':>10}{'rows/s':>10}{'peak':>10}")
    for engine, measured in figures.items():
        for command in ("export", "import"):
            for one in (size[command] for size in measured):
                peak = f"{one['peak_mb']:>7.0f} MB"
                print(
                    f"{engine + ' ' + command:18}{one['rows']:>10.0f}{one['file_mb']:>7.0f} MB"
                    f"{one['seconds']:>10.1f}{one['rows_per_second']:>10.0f}{peak}"
                )


if __name__ == "__main__":
    main()
