"""The API as the commands on tasks, types, workers, schedules and batches call it.

On the server a command calls the application in its own process, as the operator, without a key or
a rate limit. With --url it calls any TaskManager over HTTP. Both take the same way from there.
"""

import functools
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import click

from taskmanager.errors import TaskManagerError

TIMEOUT_SECONDS = 60

# What a call needs: method, path below /api, query and body. Returns `data` of the answer.
Call = Callable[..., Any]


class Refused(TaskManagerError):
    """The answer to a call that failed; `code` is that of the API, None without an answer."""


def with_api(command: Callable[..., None]) -> Callable[..., None]:
    """Adds --url and --key to a command, and passes the API as its first argument."""

    @click.option("--url", metavar="ADDRESS", envvar="TASKMANAGER_URL", help="Address of the API.")
    @click.option("--key", metavar="KEY", envvar="TASKMANAGER_KEY", help="API key for --url.")
    @functools.wraps(command)
    def run(url: str | None, key: str | None, **options: Any) -> None:
        if url is None:
            command(_own_application(), **options)
        elif key is None:
            raise click.UsageError("--url also needs --key, or the variable TASKMANAGER_KEY.")
        else:
            command(_over_http(url, key), **options)

    return run


def all_pages(api: Call, path: str, name: str) -> list[Any]:
    """Every object of a list that has pages; `name` is where an answer has them."""
    found: list[Any] = []
    query: dict[str, Any] = {"limit": 100}
    while True:
        page = api("GET", path, query)
        found += page[name]
        if page["next_cursor"] is None:
            return found
        query["cursor"] = page["next_cursor"]


def _own_application() -> Call:
    from taskmanager.access.caller import OPERATOR
    from taskmanager.api.auth import CALLER
    from taskmanager.app import create_app

    client = create_app().test_client()

    def call(
        method: str, path: str, query: Mapping[str, Any] | None = None, body: Any = None
    ) -> Any:
        response = client.open(
            f"/api{path}",
            method=method,
            query_string=dict(query or {}),
            json=body,
            environ_overrides={CALLER: OPERATOR},
        )
        return _data_of(response.data, response.status_code)

    return call


def _over_http(url: str, key: str) -> Call:
    from taskmanager.clients import PYTHON

    sys.path.insert(0, str(PYTHON))
    from taskmanager_client.errors import NoAnswer
    from taskmanager_client.transport import HttpTransport

    try:
        transport = HttpTransport(url, key)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--url") from None

    def call(
        method: str, path: str, query: Mapping[str, Any] | None = None, body: Any = None
    ) -> Any:
        address = f"{path}?{urlencode(query or {})}".rstrip("?")
        content = None if body is None else json.dumps(body).encode()
        try:
            response = transport.send(method, address, content, TIMEOUT_SECONDS)
        except NoAnswer as error:
            raise Refused(str(error)) from None
        return _data_of(response.content, response.status)

    return call


def _data_of(content: bytes, status: int) -> Any:
    try:
        answer = json.loads(content)
        if status < 400:
            return answer["data"]
        message = answer["message"]
    except (ValueError, KeyError, TypeError):
        raise Refused(f"The answer (status {status}) is not that of a TaskManager.") from None
    for problem in answer.get("details") or []:
        if isinstance(problem, dict) and "path" in problem and problem["path"] not in message:
            message += f" {problem['path']}: {problem['message']}."
    raise Refused(message, code=answer.get("code"))
