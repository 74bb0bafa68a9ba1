"""Which tasks a call is about: from the filters of a list, sent as a query or in a body."""

import re

from taskmanager.api.requests import Values
from taskmanager.errors import InvalidRequest, NotFound
from taskmanager.queue import dedupe, read, task_types


def task_filter_of(filters: Values) -> read.TaskFilter:
    """The filter that TASK_FILTERS stand for. Raises InvalidRequest."""
    named = {name: filters[name] for name in read.TaskFilter._fields if name in filters}
    if (key := filters["dedupe_key"]) is not None and not re.fullmatch("[0-9a-f]{64}", key):
        if not filters["type"] or "%" in filters["type"]:
            raise InvalidRequest(
                "dedupe_key must be 64 hexadecimal digits as a task shows it, or, together with "
                "the name of its type, what was sent as dedupe_key."
            )
        named["dedupe_key"] = _stored_key(filters["type"], key)
    return read.TaskFilter(statuses=filters["status"], type_pattern=filters["type"], **named)


def _stored_key(type_name: str, requested_key: str) -> str:
    key = dedupe.dedupe_key(type_name=type_name, params=None, requested_key=requested_key)
    try:
        return dedupe.stored_key(key, task_types.get_type_of_new_task(name=type_name))
    except NotFound:  # no task has it
        return key
