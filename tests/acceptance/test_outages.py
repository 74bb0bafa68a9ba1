"""The database goes away: every call says so with 503, nothing is half done, and it comes back.

The same processes go on when the database is there again; nobody restarts anything.
"""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pymysql
import pytest

from taskmanager.app import create_app
from taskmanager.db.connection import close_connection
from taskmanager.db.statements import fetch_all
from tests.conftest import Api, make_key, require
from tests.support.mariadb import MariaDB, is_installed
from tests.support.server import Server

# One of each kind: reads, writes, and what a worker says.
CALLS: list[tuple[str, str, Any]] = [
    ("GET", "/api/tasks", None),
    ("GET", "/api/tasks/1", None),
    ("GET", "/api/tasks/1/logs", None),
    ("GET", "/api/task-types", None),
    ("GET", "/api/workers", None),
    ("GET", "/api/stats", None),
    ("GET", "/api/admin/keys", None),
    ("POST", "/api/task-types/register", {"name": "x", "version": "1", "param_schema": {}}),
    ("POST", "/api/tasks", {"type": "job", "params": {"late": True}}),
    ("POST", "/api/tasks/batch", {"tasks": [{"type": "job", "params": {"late": True}}]}),
    ("POST", "/api/tasks/claim", {"worker_id": "w"}),
    ("POST", "/api/tasks/1/complete", {"worker_id": "w", "success": True}),
    ("POST", "/api/tasks/1/cancel", {}),
    ("POST", "/api/workers/heartbeat", {"worker_id": "w"}),
    ("POST", "/api/maintenance/run", {}),
]
ADMIN_KEY = "the-key-of-the-tests-for-outages-0123456789"


def assert_unavailable(status: int, body: Any, headers: Any) -> None:
    assert status == 503, body
    assert body["success"] is False
    assert body["code"] == "database_unavailable"
    assert body["error"] == body["message"]
    assert int(headers["Retry-After"]) > 0
    for secret in ("Traceback", "sqlite3", "pymysql", "peewee", "SELECT", "127.0.0.1", "/"):
        assert secret not in body["message"]


def assert_refused(status: int, body: Any, headers: Any, code: str) -> None:
    """For good: no promise that trying again helps."""
    assert (status, body["code"]) == (503, code), body
    assert "Retry-After" not in headers


def assert_disconnected(status: int, body: Any) -> None:
    assert status == 503, body
    assert body["details"]["status"] == "unhealthy"
    assert body["details"]["database"] == "disconnected"


# MySQL, MariaDB


@pytest.fixture
def own_mariadb(tmp_path: Path) -> Iterator[MariaDB]:
    """A server that the test may stop; it keeps what it has confirmed."""
    require("MariaDB (mariadbd)", is_installed())
    server = MariaDB(tmp_path, durable=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def service(tmp_path: Path, own_mariadb: MariaDB) -> Iterator[Server]:
    """Not started yet; on an empty database."""
    folder = tmp_path / "instance"
    folder.mkdir()
    server = Server(folder, own_mariadb.create_database("queue"), workers=2, threads=2)
    yield server
    server.stop()
    assert "Traceback" not in server.log()


def test_a_stopped_mariadb_is_reported_and_the_same_processes_go_on_after_it(
    service: Server, own_mariadb: MariaDB
) -> None:
    service.start()
    make_job(service)
    task = service.call("POST", "/api/tasks", {"type": "job", "params": {}}).data
    own_mariadb.stop()

    for method, path, body in CALLS:
        assert_unavailable(*service.call(method, path, body))
    health = service.call("GET", "/api/health")
    assert_disconnected(health.status, health.body)

    own_mariadb.start()
    for _ in range(8):  # every thread of every process
        assert service.call("GET", "/api/health").status == 200
        assert service.call("GET", "/api/tasks?with_total=true").data["total"] == 1
    claimed = service.call("POST", "/api/tasks/claim", {"worker_id": "w"}).data
    assert (claimed["id"], claimed["attempts"]) == (task["id"], 1)


def make_job(service: Server) -> None:
    body = {"name": "job", "version": "1", "param_schema": {"type": "object"}}
    assert service.call("POST", "/api/task-types/register", body).status == 201


def test_connections_that_the_server_kills_are_replaced_unnoticed(
    service: Server, own_mariadb: MariaDB
) -> None:
    service.start()
    make_job(service)
    for number in range(10):
        created = service.call("POST", "/api/tasks", {"type": "job", "params": {"n": number}})
        kill_all_connections(own_mariadb)
        claimed = service.call("POST", "/api/tasks/claim", {"worker_id": "w"})
        kill_all_connections(own_mariadb)
        report = {"worker_id": "w", "claim_token": claimed.data["claim_token"], "success": True}
        done = service.call("POST", f"/api/tasks/{claimed.data['id']}/complete", report)
        kill_all_connections(own_mariadb)

        assert (created.status, claimed.status, done.status) == (201, 200, 200)
        assert "replayed" not in done.data or done.data["replayed"] is False
    events = service.call("GET", f"/api/tasks/{claimed.data['id']}/logs").data["logs"]
    assert [event["event"] for event in events] == ["created", "claimed", "completed"]


def kill_all_connections(server: MariaDB) -> None:
    connection = pymysql.connect(host="127.0.0.1", port=server.port, user="root", ssl_disabled=True)
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM information_schema.processlist WHERE db = 'queue' AND id <> "
            "CONNECTION_ID()"
        )
        for (number,) in cursor.fetchall():
            with contextlib.suppress(pymysql.err.OperationalError):  # it has just gone by itself
                cursor.execute(f"KILL {number}")


def test_a_server_that_allows_one_connection_per_thread_and_one_more_never_refuses_one(
    tmp_path: Path, own_mariadb: MariaDB
) -> None:
    own_mariadb.create_database("queue")
    # The fifth is for what the server does in the background.
    own_mariadb.run("CREATE USER few IDENTIFIED BY 'p' WITH MAX_USER_CONNECTIONS 5")
    own_mariadb.run("GRANT ALL ON queue.* TO few")
    folder = tmp_path / "instance"
    folder.mkdir()
    url = f"mysql://few:p@127.0.0.1:{own_mariadb.port}/queue"
    service = Server(folder, url, workers=2, threads=2)
    try:
        service.start()
        make_job(service)

        def work(number: int) -> set[int]:
            job = {"type": "job", "params": {}, "dedupe": "none"}
            claim = {"worker_id": f"w{number}"}
            return {
                service.call("POST", path, body).status
                for _ in range(20)
                for path, body in (("/api/tasks", job), ("/api/tasks/claim", claim))
            }

        with ThreadPoolExecutor(8) as clients:
            statuses = set().union(*clients.map(work, range(8)))
    finally:
        service.stop()
    assert statuses == {200, 201}


def test_a_service_started_before_its_database_begins_when_it_is_there(
    service: Server, own_mariadb: MariaDB
) -> None:
    own_mariadb.stop()
    service.key = ADMIN_KEY
    service.environment["TASKMANAGER_BOOTSTRAP_ADMIN_KEY"] = ADMIN_KEY
    service.start(health=503)
    for method, path, body in CALLS:
        assert_unavailable(*service.call(method, path, body))

    own_mariadb.start()
    make_job(service)
    assert service.call("POST", "/api/tasks", {"type": "job", "params": {}}).status == 201
    assert service.call("GET", "/api/health").status == 200


# SQLite


class Queue:
    """The service in process on a SQLite file of its own."""

    def __init__(self, file: Path, instance: Path) -> None:
        self.file = file
        application = create_app({"instance_path": instance, "database_url": f"sqlite:///{file}"})
        self.api = Api(application.test_client(), make_key("admin"))
        self.api.register()
        self.task = self.api.create()

    def assert_everything_is_unavailable(self, refused_with: str | None = None) -> None:
        for method, path, body in CALLS:
            response = self.api.call(method, path, body)
            answer = (response.status_code, response.get_json(), response.headers)
            if refused_with:
                assert_refused(*answer, refused_with)
            else:
                assert_unavailable(*answer)
        response = self.api.call("GET", "/api/health")
        assert_disconnected(response.status_code, response.get_json())

    def assert_everything_is_there(self) -> None:
        """The one task, untouched, and a healthy service."""
        assert self.api.get("/api/health")["status"] == "healthy"
        assert self.api.get("/api/tasks?with_total=true")["total"] == 1
        assert self.api.events(self.task["id"]) == ["created"]
        claimed = self.api.claim()
        assert claimed["id"] == self.task["id"]
        self.api.complete(claimed)
        assert fetch_all("PRAGMA integrity_check") == [{"integrity_check": "ok"}]


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    yield Queue(tmp_path / "queue.db", tmp_path / "instance")
    close_connection()


def put_garbage(file: Path) -> None:
    file.write_bytes(b"<html>This is not the file that you are looking for.</html>" * 1_000)


def put_nothing(file: Path) -> None:
    file.touch()


def put_a_folder(file: Path) -> None:
    file.mkdir()


def put_another_database(file: Path) -> None:
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('CREATE TABLE cats (name)')",
            str(file),
        ],
        check=True,
    )


def leave_it_missing(file: Path) -> None:
    assert not file.exists()


IN_ITS_PLACE: list[Callable[[Path], None]] = [
    put_garbage,
    put_nothing,
    put_a_folder,
    put_another_database,
    leave_it_missing,
]


@pytest.mark.parametrize("put_something_else", IN_ITS_PLACE)
def test_a_sqlite_file_that_was_moved_away_is_missed_until_it_is_back(
    queue: Queue, put_something_else: Callable[[Path], None]
) -> None:
    close_connection()  # what follows meets a process that opens the file anew
    away = queue.file.rename(queue.file.with_name("away.db"))
    put_something_else(queue.file)

    code = {put_garbage: "database_damaged", put_a_folder: "database_access_denied"}
    queue.assert_everything_is_unavailable(refused_with=code.get(put_something_else))

    if queue.file.is_dir():
        queue.file.rmdir()
    away.rename(queue.file)
    queue.assert_everything_is_there()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    require("A small file system (mount, which takes root)", mounted)
    yield folder
    close_connection()
    # What still lies open there goes with the process.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, name: str = "filler") -> Path:
    """Leaves no room; returns the file whose removal makes some."""
    filler = disk / name
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4_096))
    return filler


def test_a_full_disk_refuses_writes_loses_nothing_and_heals(small_disk: Path) -> None:
    queue = Queue(small_disk / "queue.db", small_disk / "instance")
    filler = fill(small_disk)

    made = 1
    for number in range(200):
        body = {"type": "job", "params": {"n": number, "text": "x" * 50_000}}
        response = queue.api.call("POST", "/api/tasks", body)
        if response.status_code != 201:
            break
        made += 1
    assert_refused(response.status_code, response.get_json(), response.headers, "database_full")
    assert "disk is full" in response.get_json()["message"]
    assert queue.api.get("/api/tasks?with_total=true")["total"] == made
    fill(small_disk, "rest")
    health = queue.api.call("GET", "/api/health")
    assert (health.status_code, health.get_json()["code"]) == (503, "database_full")
    assert health.get_json()["details"]["database"] == "connected"
    close_connection()
    assert queue.api.get("/api/tasks?with_total=true")["total"] == made

    filler.unlink()
    assert queue.api.get("/api/health")["status"] == "healthy"
    assert queue.api.call("POST", "/api/tasks", body).status_code == 201
    assert queue.api.get("/api/tasks?with_total=true")["total"] == made + 1
    assert fetch_all("PRAGMA integrity_check") == [{"integrity_check": "ok"}]
    logs = fetch_all("SELECT task_id FROM task_logs WHERE event = 'created'")
    assert len(logs) == made + 1


def test_a_batch_that_finds_the_disk_full_is_made_whole_or_not_at_all(small_disk: Path) -> None:
    queue = Queue(small_disk / "queue.db", small_disk / "instance")
    bodies = [{"type": "job", "params": {"n": n, "text": "x" * 5_000}} for n in range(150)]
    filler = fill(small_disk)

    response = queue.api.call("POST", "/api/tasks/batch", {"tasks": bodies})

    assert_refused(response.status_code, response.get_json(), response.headers, "database_full")
    filler.unlink()
    queue.assert_everything_is_there()


def test_a_disk_that_turned_read_only_refuses_writes_and_heals(
    small_disk: Path, tmp_path: Path
) -> None:
    queue = Queue(small_disk / "queue.db", tmp_path / "instance")
    close_connection()
    remount(small_disk, "ro")

    for method, path, body in CALLS:
        response = queue.api.call(method, path, body)
        if method == "POST" or response.status_code != 200:
            answer = (response.status_code, response.get_json(), response.headers)
            assert_refused(*answer, "database_access_denied")  # its log cannot be opened
    health = queue.api.call("GET", "/api/health")
    assert (health.status_code, health.get_json()["details"]["status"]) == (503, "unhealthy")

    close_connection()
    remount(small_disk, "rw")
    queue.assert_everything_is_there()


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


HOLD_THE_WRITE_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
"""


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_while_a_stranger_holds_the_write_lock_reads_go_on_and_writes_are_refused(
    start_server: Callable[..., Server], fresh_database_url: str
) -> None:
    server = start_server(workers=2, threads=4)
    make_job(server)
    file = fresh_database_url.removeprefix("sqlite:///")
    stranger = subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_WRITE_LOCK, file],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert stranger.stdout is not None
    assert stranger.stdout.readline() == "held\n"

    def create(number: int) -> Any:
        return server.call("POST", "/api/tasks", {"type": "job", "params": {"n": number}})

    with ThreadPoolExecutor(4) as writers:
        refused = [writers.submit(create, number) for number in range(3)]
        assert server.call("GET", "/api/health").status == 200
        reads = 0
        while not all(answer.done() for answer in refused):
            assert server.call("GET", "/api/tasks").status == 200
            assert server.call("POST", "/api/tasks/claim", {"worker_id": "w"}).status == 404
            reads += 1
        for answer in refused:
            assert_unavailable(*answer.result())
        assert reads > 10

        patient = writers.submit(create, 99)
        assert server.call("GET", "/api/tasks").data["count"] == 0
        stranger.communicate("let go\n")
        assert patient.result().status == 201
    assert create(1).status == 201
    assert server.call("GET", "/api/tasks?with_total=true").data["total"] == 2
    assert "Traceback" not in server.log()
