"""Which tasks a call is about: from the filters of a list, sent as a query or in a body."""

import re

from taskmanager.api.requests import Values
from taskmanager.errors import InvalidRequest
from taskmanager.queue import dedupe, read


def task_filter_of(filters: Values) -> read.TaskFilter:
    """The filter that TASK_FILTERS stand for. Raises InvalidRequest."""
    named = {name: filters[name] for name in read.TaskFilter._fields if name in filters}
    if (key := filters["dedupe_key"]) is not None and not re.fullmatch("[0-9a-f]{64}", key):
        if not filters["type"] or "%" in filters["type"]:
            raise InvalidRequest(
                "dedupe_key must be 64 hexadecimal digits as a task shows it, or, together with "
                "the name of its type, what was sent as dedupe_key."
            )
        named["dedupe_keys"] = dedupe.possible_keys(type_name=filters["type"], requested_key=key)
    elif key is not None:
        named["dedupe_keys"] = (key,)
    return read.TaskFilter(statuses=filters["status"], type_pattern=filters["type"], **named)
