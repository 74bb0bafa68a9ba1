"""The server, the proxy in front of it, and the driver of each language."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients.proxy import Proxy
from tests.conftest import require
from tests.support.server import Server

HERE = Path(__file__).parent
PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Driver:
    """One language: its program, the environment it needs, and the scenarios it cannot master."""

    program: str
    script: str
    environment: dict[str, str]
    types_left_out: tuple[str, ...] = ()
    error_code: str = "broken"  # of a permanent failure
    leases: int = 2  # how many lengths of leases it claims with, each in a call of its own


PYTHON = {"PYTHONPATH": str(HERE.parent.parent / "taskmanager" / "clients" / "python")}
DRIVERS = {
    "php": Driver("php", "worker.php", {}),
    # Where a host forbids processes: nothing can end a handler that does not end by itself.
    "php in one process": Driver("php", "worker.php", {"PROCESSES": "0"}, ("scenario.hang",)),
    "javascript": Driver("node", "worker.mjs", {}),
    "python": Driver(sys.executable, "worker.py", PYTHON),
    "python in one process": Driver(
        sys.executable, "worker.py", {**PYTHON, "PROCESSES": "0"}, ("scenario.hang",)
    ),
    # One timeout and one lease for all types.
    "command": Driver(
        sys.executable, "command.py", PYTHON, ("scenario.hang",), error_code="exit_65", leases=1
    ),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """How handlers are run does not depend on the database: that is tried on SQLite alone."""
    items[:] = [
        item for item in items if not ("in one process" in item.name and "mariadb" in item.name)
    ]


# Registered once for all scenarios.
TYPES = ("echo", "retry", "fail", "error", "slow", "long", "wait", "lease", "hang")


@pytest.fixture(scope="module", params=["sqlite", "mariadb"])
def queue(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    url = ""
    if request.param == "mariadb":
        url = request.getfixturevalue("mariadb_server").create_database("clients")
    server = Server(tmp_path_factory.mktemp("queue"), url)
    server.environment["TASKMANAGER_HEARTBEAT_SECONDS"] = "1"
    server.start()
    for name in TYPES:
        body = {"name": f"scenario.{name}", "version": "1", "param_schema": {"type": "object"}}
        assert server.call("POST", "/api/task-types/register", body).status == 201
    yield server
    server.kill()
    assert "Traceback" not in server.log()


@pytest.fixture
def proxy(queue: Server) -> Iterator[Proxy]:
    with Proxy(queue.url) as proxy:
        yield proxy


@pytest.fixture(params=list(DRIVERS))
def driver(request: pytest.FixtureRequest) -> Driver:
    chosen = DRIVERS[request.param]
    require(chosen.program, shutil.which(chosen.program) is not None)
    return chosen


class Worker:
    """A running driver; `notes` are the lines that its handlers have written."""

    def __init__(self, driver: Driver, proxy: Proxy, key: str, folder: Path, **more: str) -> None:
        self._notes = folder / "notes"
        self._log = folder / "log"
        environment = {"TASKMANAGER_URL": proxy.url, "TASKMANAGER_KEY": key}
        environment |= {"NOTES": str(self._notes), **driver.environment, **more}
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [driver.program, str(HERE / "drivers" / driver.script)],
                env=os.environ | environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    @property
    def notes(self) -> list[str]:
        return self._notes.read_text().split() if self._notes.exists() else []

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_for(self, what: Callable[[], Any]) -> Any:
        """The first value that is true. Fails with the worker's log where none comes."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (value := what()):
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)
        return value

    def end(self) -> str:
        """Waits until it ends by itself, with status 0. Returns what it printed."""
        output, _ = self.process.communicate(timeout=PATIENCE_SECONDS)
        assert self.process.returncode == 0, self.log
        return output

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def start(
    driver: Driver, proxy: Proxy, queue: Server, tmp_path: Path
) -> Iterator[Callable[..., Worker]]:
    """Starts a driver; variables of its environment are keywords."""
    workers: list[Worker] = []

    def run(**environment: str) -> Worker:
        workers.append(Worker(driver, proxy, queue.key, tmp_path, **environment))
        return workers[-1]

    yield run
    for worker in workers:
        worker.kill()


@pytest.fixture
def create(queue: Server) -> Iterator[Callable[..., int]]:
    """Creates a task of two attempts and returns its id. What is left of it is cancelled."""
    ids: list[int] = []

    def make(type_name: str, params: dict[str, Any] | None = None) -> int:
        body = {"type": type_name, "params": params or {}, "dedupe": "none", "max_attempts": 2}
        answer = queue.call("POST", "/api/tasks", body)
        assert answer.status == 201, answer.body
        ids.append(answer.data["id"])
        return ids[-1]

    yield make
    for task_id in ids:
        queue.call("POST", f"/api/tasks/{task_id}/cancel", {})
