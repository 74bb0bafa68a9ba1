"""The rules of the house, read from the source of every module: who may use what, and its shape."""

import ast
import configparser
import functools
import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "taskmanager"
MAX_LINES = 500
BANNED_WORDS = {"utils", "util", "helpers", "helper", "manager", "base", "common", "misc"}

# From the bottom up: a room may use itself and the rooms on the lines before its own. Rooms on
# one line do not know each other.
ROOMS = [
    ("errors", "clock", "manifest", "rates", "files", "alert_rules", "mail_server", "wakeups"),
    ("config", "clients", "logs"),
    ("db",),
    ("payloads",),
    ("access", "params"),
    ("queue",),
    ("transfer", "ratelimits", "notify"),
    ("alerts",),
    ("doctor", "bootstrap"),
    ("api",),
    ("dashboard",),
    ("app",),
    ("serving", "demo"),
    ("cli",),
    ("__main__",),
]
# The same within the queue: what decides who works on a task knows nothing of figures for people.
ROOMS_OF_QUEUE = [
    ("answer_size", "outbox", "columns", "flow.lanes", "flow.placeholders"),
    ("history", "dedupe", "retry", "task_types"),
    ("search", "feed"),
    ("store", "read", "claim_sql"),
    ("flow.limits",),
    ("flow.backlog",),
    ("holder", "workers", "flow.failed_dependencies"),
    ("flow.dependencies", "flow.graph"),
    ("waiting", "flow.batches"),
    ("endings",),
    ("change", "flow.deadlines"),
    ("create", "lease"),
    ("operate", "complete", "schedules"),
    ("figures.counts", "figures.periods", "maintenance_runs", "retention", "clock_jumps"),
    ("maintenance", "figures.rates", "figures.history"),
    ("claim", "bulk", "failures", "figures.statistics"),
    ("figures.metrics",),
]
# What only some rooms may use, libraries by the name under which they are imported.
KEPT_TO = {
    "flask": {"app", "api", "cli", "dashboard"},
    "werkzeug": {"app", "api", "dashboard"},
    "flask_wtf": {"dashboard"},
    "flask_limiter": {"api"},
    "limits": {"ratelimits", "api", "doctor"},
    "click": {"cli"},
    "gunicorn": {"serving"},
    "peewee": {"db", "payloads", "access", "queue", "transfer", "bootstrap", "notify", "alerts"},
    "pymysql": {"db"},
    "cronsim": {"queue"},
    "cryptography": {"payloads"},
    "taskmanager.db.transactions": {
        "db",
        "payloads",
        "access",
        "queue",
        "transfer",
        "notify",
        "alerts",
    },
}
# Folders of tests that belong to no room.
OTHER_TESTS = {"acceptance", "clients", "cluster", "races", "support"}


class Module(NamedTuple):
    """`taskmanager.queue.schedules.runs` is in the room `queue`, and there in `schedules`."""

    name: str
    path: Path

    @property
    def room(self) -> str:
        """The empty string for the package itself."""
        return self.name.partition(".")[2].partition(".")[0]

    @property
    def room_in_queue(self) -> str:
        """The empty string for what is no module of the queue."""
        inside = self.name.removeprefix("taskmanager.queue")[1:] if self.room == "queue" else ""
        in_a_folder = inside.startswith(("figures.", "flow."))
        return inside if in_a_folder else inside.partition(".")[0]

    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")


def _module(path: Path) -> Module:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return Module(".".join(parts).removesuffix(".__init__"), path)


# The Python client is a program of its own, for other machines.
CLIENT = PACKAGE / "clients" / "python"
MODULES = {
    module.name: module
    for module in map(_module, sorted(PACKAGE.rglob("*.py")))
    if CLIENT not in module.path.parents
}


@functools.cache
def nodes(module: Module) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(module.text())))


@functools.cache
def used_by(module: Module) -> frozenset[str]:
    """The modules that it imports, also inside functions: `flask`, `taskmanager.db.ids`."""
    used = set()
    for node in nodes(module):
        if isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.name} imports relatively"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            used |= names & MODULES.keys() or {str(node.module)}
    return frozenset(used)


def upward_uses(
    rooms: list[tuple[str, ...]], room_of: Callable[[Module], str]
) -> Iterator[tuple[str, str]]:
    """Each import of a room that stands no lower than the importer's own, that room apart."""
    heights = {room: height for height, line in enumerate(rooms) for room in line}
    for module in MODULES.values():
        for used in used_by(module) & MODULES.keys():
            ours, theirs = room_of(module), room_of(MODULES[used])
            if ours and theirs and ours != theirs and heights[theirs] >= heights[ours]:
                yield module.name, used


def in_rooms(*rooms: str) -> list[Module]:
    return [module for module in MODULES.values() if module.room in rooms]


# Rooms


def test_the_client_needs_nothing_but_urllib3() -> None:
    allowed = {*sys.stdlib_module_names, "urllib3", "taskmanager_client"}
    for path in CLIENT.rglob("*.py"):
        used = {name.partition(".")[0] for name in used_by(_module(path))}
        # Tests of workers run the server in their own process.
        more = {"taskmanager"} if path.name == "testing.py" else set()
        # Type checkers bring it along; at run time nothing imports it.
        for_checkers = r"^if TYPE_CHECKING:.*\n    from (typing_extensions) import"
        more |= set(re.findall(for_checkers, path.read_text("utf-8"), re.MULTILINE))
        assert used <= allowed | more, path.name


def test_every_module_stands_in_a_room_and_no_room_is_empty() -> None:
    assert {module.room for module in MODULES.values()} - {""} == {*chain.from_iterable(ROOMS)}


def test_every_module_of_the_queue_has_its_place_there_and_no_place_is_empty() -> None:
    inside = {module.room_in_queue for module in in_rooms("queue")}
    assert inside - {"", "figures", "flow"} == {*chain.from_iterable(ROOMS_OF_QUEUE)}


def test_a_module_imports_nothing_of_the_rooms_beside_and_above_it() -> None:
    assert list(upward_uses(ROOMS, lambda module: module.room)) == []


def test_a_module_of_the_queue_imports_nothing_of_what_stands_beside_and_above_it() -> None:
    assert list(upward_uses(ROOMS_OF_QUEUE, lambda module: module.room_in_queue)) == []


def test_the_package_itself_imports_nothing() -> None:
    assert used_by(MODULES["taskmanager"]) == set()


@pytest.mark.parametrize(("what", "rooms"), KEPT_TO.items(), ids=list(KEPT_TO))
def test_only_some_rooms_may_use(what: str, rooms: set[str]) -> None:
    users = {
        module.room
        for module in MODULES.values()
        if any(f"{used}.".startswith(f"{what}.") for used in used_by(module))
    }
    assert users, f"nobody uses {what} any more"
    assert users <= rooms


def test_every_library_that_is_imported_is_declared() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    required = setup["options"]["install_requires"].split()
    required += setup["options.extras_require"]["encryption"].split()
    declared = {_distribution(re.split("[<>=]", line)[0]) for line in required}
    used = {name.partition(".")[0] for module in MODULES.values() for name in used_by(module)}
    ours_or_pythons = {"taskmanager", "taskmanager_client", "_typeshed", *sys.stdlib_module_names}
    provided_by = packages_distributions()

    undeclared = {
        library
        for library in used - ours_or_pythons
        if not {_distribution(name) for name in provided_by.get(library, ())} & declared
    }
    assert undeclared == set()


def _distribution(name: str) -> str:
    return name.replace("_", "-").lower()


def test_views_of_one_resource_leave_the_others_alone() -> None:
    resources = {
        module.name for module in in_rooms("api") if "blueprint = Blueprint(" in module.text()
    }
    assert len(resources) > 4
    assert [name for name in resources if used_by(MODULES[name]) & resources] == []


def test_only_the_clock_knows_what_time_it_is() -> None:
    asking = {
        module.name
        for module in MODULES.values()
        for node in nodes(module)
        if isinstance(node, ast.Attribute)
        and node.attr in ("now", "utcnow", "today", "time", "time_ns")
        and ast.unparse(node.value).split(".")[-1] in ("time", "datetime", "date")
    }
    assert asking == {"taskmanager.clock"}


def test_the_tests_have_the_rooms_of_the_package() -> None:
    """Outside of OTHER_TESTS, a folder of tests is one of the package too."""
    tests = ROOT / "tests"
    folders = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")}
    rooms = {module.path.parent.relative_to(PACKAGE) for module in MODULES.values()}
    assert {folder for folder in folders - rooms if folder.parts[0] not in OTHER_TESTS} == set()


# Shape


def test_a_module_ends_where_its_subject_ends() -> None:
    lengths = {module.name: len(module.text().splitlines()) for module in MODULES.values()}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_a_module_says_what_it_owns() -> None:
    silent = {
        module.name for module in MODULES.values() if ast.get_docstring(nodes(module)[0]) is None
    }
    assert silent == set()


def test_no_module_has_a_name_that_says_nothing() -> None:
    words = {word for name in MODULES for part in name.split(".") for word in part.split("_")}
    assert words & BANNED_WORDS == set()


def test_every_public_function_of_a_room_says_what_it_does() -> None:
    rooms = in_rooms("db", "access", "params", "queue", "transfer")
    assert [f"{module.name}.{name}" for module in rooms for name in silent_functions(module)] == []


def silent_functions(module: Module) -> Iterator[str]:
    """Public functions without a docstring; those that a decorator enters by a name need none."""
    for node in ast.iter_child_nodes(nodes(module)[0]):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            entered = any(isinstance(decorator, ast.Call) for decorator in node.decorator_list)
            if not (entered or ast.get_docstring(node)):
                yield node.name
