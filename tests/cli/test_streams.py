"""Commands whose streams are closed or cannot be written: a process each."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support.ports import free_port

pytestmark = pytest.mark.slow


def run(folder: Path, line: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a line of the shell, in which $T is `taskmanager`, on the queue in `folder`."""
    return subprocess.run(
        ["sh", "-c", line],
        env={
            **os.environ,
            "T": f"{sys.executable} -m taskmanager",
            "TASKMANAGER_INSTANCE_PATH": str(folder),
            "TASKMANAGER_DATABASE_URL": "",
            **variables,
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "command",
    ["stats", "stats --json", "openapi", "doctor", "doctor --json", "init-db --print", "--help"],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_result_that_cannot_be_written_is_told_in_one_line(
    tmp_path: Path, command: str, unbuffered: str
) -> None:
    run(tmp_path, "$T init-db")
    failed = run(tmp_path, f"$T {command} >/dev/full", PYTHONUNBUFFERED=unbuffered)
    told = "taskmanager: The output cannot be written: No space left on device.\n"
    assert (failed.returncode, failed.stderr) == (1, told)


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_keep_no_command_from_its_work(tmp_path: Path, streams: str) -> None:
    for command in ("init-db", "keys create --name n --role admin", "stats", "maintain"):
        done = run(tmp_path, f"$T {command} {streams}")
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "n" in run(tmp_path, "$T keys list").stdout
    assert "Traceback" not in run(tmp_path, f"$T doctor {streams}").stderr


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    assert run(tmp_path, "$T openapi | head -c 1").stderr == ""
    assert run(tmp_path, "$T doctor | true").stderr == ""


@pytest.mark.parametrize(
    ("host", "shown"), [("::1", "[::1]"), ("[::1]", "[::1]"), ("127.0.0.1", "127.0.0.1")]
)
def test_serve_works_with_closed_streams_and_prints_an_address_to_open(
    tmp_path: Path, host: str, shown: str
) -> None:
    port = free_port()
    address = f"http://{shown}:{port}"
    log = tmp_path / "log"
    serve = f"{sys.executable} -m taskmanager serve --workers 1 --host {host} --port {port}"
    line = f"exec {serve} >&- 2>{log}"
    environment = {**os.environ, "TASKMANAGER_INSTANCE_PATH": str(tmp_path / "i")}
    server = subprocess.Popen(
        ["sh", "-c", line], env={**environment, "TASKMANAGER_DATABASE_URL": ""}
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"{address}/api/health") as answer:
                    assert answer.status == 200
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert f"is listening on {address} (" in log.read_text()
        assert "Traceback" not in log.read_text()
        again = run(tmp_path / "i", f"$T serve --host {host} --port {port}")
        assert f"taskmanager: Cannot listen on {shown}:{port}: " in again.stderr
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
