"""What a server or a file system cannot do, and which way is taken instead."""

import ast
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskmanager.db import schema, statements
from taskmanager.db.connection import close_connection, connect_database, database
from taskmanager.db.facts import database_facts
from taskmanager.db.statements import fetch_one
from taskmanager.errors import DatabaseUnavailable
from taskmanager.files import systems
from taskmanager.queue import store
from tests.conftest import Api, Clock, in_every_mode
from tests.support.mariadb import MariaDB

on_mariadb = pytest.mark.parametrize("engine", ["mariadb"], indirect=True)
guarded = pytest.mark.parametrize("engine", ["mariadb without SKIP LOCKED"], indirect=True)
on_sqlite = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
# What --database names → the engine, and whether it knows SKIP LOCKED.
SERVERS = {None: ("MariaDB", True), "mariadb-10.5": ("MariaDB", False), "mysql": ("MySQL", True)}


@in_every_mode
def test_the_mode_that_is_asked_for_is_in_force(
    api: Api, engine: str, url_options: str, request: pytest.FixtureRequest
) -> None:
    facts = database_facts()
    if engine == "sqlite":
        assert (facts.engine, facts.version) == ("SQLite", sqlite3.sqlite_version)
        assert facts.journal == facts.wanted_journal == ("delete" if url_options else "wal")
        assert facts.skips_locked is None
    else:
        name, knows_skip_locked = SERVERS[request.config.getoption("--database")]
        assert (facts.engine, facts.journal, facts.file_system) == (name, None, None)
        assert facts.skips_locked is (knows_skip_locked and not url_options)


# The claim without SKIP LOCKED.


@on_mariadb
def test_a_server_is_asked_once_what_it_knows(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.register()
    asked = []
    run = database.obj.execute_sql

    def watch(sql: str, *arguments: object) -> object:
        if "LIMIT 0" in sql:
            asked.append(sql)
        return run(sql, *arguments)

    monkeypatch.setattr(database.obj, "execute_sql", watch)
    for _ in range(3):
        api.create()
        api.claim()
    assert len(asked) == 1


@guarded
def test_a_claim_that_loses_a_task_to_another_takes_the_next(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker is faster, between the look and the update, time and again."""
    api.register()
    made = [api.create()["id"] for _ in range(30)]
    steal = stolen_after_each_look(monkeypatch)

    got = api.claim("slow")

    assert got["id"] in made
    assert got["id"] not in steal
    assert steal[0] == made[0]
    assert len(steal) >= 1


@guarded
def test_workers_that_lose_spread_for_a_second_and_return_to_the_order(
    api: Api, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.register()
    made = [api.create()["id"] for _ in range(60)]
    with monkeypatch.context() as patch:
        stolen_after_each_look(patch)
        api.claim("slow")

    spread = [api.claim("slow")["id"] for _ in range(10)]
    clock.advance(1)
    left = sorted(set(made) - claimed(api))
    after = [api.claim("slow")["id"] for _ in range(10)]

    assert spread != sorted(spread)
    assert max(spread) < made[35], "farther than the first few"
    assert after == left[:10]


def claimed(api: Api) -> set[int]:
    return {task["id"] for task in api.get("/api/tasks?status=claimed&limit=100")["tasks"]}


def stolen_after_each_look(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on the first candidate of each look is claimed by another connection; those."""
    import pymysql

    from taskmanager.queue import claim_sql

    stolen: list[int] = []
    look = claim_sql.fetch_all
    connection = pymysql.connect(
        **{**database.obj.connect_params, "database": database.obj.database, "autocommit": True},
        **database.obj.nodes.first._asdict(),
    )

    def look_and_lose(sql: str, values: object = ()) -> object:
        rows = look(sql, values)  # type: ignore[arg-type]
        if sql != claim_sql.LOCK_PENDING and rows:
            for row in rows[:1]:
                with connection.cursor() as cursor:
                    cursor.execute(
                        "UPDATE tasks SET status = 'claimed', worker_id = 'fast' WHERE id = %s",
                        (row["id"],),
                    )
                stolen.append(row["id"])
        return rows

    monkeypatch.setattr(claim_sql, "fetch_all", look_and_lose)
    return stolen


# MySQL 8's way of logging in.


@pytest.fixture
def with_password(mariadb_server: MariaDB, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a database for a user with a password, who has not logged in before."""
    # The tests have the library, for encrypted tasks. PyMySQL then needs no TLS for a login, but
    # most hosts do not have it.
    monkeypatch.setattr("pymysql._auth._have_cryptography", False)
    url = mariadb_server.create_database("secret")
    for host in ("127.0.0.1", "localhost"):
        mariadb_server.run(f"DROP USER IF EXISTS poor@{host}")
        mariadb_server.run(f"CREATE USER poor@{host} IDENTIFIED BY 'p'")
        mariadb_server.run(f"GRANT ALL ON secret.* TO poor@{host}")
    yield url.replace("root@", "poor:p@")
    close_connection()


def is_encrypted() -> bool:
    row = fetch_one("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
    assert row is not None
    return row["Value"] != ""


@pytest.mark.database("mysql")
def test_the_first_login_sends_the_password_under_tls_and_the_next_need_none(
    with_password: str,
) -> None:
    connect_database(with_password)
    assert is_encrypted()
    close_connection()
    assert not is_encrypted()


@pytest.mark.database("mysql")
def test_a_login_through_the_socket_needs_no_tls(
    with_password: str, mariadb_server: MariaDB
) -> None:
    connect_database(f"{with_password}?unix_socket={mariadb_server.folder / 's'}")
    assert not is_encrypted()


@pytest.mark.database("mysql")
def test_a_login_that_cannot_be_is_told_with_the_ways_out(
    with_password: str, mariadb_server: MariaDB
) -> None:
    mariadb_server.run("SET GLOBAL tls_version = ''")
    mariadb_server.run("ALTER INSTANCE RELOAD TLS NO ROLLBACK ON ERROR")
    connect_database(with_password)
    try:
        with pytest.raises(DatabaseUnavailable, match=r"'cryptography'.*unix_socket"):
            fetch_one("SELECT 1")
    finally:
        mariadb_server.run("SET GLOBAL tls_version = 'TLSv1.2,TLSv1.3'")
        mariadb_server.run("ALTER INSTANCE RELOAD TLS")


# SQLite without its log, and without what old versions lack.


@pytest.fixture
def sqlite_url(tmp_path: Path) -> Iterator[str]:
    yield f"sqlite:///{tmp_path / 'queue.db'}"
    close_connection()


def make(url: str) -> None:
    connect_database(url)
    schema.create_schema()


def journal_of(url: str) -> str:
    """As any program sees it."""
    with sqlite3.connect(url.removeprefix("sqlite:///").partition("?")[0]) as connection:
        mode: str = connection.execute("PRAGMA journal_mode").fetchone()[0]
    connection.close()
    return mode


@pytest.fixture
def on_nfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def mount() -> None:
        (tmp_path / "mountinfo").write_text("22 1 0:40 / / rw - nfs4 nas:/home rw\n")
        monkeypatch.setattr(systems, "MOUNTS", tmp_path / "mountinfo")

    return mount


def test_on_a_network_file_system_sqlite_keeps_no_log(
    sqlite_url: str, on_nfs: Callable[[], None]
) -> None:
    on_nfs()
    make(sqlite_url)
    facts = database_facts()
    assert (facts.journal, facts.file_system) == ("delete", "nfs4")
    assert facts.is_network_file_system
    assert journal_of(sqlite_url) == "delete"


def test_a_log_can_be_asked_for_where_the_owner_knows_better(
    sqlite_url: str, on_nfs: Callable[[], None]
) -> None:
    on_nfs()
    make(sqlite_url + "?journal=wal")
    assert journal_of(sqlite_url) == "wal"


def test_a_database_that_has_moved_to_a_network_file_system_is_switched_at_the_next_start(
    sqlite_url: str, on_nfs: Callable[[], None]
) -> None:
    make(sqlite_url)
    close_connection()
    assert journal_of(sqlite_url) == "wal"
    on_nfs()

    make(sqlite_url)
    assert journal_of(sqlite_url) == "delete"


@pytest.mark.slow
def test_a_database_in_use_is_switched_by_a_later_start(sqlite_url: str, tmp_path: Path) -> None:
    make(sqlite_url)
    close_connection()
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))
    other.execute("SELECT * FROM tasks").fetchall()

    start(sqlite_url + "?journal=delete", tmp_path)
    assert journal_of(sqlite_url) == "wal"
    other.close()

    start(sqlite_url + "?journal=delete", tmp_path)
    assert journal_of(sqlite_url) == "delete"


def start(url: str, folder: Path) -> None:
    """A process that starts on this database and ends."""
    subprocess.run(
        [sys.executable, "-m", "taskmanager", "init-db"],
        env={
            **os.environ,
            "TASKMANAGER_DATABASE_URL": url,
            "TASKMANAGER_INSTANCE_PATH": str(folder),
        },
        check=True,
    )


@pytest.mark.slow
@on_sqlite
def test_a_thousand_of_everything_fits_into_what_old_sqlite_takes(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 3.32 a statement may have 999 values, which this makes SQLite hold to."""
    prepare = database.obj._initialize_connection

    def prepare_and_limit(connection: sqlite3.Connection) -> None:
        prepare(connection)
        connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)

    close_connection()
    monkeypatch.setattr(database.obj, "_initialize_connection", prepare_and_limit)
    monkeypatch.setattr(statements, "MAX_VALUES", 999)
    monkeypatch.setattr(store, "ROWS_PER_INSERT", 30)
    api.register()
    body = {"type": "job", "params": {}, "dedupe": "none"}

    made = api.post("/api/tasks/batch", {"tasks": [body] * 1000}, 201)["results"]
    children = [{**body, "parent_task_id": one["task"]["id"]} for one in made]
    assert api.post("/api/tasks/batch", {"tasks": children}, 201)["created"] == 1000
    held = [task for _ in range(10) for task in api.claim(limit=100)["tasks"]]
    named = [{"id": task["id"], "claim_token": task["claim_token"]} for task in held]
    beat = api.post("/api/workers/heartbeat", {"worker_id": "worker-1", "tasks": named})
    assert len(beat["renewed"]) == 1000
    done = {"worker_id": "worker-1", "completions": [{**one, "success": True} for one in named]}
    assert len(api.post("/api/tasks/complete", done)["results"]) == 1000
    assert api.get("/api/stats")["by_status"]["completed"] == 1000


def test_no_statement_asks_for_rows_back_from_a_change() -> None:
    """SQLite has RETURNING from 3.35 on, MariaDB not for UPDATE, MySQL not at all."""
    package = Path(schema.__file__).parent
    texts = {
        path.name: node.value
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if "RETURNING" in node.value
    }
    assert texts == {}
