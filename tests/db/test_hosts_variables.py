"""What hosts turn on a MySQL or MariaDB server: each variable, and a tour of the API with it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pymysql
import pytest

from taskmanager.app import close_app, create_app
from taskmanager.db import schema
from taskmanager.db.connection import close_connection, connect_database, keeps_snapshot
from taskmanager.db.dialect import MYSQL
from taskmanager.db.statements import execute, fetch_value
from taskmanager.errors import DatabaseRefused
from tests.conftest import Api, make_key, require
from tests.db.tour import move, tour
from tests.support.debian_packages import NotToBeHad
from tests.support.mariadb import LOGS_STATEMENTS, MariaDB, is_installed
from tests.support.other_databases import PACKAGES, MySQL

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
    server = started(MariaDB, tmp_path_factory.mktemp("host"), [])
    yield server
    server.stop()


def started(kind: type[MariaDB], folder: Path, options: Sequence[str]) -> MariaDB:
    """A server with an ordinary user, `me`, of two databases."""
    server = kind(folder, options=options)
    try:
        server.start()
        server.run("CREATE USER me IDENTIFIED BY 'p'")
        for name in ("queue", "moved"):
            server.run(f"GRANT ALL ON {name}.* TO me")
    except BaseException:
        server.stop()
        raise
    return server


def database_of(server: MariaDB, name: str) -> str:
    return server.create_database(name).replace("root@", "me:p@")


@pytest.mark.slow
@pytest.mark.parametrize(("variable", "value", "ours"), TURNED)
def test_the_queue_works_whatever_a_host_sets_for_each_session(
    host: MariaDB, tmp_path: Path, variable: str, value: str, ours: int | str | None
) -> None:
    # The server runs it for each new connection of an ordinary user.
    statement = f"SET SESSION {variable} = {value}".replace("'", "''")
    url, moved = database_of(host, "queue"), database_of(host, "moved")
    host.run(f"SET GLOBAL init_connect = '{statement}'")
    try:
        assert tour_and_move(host, url, moved, tmp_path) == TOURED
        connect_database(url)
        if ours is not None:
            assert fetch_value(f"SELECT @@{variable}") == ours
        close_connection()
    finally:
        host.run("SET GLOBAL init_connect = ''")


TOURED = [15, 15]  # tasks in the queue, and where it was moved to


def tour_and_move(server: MariaDB, url: str, moved: str, folder: Path) -> list[int]:
    """How many tasks both databases have then."""
    tour(url, folder)
    move(url, moved, folder)
    return [server.rows(f"SELECT COUNT(*) FROM {name}.tasks")[0][0] for name in ("queue", "moved")]


# What a server is started with, and what the queue makes of it.
STARTED_WITH = {
    "statement log": LOGS_STATEMENTS,
    "statement log, strict snapshots": [*LOGS_STATEMENTS, "--innodb-snapshot-isolation=ON"],
    "join size": ["--max-join-size=3"],
    "compact rows": ["--innodb-default-row-format=compact"],
    "redundant rows": ["--innodb-default-row-format=redundant"],
    "packet": ["--max-allowed-packet=1M"],
    "safe updates": ["--sql-safe-updates=ON"],
    "ANSI": ["--sql-mode=ANSI"],
    "ANSI quotes": ["--sql-mode=ANSI_QUOTES,NO_BACKSLASH_ESCAPES"],
    "no strict mode": ["--sql-mode="],
    "Oracle mode": ["--sql-mode=ORACLE"],
    "MyISAM": ["--default-storage-engine=MyISAM"],
    "names in lower case": ["--lower-case-table-names=1"],
    "five connections": ["--max-connections=5", "--max-user-connections=5"],
    "idle for 2 s": ["--wait-timeout=2"],
    "serializable": ["--transaction-isolation=SERIALIZABLE"],
    "latin1": ["--character-set-server=latin1", "--collation-server=latin1_swedish_ci"],
    "no autocommit": ["--autocommit=0"],
    "time zone": ["--default-time-zone=+13:00"],
    "keys": ["--innodb-force-primary-key=ON"],
}


@pytest.mark.slow
@pytest.mark.parametrize("options", STARTED_WITH.values(), ids=STARTED_WITH.keys())
def test_the_queue_works_on_a_server_of_each_kind(tmp_path: Path, options: list[str]) -> None:
    require("MariaDB (mariadbd)", is_installed())
    (tmp_path / "server").mkdir()
    assert tour_on(MariaDB, tmp_path, options) == TOURED


def tour_on(kind: type[MariaDB], folder: Path, options: Sequence[str]) -> list[int]:
    server = started(kind, folder / "server", options)
    try:
        url, moved = database_of(server, "queue"), database_of(server, "moved")
        if options is LOGS_STATEMENTS:
            assert server.rows("SELECT @@log_bin, @@binlog_format") == [(1, "STATEMENT")]
        return tour_and_move(server, url, moved, folder)
    finally:
        server.stop()


# Of MySQL alone, or different there.
MYSQL_STARTED_WITH = {
    "primary keys": ["--sql-require-primary-key=ON"],
    "invisible keys": ["--sql-generate-invisible-primary-key=ON"],
    "statement log": LOGS_STATEMENTS,
    "time limit": ["--max-execution-time=5000"],
    "join size": ["--max-join-size=3"],
    "safe updates": ["--init-connect=SET SESSION sql_safe_updates = 1"],
    "packet": ["--max-allowed-packet=1M"],
    "ANSI": ["--sql-mode=ANSI,ANSI_QUOTES"],
    "no strict mode": ["--sql-mode="],
    "compact rows": ["--innodb-default-row-format=compact"],
    "five connections": ["--max-connections=5", "--max-user-connections=5"],
}


@pytest.mark.slow
@pytest.mark.parametrize("options", MYSQL_STARTED_WITH.values(), ids=MYSQL_STARTED_WITH.keys())
def test_the_queue_works_on_a_mysql_of_each_kind(tmp_path: Path, options: list[str]) -> None:
    require_mysql()
    (tmp_path / "server").mkdir()
    assert tour_on(MySQL, tmp_path, options) == TOURED


def require_mysql() -> None:
    try:
        PACKAGES["mysql"].unpacked()
    except NotToBeHad as error:
        pytest.skip(f"MySQL is not to be had here: {error}")


@pytest.mark.slow
def test_a_mysql_that_requires_tls_is_given_it_on_this_machine_too(tmp_path: Path) -> None:
    require_mysql()
    (tmp_path / "server").mkdir()
    server = started(MySQL, tmp_path / "server", [])
    try:
        url = database_of(server, "queue")
        with pymysql.connect(host="127.0.0.1", port=server.port, user="root") as root:
            cursor = root.cursor()
            cursor.execute("SET GLOBAL require_secure_transport = ON")
            tour(url, tmp_path)
            cursor.execute("SELECT COUNT(*) FROM queue.tasks")
            assert cursor.fetchone() == (15,)
    finally:
        server.stop()


@pytest.mark.slow
def test_a_server_that_is_read_only_is_refused_at_the_start_with_variable_and_remedy(
    host: MariaDB, tmp_path: Path
) -> None:
    url = database_of(host, "queue")
    host.run("SET GLOBAL read_only = 1")
    try:
        with pytest.raises(DatabaseRefused, match="read_only") as refused:
            tour(url, tmp_path)
        assert refused.value.code == "database_read_only"
        assert "ask the host to end read_only" in (refused.value.remedy or "")
    finally:
        host.run("SET GLOBAL read_only = 0")


@pytest.mark.slow
def test_connections_that_the_server_has_closed_are_opened_again(tmp_path: Path) -> None:
    require("MariaDB (mariadbd)", is_installed())
    (tmp_path / "server").mkdir()
    server = started(MariaDB, tmp_path / "server", ["--wait-timeout=1"])
    try:
        url = database_of(server, "queue")
        app = create_app({"instance_path": tmp_path / "instance", "database_url": url})
        api = Api(app.test_client(), make_key("admin"))
        api.register()
        while server.connections_to("queue"):
            pass
        api.create()
        assert api.claim()["attempts"] == 1
        close_app(app)
    finally:
        server.stop()


@pytest.mark.slow
def test_a_server_that_begins_to_log_statements_is_noticed_by_the_next_session(
    tmp_path: Path,
) -> None:
    require("MariaDB (mariadbd)", is_installed())
    (tmp_path / "server").mkdir()
    server = started(MariaDB, tmp_path / "server", [*LOGS_STATEMENTS, "--binlog-format=ROW"])
    try:
        url = database_of(server, "queue")
        app = create_app({"instance_path": tmp_path / "instance", "database_url": url})
        api = Api(app.test_client(), make_key("admin"))
        api.register()
        assert not keeps_snapshot()
        server.run("SET GLOBAL binlog_format = 'STATEMENT'")
        for number in server.connections_to("queue"):
            server.run(f"KILL {number}")
        api.create()
        assert keeps_snapshot()
        assert api.claim()["attempts"] == 1
        close_app(app)
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("row_format", ["compact", "redundant", "dynamic"])
def test_the_tables_are_made_whatever_row_format_the_server_prefers(
    host: MariaDB, tmp_path: Path, row_format: str
) -> None:
    host.run("SET GLOBAL init_connect = ''")
    host.run(f"SET GLOBAL innodb_default_row_format = {row_format}")
    url = host.create_database("queue").replace("root@", "me:p@")
    try:
        tour(url, tmp_path)
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
