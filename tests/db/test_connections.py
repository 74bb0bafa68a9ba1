"""Connections to MySQL and MariaDB: how many there are, for how long, and what may befall them."""

import contextlib
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import peewee
import pymysql
import pytest
from cryptography.fernet import Fernet
from flask import Flask

from taskmanager.app import close_app, create_app
from taskmanager.db.connection import (
    close_connection,
    connect_database,
    database,
    release_connection,
)
from taskmanager.db.mysql import engine
from taskmanager.db.mysql.nodes import Node, Nodes
from taskmanager.db.mysql.pool import IdleConnections
from taskmanager.db.statements import execute, fetch_one
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import ConfigurationError, DatabaseUnavailable
from tests.conftest import Api, make_key, require
from tests.support.mariadb import MariaDB, is_installed
from tests.support.releases.current import ROOT

pytestmark = pytest.mark.slow

THREADS = 4
JOB = {"type": "job", "params": {}, "dedupe": "none"}


class Authority:
    """Signs a certificate for the address 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        require("openssl", shutil.which("openssl") is not None)
        folder.mkdir()
        self.file = folder / "ca.pem"
        self.key = folder / "server.key"
        self.certificate = folder / "server.pem"
        (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
        new = ["req", "-newkey", "rsa:2048", "-nodes"]
        self._openssl(
            [*new, "-x509", "-days", "2", "-subj", "/CN=Test authority"],
            ["-keyout", str(folder / "ca.key"), "-out", str(self.file)],
        )
        self._openssl(
            [*new, "-subj", "/CN=database"],
            ["-keyout", str(self.key), "-out", str(folder / "request")],
        )
        self._openssl(
            ["x509", "-req", "-days", "2", "-in", str(folder / "request")],
            ["-CA", str(self.file), "-CAkey", str(folder / "ca.key"), "-CAcreateserial"],
            ["-extfile", str(folder / "names"), "-out", str(self.certificate)],
        )

    def _openssl(self, *parts: list[str]) -> None:
        command = ["openssl", *(argument for part in parts for argument in part)]
        subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "right")


@pytest.fixture(scope="module")
def server(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDB]:
    """A server of our own: it encrypts, has another address too, and the tests change its ways."""
    require("MariaDB (mariadbd)", is_installed())
    own = MariaDB(
        tmp_path_factory.mktemp("mariadb"),
        options=[
            "--bind-address=0.0.0.0",
            f"--ssl-cert={authority.certificate}",
            f"--ssl-key={authority.key}",
        ],
    )
    own.start()
    yield own
    own.stop()


@pytest.fixture
def url(server: MariaDB) -> Iterator[str]:
    yield server.create_database("queue")
    close_connection()


@pytest.fixture
def start(url: str, tmp_path: Path) -> Callable[..., Flask]:
    def start(database_url: str = url, **settings: Any) -> Flask:
        return create_app({"instance_path": tmp_path, "database_url": database_url, **settings})

    return start


def use(app: Flask) -> Api:
    """Its API with an admin key and a type `job`; no connection is left open."""
    api = Api(app.test_client(), make_key("admin", rate_limit="0"))
    api.register()
    close_connection()
    return api


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def connection_id() -> int:
    row = fetch_one("SELECT CONNECTION_ID() AS id")
    assert row is not None
    return int(row["id"])


# How many, for how long.


def test_after_the_start_no_connection_is_open(
    start: Callable[..., Flask], server: MariaDB
) -> None:
    start()
    wait_until(lambda: server.connections_to("queue") == [])
    assert server.connections_to("queue") == []


def test_requests_that_follow_one_another_share_a_connection(
    start: Callable[..., Flask], server: MariaDB
) -> None:
    api = use(start())
    api.get("/api/tasks")
    before = server.connections_to("queue")
    with ThreadPoolExecutor(1) as other_thread:
        other_thread.submit(api.create).result()
    api.claim()

    assert len(before) == 1
    assert server.connections_to("queue") == before


def test_a_connection_that_nobody_uses_is_closed(
    start: Callable[..., Flask], server: MariaDB
) -> None:
    api = use(start(database_idle_seconds=1))
    api.create()
    first = server.connections_to("queue")
    wait_until(lambda: server.connections_to("queue") == [])

    api.claim()
    assert len(first) == 1
    assert set(server.connections_to("queue")).isdisjoint(first)


def test_with_zero_seconds_it_is_closed_after_each_request(
    start: Callable[..., Flask], server: MariaDB
) -> None:
    api = use(start(database_idle_seconds=0))
    for _ in range(3):
        api.create()
        assert database.is_closed()
        wait_until(lambda: server.connections_to("queue") == [])


def test_a_connection_in_a_transaction_is_not_closed_however_long_it_takes(
    url: str, server: MariaDB
) -> None:
    connect_database(url, idle_seconds=0.05)
    execute("CREATE TABLE things (id INT)")

    @write_transaction
    def slow() -> int:
        before = connection_id()
        execute("INSERT INTO things VALUES (1)")
        release_connection()  # not within a transaction
        with ThreadPoolExecutor(1) as other:
            idle = other.submit(released).result()
        wait_until(lambda: idle not in server.connections_to("queue"))
        assert connection_id() == before
        return before

    def released() -> int:
        number = connection_id()
        release_connection()
        return number

    assert slow() in server.connections_to("queue")
    assert fetch_one("SELECT COUNT(*) AS n FROM things") == {"n": 1}


def test_there_are_never_more_connections_than_threads(
    start: Callable[..., Flask], url: str, server: MariaDB
) -> None:
    api = use(start())
    server.run("CREATE OR REPLACE USER few IDENTIFIED BY 'p' WITH MAX_USER_CONNECTIONS 4")
    server.run("GRANT ALL ON queue.* TO few")
    app = start(url.replace("root@", "few:p@"))
    server.run("FLUSH STATUS")
    before = len(server.rows("SHOW PROCESSLIST")) - 1

    def work(number: int) -> set[int]:
        api_of_thread = Api(app.test_client(), api.key)
        statuses = set()
        for _ in range(25):
            created = api_of_thread.call("POST", "/api/tasks", JOB)
            claimed = api_of_thread.call("POST", "/api/tasks/claim", {"worker_id": f"w{number}"})
            statuses |= {created.status_code, claimed.status_code}
        return statuses

    with ThreadPoolExecutor(THREADS) as threads:
        statuses = set().union(*threads.map(work, range(THREADS)))

    assert statuses <= {200, 201}
    ((_, most),) = server.rows("SHOW GLOBAL STATUS LIKE 'Max_used_connections'")
    assert int(most) - before <= THREADS + 1, "one more is the administrator's"


def test_a_forked_child_leaves_the_connections_of_its_parent_alone(
    url: str, server: MariaDB
) -> None:
    script = """
import os, sys
from taskmanager.db.connection import connect_database, release_connection
from taskmanager.db.statements import fetch_one
from taskmanager.db.transactions import write_transaction

def number():
    return fetch_one("SELECT CONNECTION_ID() AS id")["id"]

connect_database(sys.argv[1])
idle = number()
release_connection()
if os.fork() == 0:
    status = 1
    try:
        status = 0 if number() != idle else 2
    finally:
        os._exit(status)
_, status = os.wait()
assert status == 0, status
assert number() == idle
"""
    command = [sys.executable, "-c", script, url]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0


# What may befall them.


def test_connections_that_the_server_dropped_are_replaced_unnoticed(
    start: Callable[..., Flask], server: MariaDB
) -> None:
    api = use(start())
    server.run("SET GLOBAL wait_timeout = 1")
    try:
        for call in (api.create, lambda: api.get("/api/tasks"), api.claim):
            wait_until(lambda: server.connections_to("queue") == [])
            call()
            assert len(server.connections_to("queue")) == 1
    finally:
        server.run("SET GLOBAL wait_timeout = 28800")


def test_several_that_were_dropped_cost_one_request_no_more_than_one_did(
    start: Callable[..., Flask], server: MariaDB
) -> None:
    app = start()
    api = use(app)
    all_at_work = threading.Barrier(THREADS)

    def read(_: int) -> None:
        connection_id()
        all_at_work.wait(30)
        release_connection()

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(read, range(THREADS)))
    assert len(server.connections_to("queue")) == THREADS
    kill_all(server)

    api.get("/api/tasks")
    wait_until(lambda: len(server.connections_to("queue")) == 1)


def test_one_that_another_thread_puts_back_at_that_moment_is_not_tried_either(
    url: str, server: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect_database(url)
    connection_id()
    of_another_thread = pymysql.connect(
        host="127.0.0.1", port=server.port, user="root", database="queue"
    )
    kill_all(server)
    close_all = IdleConnections.close_all

    def close_all_but_one(idle: IdleConnections) -> None:
        close_all(idle)
        idle.put(of_another_thread)

    with monkeypatch.context() as patch:
        patch.setattr(IdleConnections, "close_all", close_all_but_one)
        assert fetch_one("SELECT 1 AS one") == {"one": 1}


def kill_all(server: MariaDB) -> None:
    for number in server.connections_to("queue"):
        with contextlib.suppress(pymysql.err.OperationalError):  # it has just gone by itself
            server.run(f"KILL {number}")


def test_kills_while_requests_run_leave_nothing_half_done(
    start: Callable[..., Flask], server: MariaDB
) -> None:
    app = start()
    api = use(app)
    made: list[int] = []
    refused: list[Any] = []
    other: list[Any] = []

    def work(number: int) -> None:
        mine = Api(app.test_client(), api.key)
        for _ in range(40):
            answer = mine.call("POST", "/api/tasks", JOB)
            if answer.status_code == 201:
                made.append(answer.get_json()["data"]["id"])
            elif answer.status_code == 503:
                refused.append(answer.headers["Retry-After"])
            else:
                other.append(answer.get_json())

    killed = 0
    with ThreadPoolExecutor(THREADS) as threads:
        work_of_threads = [threads.submit(work, number) for number in range(THREADS)]
        while not all(done.done() for done in work_of_threads):
            killed += len(server.connections_to("queue"))
            kill_all(server)
        for done in work_of_threads:
            done.result()

    assert other == []
    assert killed > THREADS
    rows = {number for (number,) in server.rows("SELECT id FROM queue.tasks")}
    logs = [number for (number,) in server.rows("SELECT task_id FROM queue.task_logs")]
    assert sorted(logs) == sorted(rows), "each task and its history, or neither"
    assert set(made) <= rows
    # A connection that was lost during COMMIT: nobody can know, and the caller was told so.
    assert len(rows) - len(made) <= len(refused)


def test_a_start_that_is_refused_leaves_no_connection(
    start: Callable[..., Flask], server: MariaDB
) -> None:
    """passenger_wsgi.py tries again every second, and hosts allow few connections."""
    app = start(payload_key=Fernet.generate_key().decode())
    use(app).register("secret", is_encrypted=True)
    close_app(app)
    with pytest.raises(ConfigurationError, match="'secret' are to be encrypted"):
        start()
    assert server.connections_to("queue") == []


@pytest.mark.parametrize(
    "command",
    [
        *(["-m", "taskmanager", name] for name in ("init-db", "stats", "maintain", "doctor")),
        ["-c", "import passenger_wsgi as app; app.application.test_client().get('/api/health')"],
    ],
    ids=lambda command: command[-1][:8],
)
def test_a_process_that_ends_says_goodbye_to_the_server(
    command: list[str], url: str, server: MariaDB, tmp_path: Path
) -> None:
    """MariaDB writes a line to its log for each connection that is only dropped."""
    before = server.aborted_clients()
    settings = {"TASKMANAGER_DATABASE_URL": url, "TASKMANAGER_INSTANCE_PATH": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=os.environ | settings, capture_output=True
    )
    wait_until(lambda: server.connections_to("queue") == [])
    assert b"Traceback" not in run.stderr
    assert server.aborted_clients() == before


def test_a_long_change_of_the_tables_has_a_connection_of_its_own(url: str) -> None:
    connect_database(url)
    usual = connection_id()
    release_connection()

    with database.patient():
        own = connection_id()
        release_connection()
        again = connection_id()

    assert len({usual, own, again, connection_id()}) == 4


def test_a_connection_whose_session_could_not_be_set_up_is_not_used(
    url: str, server: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect_database(url)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "SESSION", "SET SESSION nonsense")
        with pytest.raises(peewee.ProgrammingError):
            execute("SELECT 1")
        assert database.is_closed()
        release_connection()

    row = fetch_one("SELECT @@sql_mode AS mode")
    assert row is not None
    assert "STRICT_ALL_TABLES" in row["mode"]


# Encryption.


@contextlib.contextmanager
def contexts_that_are_made() -> Iterator[list[str]]:
    """What of the module ssl is called to make a context, by this thread."""
    made: list[str] = []

    def watch(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        makes = code.co_name in ("create_default_context", "__new__")
        if event == "call" and makes and code.co_filename == ssl.__file__:
            made.append(code.co_name)

    sys.setprofile(watch)
    try:
        yield made
    finally:
        sys.setprofile(None)


def is_encrypted() -> bool:
    row = fetch_one("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
    assert row is not None
    return bool(row["Value"])


def test_with_an_authority_connections_are_encrypted_and_share_one_context(
    url: str, authority: Authority
) -> None:
    with contexts_that_are_made() as made:
        connect_database(f"{url}?ssl_ca={authority.file}")
        assert len(made) > 0
        made.clear()
        for _ in range(3):
            assert is_encrypted()
            close_connection()
        assert made == []


def test_a_server_elsewhere_is_spoken_to_encrypted_with_one_context_for_all(url: str) -> None:
    connect_database(url.replace("127.0.0.1", "127.0.0.2"))
    assert is_encrypted()
    context = database.connection().ctx
    close_connection()
    with contexts_that_are_made() as made:
        assert is_encrypted()
    assert made == []
    assert database.connection().ctx is context


def test_a_server_elsewhere_that_cannot_encrypt_is_used_all_the_same(
    mariadb_server: MariaDB,
) -> None:
    url = mariadb_server.create_database("plain")
    connect_database(url.replace("127.0.0.1", "localhost.localdomain"))
    database.obj.nodes = Nodes([Node("127.0.0.1", mariadb_server.port)])
    assert not is_encrypted()
    assert database.connection().ssl
    close_connection()


def came_by_socket() -> bool:
    row = fetch_one(
        "SELECT host FROM information_schema.processlist WHERE id = ?", (connection_id(),)
    )
    assert row is not None
    close_connection()
    by_socket: bool = row["host"] == "localhost"
    return by_socket


def test_localhost_without_a_port_is_the_socket_that_is_there_at_the_time(
    url: str, server: MariaDB, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As to MySQL's own clients, and to users who may come from `localhost` but not by TCP."""
    usual, no_socket = tmp_path / "mysqld.sock", tmp_path / "mysql.sock"
    no_socket.touch()
    monkeypatch.setattr(engine, "SERVER_SOCKETS", (str(no_socket), str(usual)))
    local = url.replace("127.0.0.1", "localhost")
    connect_database(local.replace(f":{server.port}", ""))
    database.obj.nodes = Nodes([Node("localhost", server.port)])  # 3306, else, which is not ours
    assert not came_by_socket()

    usual.symlink_to(server.folder / "s")
    assert came_by_socket()

    connect_database(local)
    assert not came_by_socket()
    connect_database(url.replace(f":{server.port}", ""))
    database.obj.nodes = Nodes([Node("127.0.0.1", server.port)])
    assert not came_by_socket()


def test_localhost_is_no_socket_where_its_certificate_is_asked_for(
    url: str, server: MariaDB, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SERVER_SOCKETS", (str(server.folder / "s"),))
    connect_database(f"mysql://root@localhost/queue?ssl_ca={authority.file}")
    database.obj.nodes = Nodes([Node("127.0.0.1", server.port)])
    assert is_encrypted()
    assert not came_by_socket()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"])
def test_a_server_with_a_certificate_of_somebody_else_is_refused(
    start: Callable[..., Flask],
    url: str,
    tmp_path: Path,
    authority: Authority,
    address: str,
) -> None:
    """At its own address signed by another authority; by the right one for another address."""
    other = Authority(tmp_path / "wrong") if address == "127.0.0.1" else authority
    app = start(f"{url.replace('127.0.0.1', address)}?ssl_ca={other.file}")

    answer = app.test_client().get("/api/tasks", headers={"X-API-Key": "k"})

    assert answer.status_code == 503
    body = answer.get_json()
    assert body["code"] == "database_unavailable"
    assert "certificate is not signed by an authority" in body["message"]
    assert "ssl_ca" in body["message"]


def test_a_server_that_cannot_encrypt_is_refused_where_an_authority_is_named(
    mariadb_server: MariaDB, authority: Authority
) -> None:
    connect_database(f"{mariadb_server.create_database('plain')}?ssl_ca={authority.file}")
    with pytest.raises(DatabaseUnavailable, match="offers no encryption"):
        execute("SELECT 1")


def test_a_file_without_an_authority_stops_the_start(
    start: Callable[..., Flask], url: str, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.pem"
    with pytest.raises(ConfigurationError, match=r"ssl_ca=.*empty\.pem.* \(No such file"):
        start(f"{url}?ssl_ca={empty}")
    empty.write_text("nothing\n")
    with pytest.raises(ConfigurationError, match="readable PEM file"):
        start(f"{url}?ssl_ca={empty}")
    assert os.path.exists(empty)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["taskmanager.app", "taskmanager.cli"])
def test_a_process_on_sqlite_holds_neither_the_driver_of_mysql_nor_cryptography(
    tmp_path: Path, first: str
) -> None:
    program = (
        f"import sys, pathlib, {first}\n"
        "from taskmanager.app import close_app, create_app\n"
        f"app = create_app({{'instance_path': pathlib.Path({str(tmp_path)!r})}})\n"
        "assert app.test_client().get('/api/health').status_code == 200\n"
        "print(sorted({'cryptography', 'pymysql'} & sys.modules.keys()))\n"
        "import taskmanager.db.mysql.engine, peewee, pymysql\n"
        "print(peewee.mysql is pymysql)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "True"]
