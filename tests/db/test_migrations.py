"""The database of the previous release brought up to date: whole, once, whatever comes between."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peewee
import pymysql
import pytest

from taskmanager.app import create_app
from taskmanager.db import schema, schema_lock
from taskmanager.db.connection import close_connection, connect_database, dialect
from taskmanager.db.migrations import MIGRATIONS, Ddl
from taskmanager.db.models import MODELS
from taskmanager.db.statements import execute, fetch_all, fetch_one, fetch_value, insert
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import ConfigurationError, DatabaseUnavailable
from tests.support.database_structure import structure
from tests.support.mariadb import MariaDB
from tests.support.processes import CONTEXT
from tests.support.releases import previous
from tests.support.releases.planned import SLICES, plan, upgrade, upgrade_until
from tests.support.releases.planned import STEPS as NEXT
from tests.support.releases.planned import VERSION as NEXT_VERSION

PROCESSES = 10
ALL_VERSIONS = list(range(previous.VERSION, schema.SCHEMA_VERSION + 1))
on_mariadb = pytest.mark.parametrize("engine", ["mariadb"], indirect=True)


@pytest.fixture
def empty(fresh_database_url: str) -> Iterator[str]:
    """The proxy on a database without tables."""
    connect_database(fresh_database_url)
    yield fresh_database_url
    close_connection()


@pytest.fixture
def old(empty: str) -> str:
    """The proxy on a database of the previous release, with rows."""
    previous.make_previous_release()
    return empty


def versions() -> list[int]:
    rows = fetch_all("SELECT version FROM schema_versions ORDER BY version")
    return [row["version"] for row in rows]


def steps() -> list[tuple[int, str]]:
    return [(version, step.name) for version, steps in MIGRATIONS.items() for step in steps]


def finished_steps() -> list[str]:
    rows = fetch_all("SELECT name FROM migration_steps WHERE finished_at IS NOT NULL")
    return [row["name"] for row in rows]


def test_the_previous_release_had_rows_in_every_table_that_it_made(old: str) -> None:
    assert set(structure()) == {*previous.ROWS, "schema_versions"}
    assert all(fetch_all(f"SELECT * FROM {table}") for table in previous.ROWS)
    assert schema.schema_version() == previous.VERSION < schema.SCHEMA_VERSION


def test_an_upgrade_keeps_every_row(empty: str) -> None:
    before = previous.make_previous_release()

    assert schema.create_schema() is schema.Preparation.UPGRADED

    assert previous.rows_kept(before) == before
    assert versions() == ALL_VERSIONS
    assert schema.find_refusal() is None
    assert schema.create_schema() is schema.Preparation.NOTHING


def test_an_upgraded_database_is_made_exactly_like_a_new_one(
    empty: str, tmp_path: Path, engine: str, request: pytest.FixtureRequest
) -> None:
    schema.create_schema()
    new = structure()
    close_connection()
    if engine == "sqlite":
        connect_database(f"sqlite:///{tmp_path / 'other.db'}")
    else:
        server: MariaDB = request.getfixturevalue("mariadb_server")
        connect_database(server.create_database("other"))
    previous.make_previous_release()
    assert structure() != new

    schema.create_schema()

    assert structure() == new
    assert fetch_one("SELECT MAX(version) AS v FROM schema_versions") == {
        "v": schema.SCHEMA_VERSION
    }


@pytest.mark.parametrize("version", list(MIGRATIONS)[:-1])
def test_a_database_of_every_version_before_is_upgraded(
    empty: str, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = previous.make_previous_release()
    earlier = {number: steps for number, steps in MIGRATIONS.items() if number <= version}
    monkeypatch.setattr(schema, "MIGRATIONS", earlier)
    monkeypatch.setattr(schema, "SCHEMA_VERSION", version)
    assert schema.create_schema() is schema.Preparation.UPGRADED
    assert versions()[-1] == version
    monkeypatch.undo()

    assert schema.create_schema() is schema.Preparation.UPGRADED

    assert versions() == ALL_VERSIONS
    assert previous.rows_kept(before) == before


def test_every_version_follows_the_one_before_and_every_step_has_its_own_name() -> None:
    assert list(MIGRATIONS) == list(range(2, schema.SCHEMA_VERSION + 1))
    names = [step.name for steps in MIGRATIONS.values() for step in steps]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 100 for name in names)


@pytest.fixture
def planned() -> Iterator[None]:
    """The program is of the version after the present one."""
    plan()
    yield
    plan(next_version=False)


def test_steps_of_several_versions_are_taken_in_order(old: str, planned: None) -> None:
    told: list[str] = []
    assert schema.create_schema(report=told.append) is schema.Preparation.UPGRADED

    expected = steps() + [(NEXT_VERSION, step.name) for step in NEXT]
    assert told == [f"schema version {version}: {name}" for version, name in expected]
    assert versions() == [*ALL_VERSIONS, NEXT_VERSION]
    tasks = fetch_all("SELECT priority, colour FROM tasks")
    assert [(row["priority"], row["colour"]) for row in tasks] == [(5 + SLICES, "red")] * 6
    assert "tasks_by_colour" in str(structure()["tasks"])


@pytest.mark.slow
def test_a_process_killed_between_two_slices_of_data_leaves_the_rest_to_the_next(
    old: str, planned: None, engine: str
) -> None:
    close_connection()
    process = CONTEXT.Process(target=upgrade, args=(old, {"DIE": "1"}))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    priority = fetch_one("SELECT priority FROM tasks WHERE id = 1")
    # MySQL has committed two slices; on SQLite all is as it was.
    assert priority == {"priority": 7 if engine == "mariadb" else 5}
    assert schema.schema_version() == (
        schema.SCHEMA_VERSION - 1 if engine == "mariadb" else previous.VERSION
    )

    assert schema.create_schema(patience_seconds=60) is schema.Preparation.UPGRADED

    assert fetch_one("SELECT priority FROM tasks WHERE id = 1") == {"priority": 5 + SLICES}
    assert versions() == [*ALL_VERSIONS, NEXT_VERSION]
    assert sorted(finished_steps()) == sorted(
        [name for _, name in steps()] + [step.name for step in NEXT]
    )


@pytest.mark.slow
def test_a_process_killed_at_any_step_leaves_the_rest_to_the_next(empty: str, engine: str) -> None:
    before = previous.make_previous_release(more_tasks=3_000)
    reached = CONTEXT.Event()
    for number, (_, name) in enumerate(steps()):
        close_connection()
        process = CONTEXT.Process(target=upgrade_until, args=(empty, name, reached))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        assert schema.find_refusal() is not None
        if engine == "sqlite":
            assert versions() == [previous.VERSION]
        else:
            assert len(finished_steps()) == number

    assert schema.create_schema(patience_seconds=60) is schema.Preparation.UPGRADED

    assert versions() == ALL_VERSIONS
    assert previous.rows_kept(before) == before
    if engine == "sqlite":
        assert fetch_all("PRAGMA integrity_check") == [{"integrity_check": "ok"}]


def write_on(url: str, started: Any, stop: Any, written: Any) -> None:
    """Creates tasks like a process of an earlier version, and counts them."""
    connect_database(url)
    while not stop.is_set():
        write_transaction(insert)("tasks", previous.task(dedupe="none"))
        written.value += 1
        started.set()
    close_connection()


@pytest.mark.slow
def test_processes_of_the_version_before_write_while_the_tables_are_upgraded(empty: str) -> None:
    before = previous.make_previous_release(more_tasks=3_000)
    close_connection()
    started, stop, written = CONTEXT.Event(), CONTEXT.Event(), CONTEXT.Value("i", 0)
    writer = CONTEXT.Process(target=write_on, args=(empty, started, stop, written))
    writer.start()
    assert started.wait(60)

    assert schema.create_schema(patience_seconds=60) is schema.Preparation.UPGRADED

    during = written.value
    wait_until(lambda: written.value > during)  # it goes on with the new tables
    stop.set()
    writer.join(60)
    assert writer.exitcode == 0
    tasks = fetch_one("SELECT COUNT(*) AS tasks FROM tasks")
    assert tasks == {"tasks": len(before["tasks"]) + written.value}


@on_mariadb
def test_a_process_killed_after_changing_the_tables_leaves_the_rest_to_the_next(
    empty: str, mariadb_server: MariaDB
) -> None:
    before = previous.make_previous_release()
    with holding("LOCK TABLES schema_versions READ", mariadb_server):
        process = CONTEXT.Process(target=upgrade, args=(empty,))
        process.start()
        wait_until(lambda: waiting_statements("INSERT INTO schema_versions"))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join(60)
        execute(f"KILL {waiting_statements('INSERT INTO schema_versions')[0]}")
    assert versions() == [1]
    assert "maintenance_runs" in structure()

    assert schema.create_schema(patience_seconds=60) is schema.Preparation.UPGRADED

    assert versions() == ALL_VERSIONS
    assert previous.rows_kept(before) == before


@on_mariadb
def test_a_change_that_was_made_but_not_noted_is_no_error(old: str, planned: None) -> None:
    schema.create_schema()
    made = structure()
    execute("DELETE FROM schema_versions WHERE version > 1")
    execute("UPDATE migration_steps SET finished_at = NULL WHERE name <> 'count'")

    assert schema.create_schema() is schema.Preparation.UPGRADED

    assert structure() == made
    assert fetch_one("SELECT priority FROM tasks WHERE id = 1") == {"priority": 5 + SLICES}
    assert len(finished_steps()) == len(steps()) + len(NEXT)


@on_mariadb
def test_a_connection_killed_while_a_table_is_changed_leaves_the_rest_to_the_next(
    old: str, planned: None, mariadb_server: MariaDB
) -> None:
    with holding("LOCK TABLES tasks READ", mariadb_server):
        process = CONTEXT.Process(target=upgrade, args=(old,))
        process.start()
        wait_until(lambda: waiting_statements("ALTER TABLE tasks"))
        execute(f"KILL {waiting_statements('ALTER TABLE tasks')[0]}")
        process.join(60)
    assert process.exitcode == 1
    assert versions() == [1]

    assert schema.create_schema(patience_seconds=60) is schema.Preparation.UPGRADED
    assert versions() == [*ALL_VERSIONS, NEXT_VERSION]


@on_mariadb
@pytest.mark.parametrize("at", ["add tasks.colour", "count"])
def test_a_process_that_has_lost_its_connection_leaves_the_rest_to_one_with_the_lock(
    old: str, planned: None, mariadb_server: MariaDB, at: str
) -> None:
    def lose_the_connection(message: str) -> None:
        if message.endswith(f": {at}"):
            mariadb_server.run(f"KILL {fetch_value('SELECT CONNECTION_ID()')}")

    with pytest.raises(DatabaseUnavailable, match="Another process"):
        schema.create_schema(report=lose_the_connection)
    assert at not in finished_steps()

    assert schema.create_schema() is schema.Preparation.UPGRADED


@on_mariadb
def test_tables_that_stay_in_use_are_given_up_for_now(
    old: str, planned: None, mariadb_server: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_lock, "TABLE_LOCK_SECONDS", 1)
    monkeypatch.setattr(schema, "TABLE_LOCK_TRIES", 2)
    with (
        holding("LOCK TABLES tasks READ", mariadb_server),
        pytest.raises(DatabaseUnavailable, match="keep using them"),
    ):
        schema.create_schema()

    assert schema.create_schema() is schema.Preparation.UPGRADED


class holding:
    """Another connection that has run `statement` and stays open."""

    def __init__(self, statement: str, server: MariaDB) -> None:
        self._statement, self._server = statement, server

    def __enter__(self) -> None:
        self._connection = pymysql.connect(
            host="127.0.0.1", port=self._server.port, user="root", database="fresh"
        )
        with self._connection.cursor() as cursor:
            cursor.execute(self._statement)

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def waiting_statements(beginning: str) -> list[int]:
    """Connections whose present statement begins so and waits for a table."""
    rows = fetch_all(
        "SELECT id FROM information_schema.processlist WHERE info LIKE ? AND state LIKE ?",
        (beginning + "%", "Waiting%"),
    )
    return [row["id"] for row in rows]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


STARTS = "import logging; logging.basicConfig(level=logging.INFO); "
STARTS += "from taskmanager.app import create_app; create_app()"


@pytest.mark.slow
def test_ten_processes_that_start_on_an_old_database_upgrade_it_once(
    empty: str, tmp_path: Path
) -> None:
    before = previous.make_previous_release()
    close_connection()
    environment = {
        **os.environ,
        "TASKMANAGER_DATABASE_URL": empty,
        "TASKMANAGER_INSTANCE_PATH": str(tmp_path),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, *(["-c", STARTS] if number % 2 else ["-m", "taskmanager", "migrate"])],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    messages = [process.communicate(timeout=120)[1] for process in processes]

    assert [process.returncode for process in processes] == [0] * PROCESSES, messages
    together = "\n".join(messages)
    for version, name in steps():
        assert together.count(f"schema version {version}: {name}") == 1, together
    assert together.count("brought up to date") <= 1
    assert "Traceback" not in together
    assert versions() == ALL_VERSIONS
    assert previous.rows_kept(before) == before


@on_mariadb
def test_an_older_version_that_was_cut_short_while_making_the_tables_is_completed(
    empty: str, planned: None
) -> None:
    text = previous.SCHEMA.read_text(encoding="utf-8")
    statements = schema.statements_of(text, dialect())
    for statement in statements[: len(statements) // 2]:
        execute(statement)
    assert schema.schema_version() is None

    assert schema.create_schema() is schema.Preparation.MADE

    assert {model._meta.table_name for model in MODELS} <= set(structure())
    assert "colour" in str(structure()["tasks"])


@on_mariadb
def test_a_user_who_may_not_change_tables_is_told_which_rights_are_missing(
    old: str, mariadb_server: MariaDB
) -> None:
    mariadb_server.run("DROP USER IF EXISTS poor@127.0.0.1")
    mariadb_server.run("CREATE USER poor@127.0.0.1 IDENTIFIED BY 'p'")
    mariadb_server.run("GRANT SELECT, INSERT, UPDATE, DELETE ON fresh.* TO poor@127.0.0.1")
    close_connection()
    connect_database(old.replace("root@", "poor:p@"))

    with pytest.raises(ConfigurationError, match=r"denied.*CREATE, ALTER, INDEX.*migrate"):
        schema.create_schema()

    close_connection()
    connect_database(old)
    assert schema.create_schema() is schema.Preparation.UPGRADED


@pytest.fixture
def upgrading(old: str) -> Iterator[Callable[[], None]]:
    """Another process that is at the upgrade until the function is called."""
    close_connection()
    inside, finish = CONTEXT.Event(), CONTEXT.Event()
    process = CONTEXT.Process(target=upgrade_slowly, args=(old, inside, finish))
    process.start()
    assert inside.wait(60)

    def end() -> None:
        finish.set()
        process.join(60)

    yield end
    end()


def upgrade_slowly(url: str, inside: object, finish: object) -> None:
    def wait(_: str) -> None:
        inside.set()  # type: ignore[attr-defined]
        finish.wait(60)  # type: ignore[attr-defined]

    connect_database(url)
    schema.create_schema(report=wait)
    close_connection()


@pytest.mark.slow
def test_requests_during_an_upgrade_are_told_to_come_again(
    old: str,
    upgrading: Callable[[], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schema, "START_PATIENCE_SECONDS", 0)
    monkeypatch.setattr(schema, "REQUEST_PATIENCE_SECONDS", 0)
    app = create_app({"instance_path": tmp_path, "database_url": old})
    client = app.test_client()

    answers = [client.get("/api/stats"), client.post("/api/tasks/claim", json={})]

    assert [answer.status_code for answer in answers] == [503, 503]
    assert [answer.headers["Retry-After"] for answer in answers] == ["5", "5"]
    assert client.get("/api/health").status_code == 503

    upgrading()
    assert client.get("/api/health").status_code == 200
    assert client.get("/api/stats").status_code == 401
    close_connection()


def test_what_the_newer_version_has_noted_keeps_the_older_program_out(old: str) -> None:
    schema.create_schema()
    insert("schema_versions", {"version": schema.SCHEMA_VERSION + 1, "applied_at": 1})

    with pytest.raises(ConfigurationError, match="upload the newer program again"):
        schema.create_schema()


def test_a_step_that_fails_says_so_and_is_tried_again(
    old: str, planned: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = (NEXT[0], Ddl("nonsense", "CREATE NONSENSE"))
    monkeypatch.setattr(schema, "MIGRATIONS", {**MIGRATIONS, NEXT_VERSION: broken})
    with pytest.raises(peewee.DatabaseError):
        schema.create_schema()
    monkeypatch.undo()
    plan()

    assert schema.create_schema() is schema.Preparation.UPGRADED
    assert versions() == [*ALL_VERSIONS, NEXT_VERSION]
