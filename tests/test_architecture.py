"""The layers of the package, read from its imports: dependencies point down only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "taskmanager"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
MAX_LINES = 500
BANNED_WORDS = {"utils", "util", "helpers", "helper", "manager", "base", "common", "misc"}

# From the bottom up: a room may import itself and the rooms of the lines before its own, and
# within its own line those that stand before it.
ROOMS = [
    ("errors", "clock", "manifest", "rates", "files", "config"),
    ("db",),
    ("access", "params"),
    ("queue",),
    ("transfer", "ratelimits"),
    ("doctor", "bootstrap"),
    ("api",),
    ("app",),
    ("serving", "demo"),
    ("cli",),
    ("__main__",),
]
# The same within the queue: what decides who works on a task knows nothing of figures for people.
ROOMS_OF_QUEUE = [
    ("answer_size", "history", "dedupe", "retry", "task_types", "workers"),
    ("store", "read", "claim_sql"),
    ("holder",),
    ("create", "lease", "waiting"),
    ("operate", "complete", "schedules"),
    ("figures.counts", "maintenance_runs"),
    ("maintenance",),
    ("claim", "figures.statistics", "figures.metrics"),
]


def heights(rooms: list[tuple[str, ...]]) -> dict[str, int]:
    return {room: height for height, line in enumerate(rooms) for room in line}


def room_of(module: str) -> str:
    """`taskmanager.db.mysql.pool` → `db`; the package itself → ``."""
    return module.partition(".")[2].partition(".")[0]


def room_in_queue(module: str) -> str:
    """`taskmanager.queue.schedules.runs` → `schedules`; what is no module of the queue → ``."""
    inside = module.removeprefix("taskmanager.queue.") if room_of(module) == "queue" else ""
    return inside if inside.startswith("figures.") else inside.partition(".")[0]


def imports_of(module: str) -> Iterator[str]:
    """Every module that `module` imports, also inside functions."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            assert node.module is not None
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [name for name in inner if name in MODULES]
            yield from found or [node.module]


def importers_of(library: str) -> set[str]:
    return {
        room_of(module)
        for module in MODULES
        if any(name.partition(".")[0] == library for name in imports_of(module))
    }


def in_room(room: str) -> list[str]:
    return sorted(module for module in MODULES if room_of(module) == room)


def test_every_module_stands_in_a_room() -> None:
    assert {room_of(module) for module in MODULES} - {""} == set(heights(ROOMS))
    inside = {room_in_queue(module) for module in in_room("queue")}
    assert inside - {"", "taskmanager", "figures"} == set(heights(ROOMS_OF_QUEUE))


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"taskmanager"}))
def test_a_module_imports_only_its_own_room_and_those_below(module: str) -> None:
    rooms = heights(ROOMS)
    ours = {room_of(name) for name in imports_of(module) if name in MODULES} - {"", room_of(module)}

    assert [room for room in ours if rooms[room] > rooms[room_of(module)]] == []


@pytest.mark.parametrize(
    "module", sorted(module for module in MODULES if room_of(module) == "queue")
)
def test_a_module_of_the_queue_imports_only_its_own_step_and_those_before(module: str) -> None:
    steps = heights(ROOMS_OF_QUEUE)
    ours = {room_in_queue(name) for name in imports_of(module)} - {""}

    assert [step for step in ours if steps[step] > steps.get(room_in_queue(module), 0)] == []


def test_the_package_itself_imports_nothing() -> None:
    assert list(imports_of("taskmanager")) == []


@pytest.mark.parametrize("leaf", ["errors", "clock", "manifest"])
def test_leaves_import_nothing_of_the_product(leaf: str) -> None:
    assert [name for name in imports_of(f"taskmanager.{leaf}") if name in MODULES] == []


def test_flask_stays_at_the_edge() -> None:
    assert importers_of("flask") | importers_of("werkzeug") <= {"app", "api", "cli"}


def test_peewee_stays_below_the_api() -> None:
    assert importers_of("peewee") <= {"db", "access", "queue", "transfer", "bootstrap"}


def test_only_the_command_line_and_its_server_know_gunicorn_and_click() -> None:
    assert importers_of("gunicorn") == {"serving"}
    assert importers_of("click") == {"cli"}


def test_views_of_one_resource_leave_the_others_alone() -> None:
    resources = {
        module
        for module in in_room("api")
        if "blueprint = Blueprint(" in MODULES[module].read_text(encoding="utf-8")
    }
    assert len(resources) > 4
    for module in resources:
        assert not resources & set(imports_of(module)), module


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_is_short_and_says_what_it_owns(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text))

    assert len(text.splitlines()) <= MAX_LINES
    assert docstring or module == "taskmanager.__main__"
    assert not BANNED_WORDS & set(module.split(".")[-1].split("_"))


def silent_functions(module: str) -> Iterator[str]:
    """Public functions without a docstring.

    Those that a decorator enters by a name, and the keywords of JSON Schema, which
    its specification explains, need none.
    """
    for node in ast.parse(MODULES[module].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            entered = any(isinstance(decorator, ast.Call) for decorator in node.decorator_list)
            is_keyword = [argument.arg for argument in node.args.args] == ["rule", "place"]
            if not (entered or is_keyword or ast.get_docstring(node)):
                yield node.name


@pytest.mark.parametrize(
    "module", sorted(m for r in ("db", "access", "params", "queue", "transfer") for m in in_room(r))
)
def test_every_public_function_of_a_room_says_what_it_does(module: str) -> None:
    assert list(silent_functions(module)) == []


def test_only_the_queue_access_and_transfer_open_transactions() -> None:
    users = {
        room_of(module)
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name) and node.id == "write_transaction"
    }
    assert users == {"access", "db", "queue", "transfer"}


def test_only_the_clock_knows_what_time_it_is() -> None:
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
                continue
            name = f"{node.value.id}.{node.attr}"
            asks = name in ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow")
            assert not asks or module == "taskmanager.clock", f"{module} asks {name}"
