"""The demo: starts the server, creates keys and tasks, runs the workers, checks the figures."""

import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from taskmanager.demo import figures, files, producer
from taskmanager.demo.http_client import HttpClient, ServiceError
from taskmanager.demo.processes import (
    SIGNALS,
    ProcessFailed,
    Server,
    WorkerProcess,
    uninterrupted,
)
from taskmanager.demo.progress import Progress, say
from taskmanager.demo.worker import TASKS_PER_CLAIM

WORKERS = 2
POLL_SECONDS = 0.2
STOPPED = 130  # the exit status of a command that was stopped with Ctrl-C


def run_demo(folder: Path | None, *, keep: bool) -> int:
    """Runs the demo and returns the exit status: 0 only if every figure adds up."""
    for stream in (sys.stdout, sys.stderr):
        # A file name that this terminal cannot show must not stop the demo.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    for number in SIGNALS:
        signal.signal(number, _stop)
    try:
        return _run(folder, keep=keep)
    except KeyboardInterrupt:
        say("Stopped. The server and the workers have ended, and no files are left.")
        return STOPPED
    except (ProcessFailed, ServiceError) as error:
        say(f"taskmanager demo: {error}")
        return 1


def _stop(*_: object) -> None:
    """The first signal raises KeyboardInterrupt. Later ones are ignored, so cleanup completes."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _run(folder: Path | None, *, keep: bool) -> int:
    # Absolute, so that the workers find it, but not resolved: it may be a link on purpose.
    where = (folder or files.STANDARD_LIBRARY).absolute()
    excluded = () if folder else files.NOT_STANDARD_LIBRARY
    paths, skipped = files.find_files(where, leave_out=excluded)
    say(f"{len(paths):,} files under {figures.printable(str(where))}")
    for reason, number in skipped.items():
        say(f"    skipped: {number:,} ({reason})")
    with contextlib.ExitStack() as stack:
        with uninterrupted():
            temporary = tempfile.TemporaryDirectory(prefix="taskmanager-demo-")
            place = Path(stack.enter_context(temporary))
            server = Server(place)
            stack.callback(server.stop)
        try:
            keys = _create_keys(server)
            say(f"The server runs on {server.url}, with SQLite in a temporary folder.")
            counted = _measure(server, keys, place, where, paths)
        except ServiceError:
            if server.is_running():
                raise
            raise ProcessFailed(server.how_it_ended()) from None
        status = _print_summary(counted)
        if keep:
            _keep_running(server)
        return status


def _measure(
    server: Server, keys: dict[str, str], place: Path, folder: Path, paths: list[str]
) -> figures.Figures:
    with server.client(keys["producer"]) as enqueuer, server.client(keys["viewer"]) as viewer:
        return _figures(server, enqueuer, viewer, keys["worker"], place, folder, paths)


def _figures(
    server: Server,
    enqueuer: HttpClient,
    viewer: HttpClient,
    worker_key: str,
    place: Path,
    folder: Path,
    paths: list[str],
) -> figures.Figures:
    enqueuer.call("POST", "/api/task-types/register", producer.TASK_TYPE)

    progress = Progress("enqueue", len(paths))
    first = producer.enqueue(enqueuer, paths, progress, singles=producer.SINGLE_CREATES)
    enqueue_seconds = progress.finish()

    progress = Progress("work", len(paths))
    workers = []
    with contextlib.ExitStack() as stack:
        for number in range(1, WORKERS + 1):
            with uninterrupted():
                worker = WorkerProcess(f"worker-{number}", place, url=server.url, key=worker_key)
                stack.callback(worker.stop)
            workers.append(worker)
        _wait_until_done(server, viewer, workers, progress)
        work_seconds = progress.finish()

    progress = Progress("enqueue again", len(paths))
    second = producer.enqueue(enqueuer, paths, progress, singles=0)
    progress.finish()
    return figures.Figures(
        folder=str(folder),
        paths=set(paths),
        first_pass=first,
        second_pass=second,
        reports={worker.name: worker.report() for worker in workers},
        read_back=producer.read_back(viewer),
        statistics=viewer.call("GET", "/api/stats").data["by_status"],
        enqueue_seconds=enqueue_seconds,
        work_seconds=work_seconds,
    )


def _create_keys(server: Server) -> dict[str, str]:
    """Creates one key per role, without rate limits."""
    with server.client(server.admin_key) as admin:
        return {
            role: admin.call(
                "POST", "/api/admin/keys", {"name": f"demo {role}", "role": role, "rate_limit": "0"}
            ).data["key"]
            for role in ("producer", "worker", "viewer")
        }


def _wait_until_done(
    server: Server, viewer: HttpClient, workers: Sequence[WorkerProcess], progress: Progress
) -> None:
    """Polls the statistics until no task is left. Raises ProcessFailed."""
    running = list(workers)
    while True:
        answer = viewer.call("GET", "/api/stats")
        counts = answer.data["by_status"]
        progress.show(counts["completed"] + counts["failed"])
        if not sum(counts[status] for status in ("blocked", "scheduled", "pending", "claimed")):
            return
        for worker in [worker for worker in running if not worker.is_running()]:
            running.remove(worker)
            say(worker.how_it_ended())
            if running:
                say("The other worker takes over its tasks as soon as their leases expire.")
        if not running:
            raise ProcessFailed("No worker is left, so the remaining tasks will not be done.")
        if not server.is_running():
            raise ProcessFailed(server.how_it_ended())
        # Counting takes longer with more tasks, and must not slow down the server.
        time.sleep(max(POLL_SECONDS, 10 * answer.seconds))


def _print_summary(counted: figures.Figures) -> int:
    """Prints the summary and returns the exit status."""
    lines = figures.summary(counted, batch=producer.BATCH_TASKS, tasks_per_claim=TASKS_PER_CLAIM)
    print("", *lines, "", sep="\n")
    wrong = figures.problems(counted)
    for problem in wrong:
        print(f"DOES NOT ADD UP: {problem}")
    if not wrong:
        print("Every figure adds up.")
    sys.stdout.flush()
    return 1 if wrong else 0


def _keep_running(server: Server) -> None:
    """Waits for Ctrl-C, the normal way to stop."""
    print(
        f"\nThe server runs until you press Ctrl-C. Its address, and an admin key:\n"
        f"export URL={server.url}\nexport KEY={server.admin_key}",
        flush=True,
    )
    with contextlib.suppress(KeyboardInterrupt):
        while server.is_running():
            time.sleep(POLL_SECONDS)
        raise ProcessFailed(server.how_it_ended())
