"""A constraint that allows more, in a table with many rows: at once, and for every connection."""

import _sqlite3
import ctypes
import sqlite3
from collections.abc import Iterator
from typing import Any

import peewee
import pytest

from taskmanager.db import schema
from taskmanager.db.connection import close_connection, connect_database, database, dialect
from taskmanager.db.dialect import SQLITE
from taskmanager.db.migrations import MIGRATIONS
from taskmanager.db.sqlite.definitions import rewrite_definition
from taskmanager.db.statements import execute, fetch_all, fetch_one, fetch_value, insert
from taskmanager.errors import ConfigurationError
from tests.support.database_structure import structure
from tests.support.releases import previous

on_sqlite = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
SQLITE_DBCONFIG_DEFENSIVE = 1010


@pytest.fixture
def version_2(fresh_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The proxy on a database before version 3, which has tasks."""
    connect_database(fresh_database_url)
    with monkeypatch.context() as earlier:
        earlier.setattr(schema, "MIGRATIONS", {2: MIGRATIONS[2]})
        earlier.setattr(schema, "SCHEMA_VERSION", 2)
        previous.make_previous_release(more_tasks=3_000)
        schema.create_schema()
    yield fresh_database_url
    close_connection()


def insert_with(status: str) -> None:
    insert("tasks", previous.task(status=status, dedupe="none"))


# PyMySQL calls a CHECK that MariaDB held an operational error.
REFUSED = (peewee.IntegrityError, peewee.OperationalError)


def test_the_check_allows_what_it_allowed_and_blocked(version_2: str) -> None:
    with pytest.raises(REFUSED):
        insert_with("blocked")

    schema.create_schema()

    for status in ("scheduled", "pending", "claimed", "completed", "failed", "cancelled"):
        insert_with(status)
    insert_with("blocked")
    for status in ("done", "", "BLOCKED"):
        if is_enforced():
            with pytest.raises(REFUSED):
                insert_with(status)


def is_enforced() -> bool:
    """MySQL would copy the table to enforce a CHECK that has changed."""
    return dialect() is SQLITE or "NOT ENFORCED" not in str(
        fetch_all("SHOW CREATE TABLE tasks")[0]["Create Table"]
    )


@pytest.mark.parametrize("engine", ["mariadb"], indirect=True)
def test_a_table_that_lost_its_check_gets_one_and_the_columns(version_2: str) -> None:
    """As one does that was made by MySQL 5.7, which knows no CHECK."""
    is_mariadb = "MariaDB" in fetch_value("SELECT VERSION()")
    execute(f"ALTER TABLE tasks DROP {'CONSTRAINT' if is_mariadb else 'CHECK'} tasks_status")

    schema.create_schema()

    insert("tasks", previous.task(dedupe="none", batch_id=1))
    assert "'blocked'" in str(structure()["tasks"]).replace("\\", "")


def copies() -> Any:
    """What changes when the rows of tasks are written anew: the number of pages, or its id."""
    if dialect() is SQLITE:
        return fetch_value("PRAGMA page_count")
    mysql = "innodb_tables" if "MariaDB" not in fetch_value("SELECT VERSION()") else None
    return fetch_value(
        f"SELECT table_id FROM information_schema.{mysql or 'innodb_sys_tables'} "
        "WHERE name = CONCAT(DATABASE(), '/tasks')"
    )


def test_no_row_is_copied(version_2: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = copies()
    # The index is made anew by the last step, which takes pages that it has given back before.
    monkeypatch.setattr(schema, "MIGRATIONS", {3: MIGRATIONS[3][:-1]})

    schema.create_schema()

    assert "batch_id" in str(structure()["tasks"])
    assert copies() - before in (range(3) if dialect() is SQLITE else [0])


@on_sqlite
def test_a_connection_that_was_open_before_knows_the_new_definition(version_2: str) -> None:
    path = version_2.removeprefix("sqlite:///")
    with sqlite3.connect(path, isolation_level=None) as other:
        blocked = "UPDATE tasks SET status = 'blocked' WHERE id = 5"
        with pytest.raises(sqlite3.IntegrityError):
            other.execute(blocked)

        schema.create_schema()

        assert other.execute(blocked).rowcount == 1
        with pytest.raises(sqlite3.IntegrityError):
            other.execute("UPDATE tasks SET status = 'done' WHERE id = 5")
        assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    other.close()


@on_sqlite
def test_nothing_is_left_that_lets_statements_change_definitions(version_2: str) -> None:
    schema.create_schema()
    assert fetch_value("PRAGMA writable_schema") == 0
    with pytest.raises(sqlite3.OperationalError, match="may not be modified"):
        database.obj.connection().execute("UPDATE sqlite_master SET sql = '' WHERE name = 'tasks'")


@on_sqlite
@pytest.mark.parametrize("words", ["'finished')", "status"])
def test_words_that_do_not_occur_once_change_nothing(version_2: str, words: str) -> None:
    before = fetch_all("SELECT * FROM sqlite_master")
    with pytest.raises(AssertionError, match="the definition of tasks has"):
        rewrite_definition("tasks", words, "'x')")
    assert fetch_all("SELECT * FROM sqlite_master") == before


@on_sqlite
def test_a_new_definition_that_is_no_sql_is_undone(version_2: str) -> None:
    before = fetch_all("SELECT * FROM sqlite_master")
    with pytest.raises(peewee.DatabaseError), database.atomic():
        rewrite_definition("tasks", "'cancelled')", "'cancelled'")
    close_connection()
    assert fetch_all("SELECT * FROM sqlite_master") == before
    assert fetch_one("SELECT COUNT(*) AS n FROM tasks") == {"n": 3_006}


@on_sqlite
def test_a_library_that_defends_definitions_is_named(version_2: str) -> None:
    turn_on_defensive_mode(database.obj.connection())
    before = structure()
    with pytest.raises(ConfigurationError, match=r"defensive mode.*another Python"):
        schema.create_schema()
    assert structure() == before
    assert schema.schema_version() == 2

    close_connection()
    assert schema.create_schema() is schema.Preparation.UPGRADED
    execute("UPDATE tasks SET status = 'blocked' WHERE id = 5")


def turn_on_defensive_mode(connection: sqlite3.Connection) -> None:
    """As some systems' SQLite has it from the start. Python before 3.12 has no call for this."""
    library = ctypes.CDLL(_sqlite3.__file__)
    # The first field of Python's object, after what every object has.
    handle = ctypes.c_void_p.from_address(id(connection) + object.__basicsize__)
    result = library.sqlite3_db_config(handle, SQLITE_DBCONFIG_DEFENSIVE, 1, None)
    assert result == 0
