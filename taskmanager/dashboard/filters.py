"""The filters in the address of a page: those of GET /api/tasks, with empty fields left out."""

from collections.abc import Mapping

from flask import request

from taskmanager.api.request_schemas import TASK_FILTER, TASK_FILTERS
from taskmanager.api.task_filters import task_filter_of
from taskmanager.queue.read import TaskFilter


def asked_filters(source: Mapping[str, str] | None = None) -> dict[str, str]:
    """The filters as text, by name, from the query or from another form."""
    given = request.args if source is None else source
    return {
        name: text.strip()
        for name, text in given.items()
        if text.strip() and (name in TASK_FILTERS or name.startswith("params."))
    }


def task_filter(filters: Mapping[str, str]) -> TaskFilter:
    """What the queue takes. Raises InvalidRequest where a filter has a wrong value."""
    return task_filter_of(TASK_FILTER.parse(filters, "filter"))
