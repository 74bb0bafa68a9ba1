"""Builds the OpenAPI document from the routes, their docstrings and scopes, and CALLS."""

import inspect
import re
import sys
from typing import Any

from flask import Flask
from werkzeug.routing import Rule

from taskmanager import __version__
from taskmanager.api import request_schemas
from taskmanager.api.auth import PUBLIC
from taskmanager.api.json_schema import TEXT, like, record
from taskmanager.api.openapi.calls import CALLS, Call
from taskmanager.api.openapi.schemas import COMPONENTS, example_of, ref
from taskmanager.api.request_logs import ARGUMENT, path_of_rule
from taskmanager.api.requests import QueryParameters
from taskmanager.api.serializers import NUMBER

_PREFIX = "api."
_ARGUMENT_SCHEMAS = {"name": request_schemas.TYPE_NAME, "worker_id": request_schemas.NAME}
# A status that a docstring lists; not a part of a larger number such as 86,400.
_STATUS = re.compile(r"(?<![\d,])[245]\d\d(?!,?\d)")
_JSON = "application/json"
_DESCRIPTION = """A task queue. Producers create tasks. Workers claim them and report the results.

Send your key as `X-API-Key`, as a bearer token, or as the password of HTTP Basic. Every answer is
an envelope: `success`, `message` and `data`, or `success`, `error`, `message`, `code` and sometimes
`details`. You may send an `X-Request-ID` of 1 to 128 letters, digits and `._:-`. The answer and the
server's log then contain it.

In the body of a POST, null for an optional field is the same as leaving it out. `[]` is read as
`{}` where only an object can stand, and an id may be a string of digits."""

_ERRORS = {
    400: "Malformed JSON, or a missing, invalid or unknown field or parameter",
    401: "The key is missing, unknown, revoked or expired",
    403: "The key lacks the scope or may not use the type, or another worker holds the task",
    404: "Not found, or no task to claim",
    405: "The address does not support this method",
    409: "The current state does not allow it",
    413: "The body is larger than the limit, or its values larger than the database takes",
    415: "The body is not JSON",
    429: "The rate limit is exceeded, or a new task is more than may be open (`queue_full`)",
    503: "The database is unreachable, stayed locked or refuses; nothing is half done",
}
_RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer"}}}
_ERROR_HEADERS = {
    401: {"WWW-Authenticate": {"schema": TEXT}},
    405: {"Allow": {"schema": TEXT}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}


def _response(description: str, content: Any, **more_headers: Any) -> dict[str, Any]:
    request_id = {"X-Request-ID": {"$ref": "#/components/headers/RequestId"}}
    return {
        "description": description,
        "headers": {**request_id, **more_headers},
        "content": content,
    }


_SHARED_PARTS = {
    "schemas": COMPONENTS,
    "headers": {
        "RequestId": {
            "description": "The id of the request, sent by the caller or generated",
            "required": True,
            "schema": {"type": "string"},
        }
    },
    "responses": {
        str(status): _response(
            description,
            {_JSON: {"schema": ref("Error"), "example": example_of(COMPONENTS["Error"])}},
            **_ERROR_HEADERS.get(status, {}),
        )
        for status, description in _ERRORS.items()
    },
    "securitySchemes": {
        "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "Bearer": {"type": "http", "scheme": "bearer"},
        "Basic": {"type": "http", "scheme": "basic", "description": "The key as the password"},
    },
}


_WAYS_TO_SEND_A_KEY = ("ApiKey", "Bearer", "Basic")


def build_document(app: Flask) -> dict[str, Any]:
    """The OpenAPI 3.1 document of every route of `app` under /api, as a JSON value.

    Raises AssertionError for a route without an entry in CALLS, an entry
    without a route, and a docstring that does not begin with its route.
    """
    paths: dict[str, Any] = {}
    views = set()
    for rule in app.url_map.iter_rules():
        name = rule.endpoint.removeprefix(_PREFIX)
        if name == rule.endpoint:
            continue
        views.add(name)
        path = path_of_rule(rule.rule)
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            view = app.view_functions[rule.endpoint]
            paths.setdefault(path, {})[method.lower()] = _operation(
                name, f"{method} {path}", rule, view
            )
    if views != CALLS.keys():
        raise AssertionError(f"documented and real views differ: {views ^ CALLS.keys()}")
    return {
        "openapi": "3.1.0",
        "info": {"title": "TaskManager", "version": __version__, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "tags": _tags(app),
        "paths": paths,
        "components": _SHARED_PARTS,
    }


def _tags(app: Flask) -> list[dict[str, str]]:
    return [
        {
            "name": name.removeprefix(_PREFIX),
            "description": (sys.modules[blueprint.import_name].__doc__ or "").split("\n")[0],
        }
        for name, blueprint in app.blueprints.items()
        if name.startswith(_PREFIX)
    ]


def _operation(name: str, line: str, rule: Rule, view: Any) -> dict[str, Any]:
    call = CALLS.get(name)
    if call is None:
        raise AssertionError(f"the view {name} is missing in CALLS")
    first, _, rest = (inspect.getdoc(view) or "").partition("\n")
    if not first.startswith(f"{line}: "):
        raise AssertionError(f"the docstring of {name} must begin with '{line}: '")
    scope = view.required_scope
    summary = first.removeprefix(f"{line}: ")
    operation: dict[str, Any] = {
        "operationId": name,
        "tags": [name.split(".")[0]],
        "summary": summary[0].upper() + summary[1:],
        "description": f"{rest.strip()}\n\nScope: `{scope}`.".strip(),
        "parameters": _parameters(view.query, rule),
        "responses": _responses(call, first + rest, rule, view),
        # Each list contains the scope that the key needs.
        "security": [] if scope == PUBLIC else [{name: [scope]} for name in _WAYS_TO_SEND_A_KEY],
    }
    if body := call.body or view.body:
        operation["requestBody"] = {
            "required": "required" in body.schema,
            "content": {_JSON: {"schema": body.schema, "example": call.example or {}}},
        }
    return operation


def _parameters(query: QueryParameters | None, rule: Rule) -> list[dict[str, Any]]:
    of_path = [
        {
            "name": short,
            "in": "path",
            "required": True,
            "schema": _ARGUMENT_SCHEMAS.get(argument, request_schemas.ID),
            "example": {"name": "PrismQ.Script.Generate", "worker_id": "worker-1"}.get(argument, 1),
        }
        for argument, short in ARGUMENT.findall(rule.rule)
    ]
    of_query = [
        {"name": name, "in": "query", "schema": schema}
        | ({"style": "form", "explode": False} if schema.get("type") == "array" else {})
        for name, schema in (query.fields if query else {}).items()
    ]
    return of_path + of_query


def _responses(call: Call, docstring: str, rule: Rule, view: Any) -> dict[str, Any]:
    """The statuses that the docstring lists, and those that every call of its kind has."""
    listed = {int(status) for status in _STATUS.findall(docstring)}
    success = _success(call)
    responses = {str(status): success for status in sorted(listed, reverse=True) if status < 300}
    errors = {405, 429, 503} | {status for status in listed if status >= 400}
    if view.required_scope != PUBLIC:
        errors |= {400, 401, 403}
    if rule.arguments:
        errors.add(404)
    if view.body is not None:
        errors |= {413, 415}
    for status in sorted(errors):
        responses[str(status)] = {"$ref": f"#/components/responses/{status}"}
    return responses


def _success(call: Call) -> dict[str, Any]:
    if call.page:
        content = {"schema": TEXT, "example": call.example} if call.example else {}
        return _response("The content itself, without an envelope", {call.page: content})
    envelope = record(
        success={"const": True},
        message=like(TEXT, "OK"),
        data=call.answer,
        timestamp=like(NUMBER, 1_769_860_800),
    )
    return _response("Done", {_JSON: {"schema": envelope, "example": example_of(envelope)}})
