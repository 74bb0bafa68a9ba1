"""Which tests a run consists of, and the fixtures.

Each test that uses `app`, `api` or `database_url` runs on SQLite and on MariaDB.

    pytest                        the quick run: what starts no server and takes little time
    pytest --all                  every test
    pytest tests/races            every test below the folders or files that are named
    pytest tests/api -m "not slow"    of those, what belongs to the quick run
    pytest --all -m slow          what the quick run left out

A test is slow when `_is_slow` says so, or when it is marked `slow`; `smoke` keeps it in the quick
run all the same. Hypothesis tries fewer examples in the quick run.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import settings as hypothesis
from jinja2 import FileSystemBytecodeCache
from werkzeug.routing import Rule
from xdist.scheduler import LoadFileScheduling

from taskmanager import clock as clock_module
from taskmanager.access import keys
from taskmanager.access.caller import OPERATOR
from taskmanager.app import close_app, create_app
from taskmanager.bootstrap import open_database, prepare_database
from taskmanager.clock import utc_now
from taskmanager.config import load_settings
from taskmanager.db.connection import close_all_connections, close_connection
from taskmanager.db.models import MODELS, SchemaVersion
from taskmanager.queue import feed
from tests.support import mariadb, other_databases
from tests.support.debian_packages import NotToBeHad
from tests.support.server import Server

ENGINES = ("sqlite", "mariadb")
# The same, and the ways that are taken where a file system or a server can do less: tests whose
# module or folder asks for these run in each.
MODES = {
    "sqlite": "",
    "sqlite without its log": "?journal=delete",
    "mariadb": "",
    "mariadb without SKIP LOCKED": "?skip_locked=off",
}
in_every_mode = pytest.mark.parametrize("engine", list(MODES), indirect=True)


# Fixtures that start a server or another process for the test.
SLOW_FIXTURES = {"mariadb_server", "own_mariadb", "start_server", "upload"}
# Folders all of whose tests do so.
SLOW_FOLDERS = {"acceptance", "cluster", "races"}

TESTS = Path(__file__).parent

DRIVERS = "tests/clients/test_scenarios.py"

# What Rule.compile() sets.
OF_COMPILED_ROUTES = ("_parts", "_trace", "_converters", "arguments", "_build", "_build_unknown")

# Hypothesis repeats the same examples where it sees that it runs in continuous integration, which
# hides what chance finds and makes a second exploration pointless. The blob repeats what failed.
EXPLORING = {"deadline": None, "derandomize": False, "print_blob": True}
hypothesis.register_profile("quick", max_examples=20, **EXPLORING)
hypothesis.register_profile("full", max_examples=100, **EXPLORING)


def _compile_once() -> None:
    """Nearly every test makes an application. All have the same templates and routes.

    Werkzeug parses each route and compiles two functions for it, which takes an application 30 ms.
    """
    Flask.jinja_options = {"bytecode_cache": FileSystemBytecodeCache()}
    compiled: dict[object, Rule] = {}
    compile_rule = Rule.compile

    def compile_once(rule: Rule) -> None:
        made_of = (rule.rule, repr(rule.defaults), rule.merge_slashes)
        if made_of in compiled:
            known = vars(compiled[made_of])
            vars(rule).update({name: known[name] for name in OF_COMPILED_ROUTES})
        else:
            compile_rule(rule)
            compiled[made_of] = rule

    Rule.compile = compile_once


_compile_once()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all",
        action="store_true",
        help="run the slow tests too, as a run does that names folders or files; "
        'with -m slow, run them alone; with -m "not slow", leave them out',
    )
    parser.addoption(
        "--database",
        choices=other_databases.NAMES,
        help="run what runs on MariaDB, or on SQLite, on this one instead; it is fetched first "
        "unless it is a cluster of the MariaDB that is installed",
    )
    parser.addoption(
        "--cluster-tasks",
        type=int,
        default=1_500,
        metavar="N",
        help="how many tasks each fault of tests/cluster happens to (%(default)s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    name = config.getoption("--database")
    # On a cluster each step of a model waits for three nodes.
    is_brief = _is_quick_run(config) or name == other_databases.GALERA
    hypothesis.load_profile("quick" if is_brief else "full")
    if name is None:
        return
    try:
        other_databases.fetch(name)
        if name == other_databases.SQLITE:
            other_databases.run_again_on_old_sqlite()
    except NotToBeHad as error:
        raise pytest.UsageError(f"{name} is not to be had here: {error}") from error


def _is_quick_run(config: pytest.Config) -> bool:
    names_tests = config.args_source is pytest.Config.ArgsSource.ARGS
    return not (names_tests or config.getoption("--all") or config.getoption("--database"))


@pytest.hookimpl(tryfirst=True)  # before -m looks at the markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the slow tests and leaves out what does not belong to this run."""
    for item in items:
        if _is_slow(item):
            item.add_marker(pytest.mark.slow)
    name = config.getoption("--database")
    here = [item for item in items if _runs_on(name, item)]
    kept = [item for item in here if not (_is_quick_run(config) and _has(item, "slow"))]
    stays = set(kept)
    config.hook.pytest_deselected(items=[item for item in items if item not in stays])
    items[:] = kept


class _Scheduling(LoadFileScheduling):
    """With --dist loadfile: one process runs all tests of a file, or those of one driver.

    The tests of the clients' drivers mostly wait, and take minutes.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        driver = re.search(r"\[(?:sqlite|mariadb)-(\w+)", nodeid) if file == DRIVERS else None
        return f"{file} {driver[1]}" if driver else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """Otherwise as xdist has it."""
    return _Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process for each core in the quick run. Other runs start servers and measure patience."""
    return (os.cpu_count() or 1) if _is_quick_run(config) else 0


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if _is_quick_run(config):
        terminalreporter.write_line(
            "The slow tests were left out; pytest --all runs them too.", yellow=True
        )


def _has(item: pytest.Item, marker: str) -> bool:
    return item.get_closest_marker(marker) is not None


def _is_slow(item: pytest.Item) -> bool:
    """Whether a test needs more than this process and SQLite."""
    if _has(item, "smoke"):
        return False
    return (
        any(other in _mode(item) for other in ("mariadb", "sqlite without"))
        or not SLOW_FIXTURES.isdisjoint(_fixtures(item))
        or item.path.relative_to(TESTS).parts[0] in SLOW_FOLDERS
    )


def _runs_on(name: str | None, item: pytest.Item) -> bool:
    """Whether a test is for the database of --database, or without it for no such one alone."""
    only = item.get_closest_marker("database")
    if name is None or only is not None:
        return only is None or name in only.args
    if name == other_databases.SQLITE:
        return "sqlite" in _mode(item)
    if name == other_databases.GALERA and (
        "logs statements" in _mode(item) or _has(item, "one_server")
    ):
        return False  # nodes send rows to each other, and do not see what others have not committed
    return "mariadb" in _mode(item) or "mariadb_server" in _fixtures(item)


def _mode(item: pytest.Item) -> str:
    """The parameters of a test, by name: the engine is among them where it has one."""
    callspec = getattr(item, "callspec", None)
    return callspec.id if callspec else ""


def _fixtures(item: pytest.Item) -> Sequence[str]:
    return getattr(item, "fixturenames", ())


@pytest.fixture
def settled_events(monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> None:
    """On a cluster, an event is told at once instead of after three minutes."""
    if pytestconfig.getoption("--database") == other_databases.GALERA:
        monkeypatch.setattr(feed, "SETTLED_MS", 0)


def require(what: str, present: bool) -> None:
    """Skips where a real component is missing; fails instead where CI promised to have it."""
    if not present:
        message = f"{what} is not installed"
        if os.environ.get("TASKMANAGER_TEST_REQUIRE") == "all":
            pytest.fail(message)
        pytest.skip(message)


def mariadb_kind(config: pytest.Config) -> type[mariadb.MariaDB]:
    """The kind of server that this run is to use; skips where it is missing."""
    kind = other_databases.SERVERS.get(config.getoption("--database"))
    if kind is None:
        require("MariaDB (mariadbd)", mariadb.is_installed())
        kind = mariadb.MariaDB
    return kind


@pytest.fixture(scope="session")
def mariadb_server(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[mariadb.MariaDB]:
    """One server for the whole run; a test that kills its server starts its own."""
    server = mariadb_kind(request.config)(tmp_path_factory.mktemp("mariadb"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def _shared_mariadb_url(mariadb_server: mariadb.MariaDB) -> str:
    return mariadb_server.create_database("shared")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param).partition(" ")[0]


@pytest.fixture
def url_options(request: pytest.FixtureRequest) -> str:
    """What the present mode adds to the URL of the database."""
    return MODES[request.node.callspec.params["engine"]]


@pytest.fixture
def database_url(
    engine: str, url_options: str, tmp_path: Path, request: pytest.FixtureRequest
) -> str:
    """An empty database: a new SQLite file, or the shared MariaDB one, emptied by `app`."""
    if engine == "sqlite":
        return f"sqlite:///{tmp_path / 'queue.db'}{url_options}"
    return str(request.getfixturevalue("_shared_mariadb_url")) + url_options


@pytest.fixture
def fresh_database_url(
    engine: str, url_options: str, tmp_path: Path, request: pytest.FixtureRequest
) -> str:
    """A database without tables, for tests that run servers or look at the schema."""
    if engine == "sqlite":
        return f"sqlite:///{tmp_path / 'queue.db'}{url_options}"
    server: mariadb.MariaDB = request.getfixturevalue("mariadb_server")
    return server.create_database("fresh") + url_options


@pytest.fixture
def settings() -> dict[str, Any]:
    """What a test module overrides to run the application with other settings."""
    return {}


@pytest.fixture(scope="session")
def _empty_queue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with all tables and no rows, made once: a copy takes a tenth of the time."""
    folder = tmp_path_factory.mktemp("empty")
    settings = load_settings({"instance_path": folder}, environ={})
    open_database(settings)
    prepare_database(settings)
    close_connection()
    return folder / "taskmanager.db"


@pytest.fixture
def app(
    engine: str, database_url: str, tmp_path: Path, settings: dict[str, Any], _empty_queue: Path
) -> Iterator[Flask]:
    if engine == "sqlite":
        shutil.copyfile(_empty_queue, tmp_path / "queue.db")
    application = create_app(
        {
            "instance_path": tmp_path / "instance",
            "database_url": database_url,
            # Nobody cuts the power here; tests of the disk ask for FULL themselves.
            "sqlite_synchronous": "NORMAL",
            **settings,
        }
    )
    if engine == "mariadb":
        for model in reversed(MODELS):
            if model is not SchemaVersion:
                model.delete().execute()
    yield application
    close_app(application)


@pytest.fixture(autouse=True)
def _closed_connections() -> Iterator[None]:
    """What the applications of a test have opened is closed, as at the end of their process."""
    yield
    close_all_connections()


class Clock:
    """The product's clock, standing still until a test moves it."""

    def __init__(self) -> None:
        self.now = utc_now()

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * 1000)

    def time_ns(self) -> int:
        return self.now * 1_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    monkeypatch.setattr(clock_module, "time", SimpleNamespace(time_ns=moved.time_ns))
    return moved


class Api:
    """The API called in process with one key; `call` returns the response, the verbs its data."""

    def __init__(self, client: FlaskClient, key: str) -> None:
        self.client = client
        self.key = key

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        options.setdefault("headers", {"X-API-Key": self.key})
        return self.client.open(path, method=method, json=body, **options)

    def get(self, path: str, status: int = 200) -> Any:
        return self._data(self.call("GET", path), status)

    def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        return self._data(self.call("POST", path, body), status)

    def patch(self, path: str, body: Any, status: int = 200) -> Any:
        return self._data(self.call("PATCH", path, body), status)

    def delete(self, path: str, status: int = 200) -> Any:
        return self._data(self.call("DELETE", path), status)

    def _data(self, response: Any, status: int) -> Any:
        """The answer's `data`, or the whole envelope of an error that was expected."""
        envelope = response.get_json()
        assert response.status_code == status, envelope
        assert envelope["success"] is (status < 400)
        return envelope["data"] if status < 400 else envelope

    def with_key(self, key: str) -> "Api":
        return Api(self.client, key)

    def register(self, name: str = "job", schema: Any = None, **fields: Any) -> Any:
        """Registers a type whose params may be any object."""
        body = {"name": name, "version": "1", "param_schema": schema or {"type": "object"}}
        response = self.call("POST", "/api/task-types/register", {**body, **fields})
        assert response.status_code in (200, 201), response.get_json()
        return response.get_json()["data"]

    def create(self, type_name: str = "job", params: Any = None, **fields: Any) -> Any:
        """Creates a task that de-duplication leaves alone unless told otherwise."""
        body = {"type": type_name, "params": params or {}, "dedupe": "none", **fields}
        return self.post("/api/tasks", body, 201)

    def claim(self, worker_id: str = "worker-1", status: int = 200, **fields: Any) -> Any:
        return self.post("/api/tasks/claim", {"worker_id": worker_id, **fields}, status)

    def complete(self, task: Any, status: int = 200, **fields: Any) -> Any:
        """Completes a claimed task as its holder, with its token; successfully by default."""
        body = {
            "worker_id": task["worker_id"],
            "claim_token": task["claim_token"],
            "success": True,
            **fields,
        }
        return self.post(f"/api/tasks/{task['id']}/complete", body, status)

    def events(self, task_id: int) -> list[str]:
        """The names of the events in a task's history, oldest first."""
        return [log["event"] for log in self.get(f"/api/tasks/{task_id}/logs")["logs"]]


def make_key(role: str, **options: Any) -> str:
    """A key made the way the command line does it."""
    _, key = keys.create_key(
        name=role, scopes=keys.ROLES[role], now=utc_now(), caller=OPERATOR, **options
    )
    return key


@pytest.fixture
def api(app: Flask) -> Api:
    return Api(app.test_client(), make_key("admin"))


@pytest.fixture
def start_server(tmp_path: Path, fresh_database_url: str) -> Iterator[Callable[..., Server]]:
    """Starts real servers on the fresh database; all are killed at the end, which takes no time."""
    running: list[Server] = []

    def start(**options: Any) -> Server:
        folder = tmp_path / "instance"
        folder.mkdir(exist_ok=True)
        server = Server(folder, fresh_database_url, **options)
        running.append(server)
        return server.start()

    yield start
    for server in running:
        server.kill()


@pytest.fixture
def own_mariadb(tmp_path: Path) -> Iterator[mariadb.MariaDB]:
    """A server that the test may stop and whose users are its own."""
    require("MariaDB (mariadbd)", mariadb.is_installed())
    (tmp_path / "mariadb").mkdir()
    server = mariadb.MariaDB(tmp_path / "mariadb")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 30 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    require("A small file system (mount, which takes root)", mounted)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
