"""TASKMANAGER_TABLE_PREFIX: every table, index and constraint carries it, and every statement."""

import ast
import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import Result

from taskmanager.access import audit
from taskmanager.app import close_app, create_app
from taskmanager.db import schema
from taskmanager.db.connection import (
    close_connection,
    connect_database,
    database,
    disconnect_database,
    use_database,
)
from taskmanager.db.dialect import MYSQL, SQLITE, Dialect
from taskmanager.db.engine import Recovering
from taskmanager.db.migrations import MIGRATIONS, Ddl
from taskmanager.db.models import MODELS, plain_name
from taskmanager.db.statements import fetch_all
from tests.conftest import Api, Clock, make_key
from tests.support.commands import run_command
from tests.support.database_structure import structure
from tests.support.mariadb import MariaDB
from tests.support.releases import previous

PREFIX = "shop_"
PACKAGE = Path(schema.__file__).resolve().parents[1]
TABLES = "|".join(plain_name(model) for model in MODELS)
PLAIN_TABLE = re.compile(rf'\b(?:FROM|INTO|UPDATE|JOIN|TABLE|ON)\s+["`]?(?:{TABLES})\b["`.]?')


class Installation:
    """One of several applications that share a database."""

    def __init__(self, folder: Path, url: str, prefix: str) -> None:
        self._settings = {"instance_path": folder, "database_url": url, "table_prefix": prefix}
        self._app = create_app(self._settings)
        self._engine: Any = database.obj
        self.api = Api(self._app.test_client(), make_key("admin"))
        self.url = url

    def use(self) -> Api:
        """Its API, on its own tables."""
        use_database(self._engine)
        return self.api

    def run(self, *arguments: str, exit_code: int = 0) -> Result:
        """One command in this process."""
        environment = {f"TASKMANAGER_{k.upper()}": str(v) for k, v in self._settings.items()}
        result = run_command(*arguments, environment=environment)
        assert result.exit_code == exit_code, (result.output, result.exception)
        disconnect_database(database.obj)
        self.use()
        return result

    def rows(self, table: str) -> list[dict[str, Any]]:
        self.use()
        return fetch_all(f"SELECT * FROM {{{table}}}")

    def close(self) -> None:
        close_app(self._app)


@pytest.fixture
def install(fresh_database_url: str, tmp_path: Path) -> Iterator[Callable[[str], Installation]]:
    """Makes an installation with a prefix, all in one database."""
    made: list[Installation] = []

    def make(prefix: str) -> Installation:
        folder = tmp_path / f"instance {prefix}"
        made.append(Installation(folder, fresh_database_url, prefix))
        return made[-1]

    yield make
    for installation in made:
        installation.close()


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that is run from now on, on whichever connection."""
    seen: list[str] = []
    run = Recovering.execute_sql

    def watch(self: Recovering, sql: str, params: Any = None) -> Any:
        seen.append(sql)
        return run(self, sql, params)

    monkeypatch.setattr(Recovering, "execute_sql", watch)
    return seen


def test_everything_works_with_a_prefix(
    install: Callable[[str], Installation], statements: list[str], clock: Clock, tmp_path: Path
) -> None:
    shop = install(PREFIX)
    use_everything(shop, clock, tmp_path)

    assert len(statements) > 300
    assert [sql for sql in statements if PLAIN_TABLE.search(sql)] == []
    shop.use()
    assert all(name.startswith(PREFIX) for name in structure())


def use_everything(shop: Installation, clock: Clock, folder: Path) -> None:
    """Each call of the API and each command that touches a table."""
    api = shop.use()
    assert api.get("/api/health")["database"] == "connected"
    _use_types_and_tasks(api, clock)
    _use_schedules(api, clock)
    _use_keys_and_reports(api)
    _use_commands(shop, clock, folder)


def _use_types_and_tasks(api: Api, clock: Clock) -> None:
    api.register("job", schema={"type": "object", "properties": {"n": {"type": "integer"}}})
    api.register("job", version="2")
    api.patch("/api/task-types/job", {"max_attempts": 2})
    assert api.get("/api/task-types/job?version=1")["version"] == "1"
    tasks = [{"type": "job", "params": {"n": n}} for n in range(12)]
    made = api.call("POST", "/api/tasks/batch", {"tasks": tasks}).get_json()["data"]
    assert (made["created"], api.get("/api/task-types")["task_types"][0]["open_tasks"]) == (12, 12)
    again = api.post("/api/tasks", {"type": "job", "params": {"n": 1}})
    active = [
        api.call("POST", "/api/tasks", {"type": "job", "params": {}, "dedupe": "active"})
        for _ in range(2)
    ]
    assert (again["deduplicated"], [one.status_code for one in active]) == (True, [201, 200])

    checked = api.post("/api/task-types/job/validate", {"param_schema": {"required": ["n"]}})
    assert (checked["checked"], checked["rejected"]) == (13, 1)

    first, *others = api.claim(limit=11, request_id="r")["tasks"]
    assert api.claim(limit=11, request_id="r")["tasks"][0]["id"] == first["id"]
    api.complete(first, result={"ok": 1})
    assert api.complete(first, result={"ok": 1})["replayed"]
    failed = api.complete(others[0], success=False, error_message="no")
    assert failed["will_retry"]
    holder = {name: others[1][name] for name in ("worker_id", "claim_token")}
    path = f"/api/tasks/{others[1]['id']}"
    api.post(f"{path}/heartbeat", holder)
    api.post(f"{path}/progress", {**holder, "progress": 50})
    api.post(f"{path}/release", holder)
    api.post("/api/tasks/complete", {**_reports(others[2:4]), "worker_id": "worker-1"})
    api.post("/api/workers/heartbeat", {"worker_id": "worker-1", "metadata": {"a": 1}})
    api.post(f"/api/tasks/{others[4]['id']}/cancel", {"reason": "no need"})
    api.post(f"/api/tasks/{others[4]['id']}/retry")
    child = api.create("job", parent_task_id=first["id"], delay_seconds=60)
    assert api.get(f"/api/tasks/{child['id']}")["status"] == "scheduled"
    assert api.events(others[4]["id"])[-2:] == ["cancelled", "retried"]
    for query in ("", "status=failed", "worker_id=worker-1", "type=job&sort_by=priority"):
        api.get(f"/api/tasks?with_total=true&limit=3&{query}")
    assert api.get("/api/workers/worker-1")["tasks_held"] == 5
    clock.advance(400)  # leases expire, the delayed task falls due
    api.claim(sort_by="attempts", type_pattern="job%")
    assert api.post("/api/workers/worker-1/shutdown")["released"]
    assert len(api.get("/api/workers")["workers"]) == 1


def _reports(tasks: list[Any]) -> Any:
    return {
        "completions": [
            {"id": task["id"], "claim_token": task["claim_token"], "success": True}
            for task in tasks
        ]
    }


def _use_schedules(api: Api, clock: Clock) -> None:
    fields = {"type": "job", "params": {}, "interval_seconds": 60}
    made = api.post("/api/schedules", {"name": "often", **fields}, 201)
    api.post("/api/schedules", {"name": "often", **fields}, 409)
    path = f"/api/schedules/{made['id']}"
    api.patch(path, {"priority": 5})
    api.post(f"{path}/run", status=201)
    clock.advance(120)
    assert api.post("/api/maintenance/run")["created"] == 1
    assert api.get(path)["last_outcome"] == "created"
    assert len(api.get("/api/schedules")["schedules"]) == 1
    api.delete(path)


def _use_keys_and_reports(api: Api) -> None:
    made = api.post("/api/admin/keys", {"name": "w", "role": "worker", "task_types": ["job"]}, 201)
    assert api.with_key(made["key"]).get("/api/tasks")["tasks"]
    path = f"/api/admin/keys/{made['id']}"
    api.patch(path, {"rate_limit": "5/minute"})
    rotated = api.post(f"{path}/rotate", status=201)
    api.delete(f"/api/admin/keys/{rotated['id']}")
    own = api.get("/api/admin/keys")["keys"][0]["id"]
    api.delete(f"/api/admin/keys/{own}", 409)
    api.with_key("nobody").get("/api/tasks", 401)
    events = {event["event"] for event in api.get("/api/admin/audit")["events"]}
    assert {audit.FAILED, "key_revoked", "schedule_deleted", "task_retried"} <= events
    assert api.get("/api/stats")["total"] > 10
    assert "taskmanager_schedules" in api.call("GET", "/api/metrics").get_data(as_text=True)
    report = api.get("/api/admin/doctor")
    assert {"tables", "admin_key"} <= {f["code"] for f in report["findings"] if f["level"] == "ok"}


def _use_commands(shop: Installation, clock: Clock, folder: Path) -> None:
    file = str(folder / "queue.jsonl")
    shop.run("export", file)
    assert json.loads(Path(file).read_text(encoding="utf-8").splitlines()[1])["table"] in TABLES
    key = shop.run("keys", "create", "--name", "ci", "--role", "viewer").stdout.strip()
    assert shop.use().with_key(key).get("/api/tasks")["tasks"]
    number = re.findall(r"\d+", shop.run("keys", "list").stdout.splitlines()[-1])[0]
    shop.run("keys", "rotate", number)
    shop.run("keys", "revoke", number)
    shop.api.claim()
    clock.advance(40 * 86_400)
    assert "requeued" in shop.run("requeue-stale").stderr
    assert "pruned" in shop.run("prune").stderr
    shop.run("maintain")
    for command in ("stats", "audit", "init-db", "migrate"):
        shop.run(command)
    assert "schema_version" in shop.run("doctor").output


@pytest.mark.slow
def test_two_prefixes_in_one_database_know_nothing_of_each_other(
    install: Callable[[str], Installation], clock: Clock, tmp_path: Path
) -> None:
    shop, plain = install(PREFIX), install("")
    blog = install("blog_")
    for other in (plain, blog):
        other.use().register("job")
        other.api.create("job")
    before = {other: everything_in(other) for other in (plain, blog)}
    other_key = plain.api.key

    use_everything(shop, clock, tmp_path)

    assert {other: everything_in(other) for other in (plain, blog)} == before
    assert shop.use().with_key(other_key).call("GET", "/api/tasks").status_code == 401
    assert len(structure()) == 3 * len(MODELS)
    # A queue moves from one prefix to another, and each has only its own tasks.
    shop.run("export", str(tmp_path / "moved.jsonl"))
    cart = install("cart_")
    cart.run("import", str(tmp_path / "moved.jsonl"), "--replace-keys")
    assert cart.rows("tasks") == shop.rows("tasks") != []
    assert {other: everything_in(other) for other in (plain, blog)} == before


def everything_in(installation: Installation) -> dict[str, Any]:
    return {plain_name(model): installation.rows(plain_name(model)) for model in MODELS}


def test_prefixed_tables_are_made_like_others(fresh_database_url: str) -> None:
    connect_database(fresh_database_url)
    schema.create_schema()
    plain = structure()
    close_connection()
    connect_database(fresh_database_url, table_prefix=PREFIX)
    assert schema.schema_version() is None

    assert schema.create_schema() is schema.Preparation.MADE

    assert schema.create_schema() is schema.Preparation.NOTHING
    assert described(structure(), PREFIX) == described(plain, "")
    close_connection()


def described(tables: dict[str, list[Any]], prefix: str) -> dict[str, list[str]]:
    """The tables that have the prefix, with it taken out of everything that they are made of."""
    return {
        name.removeprefix(prefix): sorted(repr(part).replace(prefix, "") for part in parts)
        for name, parts in tables.items()
        if name.startswith(prefix)
    }


def test_tables_of_an_older_version_are_upgraded_under_their_prefix(
    fresh_database_url: str,
) -> None:
    connect_database(fresh_database_url)
    schema.create_schema()
    plain = structure()
    close_connection()
    connect_database(fresh_database_url, table_prefix=PREFIX)
    before = previous.make_previous_release()
    assert schema.schema_version() == previous.VERSION

    assert schema.create_schema() is schema.Preparation.UPGRADED

    assert previous.rows_kept(before) == before
    assert described(structure(), PREFIX) == described(plain, "")
    close_connection()


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_sqlite_runs_what_is_printed(fresh_database_url: str, tmp_path: Path, engine: str) -> None:
    file = fresh_database_url.removeprefix("sqlite:///")
    printed = run_print(tmp_path, fresh_database_url)
    with sqlite3.connect(file) as connection:
        connection.executescript(printed)
    connection.close()
    assert_ready(fresh_database_url)


@pytest.mark.parametrize("engine", ["mariadb"], indirect=True)
def test_mariadb_runs_what_is_printed(
    fresh_database_url: str, tmp_path: Path, mariadb_server: MariaDB
) -> None:
    printed = run_print(tmp_path, fresh_database_url)
    name = urlsplit(fresh_database_url).path.lstrip("/")
    for statement in printed.split(";\n"):
        if statement.strip():
            mariadb_server.run(statement, name)
    assert_ready(fresh_database_url)


def run_print(folder: Path, url: str) -> str:
    """What `init-db --print` prints; it neither needs nor makes a database."""
    environment = {
        "TASKMANAGER_INSTANCE_PATH": str(folder / "nowhere"),
        "TASKMANAGER_DATABASE_URL": url,
        "TASKMANAGER_TABLE_PREFIX": PREFIX,
    }
    result = run_command("init-db", "--print", environment=environment)
    assert (result.exit_code, result.stderr) == (0, "")
    assert not (folder / "nowhere").exists()
    return result.stdout


def assert_ready(url: str) -> None:
    connect_database(url, table_prefix=PREFIX)
    assert schema.find_refusal() is None
    assert set(structure()) == {PREFIX + plain_name(model) for model in MODELS}
    close_connection()


DEFINED = re.compile(r"\b(?:CREATE TABLE|CREATE INDEX|ADD INDEX|CONSTRAINT) (\w+)")


@pytest.mark.parametrize("target", [SQLITE, MYSQL], ids=lambda dialect: dialect.name)
def test_every_name_that_schema_sql_defines_gets_the_prefix_and_no_column_does(
    target: Dialect,
) -> None:
    plain = "\n".join(schema.schema_statements(target))
    prefixed = "\n".join(schema.schema_statements(target, PREFIX))
    names = DEFINED.findall(plain)

    assert DEFINED.findall(prefixed) == [PREFIX + name for name in names]
    assert prefixed.replace(PREFIX, "") == plain
    # `tasks` and `task_types` are names of columns, too.
    for column in ("tasks", "task_types", "id", "version"):
        assert re.findall(rf"^ +{column} +[A-Z]", prefixed, re.MULTILINE), column
    assert max(len(name) for name in names) + 20 <= 64  # what MySQL takes


def test_no_two_prefixes_lead_to_the_same_name() -> None:
    """As `a_` and `a_b_` would if there were the tables `b_tasks` and `tasks`."""
    steps = [step for steps in MIGRATIONS.values() for step in steps if isinstance(step, Ddl)]
    texts = [f"{step.sql} {step.mysql}" for step in steps] + schema.schema_statements(MYSQL)
    names = {name for text in texts for name in DEFINED.findall(text)}

    assert len(names) > 40
    assert [(a, b) for a in names for b in names if a != b and a.endswith(b)] == []


def test_every_statement_in_the_package_names_its_tables_in_braces() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        if path.name == "migrations.py":  # schema.py puts the prefix into its names
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                wrong += [f"{path}: {name}" for name in PLAIN_TABLE.findall(node.value)]
    assert wrong == []
