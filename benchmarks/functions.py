"""Which functions of the package a request runs between its view and COMMIT.

    python -m benchmarks.functions claim|create|complete [--json]

Calls the application in process, on SQLite with one task type, after it has
answered a few requests of each kind, and watches it with `sys.setprofile`.
Prints how many functions ran, in how many files and lines, how often the way
went back up, and the functions in the order of their first calls.

A function counts once, however often it runs. A comprehension or a generator
expression counts as part of the function around it. The lines of a function
include its docstring and comments. The way goes back up where a function is
called in a higher room than the function called before it; the order of the
rooms is that of tests/test_architecture.py.
"""

import argparse
import inspect
import itertools
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from flask import Flask

import taskmanager
from taskmanager.access import keys
from taskmanager.access.caller import OPERATOR
from taskmanager.app import create_app
from taskmanager.clock import utc_now
from taskmanager.db.connection import close_connection, database
from tests.test_architecture import ROOMS

PACKAGE = Path(taskmanager.__file__).parent
WARM_UP = 5
PARTS_OF_FUNCTIONS = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}


class Queue:
    """An application with one task type, and a client that creates, claims and completes."""

    def __init__(self, folder: Path) -> None:
        url = f"sqlite:///{folder / 'queue.db'}"
        self.app = create_app({"instance_path": folder, "database_url": url})
        self._client = self.app.test_client()
        _, self._key = keys.create_key(
            name="bench", scopes=keys.ROLES["admin"], now=utc_now(), caller=OPERATOR
        )
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
        body = {"name": "job", "version": "1", "param_schema": schema}
        self._call("/api/task-types/register", body)
        self._created = 0

    def create(self) -> None:
        self._created += 1
        self._call("/api/tasks", {"type": "job", "params": {"n": self._created}})

    def claim(self) -> Any:
        return self._call("/api/tasks/claim", {"worker_id": "bench", "type": "job"})

    def complete(self, task: Any) -> None:
        report = {"claim_token": task["claim_token"], "success": True, "result": {"n": 1}}
        self._call(f"/api/tasks/{task['id']}/complete", {"worker_id": "bench", **report})

    def _call(self, path: str, body: Any) -> Any:
        answer = self._client.post(path, json=body, headers={"X-API-Key": self._key})
        if answer.status_code >= 400:
            raise SystemExit(f"{path}: {answer.text}")
        return answer.get_json()["data"]


def functions_until_commit(operation: str) -> list[CodeType]:
    """Every call of a function of the package from the view's to the last COMMIT, in order."""
    with tempfile.TemporaryDirectory() as folder:
        queue = Queue(Path(folder))
        for _ in range(WARM_UP):
            queue.create()
            queue.complete(queue.claim())
        queue.create()
        try:
            if operation == "create":
                return _watched(queue.app, "api.tasks.create", queue.create)
            if operation == "claim":
                return _watched(queue.app, "api.claims.claim", queue.claim)
            task = queue.claim()
            return _watched(queue.app, "api.claims.complete", lambda: queue.complete(task))
        finally:
            close_connection()


def _watched(app: Flask, endpoint: str, request: Callable[[], Any]) -> list[CodeType]:
    view = app.view_functions[endpoint]
    calls: list[CodeType] = []
    committed_after: list[int] = []

    def note_call(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        is_ours = code.co_filename.startswith(str(PACKAGE))
        if event == "call" and is_ours and code.co_name not in PARTS_OF_FUNCTIONS:
            calls.append(code)

    def note_commit(statement: str) -> None:
        if statement.upper().startswith("COMMIT"):
            committed_after.append(len(calls))

    def watched_view(**values: Any) -> Any:
        database.obj.connection().set_trace_callback(note_commit)
        sys.setprofile(note_call)
        try:
            return view(**values)
        finally:
            sys.setprofile(None)

    app.view_functions[endpoint] = watched_view
    request()
    return calls[: committed_after[-1]]


def file_of(code: CodeType) -> str:
    return Path(code.co_filename).relative_to(PACKAGE).as_posix()


def moves_up(calls: list[CodeType]) -> int:
    """How often a function is called in a higher room than the function before it."""
    height_of = {room: height for height, line in enumerate(ROOMS) for room in line}
    way = [height_of[file_of(code).partition("/")[0].removesuffix(".py")] for code in calls]
    return sum(after > before for before, after in itertools.pairwise(way))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("operation", choices=("claim", "create", "complete"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    calls = functions_until_commit(arguments.operation)
    functions = list(dict.fromkeys(calls))
    lines = [len(inspect.getsourcelines(code)[0]) for code in functions]
    figures = {
        "functions": len(functions),
        "files": len({code.co_filename for code in functions}),
        "lines": sum(lines),
        "calls": len(calls),
        "moves back up": moves_up(calls),
    }
    if arguments.json:
        json.dump(figures, sys.stdout)
        return
    print(f"{arguments.operation}: " + ", ".join(f"{figures[name]} {name}" for name in figures))
    for code, count in zip(functions, lines, strict=True):
        print(f"  {count:>4}  {file_of(code):32} {code.co_qualname}")


if __name__ == "__main__":
    main()
