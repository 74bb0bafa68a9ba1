"""What is undocumented does not exist: settings, commands, calls and fields against the docs."""

import ast
import configparser
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest

from taskmanager.access import keys
from taskmanager.alert_rules import RULES, parse_thresholds
from taskmanager.api import request_schemas
from taskmanager.api.requests import RequestBody
from taskmanager.app import create_app
from taskmanager.cli import main
from taskmanager.config import PREFIX, Settings
from taskmanager.db.connection import close_connection
from taskmanager.doctor import release
from taskmanager.doctor.checks import CHECKS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
DEFAULTS = {PREFIX + item.name.upper(): item.metadata["default"] for item in fields(Settings)}
SETTING_ROW = re.compile(r"^\| `(TASKMANAGER_\w+)` \| (.*?) \| .+ \|$", re.MULTILINE)
EXAMPLE_LINE = re.compile(r"^# (TASKMANAGER_\w+)=(.*)$", re.MULTILINE)
CALL_HEADING = re.compile(r"^### `([A-Z]+ /\S*)`$", re.MULTILINE)


def test_readme_documents_every_setting_with_its_default() -> None:
    documented = dict(SETTING_ROW.findall(README))
    assert documented == {
        name: f"`{default}`" if default else "empty" for name, default in DEFAULTS.items()
    }


def test_env_example_shows_every_setting_with_its_default() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert dict(EXAMPLE_LINE.findall(text)) == DEFAULTS


def test_env_example_sets_nothing_by_itself() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []


def commands(group: click.Group = main, prefix: str = "taskmanager") -> Iterator[Any]:
    """Name as one types it, and command."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def test_readme_documents_every_command() -> None:
    rows = re.findall(r"^\| `(taskmanager(?: [a-z][a-z-]*)+)", README, re.MULTILINE)
    assert sorted(rows) == sorted(name for name, _ in commands())


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_readme_documents_every_option_of(name: str, command: click.Command) -> None:
    row = re.search(rf"^\| `{name}(?: [^`]*)?` \|", README, re.MULTILINE)
    assert row is not None
    documented = set(re.findall(r"--[a-z-]+", row[0]))
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert documented == {flag for option in options for flag in option.opts}
    for option in options:
        if option.show_default:
            assert f"{option.opts[0]} {option.default}]" in row[0]
        if isinstance(option.type, click.Choice):
            assert "\\|".join(option.type.choices) in row[0]


@pytest.fixture
def api_calls(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Method and path as the docs write them → scope."""
    app = create_app({"instance_path": tmp_path, "database_url": ""})
    calls = {}
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith("/api"):
            scope = app.view_functions[rule.endpoint].required_scope  # type: ignore[attr-defined]
            path = re.sub(r"<(?:[^>]*:)?(?:[a-z]+_)?([a-z]+)>", r"{\1}", rule.rule)
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
                calls[f"{method} {path}"] = scope
    yield calls
    close_connection()


def documented_calls() -> dict[str, str]:
    """Method and path → the text below that heading."""
    parts = CALL_HEADING.split(API)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_api_reference_documents_every_call_and_no_other(api_calls: dict[str, str]) -> None:
    assert sorted(documented_calls()) == sorted(api_calls)


def test_api_reference_names_the_scope_of_every_call(api_calls: dict[str, str]) -> None:
    wrong = []
    for call, scope in api_calls.items():
        said = re.findall(r"Scope\s+`([a-z:-]+)`|Scope: (none)", documented_calls().get(call, ""))
        if [one or other for one, other in said] != ["none" if scope == "public" else scope]:
            wrong.append(f"{call}: {scope}, documented: {said}")
    assert wrong == []


def test_api_reference_names_every_field_of_every_request_body() -> None:
    bodies = {name: body for name, body in vars(request_schemas).items() if _is_body(body)}
    assert len(bodies) > 10
    missing = [
        f"{name}.{field}"
        for name, body in bodies.items()
        for field in body.schema["properties"]
        if f"`{field}`" not in API
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/task-types/{name}", request_schemas.CHANGE_TASK_TYPE),
        ("/api/tasks/{id}", request_schemas.CHANGE_TASK),
        ("/api/schedules/{id}", request_schemas.CHANGE_SCHEDULE),
        ("/api/webhooks/{id}", request_schemas.CHANGE_WEBHOOK),
        ("/api/admin/keys/{id}", request_schemas.CHANGE_KEY),
    ],
)
def test_api_reference_names_what_a_change_can_remove_with_null(
    path: str, body: RequestBody
) -> None:
    said = documented_calls()[f"PATCH {path}"]
    assert "ull" in said
    assert [
        name for name in body.fields if takes_null(body, name) and f"`{name}`" not in said
    ] == []


def takes_null(body: RequestBody, field: str) -> bool:
    return "null" in body.fields[field]["type"]


def _is_body(value: object) -> bool:
    return isinstance(value, RequestBody)


def test_api_reference_lists_the_scopes_of_every_role() -> None:
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| ((?:`[a-z:-]+`(?:, )?)+) \|$", API, re.MULTILINE))
    documented = {role: tuple(re.findall(r"`([a-z:-]+)`", scopes)) for role, scopes in rows.items()}
    assert documented == keys.ROLES
    assert all(f"`{scope}`" in API for scope in keys.SCOPES)


def anchors(document: Path) -> set[str]:
    """The anchors that a Markdown page gives its headings: lower case, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]))
def test_links_within_the_repository_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", document.read_text(encoding="utf-8"))
    for target, anchor in links:
        page = document.parent / target if target else document
        assert page.exists(), target
        assert not anchor or anchor in anchors(page), f"{target}#{anchor}"


@pytest.mark.parametrize("document", sorted((ROOT / "docs").rglob("*.md")))
def test_a_link_to_a_decision_has_its_number(document: Path) -> None:
    links = re.findall(r"\[(\d{4})\]\(([^)#]*)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not Path(link[1]).name.startswith(link[0])] == []


def test_readme_leads_to_every_page() -> None:
    pages = [f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")]
    assert [page for page in pages if f"]({page})" not in README] == []


def test_operations_lists_every_code_of_the_doctor_and_no_other() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `([a-z_]+)` \| .+ \|$", text, re.MULTILINE)
    assert sorted(documented) == sorted(codes_of_the_doctor())


def test_operations_lists_every_rule_of_alerts_with_its_threshold() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    documented = dict(re.findall(r"^\| .+ \| `([a-z_]+)` \| (.+) \|$", text, re.MULTILINE))
    defaults = parse_thresholds("")
    assert documented == {name: defaults.text_of(name).replace(",", "") for name in RULES}


def codes_of_the_doctor() -> set[str]:
    """Those of its checks, and those that a finding has of its own."""
    codes = {check.code for checks in CHECKS.values() for check in checks}
    codes |= {code for code, *_ in release.KINDS}
    for path in (ROOT / "taskmanager" / "doctor").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "code":
                codes |= {node.value.value} if isinstance(node.value, ast.Constant) else set()
    return codes - {""}


def test_requirements_are_what_the_package_itself_requires() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = [line for line in lines if line and not line.startswith("#")]
    assert required == setup["options"]["install_requires"].split()
