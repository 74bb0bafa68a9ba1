"""schema.sql against the models and the rules, as each real database makes it."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import peewee
import pytest

from taskmanager.config import load_settings
from taskmanager.db import schema
from taskmanager.db.connection import close_connection, connect_database, dialect
from taskmanager.db.dialect import MYSQL, SQLITE
from taskmanager.db.models import MODELS
from taskmanager.db.statements import Row, execute, fetch_all, insert
from taskmanager.doctor.case import Case
from taskmanager.doctor.checks import examine
from taskmanager.errors import ConfigurationError

TABLES = {model._meta.table_name: model for model in MODELS}


@pytest.fixture
def empty(fresh_database_url: str) -> Iterator[None]:
    """The proxy on a database without tables."""
    connect_database(fresh_database_url)
    yield
    close_connection()


@pytest.fixture
def made(empty: None) -> None:
    """The same after schema.sql has been run."""
    assert schema.create_schema() is schema.Preparation.MADE


def tables() -> set[str]:
    if dialect() is SQLITE:
        rows = fetch_all("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {row["name"] for row in rows} - {"sqlite_sequence"}
    statement = "SELECT table_name AS name FROM information_schema.tables WHERE table_schema = "
    return {row["name"] for row in fetch_all(statement + "DATABASE()")}


def columns(table: str) -> dict[str, tuple[str, bool]]:
    """Name of each column → its type in lower case, and whether it may be NULL."""
    if dialect() is SQLITE:
        return {
            row["name"]: (row["type"].lower(), not row["notnull"] and not row["pk"])
            for row in fetch_all(f"PRAGMA table_info({table})")
        }
    rows = fetch_all(
        "SELECT column_name AS name, column_type AS type, is_nullable AS nullable "
        "FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = ?",
        (table,),
    )
    return {row["name"]: (row["type"], row["nullable"] == "YES") for row in rows}


def indexes() -> set[tuple[str, bool, tuple[str, ...]]]:
    """Table, whether it is unique, and columns in order, of every index but the primary keys."""
    return _sqlite_indexes() if dialect() is SQLITE else _mysql_indexes()


def _sqlite_indexes() -> set[tuple[str, bool, tuple[str, ...]]]:
    return {
        (table, bool(index["unique"]), _sqlite_columns(index["name"]))
        for table in tables()
        for index in fetch_all(f"PRAGMA index_list({table})")
        if index["origin"] != "pk"
    }


def _sqlite_columns(index: str) -> tuple[str, ...]:
    return tuple(row["name"] for row in fetch_all(f"PRAGMA index_info({index})"))


def _mysql_indexes() -> set[tuple[str, bool, tuple[str, ...]]]:
    rows = fetch_all(
        "SELECT table_name AS t, index_name AS name, non_unique AS n, column_name AS c "
        "FROM information_schema.statistics WHERE table_schema = DATABASE() "
        "AND index_name <> 'PRIMARY' ORDER BY table_name, index_name, seq_in_index"
    )
    found: dict[tuple[str, str, bool], list[str]] = {}
    for row in rows:
        found.setdefault((row["t"], row["name"], not row["n"]), []).append(row["c"])
    return {(table, unique, tuple(names)) for (table, _, unique), names in found.items()}


def written_indexes() -> set[tuple[str, bool, tuple[str, ...]]]:
    """The same as schema.sql spells them."""
    found = set()
    for statement in schema.schema_statements(MYSQL):
        index = re.match(r"CREATE INDEX \w+ ON (\w+) \(([^)]*)\)", statement)
        if index:
            found.add((index[1], False, tuple(index[2].split(", "))))
        table = re.match(r"CREATE TABLE (\w+)", statement)
        for unique in re.findall(r"CONSTRAINT \w+ UNIQUE \(([^)]*)\)", statement):
            assert table is not None
            found.add((table[1], True, tuple(unique.split(", "))))
    return found


def types_of(field: peewee.Field) -> str:
    """A pattern for the types that a column of this field may have."""
    if isinstance(field, peewee.AutoField):
        return r"bigint(\(\d+\))?|integer"
    if isinstance(field, peewee.FixedCharField):
        return rf"char\({field.max_length}\)"
    if isinstance(field, peewee.CharField):
        return rf"varchar\({field.max_length}\)"
    names = {
        peewee.BigIntegerField: r"bigint(\(\d+\))?",
        peewee.SmallIntegerField: r"smallint(\(\d+\))?",
        peewee.IntegerField: r"int(\(\d+\))?|integer",
        peewee.TextField: "text|mediumtext",
    }
    return names[type(field)]


def test_the_tables_are_those_of_the_models(made: None) -> None:
    assert tables() == set(TABLES)


@pytest.mark.parametrize("table", TABLES)
def test_every_column_is_what_its_model_says(made: None, table: str) -> None:
    fields = {field.column_name: field for field in TABLES[table]._meta.sorted_fields}
    found = columns(table)

    assert set(found) == set(fields)
    for name, (kind, nullable) in found.items():
        assert re.fullmatch(types_of(fields[name]), kind), f"{name} is {kind}"
        assert nullable == fields[name].null, f"{name} NULL"


def test_every_index_that_is_written_is_there_and_no_other(made: None) -> None:
    assert len(written_indexes()) > 10
    assert indexes() - of_foreign_keys() == written_indexes() - of_foreign_keys()


def of_foreign_keys() -> set[tuple[str, bool, tuple[str, ...]]]:
    """Indexes that MySQL makes by itself where a foreign key has none."""
    return {
        (table[1], False, (column,))
        for statement in schema.schema_statements(MYSQL)
        if (table := re.match(r"CREATE TABLE (\w+)", statement))
        for column in re.findall(r"FOREIGN KEY \((\w+)\)", statement)
    }


def test_every_long_text_holds_more_than_64_kilobytes_where_a_caller_fills_it(made: None) -> None:
    insert_type()
    text = '"' + "x" * 100_000 + '"'
    task_id = insert("tasks", {**task(), "params": text, "result": text})
    row = fetch_all("SELECT params, result FROM tasks WHERE id = ?", (task_id,))[0]
    assert row == {"params": text, "result": text}


def insert_type() -> None:
    row = {"id": 1, "name": "job", "version": "1", "created_at": 1, "updated_at": 1}
    insert("task_types", row)


def task(**columns: Any) -> Row:
    return {
        "task_type_id": 1,
        "type_version": "1",
        "status": "pending",
        "params": "{}",
        "priority": 0,
        "claim_rank": 0,
        "max_attempts": 3,
        "dedupe": "none",
        "dedupe_key": "k",
        "available_at": 1,
        "created_at": 1,
        "updated_at": 1,
        **columns,
    }


BROKEN_TASKS = {
    "no such status": {"status": "done"},
    "a status in other letters": {"status": "PENDING"},
    "a rank that is not the priority": {"priority": 5, "claim_rank": 5},
    "no such type": {"task_type_id": 99},
    "no such parent": {"parent_task_id": 99},
    "no status": {"status": None},
}


@pytest.mark.parametrize("what", BROKEN_TASKS)
def test_the_database_itself_refuses_a_task_with(made: None, what: str) -> None:
    insert_type()
    insert("tasks", task())

    # PyMySQL calls a CHECK that MariaDB held an operational error.
    with pytest.raises((peewee.IntegrityError, peewee.OperationalError)):
        insert("tasks", task(**BROKEN_TASKS[what]))

    assert len(fetch_all("SELECT id FROM tasks")) == 1


@pytest.mark.parametrize("column", ["holds_key_forever", "holds_key_while_open"])
def test_only_one_task_holds_a_key(made: None, column: str) -> None:
    insert_type()
    for _ in range(2):  # without it any number
        insert("tasks", task())
    insert("tasks", task(**{column: 1}))

    with pytest.raises(peewee.IntegrityError):
        insert("tasks", task(**{column: 1}))


def test_names_that_differ_in_case_or_by_an_accent_are_two(made: None) -> None:
    for name in ("job", "Job", "jób"):
        insert("task_types", {"name": name, "version": "1", "created_at": 1, "updated_at": 1})

    assert len(fetch_all("SELECT id FROM task_types WHERE name = 'job'")) == 1


def test_a_task_takes_its_history_along_and_leaves_its_children(made: None) -> None:
    insert_type()
    parent = insert("tasks", task())
    child = insert("tasks", task(parent_task_id=parent))
    insert("task_logs", {"task_id": parent, "event": "created", "created_at": 1})

    execute("DELETE FROM tasks WHERE id = ?", (parent,))

    assert fetch_all("SELECT id FROM task_logs") == []
    assert fetch_all("SELECT id, parent_task_id FROM tasks") == [
        {"id": child, "parent_task_id": None}
    ]


def test_a_type_with_tasks_cannot_be_removed(made: None) -> None:
    insert_type()
    insert("tasks", task())

    with pytest.raises(peewee.IntegrityError):
        execute("DELETE FROM task_types")


def test_ids_are_never_used_twice(made: None) -> None:
    insert_type()
    first = insert("tasks", task())
    execute("DELETE FROM tasks")

    assert insert("tasks", task()) > first


def test_making_the_schema_again_changes_nothing(made: None) -> None:
    insert_type()
    before = (tables(), indexes())

    assert schema.create_schema() is schema.Preparation.NOTHING

    assert (tables(), indexes()) == before
    assert len(fetch_all("SELECT id FROM task_types")) == 1
    assert schema.find_refusal() is None


def test_a_run_cut_short_anywhere_is_completed_by_the_next(
    empty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements = schema.schema_statements(dialect())
    for done in range(0, len(statements), 5):
        cut_short = [*statements[:done], "CREATE NONSENSE", statements[-1]]
        monkeypatch.setattr(schema, "schema_statements", lambda *_, some=cut_short: some)
        with pytest.raises(peewee.DatabaseError):
            schema.create_schema()
        assert schema.find_refusal()
        assert schema.schema_version() is None
    monkeypatch.undo()

    assert schema.create_schema() is schema.Preparation.MADE

    assert schema.find_refusal() is None
    assert tables() == set(TABLES)
    assert indexes() >= written_indexes()


# On SQLite one transaction makes everything, so nothing can be missing by itself.
@pytest.mark.parametrize("engine", ["mariadb"], indirect=True)
def test_tables_and_indexes_that_are_missing_are_made_where_no_version_was_noted(
    made: None,
) -> None:
    execute("DELETE FROM schema_versions")
    execute("DROP TABLE api_keys")
    execute("DROP INDEX tasks_by_priority ON tasks")

    assert schema.create_schema() is schema.Preparation.MADE

    assert tables() == set(TABLES)
    assert indexes() >= written_indexes()


def test_a_database_of_a_newer_version_is_left_alone(made: None) -> None:
    execute("UPDATE schema_versions SET version = ?", (schema.SCHEMA_VERSION + 1,))

    with pytest.raises(ConfigurationError, match="newer program"):
        schema.create_schema()
    assert schema.find_refusal()


OF_OTHERS = {
    "of the PHP TaskManager": (
        "CREATE TABLE task_types (id INTEGER PRIMARY KEY, name VARCHAR(255), params_json TEXT)",
        "CREATE TABLE tasks (id INTEGER PRIMARY KEY, type_id INTEGER, claimed_by VARCHAR(255))",
    ),
    "that look like ours": ("CREATE TABLE workers (id INTEGER PRIMARY KEY)",),
    "of versions": ("CREATE TABLE schema_versions (version VARCHAR(20), installed_by VARCHAR(9))",),
    "which are views": ("CREATE VIEW schedules AS SELECT 1 AS id",),
    "beside what an earlier init-db left": (
        "CREATE TABLE schema_versions (version INTEGER PRIMARY KEY, applied_at BIGINT)",
        "CREATE TABLE tasks (id INTEGER PRIMARY KEY, type_id INTEGER)",
    ),
}


@pytest.mark.parametrize("statements", OF_OTHERS.values(), ids=OF_OTHERS.keys())
def test_tables_of_another_program_are_named_and_left_as_they_are(
    fresh_database_url: str, tmp_path: Path, statements: Sequence[str]
) -> None:
    engine = connect_database(fresh_database_url)
    for statement in statements:
        execute(statement)
    before = sorted(engine.get_tables())
    names = {statement.split()[2] for statement in statements}
    if len(names) == 2 and "schema_versions" in names:
        names = {"tasks"}
    for _ in range(2):
        with pytest.raises(ConfigurationError) as refused:
            schema.create_schema()
        told = re.search(r"another program: (.*?)\.", refused.value.message)
        assert told is not None
        assert set(told[1].split(", ")) == names
        assert "TASKMANAGER_TABLE_PREFIX" in refused.value.message
        assert sorted(engine.get_tables()) == before
    settings = load_settings(
        {"database_url": fresh_database_url, "instance_path": tmp_path}, environ={}
    )
    (finding,) = (one for one in examine(Case(settings=settings)) if one.code == "schema_version")
    assert finding.level == "problem"
    assert all(name in finding.found for name in names)

    connect_database(fresh_database_url, table_prefix="tm_")
    assert schema.create_schema() is schema.Preparation.MADE
    close_connection()
