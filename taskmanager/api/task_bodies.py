"""The tasks of a request body: each is checked by itself, and every wrong one is named."""

import re
from collections.abc import Sequence
from typing import Any

from flask import request

from taskmanager.api import request_schemas
from taskmanager.api.requests import Values
from taskmanager.errors import InvalidRequest, TaskManagerError, ValidationFailed
from taskmanager.queue.flow import dependencies

MAX_DEPENDENCIES = 10_000  # of all tasks of one call: a transaction stores and locks them

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
    """For each item the body of POST /api/tasks that it is, or why it is none.

    Raises InvalidRequest where they depend on more than MAX_DEPENDENCIES tasks in all.
    """
    read: list[Values | TaskManagerError] = []
    for item in items:
        try:
            read.append(traced(request_schemas.CREATE_TASK.check(item)))
        except TaskManagerError as error:
            read.append(error)
    bodies = [one for one in read if not isinstance(one, TaskManagerError)]
    named = sum(len(body.get("depends_on") or ()) for body in bodies)
    if named > MAX_DEPENDENCIES:
        raise InvalidRequest(
            f"The tasks have {named} entries of depends_on in all; one call takes up to "
            f"{MAX_DEPENDENCIES}. Send them in several calls."
        )
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
