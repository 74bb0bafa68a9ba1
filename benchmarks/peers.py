"""No-op tasks a second through our Python worker and through workers of other queues.

    python -m benchmarks.peers [--tasks 2000] [--rounds 3] [--only ours,huey,…] [--json]

Each queue runs with its default settings, but: two handler processes, SQLite with synchronous=FULL
(huey: fsync), Redis without a journal, as Debian ships it, and Celery with acks_late, so that a
killed worker loses no task, as everywhere else here. Our key has no rate limit. The tasks are
created first; then two handler processes start, and the time counts from the first task done to the
last. The queues take turns. The others are installed into an environment of its own, in a temporary
folder or in the one that --environment names.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from taskmanager.clients import PYTHON
from tests.support.ports import free_port
from tests.support.server import Server

PACKAGES = ("huey", "rq", "celery", "packaging", "redis", "django", "django-tasks-db[compat]")
PROCESSES = 2
PATIENCE_SECONDS = 60

OURS = """
import os
from taskmanager_client import Client, Worker
worker = Worker(Client.from_env(), concurrency=int(os.environ["PROCESSES"]))

@worker.task("noop")
def noop(task):
    with open("done", "a") as done:
        done.write(".")

if __name__ == "__main__":
    worker.run(burst=True)
"""
HUEY = """
from huey import SqliteHuey
huey = SqliteHuey("bench", filename="huey.db", fsync=True)

@huey.task()
def noop(n):
    with open("done", "a") as done:
        done.write(".")

def produce(count):
    for n in range(count):
        noop(n)
"""
RQ = """
def noop(n):
    with open("done", "a") as done:
        done.write(".")

def produce(count):
    import os
    from redis import Redis
    from rq import Queue
    queue = Queue(connection=Redis.from_url(os.environ["REDIS"]))
    for n in range(count):
        queue.enqueue(noop, n)
"""
CELERY = """
import os
from celery import Celery
app = Celery("tasks", broker=os.environ["REDIS"])
app.conf.task_acks_late = True

@app.task
def noop(n):
    with open("done", "a") as done:
        done.write(".")

def produce(count):
    for n in range(count):
        noop.delay(n)
"""
DJANGO = """
import importlib
import importlib.util
import django
from django.conf import settings

# Django 6 has it; for those before, django-tasks-db brings the package django_tasks.
TASKS = "django.tasks" if importlib.util.find_spec("django.tasks") else "django_tasks"

settings.configure(
    SECRET_KEY="bench",
    USE_TZ=True,
    INSTALLED_APPS=["django_tasks_db", *([TASKS] if TASKS == "django_tasks" else [])],
    DATABASES={"default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": "django.db",
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 30,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL",
        },
    }},
    TASKS={"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}},
)
django.setup()
from django.core.management import call_command
task = importlib.import_module(TASKS).task

@task
def noop(n):
    with open("done", "a") as done:
        done.write(".")

def work():
    call_command("db_worker", verbosity=0)

def produce(count):
    call_command("migrate", verbosity=0)
    for n in range(count):
        noop.enqueue(n)
"""

Peer = Callable[[Path, Path, int, str], float]


def measure_ours(folder: Path, python: Path, tasks: int, redis: str) -> float:
    (folder / "instance").mkdir()
    server = Server(folder / "instance")
    server.environment.pop("TASKMANAGER_SQLITE_SYNCHRONOUS", None)
    server.start()
    try:
        body = {"name": "noop", "version": "1", "param_schema": {"type": "object"}}
        server.call("POST", "/api/task-types/register", body)
        for start in range(0, tasks, 1_000):
            some = [
                {"type": "noop", "params": {"n": n}}
                for n in range(start, min(start + 1_000, tasks))
            ]
            server.call("POST", "/api/tasks/batch", {"tasks": some})
        environment = {
            "TASKMANAGER_URL": server.url,
            "TASKMANAGER_KEY": server.key,
            "PYTHONPATH": str(PYTHON),
            "PROCESSES": str(PROCESSES),
        }
        return _timed(folder, [[sys.executable, "tasks.py"]], tasks, environment)
    finally:
        server.stop()


def measure_huey(folder: Path, python: Path, tasks: int, redis: str) -> float:
    _produce(folder, python, tasks, redis)
    consumer = python.parent / "huey_consumer"
    if not consumer.exists():
        consumer = python.parent / "huey_consumer.py"
    command = [str(consumer), "tasks.huey", "-w", str(PROCESSES), "-k", "process"]
    return _timed(folder, [command], tasks, {"PYTHONPATH": str(folder)})


def measure_rq(folder: Path, python: Path, tasks: int, redis: str) -> float:
    _produce(folder, python, tasks, redis)
    command = [str(python.parent / "rq"), "worker", "--burst", "--quiet", "--url", redis]
    return _timed(folder, [command] * PROCESSES, tasks, {"PYTHONPATH": str(folder)})


def measure_celery(folder: Path, python: Path, tasks: int, redis: str) -> float:
    _produce(folder, python, tasks, redis)
    command = [str(python.parent / "celery"), "-A", "tasks", "worker", "-c", str(PROCESSES)]
    environment = {"PYTHONPATH": str(folder), "REDIS": redis}
    return _timed(folder, [[*command, "--loglevel", "ERROR"]], tasks, environment)


def measure_django(folder: Path, python: Path, tasks: int, redis: str) -> float:
    _produce(folder, python, tasks, redis)
    command = [str(python), "-c", "import tasks; tasks.work()"]
    return _timed(folder, [command] * PROCESSES, tasks, {})


PEERS: dict[str, tuple[str, str, Peer]] = {
    "ours": ("TaskManager, SQLite FULL, over HTTP", OURS, measure_ours),
    "huey": ("huey, SQLite with fsync", HUEY, measure_huey),
    "rq": ("RQ, Redis", RQ, measure_rq),
    "celery": ("Celery, Redis, acks late", CELERY, measure_celery),
    "django": ("django-tasks-db, SQLite FULL", DJANGO, measure_django),
}


def _produce(folder: Path, python: Path, tasks: int, redis: str) -> None:
    environment = {**os.environ, "REDIS": redis, "PYTHONPATH": str(folder)}
    command = [str(python), "-c", f"import tasks; tasks.produce({tasks})"]
    subprocess.run(command, cwd=folder, env=environment, check=True)


def _timed(
    folder: Path, commands: list[list[str]], tasks: int, environment: dict[str, str]
) -> float:
    """Tasks a second, from the first one done to the last."""
    done = folder / "done"
    log = (folder / "log").open("w")
    workers = [
        subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        for command in commands
    ]
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        began, count_at_begin = 0.0, 0
        while True:
            count = done.stat().st_size if done.exists() else 0
            if count and not began:
                began, count_at_begin = time.perf_counter(), count
            if count >= tasks:
                return (count - count_at_begin) / (time.perf_counter() - began)
            if time.monotonic() > deadline:
                raise SystemExit(f"{count} of {tasks} tasks: {(folder / 'log').read_text()}")
            time.sleep(0.005)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            try:
                worker.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(worker.pid, 9)
                worker.wait(15)
        log.close()


@contextlib.contextmanager
def _redis() -> Iterator[str]:
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("redis-server is not installed.")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--port", str(port), "--dir", folder, "--save", ""]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            time.sleep(0.5)
            try:
                yield f"redis://127.0.0.1:{port}/0"
            finally:
                server.terminate()


def _environment(folder: Path) -> Path:
    """The interpreter of an environment that has the other queues."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, *PACKAGES], check=True)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(PEERS), help="comma-separated")
    parser.add_argument("--environment", type=Path, help="a folder to keep the others in")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    rates: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as temporary:
        python = Path(sys.executable)
        if names != ["ours"]:
            python = _environment(arguments.environment or Path(temporary) / "environment")
        for number in range(arguments.rounds):
            for name in names:
                folder = Path(temporary) / f"{name}-{number}"
                folder.mkdir()
                _, program, measure = PEERS[name]
                (folder / "tasks.py").write_text(program, encoding="utf-8")
                with _redis() as redis:
                    rates[name].append(measure(folder, python, arguments.tasks, redis))
                print(f"round {number + 1}: {name} {rates[name][-1]:.0f}/s", file=sys.stderr)
    if arguments.json:
        json.dump(rates, sys.stdout, indent=2)
        return
    print(f"{'tasks a second':40}{'median':>8}{'least':>8}{'most':>8}{'ours is':>9}")
    ours = statistics.median(rates["ours"]) if "ours" in rates else None
    for name, each in rates.items():
        median = statistics.median(each)
        ratio = f"{ours / median:>8.2f}x" if ours else ""
        print(f"{PEERS[name][0]:40}{median:>8.0f}{min(each):>8.0f}{max(each):>8.0f}{ratio}")


if __name__ == "__main__":
    main()
