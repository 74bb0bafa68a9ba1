"""Reading tasks: one in full, or a page of a list.

A list is merged from one or more streams, each of which reads an index in its
order. So a page costs what its rows cost, whatever the filters on type, status
and worker. Bounds on priority and creation time are checked row by row.

The statements are templates: they name indexes, and for a page of 100 tasks the
models would take 3 to 5 ms longer.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

from taskmanager.access.caller import Caller
from taskmanager.db.connection import dialect
from taskmanager.db.statements import Row, fetch_all, fetch_value, parts_of
from taskmanager.errors import InvalidRequest, NotFound
from taskmanager.queue import task_types
from taskmanager.queue.answer_size import LIGHT_COLUMNS, count_that_fits, sizes_of

STATUSES = ("scheduled", "pending", "claimed", "completed", "failed", "cancelled")
FINISHED_STATUSES = ("completed", "failed", "cancelled")
# The statuses in which a task has a worker: the one that holds it, or the one that finished it.
WITH_WORKER_STATUSES = ("claimed", *FINISHED_STATUSES)
SORT_COLUMNS = ("created_at", "priority", "id")
MAX_OFFSET = 10_000
MAX_STREAMS = 600  # without a status; beyond that, tasks of other types are read and skipped
STREAMS_PER_STATEMENT = 60


class TaskFilter(NamedTuple):
    """The filters of a list; None does not filter. Times in milliseconds."""

    status: str | None = None
    type_pattern: str | None = None
    worker_id: str | None = None
    priority_min: int | None = None
    priority_max: int | None = None
    created_after: int | None = None
    created_before: int | None = None


class Page(NamedTuple):
    """One page of tasks. `next_cursor` is None on the last page, `total` unless asked for."""

    tasks: list[Row]
    next_cursor: str | None
    total: int | None = None


def get_task(*, task_id: int, caller: Caller) -> Row:
    """One task with its type's name. Raises NotFound, also if the caller may not use the type."""
    found = fetch_all("SELECT * FROM {tasks} WHERE id = ?", (task_id,))
    return require_task(next(iter(task_types.allowed_rows(found, caller)), None), task_id)


def require_task(task: Row | None, task_id: int) -> Row:
    """Raises NotFound for an id that is no task's, as far as the caller may know."""
    if task is None:
        raise NotFound(f"Task not found: there is no task {task_id}.", code="task_not_found")
    return task


def list_tasks(
    *,
    task_filter: TaskFilter,
    sort_by: str,
    descending: bool,
    limit: int,
    offset: int,
    cursor: str | None,
    with_total: bool,
    caller: Caller,
    include: Sequence[str] = (),
) -> Page:
    """A page of tasks. `created_at` and `id` are the same order: see claim_sql.py.

    If high priorities come first, tasks of one priority come oldest first.
    Params and results are left out unless `include` names them. If they are
    large, the page ends before its limit.

    Raises InvalidRequest for a cursor that this list has not returned.
    """
    # claim_rank is -priority, so high priorities first means claim_rank ascending.
    column = "claim_rank" if sort_by == "priority" else "id"
    descending = descending != (column == "claim_rank")
    type_ids = _type_ids(task_filter, caller)
    waits = task_filter.status is not None and task_filter.status not in WITH_WORKER_STATUSES
    if type_ids == [] or (task_filter.worker_id is not None and waits):
        return Page(tasks=[], next_cursor=None, total=0 if with_total else None)
    streams = _streams(task_filter, type_ids, column)
    bounds = _residual(task_filter)
    wanted = offset + limit + 1
    found: list[Row] = []
    for beyond in _parts_beyond(cursor, column, descending):
        if len(found) < wanted:
            found += _first(streams, [*bounds, *beyond], column, descending, wanted - len(found))
    chosen = found[offset : offset + limit]
    chosen = chosen[: count_that_fits(sizes_of([row["id"] for row in chosen], include))]
    more = len(found) > offset + len(chosen)
    return Page(
        tasks=_with_columns([row["id"] for row in chosen], (*LIGHT_COLUMNS, *include)),
        next_cursor=_cursor(chosen[-1], column) if more and chosen else None,
        total=_count(streams, bounds) if with_total else None,
    )


_Condition = tuple[str, Any]  # with one `?`, and its value
_Stream = tuple[str | None, list[_Condition]]  # index and conditions


def _first(
    streams: Sequence[_Stream],
    conditions: Sequence[_Condition],
    column: str,
    descending: bool,
    limit: int,
) -> list[Row]:
    """`id` and `column`, which an index has, of the first tasks of all streams together."""
    direction = "DESC" if descending else "ASC"
    columns = ["id"] if column == "id" else [column, "id"]
    order = ", ".join(f"{one} {direction}" for one in columns)
    found: list[Row] = []
    for some_streams in parts_of(streams, STREAMS_PER_STATEMENT):
        members: list[str] = []
        values: list[Any] = []
        for index, of_stream in some_streams:
            hint = f"{{index {index}}}" if index else ""
            where, some = _where([*of_stream, *conditions])
            members.append(f"SELECT {', '.join(columns)} FROM {{tasks}} {hint} WHERE {where}")
            values += some
        found += fetch_all(dialect().first_of(members, order, limit), values)
    found.sort(key=lambda row: (row[column], row["id"]), reverse=descending)
    return found[:limit]


def _where(conditions: Sequence[_Condition]) -> tuple[str, list[Any]]:
    values = [value for _, value in conditions]
    return " AND ".join(text for text, _ in conditions) or "1 = 1", values


def _type_ids(task_filter: TaskFilter, caller: Caller) -> list[int] | None:
    """The types to read; None: every type. With an empty list nothing can be found."""
    # Only the indexes by type have the tasks of one status in order.
    by_type = task_filter.status and not task_filter.worker_id
    if task_filter.type_pattern is None and caller.task_types is None and not by_type:
        return None
    found = task_types.find_task_types(pattern=task_filter.type_pattern, caller=caller)
    return [row["id"] for row in found]


def _streams(task_filter: TaskFilter, type_ids: list[int] | None, column: str) -> list[_Stream]:
    """What to read: each stream is a part of an index that has the order already."""
    status, worker_id = task_filter.status, task_filter.worker_id
    statuses = [status] if status else list(STATUSES)
    of_types: list[_Condition] = []
    if type_ids is not None:
        of_types = [("task_type_id IN ?", type_ids)]
    if worker_id is not None:
        index = "tasks_by_worker" if column == "id" else "tasks_by_worker_and_priority"
        return [
            (index, [("worker_id = ?", worker_id), ("status = ?", one), *of_types])
            for one in statuses
            if one in WITH_WORKER_STATUSES
        ]
    if type_ids is not None and (status or len(type_ids) * len(statuses) <= MAX_STREAMS):
        index = "tasks_claim_by_id" if column == "id" else "tasks_claim_by_priority"
        return [
            (index, [("task_type_id = ?", type_id), ("status = ?", one)])
            for type_id, one in product(type_ids, statuses)
        ]
    return [("tasks_by_priority" if column == "claim_rank" else None, of_types)]


def _residual(task_filter: TaskFilter) -> list[_Condition]:
    bounds = {
        "priority >= ?": task_filter.priority_min,
        "priority <= ?": task_filter.priority_max,
        "created_at > ?": task_filter.created_after,
        "created_at < ?": task_filter.created_before,
    }
    return [(condition, value) for condition, value in bounds.items() if value is not None]


def _with_columns(ids: Sequence[int], columns: Sequence[str]) -> list[Row]:
    if not ids:
        return []
    rows = fetch_all(f"SELECT {', '.join(columns)} FROM {{tasks}} WHERE id IN ?", (ids,))
    by_id = {row["id"]: task_types.with_type(row) for row in rows}
    # A task can be pruned between the two reads.
    return [by_id[task_id] for task_id in ids if task_id in by_id]


def _count(streams: Sequence[_Stream], bounds: Sequence[_Condition]) -> int:
    wheres = [_where([*of_stream, *bounds]) for _, of_stream in streams]
    counting = "SELECT COUNT(*) AS counted FROM {tasks} WHERE "
    return sum(fetch_value(counting + where, values) for where, values in wheres)


def _cursor(row: Row, column: str) -> str:
    text = json.dumps([column, row[column], row["id"]])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _parts_beyond(cursor: str | None, column: str, descending: bool) -> list[list[_Condition]]:
    """The conditions of what follows the cursor, as one or two parts in order.

    The rest of one priority and the priorities after it are two parts, because no
    server finds both in an index with one condition.
    """
    if cursor is None:
        return [[]]
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        of_column, value, task_id = json.loads(text)
        if of_column != column or not isinstance(value, int) or not isinstance(task_id, int):
            raise ValueError("a cursor of another list")
        if max(abs(value), abs(task_id)) >= 2**63:
            raise ValueError("a cursor that was made up")
    except (ValueError, TypeError, RecursionError, binascii.Error):
        raise InvalidRequest(
            "cursor is not one that this list gave out: send next_cursor unchanged, "
            "with the same sort_by and sort_order."
        ) from None
    beyond = "<" if descending else ">"
    if column == "id":
        return [[(f"id {beyond} ?", task_id)]]
    return [
        [("claim_rank = ?", value), (f"id {beyond} ?", task_id)],
        [(f"claim_rank {beyond} ?", value)],
    ]
