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
MAX_LINES = 400
BANNED_WORDS = {"utils", "util", "helpers", "helper", "manager", "base", "common", "misc"}

# From the bottom up: a module may import those of its own layer and of the layers before it.
LAYERS = [
    ("exceptions", "clock", "manifest"),
    ("rates", "file_locks", "file_systems"),
    ("counter_file", "tallies", "write_ahead_log"),
    ("config",),
    ("database_errors", "idle_connections", "mysql_connections"),
    ("database_engines",),
    ("sqlite_engine", "mysql_engine"),
    ("database", "database_snapshot"),
    ("models", "schema", "migrations", "database_facts", "database_ids"),
    ("services",),
    ("doctor",),
    ("api", "dashboard", "http_rules"),
    ("app",),
    ("serving", "client", "demo"),
    ("cli",),
    ("__main__",),
]
LAYER_OF = {part: height for height, parts in enumerate(LAYERS) for part in parts}
# Of the product a worker's machine needs these alone.
CLIENT_MAY_IMPORT = {"client"}


def part_of(module: str) -> str:
    """`taskmanager.services.tasks` → `services`; the package itself → ``."""
    return module.partition(".")[2].partition(".")[0]


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
        part_of(module)
        for module in MODULES
        if any(name.partition(".")[0] == library for name in imports_of(module))
    }


def in_part(part: str) -> list[str]:
    return sorted(module for module in MODULES if part_of(module) == part)


def test_every_module_has_its_place_in_a_layer() -> None:
    assert {part_of(module) for module in MODULES} - {""} <= set(LAYER_OF)


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"taskmanager"}))
def test_a_module_imports_only_its_own_layer_and_those_below(module: str) -> None:
    ours = [name for name in imports_of(module) if name in MODULES and part_of(name)]
    above = [name for name in ours if LAYER_OF[part_of(name)] > LAYER_OF[part_of(module)]]

    assert above == []


def test_the_package_itself_imports_nothing() -> None:
    assert list(imports_of("taskmanager")) == []


@pytest.mark.parametrize("leaf", ["exceptions", "clock", "manifest"])
def test_leaves_import_nothing_of_the_product(leaf: str) -> None:
    assert [name for name in imports_of(f"taskmanager.{leaf}") if name in MODULES] == []


def test_flask_stays_at_the_edge() -> None:
    assert importers_of("flask") | importers_of("werkzeug") <= {
        "app",
        "api",
        "dashboard",
        "http_rules",
        "cli",
    }


def test_peewee_stays_below_the_api() -> None:
    engines = {"database_engines", "sqlite_engine", "mysql_engine"}
    databases = {"database", "database_errors", "database_snapshot", *engines}
    assert importers_of("peewee") <= databases | {"schema", "models", "services", "app"}


def test_only_the_command_line_and_its_server_know_gunicorn_and_click() -> None:
    assert importers_of("gunicorn") <= {"serving"}
    assert importers_of("click") <= {"cli"}


def test_services_know_nothing_of_requests() -> None:
    for module in in_part("services"):
        assert not {"flask", "werkzeug", "taskmanager.app"} & set(imports_of(module)), module


def test_the_client_needs_nothing_of_the_server() -> None:
    for module in in_part("client"):
        ours = {part_of(name) for name in imports_of(module) if name.startswith("taskmanager.")}
        assert ours <= CLIENT_MAY_IMPORT, module


def test_views_of_one_resource_leave_the_others_alone() -> None:
    resources = {
        module
        for module in in_part("api")
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


@pytest.mark.parametrize("module", in_part("services"))
def test_every_public_function_of_a_service_says_what_it_does(module: str) -> None:
    assert list(silent_functions(module)) == []


def test_only_services_and_migrations_open_transactions() -> None:
    users = {
        part_of(module)
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name) and node.id == "write_transaction"
    }
    assert users == {"services", "schema"}


def test_only_the_clock_knows_what_time_it_is() -> None:
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
                continue
            name = f"{node.value.id}.{node.attr}"
            asks = name in ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow")
            assert not asks or module == "taskmanager.clock", f"{module} asks {name}"
