"""The tasks of a request body: each is checked by itself, and every wrong one is named."""

import re
from collections.abc import Sequence
from typing import Any

from flask import request

from taskmanager.api import request_schemas
from taskmanager.api.requests import Values
from taskmanager.errors import TaskManagerError, ValidationFailed
from taskmanager.queue.flow import dependencies

_TRACEPARENT = request_schemas.TRACEPARENT["pattern"]


def traced(body: Values) -> Values:
    """The body with the trace context of the request, unless it has one of its own.

    W3C Trace Context wants a header that cannot be read to be ignored.
    """
    header = request.headers.get("traceparent")
    if header and body.get("traceparent") is None and re.fullmatch(_TRACEPARENT, header):
        body["traceparent"] = header
    return body


def read_tasks(items: Sequence[Any]) -> list[Values | TaskManagerError]:
    """For each item the body of POST /api/tasks that it is, or why it is none."""
    read: list[Values | TaskManagerError] = []
    for item in items:
        try:
            read.append(traced(request_schemas.CREATE_TASK.check(item)))
        except TaskManagerError as error:
            read.append(error)
    return dependencies.renumbered(read)


def refuse_wrong(errors: Sequence[TaskManagerError | None]) -> None:
    """Raises ValidationFailed that names each task with an error; None: it has none."""
    wrong = [
        {"path": f"tasks[{at}]", "message": error.message, "keyword": error.code}
        for at, error in enumerate(errors)
        if error is not None
    ]
    if wrong:
        raise ValidationFailed(
            f"{len(wrong)} of {len(errors)} tasks are wrong, so none was made; "
            f"the first is {wrong[0]['path']}: {wrong[0]['message']}",
            details=wrong,
        )
