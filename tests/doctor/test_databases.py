"""The database and what is in it: reachable or not, old or new, locked in, forgotten by cron."""

import contextlib
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pymysql
import pytest
from cryptography.fernet import Fernet
from flask import Flask

from taskmanager.access import key_changes, keys
from taskmanager.access.caller import OPERATOR
from taskmanager.alerts import state
from taskmanager.app import close_app
from taskmanager.clock import utc_now
from taskmanager.config import Settings, load_settings
from taskmanager.db.connection import close_connection, connect_database, use_database
from taskmanager.db.models import PayloadKey, Task, TaskType, TaskTypeVersion
from taskmanager.db.mysql.nodes import Node, State
from taskmanager.db.schema import create_schema
from taskmanager.db.statements import execute, update
from taskmanager.doctor.case import Case
from taskmanager.doctor.checks import examine
from taskmanager.doctor.database import (
    judge_connections,
    judge_nodes,
    judge_packets,
    judge_version,
)
from taskmanager.files import systems
from taskmanager.payloads.keyring import key_id
from tests.api.tables import dump_tables
from tests.conftest import Api, Clock, in_every_mode
from tests.doctor.patients import Report, Upload, remount_read_only
from tests.support.mariadb import MariaDB
from tests.support.server import Server

PAYLOAD_KEY, OTHER_PAYLOAD_KEY = (Fernet.generate_key().decode() for _ in range(2))

on_mariadb = pytest.mark.parametrize("engine", ["mariadb"], indirect=True)
on_sqlite = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


@pytest.fixture
def examined(tmp_path: Path, database_url: str) -> Callable[..., Report]:
    """What the doctor finds in this process, on the database of `app`, by the moved clock."""
    place = {"instance_path": tmp_path / "instance", "database_url": database_url}
    return lambda **more: report_on(load_settings({**place, **more}, environ={}))


def report_on(settings: Settings) -> Report:
    findings = [
        {
            "code": finding.code,
            "level": finding.level.value,
            "found": finding.found,
            "remedy": finding.remedy,
        }
        for finding in examine(Case(settings=settings))
    ]
    close_connection()  # as the command does
    assert "check_failed" not in {finding["code"] for finding in findings}, findings
    return Report(0, findings, "")


@in_every_mode
def test_a_database_in_order_is_found_so_and_left_as_it_was(
    api: Api, examined: Callable[[], Report]
) -> None:
    api.register()
    api.create()
    before = dump_tables()
    report = examined()
    assert report.problems() == set()
    for code in ("database", "database_version", "schema_version", "tables", "admin_key"):
        assert report.level(code) == "ok"
    assert dump_tables() == before


@in_every_mode
def test_the_way_of_claims_is_told(
    api: Api, examined: Callable[[], Report], engine: str, url_options: str
) -> None:
    found = examined().of("claim_path")["found"]
    if engine == "sqlite":
        assert found.startswith("Not applicable")
    else:
        assert (found == "Claims use SKIP LOCKED.") is (not url_options)
        assert ("?skip_locked=off is set" in found) is bool(url_options)


def test_a_schema_that_can_no_longer_be_used_is_a_problem_that_names_its_type(
    api: Api, examined: Callable[[], Report]
) -> None:
    api.register("fine")
    api.register("old")
    assert examined().level("param_schemas") == "ok"
    execute(
        "UPDATE task_type_versions SET param_schema = ? WHERE task_type_id = "
        "(SELECT id FROM task_types WHERE name = 'old')",
        ('{"$ref": "#/$defs/gone"}',),
    )
    finding = examined().of("param_schemas")
    assert finding["level"] == "problem"
    assert "'old' (version 1)" in finding["found"]
    assert "param_schema.$ref points at a part that this schema lacks" in finding["found"]


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> dict[str, str]:
    return {"payload_key": PAYLOAD_KEY} if "payload" in request.node.name else {}


def test_payload_keys_are_those_that_encrypted_tasks_need(
    app: Flask, api: Api, tmp_path: Path, database_url: str
) -> None:
    def finding(keys: str) -> dict[str, str]:
        config = {"instance_path": tmp_path / "instance", "database_url": database_url}
        settings = load_settings({**config, "payload_key": keys}, environ={})
        return report_on(settings).of("payload_keys")

    assert finding("")["found"].startswith("Not applicable")
    api.register("secret", is_encrypted=True)
    missing = finding("")
    assert (missing["level"], "'secret'" in missing["found"]) == ("problem", True)
    api.create("secret")
    assert finding(PAYLOAD_KEY)["level"] == "ok"
    unfinished = finding(f"{OTHER_PAYLOAD_KEY},{PAYLOAD_KEY}")
    assert (unfinished["level"], "rotate" in unfinished["remedy"]) == ("warning", True)
    wrong = finding(OTHER_PAYLOAD_KEY)
    assert (wrong["level"], key_id(PAYLOAD_KEY) in wrong["found"]) == ("problem", True)
    use_database(app.extensions["taskmanager.database"])
    for model in (Task, TaskTypeVersion, TaskType, PayloadKey):  # the next test has no key
        model.delete().execute()


# Versions


@pytest.mark.parametrize(
    ("engine", "version", "level"),
    [
        ("MySQL", "5.6.51", "problem"),
        ("MySQL", "5.7.44-log", "ok"),
        ("MySQL", "8.0.36-0ubuntu0.22.04.1", "ok"),
        ("MariaDB", "10.2.44-MariaDB", "problem"),
        ("MariaDB", "5.5.5-10.11.6-MariaDB-0+deb12u1", "ok"),
        ("MariaDB", "11.4.2-MariaDB", "ok"),
        ("SQLite", sqlite3.sqlite_version, "ok"),
    ],
)
def test_versions_older_than_the_schema_takes_are_a_problem(
    engine: str, version: str, level: str
) -> None:
    assert judge_version(engine, version).level == level


def test_an_upgrade_that_is_pending_is_a_warning(api: Api, examined: Callable[[], Report]) -> None:
    execute("UPDATE schema_versions SET version = version - 1")
    try:
        report = examined()
    finally:
        execute("UPDATE schema_versions SET version = version + 1")
    assert report.level("schema_version") == "warning"
    assert "taskmanager migrate" in report.of("schema_version")["remedy"]
    assert "keys" in report.not_checked()


def test_tables_newer_than_the_program_are_a_problem(
    api: Api, examined: Callable[[], Report]
) -> None:
    execute("UPDATE schema_versions SET version = version + 1")
    try:
        report = examined()
    finally:
        execute("UPDATE schema_versions SET version = version - 1")
    assert report.level("schema_version") == "problem"


def test_a_table_that_is_missing_is_named(api: Api, examined: Callable[[], Report]) -> None:
    execute("ALTER TABLE audit_events RENAME TO hidden")
    try:
        report = examined()
    finally:
        execute("ALTER TABLE hidden RENAME TO audit_events")
    assert report.of("tables")["found"] == "Tables are missing: audit_events."
    assert report.level("tables") == "problem"


def test_a_database_without_tables_is_left_without(fresh_database_url: str, tmp_path: Path) -> None:
    connect_database(fresh_database_url)
    settings = load_settings(
        {"instance_path": tmp_path, "database_url": fresh_database_url}, environ={}
    )
    if fresh_database_url.startswith("sqlite"):
        (tmp_path / "queue.db").touch()
    for _ in range(2):
        assert report_on(settings).level("schema_version") == "warning"
    close_connection()


# Keys and maintenance


def test_without_a_key_in_force_that_may_administer_there_is_a_problem(
    api: Api, examined: Callable[[], Report], clock: Clock
) -> None:
    assert examined().level("admin_key") == "ok"
    row = keys.list_keys()[0]
    key_changes.revoke_key(key_id=row["id"], force=True, caller=OPERATOR, now=utc_now())
    options = {"scopes": ["admin"], "now": utc_now(), "caller": OPERATOR}
    keys.create_key(name="limited", task_types=["A.%"], **options)  # type: ignore[arg-type]
    keys.create_key(name="short", expires_at=clock.now + 1_000, **options)  # type: ignore[arg-type]
    assert examined().of("admin_key")["found"] == "There is 1 admin key."
    clock.advance(1)
    assert examined().level("admin_key") == "problem"


def test_alerts_that_cannot_be_sent_are_found(
    api: Api, examined: Callable[..., Report], clock: Clock
) -> None:
    assert examined().of("alerts")["found"].startswith("Not applicable: TASKMANAGER_ALERT_EMAIL")
    settings = {"alert_email": "me@example.org"}
    assert examined(**settings).of("alerts")["found"] == "Alerts go by email. None was sent yet."
    assert state.claim("email", now=clock.now)
    state.record_failure("email", "Nothing takes the connection there.", now=clock.now)
    found = examined(**settings).of("alerts")
    assert (found["level"], found["found"]) == (
        *("warning", "Alerts cannot be sent by email: Nothing takes the connection there."),
    )
    assert found["remedy"].endswith("taskmanager alerts test")
    state.record_sent("email", "emailed", [], now=clock.now)
    assert examined(**settings).level("alerts") == "ok"


def test_cron_is_missed_after_a_quarter_of_an_hour_and_its_road_is_named(
    api: Api, examined: Callable[[], Report], clock: Clock
) -> None:
    never = examined().of("maintenance")
    assert (never["level"], "never run" in never["found"]) == ("warning", True)

    api.post("/api/maintenance/run")
    clock.advance(90)
    found = examined().of("maintenance")
    assert (found["level"], found["found"]) == (
        *("ok", "Maintenance last ran over HTTP 90 s ago."),
    )
    clock.advance(3 * 3_600)
    api.register()
    api.create(delay_seconds=5)
    clock.advance(5)
    api.claim()  # claims do part of it, which is not enough
    found = examined().of("maintenance")
    assert found["level"] == "warning"
    assert "over HTTP 3 hours ago; claims last did part of it 0 s ago" in found["found"]


# SQLite


def test_another_file_in_the_place_of_the_database_is_a_problem(upload: Upload) -> None:
    upload.start_queue()
    file = upload.instance / "taskmanager.db"
    file.write_bytes(b"<html>not a database</html>" * 1_000)
    report = upload.examine()
    assert "damaged or is not a database" in report.of("database")["found"]
    assert report.problems() == {"database"}
    assert "tables" in report.not_checked()


def test_a_database_below_what_is_no_folder_is_a_problem(upload: Upload) -> None:
    report = upload.examine(database_url="sqlite:////dev/null/queue.db")
    assert "not a directory" in report.of("database")["found"]
    assert report.level("database") == "problem"


@on_sqlite
def test_the_write_ahead_log_is_in_use_or_the_reason_is_told(
    app: Flask, examined: Callable[[], Report], database_url: str, tmp_path: Path
) -> None:
    assert examined().level("sqlite_journal") == "ok"
    assert "sync_failed" not in examined().codes()
    failure = tmp_path / "queue.db.sync-failed"
    failure.touch()
    assert examined().level("sync_failed") == "problem"
    failure.unlink()
    without = database_url + "?journal=delete"
    settings = load_settings({"instance_path": tmp_path, "database_url": without}, environ={})
    waiting = report_on(settings).of("sqlite_journal")
    assert waiting["level"] == "warning"
    assert "is wal but should be delete" in waiting["found"]
    close_app(app)
    create_schema()  # as the next start does
    there = report_on(settings).of("sqlite_journal")
    assert (there["level"], "?journal=delete" in there["found"]) == ("ok", True)


@on_sqlite
def test_a_network_file_system_is_a_warning_and_a_log_on_it_another(
    app: Flask,
    examined: Callable[[], Report],
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert examined().level("sqlite_file") == "ok"
    (tmp_path / "mountinfo").write_text("22 1 0:40 / / rw - nfs4 nas:/home rw\n")
    monkeypatch.setattr(systems, "MOUNTS", tmp_path / "mountinfo")
    forced = load_settings(
        {"instance_path": tmp_path, "database_url": database_url + "?journal=wal"}, environ={}
    )
    report = report_on(forced)
    assert (report.level("sqlite_file"), report.level("sqlite_journal")) == ("warning", "warning")
    assert "nfs4" in report.of("sqlite_file")["found"]
    close_connection()
    close_app(app)
    connect_database(database_url)
    create_schema()
    report = examined()
    assert (report.level("sqlite_file"), report.level("sqlite_journal")) == ("warning", "ok")


def test_a_database_file_that_can_only_be_read_is_a_problem(upload: Upload, disk: Path) -> None:
    url = f"sqlite:///{disk}/queue.db?journal=delete"
    upload.start_queue(database_url=url)
    assert upload.examine(database_url=url).level("sqlite_file") == "ok"
    remount_read_only(disk)
    report = upload.examine(database_url=url)
    assert report.problems() == {"sqlite_file"}
    assert report.level("admin_key") == "ok"


@on_sqlite
def test_processes_that_have_the_database_open_are_counted(
    start_server: Callable[..., Server], fresh_database_url: str, tmp_path: Path, upload: Upload
) -> None:
    server = start_server(workers=2, threads=1)
    place = {"instance_path": str(server.folder), "database_url": fresh_database_url}

    def open_in() -> int:
        found = upload.examine(**place).of("processes")
        assert found["level"] == "ok"
        return int(found["found"].split("command, ")[1].split()[0])

    for _ in range(20):
        server.call("GET", "/api/stats")
    assert open_in() in (1, 2)  # one may have answered all
    with contextlib.closing(sqlite3.connect(tmp_path / "queue.db")) as mine:
        mine.execute("SELECT * FROM tasks").fetchall()
        assert open_in() in (2, 3)
    server.stop()
    assert open_in() == 0


# MySQL, MariaDB


def test_a_stopped_server_is_a_problem_and_the_host_is_examined_all_the_same(
    upload: Upload, own_mariadb: MariaDB
) -> None:
    url = own_mariadb.create_database("queue")
    upload.start_queue(database_url=url)
    well = upload.examine(database_url=url)
    assert (well.level("database"), well.exit_status) == ("ok", 0)
    assert well.level("clock") == "ok"
    own_mariadb.stop()

    ill = upload.examine(database_url=url)

    assert "Nothing answers at the address of the database server" in ill.of("database")["found"]
    assert ill.problems() == {"database"}
    assert ill.exit_status == 1
    assert ill.level("disk_sync") == "ok"
    assert "connections" in ill.not_checked()


@pytest.mark.parametrize(
    ("user", "name", "sentence"),
    [
        ("limited:wrong", "doctored", "rejects the user or the password"),
        ("limited:right", "mysql", "has no access to this database"),
        ("root", "nosuch", "no database with this name"),
    ],
)
def test_why_a_server_refuses_is_told_without_the_password(
    upload: Upload, mariadb_server: MariaDB, user: str, name: str, sentence: str
) -> None:
    limited_user(mariadb_server, 0)
    url = f"mysql://{user}@127.0.0.1:{mariadb_server.port}/{name}"
    report = upload.examine(database_url=url)
    assert sentence in report.of("database")["found"]
    assert report.level("database") == "problem"
    assert "limited" not in str(report.findings)
    assert report.exit_status == 1


def limited_user(server: MariaDB, connections: int) -> str:
    """A user who may have so many connections; the URL of a database of that user."""
    url = server.create_database("doctored")
    server.run("DROP USER IF EXISTS limited")
    server.run(f"CREATE USER limited IDENTIFIED BY 'right' WITH MAX_USER_CONNECTIONS {connections}")
    server.run("GRANT ALL ON doctored.* TO limited")
    return url.replace("root@", "limited:right@")


def test_connections_that_run_out_are_a_warning_and_then_a_problem(
    upload: Upload, mariadb_server: MariaDB
) -> None:
    url = limited_user(mariadb_server, 3)
    upload.start_queue(database_url=url)
    report = upload.examine(database_url=url)
    assert report.level("connections") == "ok"
    assert "This user has 1 of 3 connections" in report.of("connections")["found"]
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(contextlib.closing(connect(mariadb_server)))
        report = upload.examine(database_url=url)
        assert "This user has 3 of 3 connections" in report.of("connections")["found"]
        assert report.level("connections") == "warning"
        stack.enter_context(contextlib.closing(connect(mariadb_server)))
        report = upload.examine(database_url=url)
        assert "has reached its limit of connections" in report.of("database")["found"]
        assert report.level("database") == "problem"


def connect(server: MariaDB, **options: str) -> pymysql.Connection:  # type: ignore[type-arg]
    return pymysql.connect(
        host="127.0.0.1",
        port=server.port,
        user="limited",
        password="right",
        ssl_disabled=True,
        **options,
    )


def test_several_machines_that_count_requests_apart_are_a_warning(
    mariadb_server: MariaDB, tmp_path: Path
) -> None:
    url = limited_user(mariadb_server, 100)
    place = {"instance_path": tmp_path / "instance", "database_url": url}

    def finding(**more: str) -> dict[str, str]:
        return report_on(load_settings({**place, **more}, environ={})).of("rate_limit_hosts")

    assert finding()["level"] == "ok"
    with contextlib.closing(connect(mariadb_server, bind_address="127.0.0.2")) as other:
        assert finding()["level"] == "ok"  # it uses no database
        other.select_db("doctored")
        found = finding()
        assert found["level"] == "warning"
        assert (
            "2 machines are connected to the database now: 127.0.0.2, localhost." in found["found"]
        )
        assert finding(rate_limit_storage_uri="redis://127.0.0.1:1")["level"] == "ok"


def test_the_connections_of_all_users_count_too() -> None:
    assert judge_connections(own=1, own_limit=0, everybody=121, limit=151).level == "warning"
    assert judge_connections(own=1, own_limit=0, everybody=120, limit=151).level == "ok"
    assert judge_connections(own=8, own_limit=10, everybody=9, limit=151).level == "warning"


@on_mariadb
def test_isolation_and_packets_of_an_ordinary_server_are_in_order(
    api: Api, examined: Callable[[], Report]
) -> None:
    report = examined()
    assert report.of("binary_log")["found"] == "Transactions use READ COMMITTED."
    assert report.level("packet_size") == "ok"


def test_a_server_that_takes_less_than_the_settings_let_in_is_a_warning() -> None:
    megabyte = 1_048_576
    finding = judge_packets(megabyte, megabyte)
    assert finding.level.value == "warning"
    assert "max_allowed_packet" in finding.found
    advised = int(re.findall(r"([0-9,]+)\.$", finding.remedy or "")[0].replace(",", ""))
    assert judge_packets(megabyte, advised).level.value == "ok"
    assert judge_packets(megabyte, advised + 1).level.value == "warning"


def test_servers_that_cannot_be_used_are_named_with_the_reason() -> None:
    found = [
        (Node("a", 1), State(is_writable=True)),
        (Node("b", 2), State(is_writable=False)),
        (Node("c", 3), State(is_writable=True, is_ready=False, is_synced=False)),
        (Node("d", 4), State(is_writable=True, is_synced=False)),
        (Node("e", 5), None),
    ]
    assert judge_nodes(found[:1]).level.value == "ok"
    finding = judge_nodes(found)
    assert finding.level.value == "warning"
    assert finding.found == (
        "Of 5 database servers, 4 cannot be used now: b:2 is read-only, c:3 has lost the others, "
        "d:4 is catching up or copies its data to another, e:5 does not answer."
    )


@on_mariadb
def test_clocks_that_differ_are_a_warning(
    api: Api, examined: Callable[[], Report], clock: Clock
) -> None:
    assert examined().level("clock") == "ok"
    clock.advance(120)
    slow = examined().of("clock")
    assert slow["level"] == "warning"
    assert "s behind the local clock" in slow["found"]
    clock.advance(-240)
    assert "s ahead of the local clock" in examined().of("clock")["found"]


@on_sqlite
def test_sqlite_has_neither_clock_nor_connections(api: Api, examined: Callable[[], Report]) -> None:
    report = examined()
    for code in (
        *("clock", "connections", "claim_path"),
        *("rate_limit_hosts", "database_nodes", "binary_log", "packet_size"),
    ):
        assert report.of(code)["found"].startswith("Not applicable")


def test_times_that_a_clock_stored_which_was_ahead_are_a_warning_until_maintenance(
    api: Api, examined: Callable[[], Report], clock: Clock
) -> None:
    api.register()
    api.create()
    assert examined().level("stored_times") == "ok"
    clock.advance(864_000)
    api.claim()
    clock.advance(-864_000)
    finding = examined().of("stored_times")
    assert finding["level"] == "warning"
    assert "leases (1), workers (1)" in finding["found"]
    api.post("/api/maintenance/run", {})
    assert examined().level("stored_times") == "ok"


def test_webhooks_that_fail_are_a_warning(
    api: Api, examined: Callable[[], Report], clock: Clock
) -> None:
    assert examined().of("webhooks")["found"] == "There are no webhooks."
    for name in ("billing", "ops"):
        api.post("/api/webhooks", {"name": name, "url": "https://nowhere.invalid/"}, 201)
    update("webhooks", {"failing_since": clock.now}, "name = 'ops'")
    assert examined().of("webhooks")["found"] == "No webhook is failing."
    clock.advance(7_200)
    off = {
        "is_active": 0,
        "disabled_at": clock.now,
        "disabled_reason": "The receiver answered 500.",
    }
    update("webhooks", off, "name = 'billing'")
    clock.advance(7_200)
    disabled, failing = [one for one in examined().findings if one["code"] == "webhooks"]
    assert (disabled["level"], failing["level"]) == ("warning", "warning")
    assert "'billing' was switched off 2 hours ago" in disabled["found"]
    assert "The receiver answered 500." in disabled["found"]
    assert "'ops' is failing, first 4 hours ago" in failing["found"]
