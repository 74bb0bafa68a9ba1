"""The methods of the clients: one for each call, and what they must not repeat."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskmanager import __version__
from tests.clients.conftest import Worker
from tests.clients.proxy import Fault, Proxy
from tests.conftest import require
from tests.support.server import Server

ROOT = Path(__file__).resolve().parent.parent.parent
CLIENTS = ROOT / "taskmanager" / "clients"
CALLS = re.findall(
    r"^### `([A-Z]+) /api(/\S*)`$", (ROOT / "docs/api.md").read_text("utf-8"), re.MULTILINE
)
# For administrators and for machines of other kinds; `call` makes them too.
LEFT_TO_CALL = (
    "/admin/",
    "/webhooks",
    "/alerts",
    "/maintenance/",
    "/openapi.json",
    "/docs",
    "/metrics",
    "/clients",
)
# One method for all of them, and called where there are many tasks.
CHANGE_MANY = {f"/tasks/{action}" for action in ("retry", "cancel", "release", "delete", "update")}


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "instance"
    folder.mkdir()
    server = Server(folder).start()
    yield server
    server.kill()


@pytest.mark.slow
@pytest.mark.parametrize(("program", "script"), [("php", "calls.php"), ("node", "calls.mjs")])
def test_there_is_a_method_for_each_call(program: str, script: str, fresh: Server) -> None:
    require(program, shutil.which(program) is not None)
    with Proxy(fresh.url) as proxy:
        environment = {"TASKMANAGER_URL": proxy.url, "TASKMANAGER_KEY": fresh.key}
        done = subprocess.run(
            [program, Path(__file__).parent / "drivers" / script],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    made = {(seen.method, _template(seen.path)) for seen in proxy.seen}
    documented = {
        (method, path)
        for method, path in CALLS
        if not path.startswith(LEFT_TO_CALL) and path not in CHANGE_MANY | {"/tasks/errors"}
    }
    assert made == documented


def _template(path: str) -> str:
    """As docs/api.md writes it: /api/tasks/7 is /tasks/{id}."""
    path = re.sub(r"(/\d+|(?<=workers)/me(%2F|/)1)(?=/|$)", "/{id}", path.removeprefix("/api"))
    return re.sub(r"(?<=/task-types)/calls", "/{name}", path)


@pytest.mark.slow
@pytest.mark.parametrize("queue", ["sqlite"], indirect=True)
def test_a_creation_is_not_repeated_where_the_type_itself_does_not_deduplicate(
    queue: Server, proxy: Proxy, start: Callable[..., Worker]
) -> None:
    name = "scenario.undeduplicated"
    body = {"name": name, "version": "1", "param_schema": {"type": "object"}, "dedupe": "none"}
    queue.call("POST", "/api/task-types/register", body)
    before = count(queue, name)
    proxy.spoil([Fault("/tasks", "lose_answer")])
    worker = start(CREATE=name, DEDUPE="")
    assert worker.process.wait(30) != 0
    assert "No answer" in worker.log
    assert count(queue, name) - before == 1


def count(queue: Server, name: str) -> int:
    listed: dict[str, Any] = queue.call("GET", f"/api/tasks?type={name}&limit=100").data
    return int(listed["count"])


def test_the_types_of_javascript_name_every_method() -> None:
    code = (CLIENTS / "javascript/taskmanager.mjs").read_text(encoding="utf-8")
    types = (CLIENTS / "javascript/taskmanager.d.mts").read_text(encoding="utf-8")
    for name in ("Client", "Worker"):
        assert methods(code, name) - {"attempt"} == methods(types, name)
    assert exported(code) == exported(types)


def methods(text: str, name: str) -> set[str]:
    """The public methods of a class, whether with or without a body."""
    [body] = re.findall(rf"^export class {name}\b.*?{{\n(.*?)^}}", text, re.DOTALL | re.MULTILINE)
    return set(re.findall(r"^  (?:static |async )*\*?([a-zA-Z]+)\(", body, re.MULTILINE))


def exported(text: str) -> set[str]:
    return set(re.findall(r"^export class (\w+)", text, re.MULTILINE))


def test_php_has_the_methods_that_javascript_has() -> None:
    code = (CLIENTS / "javascript/taskmanager.mjs").read_text(encoding="utf-8")
    php = (CLIENTS / "php/TaskManager.php").read_text(encoding="utf-8")
    for name in ("Client", "Worker"):
        [body] = re.findall(
            rf"^(?:final )?class {name}\n{{\n(.*?)^}}", php, re.DOTALL | re.MULTILINE
        )
        names = set(re.findall(r"^    public (?:static )?function (\w+)", body, re.MULTILINE))
        # Only in PHP: said here whether and when to repeat; in JavaScript these are functions.
        internal = {"__construct", "delayAfter", "backoff"}
        assert names - internal == methods(code, name) - {"constructor"}


@pytest.mark.parametrize("file", ["php/composer.json", "javascript/package.json"])
def test_the_clients_have_the_version_of_the_server(file: str) -> None:
    assert json.loads((CLIENTS / file).read_text(encoding="utf-8"))["version"] == __version__
