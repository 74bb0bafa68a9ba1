"""`taskmanager-worker`: makes any program a worker.

The program is started for each task. It gets the params as JSON on stdin, and in its environment
TASKMANAGER_TASK_ID, _TYPE, _ATTEMPT and _MAX_ATTEMPTS. What it prints is the result: JSON, or else
a text. Exit status 0 is success, 75 asks for another attempt (EX_TEMPFAIL), 65 says that no other
attempt would help (EX_DATAERR). With 75 and any other status the attempt has failed: the code is
exit_N, and the end of what it printed to stderr the error. A line such as "50 half way", written
to the descriptor that TASKMANAGER_PROGRESS_FD names, reports progress.
"""

from __future__ import annotations

import argparse
import contextlib
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
from collections.abc import Iterator, Sequence
from typing import IO, Any

from taskmanager_client.client import Client
from taskmanager_client.errors import ClientError, Fail, Retry
from taskmanager_client.slots import how_it_ended
from taskmanager_client.task import HeldTask
from taskmanager_client.worker import Worker

NEVER_AGAIN = 65  # EX_DATAERR in sysexits.h
TAIL_BYTES = 8_000
MAX_RESULT_BYTES = 1_000_000
KILL_SECONDS = 2.0  # after SIGTERM; the worker gives the program up soon after
POLL_SECONDS = 0.05
_PROGRESS = re.compile(r"\s*(\d{1,3})(?:\s+(.*))?")
_IS_POSIX = os.name == "posix"


def main(arguments: Sequence[str] | None = None, *, program: str = "taskmanager-worker") -> int:
    """Runs the worker; returns the exit status: 0 done, 1 failed. Exits with 2 for wrong usage."""
    options = _parser(program).parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        _parser(program).error("say which program to run, after --")
    if shutil.which(command[0]) is None:
        _parser(program).error(f"there is no program {command[0]!r}")
    url = options.url or os.environ.get("TASKMANAGER_URL")
    key = options.key or os.environ.get("TASKMANAGER_KEY")
    if not url or not key:
        _parser(program).error(
            "--url and --key (or TASKMANAGER_URL and TASKMANAGER_KEY) are missing"
        )
    with _only_one(url, options) as is_alone:
        if not is_alone:
            return 0
        try:
            worker = Worker(
                Client(url, key),
                concurrency=options.concurrency,
                processes=False,
                grace=options.grace,
                log=_log,
            )
            if sys.stderr.isatty():
                threading.Thread(target=_show_progress, args=(worker,), daemon=True).start()
            for name in options.type:
                worker.task(name, lease_seconds=options.lease, timeout=options.timeout)(
                    lambda task: run_program(command, task)
                )
            worker.run(
                burst=options.burst, max_tasks=options.max_tasks, max_runtime=options.max_runtime
            )
        except (ClientError, ValueError) as error:
            print(f"{program}: {error}", file=sys.stderr)
            return 1
    return 0


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"{program} --url URL --type TYPE [options] -- COMMAND [ARGUMENT ...]",
        description="Runs a program for each task: params on stdin, result from stdout. "
        "Exit status 0 is success, 75 try again, 65 never again, any other failure.",
    )
    add = parser.add_argument
    add("--url", metavar="URL", help="address of the server; default: TASKMANAGER_URL")
    add(
        "--key", metavar="KEY", help="API key; better in TASKMANAGER_KEY, where ps does not show it"
    )
    add("--type", metavar="TYPE", action="append", required=True, help="task type; repeatable")
    add(
        "--concurrency", metavar="N", type=_positive, default=1, help="programs at once; default: 1"
    )
    add("--burst", action="store_true", help="end once nothing is left to claim")
    add("--max-tasks", metavar="N", type=_positive, help="end after so many tasks")
    add("--max-runtime", metavar="S", type=float, help="claim nothing more after so many seconds")
    add("--timeout", metavar="S", type=float, help="end a program after so many seconds")
    add("--lease", metavar="S", type=_positive, help="seconds of a lease; default: the type's")
    add("--grace", metavar="S", type=float, default=30, help="seconds to end in; default: 30")
    add("command", metavar="COMMAND", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


@contextlib.contextmanager
def _only_one(url: str, options: argparse.Namespace) -> Iterator[bool]:
    """With --burst, for cron: False where the same worker of the line before still works."""
    if not options.burst or not _IS_POSIX:
        yield True
        return
    import fcntl
    import hashlib

    what = json.dumps([url, options.type, options.command])
    name = f"taskmanager-worker-{os.getuid()}-{hashlib.sha256(what.encode()).hexdigest()[:16]}.lock"
    # Not followed: the folder is everybody's.
    flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(os.path.join(tempfile.gettempdir(), name), flags, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


def run_program(command: Sequence[str], task: HeldTask) -> Any:
    """Runs the program for a task; returns its result. Raises Retry and Fail."""
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout:
        with tempfile.TemporaryFile() as stderr:
            stdin.write(json.dumps(task.params, ensure_ascii=False).encode())
            stdin.seek(0)
            status = _run(command, task, stdin, stdout, stderr)
            stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - TAIL_BYTES))
            error = stderr.read().decode(errors="replace").strip()
        if status == 0:
            return _result_of(stdout)
    message = error or f"The program {how_it_ended(status)}."
    if len(lines := message.splitlines()) > 1:
        message = f"{lines[-1]}\n\n{message}"  # what went wrong is said last
    if status == NEVER_AGAIN:
        raise Fail(_code_of(status), message)
    raise Retry(message, code=_code_of(status))


def _run(
    command: Sequence[str], task: HeldTask, stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes]
) -> int:
    environment = {
        **os.environ,
        "TASKMANAGER_TASK_ID": str(task.id),
        "TASKMANAGER_TYPE": task.type,
        "TASKMANAGER_ATTEMPT": str(task.attempt),
        "TASKMANAGER_MAX_ATTEMPTS": str(task.max_attempts),
    }
    environment.pop("TASKMANAGER_KEY", None)  # the program's task is not the queue's business
    more: dict[str, Any] = {}
    reader = writer = None
    if _IS_POSIX:
        reader, writer = os.pipe()
        environment["TASKMANAGER_PROGRESS_FD"] = str(writer)
        more = {"pass_fds": (writer,), "start_new_session": True}
    try:
        process = subprocess.Popen(  # noqa: S603 - without a shell, and the user's own program
            command, stdin=stdin, stdout=stdout, stderr=stderr, env=environment, **more
        )
    finally:
        if writer is not None:
            os.close(writer)
    if reader is not None:
        threading.Thread(target=_follow, args=(reader, task), daemon=True).start()
    return _wait(process, task)


def _wait(process: subprocess.Popen[bytes], task: HeldTask) -> int:
    """The exit status. Ends the program, and what it has started, where the task is to stop."""
    kill_at = None
    while True:
        try:
            return process.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        if task.must_end and kill_at is None:
            kill_at = time.monotonic() + KILL_SECONDS
            _signal(process, signal.SIGTERM)
        elif kill_at is not None and time.monotonic() > kill_at:
            _signal(process, signal.SIGKILL if _IS_POSIX else signal.SIGTERM)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    if _IS_POSIX:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
    else:
        process.terminate()


def _follow(reader: int, task: HeldTask) -> None:
    with open(reader, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if (found := _PROGRESS.fullmatch(line.rstrip("\n"))) and int(found[1]) <= 100:
                task.progress(int(found[1]), found[2])


def _result_of(stdout: IO[bytes]) -> Any:
    if stdout.seek(0, os.SEEK_END) > MAX_RESULT_BYTES:
        raise Fail("result_too_large", f"The program printed more than {MAX_RESULT_BYTES} bytes.")
    stdout.seek(0)
    text = stdout.read().decode(errors="replace").strip()
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


def _code_of(status: int) -> str:
    if status >= 0:
        return f"exit_{status}"
    try:
        return f"killed_{signal.Signals(-status).name}"
    except ValueError:
        return f"killed_{-status}"


def _log(line: str) -> None:
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(f"{clear}{line}", file=sys.stderr, flush=True)


def _show_progress(worker: Worker) -> None:
    """On a terminal, the last line says what is going on."""
    started = time.monotonic()
    while True:
        time.sleep(1)
        done = worker.completed + worker.failed
        rate = done / (time.monotonic() - started)
        line = f"{worker.held} held, {worker.completed} done, {worker.failed} failed, {rate:.1f}/s"
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)


def run() -> None:
    """What the command `taskmanager-worker` starts."""
    sys.exit(main())


if __name__ == "__main__":
    run()
