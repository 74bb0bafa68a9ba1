"""What hosts turn on a MySQL or MariaDB server: each variable, and a tour of the API with it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from taskmanager.app import close_app, create_app
from taskmanager.cli import main
from taskmanager.db import schema
from taskmanager.db.connection import close_connection, connect_database
from taskmanager.db.dialect import MYSQL
from taskmanager.db.statements import execute, fetch_value
from taskmanager.errors import DatabaseRefused
from tests.conftest import Api, make_key, require
from tests.support.mariadb import MariaDB, is_installed

# Variable → the value that a host may have set → what our sessions have.
TURNED = [
    ("max_join_size", "3", 3),
    ("sql_big_selects", "0", 1),
    ("sql_select_limit", "2", 18446744073709551615),
    ("sql_safe_updates", "1", 0),
    ("sql_auto_is_null", "1", 0),
    ("foreign_key_checks", "0", 1),
    ("unique_checks", "0", 1),
    ("check_constraint_checks", "0", 1),
    ("completion_type", "'CHAIN'", "NO_CHAIN"),
    ("completion_type", "'RELEASE'", "NO_CHAIN"),
    ("tx_read_only", "1", 0),
    ("tx_isolation", "'SERIALIZABLE'", "READ-COMMITTED"),
    ("autocommit", "0", 1),
    ("character_set_client", "latin1", "utf8mb4"),
    ("sql_mode", "'ANSI,NO_BACKSLASH_ESCAPES'", None),
    ("sql_mode", "''", None),
    ("default_storage_engine", "'MyISAM'", "MyISAM"),
    ("auto_increment_increment", "3", 3),
]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDB]:
    require("MariaDB (mariadbd)", is_installed())
    server = MariaDB(tmp_path_factory.mktemp("host"))
    server.start()
    server.run("CREATE USER me IDENTIFIED BY 'p'")
    server.run("GRANT ALL ON queue.* TO me")
    server.run("GRANT ALL ON moved.* TO me")
    yield server
    server.stop()


@pytest.mark.slow
@pytest.mark.parametrize(("variable", "value", "ours"), TURNED)
def test_the_queue_works_whatever_a_host_has_set(
    host: MariaDB, tmp_path: Path, variable: str, value: str, ours: int | str | None
) -> None:
    url = host.create_database("queue").replace("root@", "me:p@")
    # The server runs it for each new connection of an ordinary user.
    statement = f"SET SESSION {variable} = {value}".replace("'", "''")
    moved = host.create_database("moved").replace("root@", "me:p@")
    host.run(f"SET GLOBAL init_connect = '{statement}'")
    app = create_app({"instance_path": tmp_path / "instance", "database_url": url})
    try:
        if ours is not None:
            assert fetch_value(f"SELECT @@{variable}") == ours
        tour(Api(app.test_client(), make_key("admin")), tmp_path)
    finally:
        close_app(app)
    move(url, moved, tmp_path)
    for name in ("queue", "moved"):
        assert host.rows(f"SELECT COUNT(*) FROM {name}.tasks") == [(12,)]


def tour(api: Api, folder: Path) -> None:
    """Reads and writes of every kind; leaves twelve tasks."""
    for name in ("job", "other", "third"):
        api.register(name)
    for number in range(11):
        api.create("job" if number % 2 else "other", {"n": number, "text": "a\\'\"ü"})
    parent = api.create("third")
    assert api.claim(limit=5)["count"] == 5
    held = api.claim(worker_id="w2")
    api.complete(held, result={"text": "\\'\"ü"})
    for path in ("/api/stats", "/api/task-types", "/api/workers", f"/api/tasks/{parent['id']}"):
        api.get(path)
    assert api.call("GET", "/api/metrics").status_code == 200
    listed = api.get("/api/tasks?with_total=true")
    assert (listed["count"], listed["total"]) == (12, 12)
    assert api.get("/api/tasks?status=claimed&type=job,other")["count"] >= 0
    assert len(api.get("/api/stats")["by_type"]) == 3
    body = {"name": "s", "type": "job", "params": {}, "interval_seconds": 60}
    schedule = api.post("/api/schedules", body, 201)
    api.delete(f"/api/schedules/{schedule['id']}")
    api.post("/api/maintenance/run")
    assert api.get("/api/health")["status"] == "healthy"


def move(source: str, target: str, folder: Path) -> None:
    """Exports one queue and imports it elsewhere, by command."""
    for url, *arguments in ((source, "export"), (target, "import", "--replace-keys")):
        environment = {
            "TASKMANAGER_DATABASE_URL": url,
            "TASKMANAGER_INSTANCE_PATH": str(folder / "commands"),
        }
        runner = CliRunner(env=environment)
        done = runner.invoke(main, [*arguments, str(folder / "queue.jsonl")])
        assert done.exit_code == 0, done.output
        close_connection()


@pytest.mark.slow
@pytest.mark.parametrize("row_format", ["compact", "redundant", "dynamic"])
def test_the_tables_are_made_whatever_row_format_the_server_prefers(
    host: MariaDB, tmp_path: Path, row_format: str
) -> None:
    host.run("SET GLOBAL init_connect = ''")
    host.run(f"SET GLOBAL innodb_default_row_format = {row_format}")
    url = host.create_database("queue").replace("root@", "me:p@")
    try:
        app = create_app({"instance_path": tmp_path / "instance", "database_url": url})
        tour(Api(app.test_client(), make_key("admin")), tmp_path)
        close_app(app)
        statement = (
            "SELECT DISTINCT row_format FROM information_schema.tables WHERE table_schema = 'queue'"
        )
        assert host.rows(statement) == [("Dynamic",)]
    finally:
        host.run("SET GLOBAL innodb_default_row_format = dynamic")


@pytest.mark.slow
def test_a_start_that_the_row_format_stopped_is_completed_by_the_next(
    host: MariaDB, tmp_path: Path
) -> None:
    host.run("SET GLOBAL init_connect = ''")
    url = host.create_database("queue").replace("root@", "me:p@")
    connect_database(url)
    tables = [one for one in schema.schema_statements(MYSQL) if one.startswith("CREATE TABLE")]
    for statement in tables[:2]:  # the third has an index that is too large
        execute(statement.replace("ROW_FORMAT=DYNAMIC", "ROW_FORMAT=COMPACT"))
    with pytest.raises(DatabaseRefused) as refused:
        execute(tables[2].replace("ROW_FORMAT=DYNAMIC", "ROW_FORMAT=COMPACT"))
    assert refused.value.code == "database_settings"
    assert "ROW_FORMAT=DYNAMIC" in refused.value.message
    assert refused.value.retry_after_seconds is None
    assert schema.create_schema() is schema.Preparation.MADE
    close_connection()
