"""Reading tasks: one in full, or a page of a list.

A list is merged from one or more streams, each of which reads an index in its
order. So a page costs what its rows cost, whatever the filters on type, status,
worker, parent and dedupe key. For what no index has, rows are looked at one by
one: see search.py.

The statements are templates: they name indexes, and for a page of 100 tasks the
models would take 3 to 5 ms longer.
"""

import base64
import binascii
import json
import re
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

from taskmanager.access.caller import Caller
from taskmanager.db.connection import dialect
from taskmanager.db.models import Task, columns_of
from taskmanager.db.statements import Row, fetch_all, parts_of
from taskmanager.errors import InvalidRequest, NotFound
from taskmanager.payloads.sealing import keyring
from taskmanager.queue import search, task_types
from taskmanager.queue.answer_size import LIGHT_COLUMNS, count_that_fits, sizes_of

STATUSES = ("blocked", "scheduled", "pending", "claimed", "completed", "failed", "cancelled")
WAITING_STATUSES = ("blocked", "scheduled", "pending")
FINISHED_STATUSES = ("completed", "failed", "cancelled")
# The statuses in which a task has a worker: the one that holds it, or the one that finished it.
WITH_WORKER_STATUSES = ("claimed", *FINISHED_STATUSES)
SORT_COLUMNS = ("created_at", "priority", "id")
MAX_OFFSET = 10_000
MAX_STREAMS = 600  # without a status; beyond that, tasks of other types are read and skipped
STREAMS_PER_STATEMENT = 60
MIN_ROWS_AT_ONCE = 50
ROWS_COUNTED = 100_000  # what a total reads at most, whatever the filters leave of it


class TaskFilter(NamedTuple):
    """The filters of a list; None and () do not filter. Times in milliseconds.

    `dedupe_keys` are as they are stored. `error` is a part of the error message in any
    case of letters. `params` pairs the path of a value with the text of it.
    """

    statuses: Sequence[str] = ()
    type_pattern: str | None = None
    worker_id: str | None = None
    parent_task_id: int | None = None
    batch_id: int | None = None
    dedupe_keys: Sequence[str] = ()
    priority_min: int | None = None
    priority_max: int | None = None
    attempts_min: int | None = None
    created_after: int | None = None
    created_before: int | None = None
    finished_after: int | None = None
    finished_before: int | None = None
    available_after: int | None = None
    available_before: int | None = None
    error_code: str | None = None
    error: str | None = None
    tag: str | None = None
    params: Sequence[tuple[str, str]] = ()


class Page(NamedTuple):
    """One page of tasks. `next_cursor` is None on the last page, `total` unless asked for.

    `scanned` is how many tasks a search looked at, None where an index has all that
    is asked for. With `is_complete` False the page was cut short by that.

    There are at least `total` tasks, and no more if it is exact.
    """

    tasks: list[Row]
    next_cursor: str | None
    total: int | None = None
    scanned: int | None = None
    is_complete: bool = True
    total_is_exact: bool = True


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

    Raises InvalidRequest for a cursor that this list has not returned, and where values
    in the params are to be counted.
    """
    if with_total and task_filter.params:
        raise InvalidRequest("with_total cannot count by values in the params; leave it out.")
    if with_total and task_filter.error and keyring():
        raise InvalidRequest(
            "with_total cannot count by error where tasks may be encrypted; leave it out."
        )
    listing = _listing(task_filter, sort_by, descending, caller)
    if listing is None:
        return Page(tasks=[], next_cursor=None, total=0 if with_total else None)
    found = listing.find(cursor, offset + limit + 1)
    if listing.asked:
        search.require_within_reach(found, offset)
    chosen = found.rows[offset : offset + limit]
    chosen = chosen[: count_that_fits(sizes_of([row["id"] for row in chosen], include))]
    more = len(found.rows) > offset + len(chosen)
    total, is_exact = _count(listing.streams, listing.asked) if with_total else (None, True)
    return Page(
        tasks=_with_columns([row["id"] for row in chosen], (*LIGHT_COLUMNS, *include)),
        next_cursor=listing.cursor(chosen[-1] if more else found.last),
        total=total,
        total_is_exact=is_exact,
        scanned=found.scanned if listing.asked else None,
        is_complete=more or found.last is None,
    )


class Ids(NamedTuple):
    """Tasks by their ids, as a list has them; the rest is what a page of the list says of it."""

    ids: list[int]
    next_cursor: str | None
    scanned: int | None
    is_complete: bool


def find_ids(
    *, task_filter: TaskFilter, descending: bool, limit: int, cursor: str | None, caller: Caller
) -> Ids:
    """The same without the tasks, by id and as many as `limit` says. Raises InvalidRequest."""
    listing = _listing(task_filter, "id", descending, caller)
    if listing is None:
        return Ids([], None, None, is_complete=True)
    found = listing.find(cursor, limit + 1)
    chosen = found.rows[:limit]
    more = len(found.rows) > limit
    return Ids(
        [row["id"] for row in chosen],
        listing.cursor(chosen[-1] if more else found.last),
        found.scanned if listing.asked else None,
        is_complete=more or found.last is None,
    )


_Condition = tuple[str, Any]  # with one `?`, and its value


class _Stream(NamedTuple):
    """A part of an index: the table that it is read from, with its hint, and the conditions.

    `table` has at least the columns by which the list is sorted, `whole` all of a task.
    """

    table: str
    conditions: list[_Condition]
    whole: str


def _stream(hint: str, conditions: list[_Condition]) -> _Stream:
    table = f"{{tasks}} {hint}"
    return _Stream(table, conditions, table)


_MEMBERS = "(SELECT task_id AS id, batch_id AS member_of FROM {batch_members}) AS members"
_WHOLE_MEMBERS = (
    "(SELECT task_id, batch_id AS member_of FROM {batch_members}) AS members "
    "JOIN {tasks} ON {tasks}.id = members.task_id"
)
_TAGGED = "(SELECT task_id AS id, tag FROM {task_tags}) AS tagged"
_WHOLE_TAGGED = (
    "(SELECT task_id, tag FROM {task_tags}) AS tagged JOIN {tasks} ON {tasks}.id = tagged.task_id"
)


class _Listing(NamedTuple):
    """The streams of a list, its order, and what is asked of each row that no index has."""

    streams: Sequence[_Stream]
    column: str
    descending: bool
    asked: search.Search

    def find(self, cursor: str | None, wanted: int) -> search.Found:
        """The first `wanted` tasks after the cursor. Raises InvalidRequest."""
        after = _position(cursor, self.column)
        if not self.asked:
            rows = self._rows_after(after, wanted)
            return search.Found(rows, len(rows), None)
        # MySQL reads as many rows of each stream, and sorts them.
        at_once = search.MAX_SCANNED // search.ROUNDS
        fitting = STREAMS_PER_STATEMENT * at_once // len(self.streams)
        at_once = min(at_once, max(MIN_ROWS_AT_ONCE, fitting))
        return search.scan(self.asked, wanted, after, at_once, self._rows_after)

    def cursor(self, row: Row | None) -> str | None:
        """The cursor of the page that begins after this row; None: there is none."""
        return _cursor(row, self.column) if row else None

    def _rows_after(self, row: Row | None, count: int) -> list[Row]:
        """`id` and `column`, which an index has, of the next tasks of all streams together."""
        found: list[Row] = []
        for beyond in _parts_beyond(row, self.column, self.descending):
            if len(found) < count:
                found += self._first(beyond, count - len(found))
        return found

    def _first(self, conditions: Sequence[_Condition], limit: int) -> list[Row]:
        direction = "DESC" if self.descending else "ASC"
        columns = ["id"] if self.column == "id" else [self.column, "id"]
        order = ", ".join(f"{one} {direction}" for one in columns)
        found: list[Row] = []
        for some_streams in parts_of(self.streams, STREAMS_PER_STATEMENT):
            members: list[str] = []
            values: list[Any] = []
            for stream in some_streams:
                where, some = _where([*stream.conditions, *conditions])
                members.append(f"SELECT {', '.join(columns)} FROM {stream.table} WHERE {where}")
                values += some
            found += fetch_all(dialect().first_of(members, order, limit), values)
            # Cut each time: thousands of types would fill the memory.
            found.sort(key=lambda row: (row[self.column], row["id"]), reverse=self.descending)
            del found[limit:]
        return found


def _listing(
    task_filter: TaskFilter, sort_by: str, descending: bool, caller: Caller
) -> _Listing | None:
    """How to read a list; None where nothing can be in it."""
    # claim_rank is -priority, so high priorities first means claim_rank ascending.
    column = "claim_rank" if sort_by == "priority" else "id"
    type_ids = _type_ids(task_filter, caller)
    if type_ids == [] or (task_filter.worker_id is not None and not _with_worker(task_filter)):
        return None
    streams, left = _streams(task_filter, type_ids, column)
    asked = [*left, *search.conditions_of(task_filter._asdict())]
    return _Listing(
        streams,
        column,
        descending != (column == "claim_rank"),
        search.Search(asked, task_filter.params, task_filter.error if keyring() else None),
    )


def _where(conditions: Sequence[_Condition]) -> tuple[str, list[Any]]:
    values = [value for _, value in conditions]
    return " AND ".join(text for text, _ in conditions) or "1 = 1", values


def _with_worker(task_filter: TaskFilter) -> list[str]:
    """The statuses asked for in which a task has a worker."""
    return [one for one in task_filter.statuses or STATUSES if one in WITH_WORKER_STATUSES]


def _type_ids(task_filter: TaskFilter, caller: Caller) -> list[int] | None:
    """The types to read; None: every type. With an empty list nothing can be found."""
    # Only the indexes by type have the tasks of one status in order.
    by_type = task_filter.statuses and task_filter.worker_id is None
    if task_filter.type_pattern is None and caller.task_types is None and not by_type:
        return None
    found = task_types.find_task_types(pattern=task_filter.type_pattern, caller=caller)
    return [row["id"] for row in found]


def _streams(
    task_filter: TaskFilter, type_ids: list[int] | None, column: str
) -> tuple[list[_Stream], list[_Condition]]:
    """What to read, each a part of an index that has the order already; and what is left to check.

    Raises InvalidRequest where no index has the order.
    """
    worker_id = task_filter.worker_id
    given = worker_id is not None
    statuses = _with_worker(task_filter) if given else list(task_filter.statuses)
    of_types: list[_Condition] = [] if type_ids is None else [("task_type_id IN ?", type_ids)]
    of_status: list[_Condition] = [("status IN ?", statuses)] if statuses else []
    of_worker: list[_Condition] = [("worker_id = ?", worker_id)] if given else []
    if narrow := _narrow_stream(task_filter):
        if column != "id":
            raise InvalidRequest(
                "With tag, batch_id, parent_task_id or dedupe_key a list is sorted by created_at "
                "or id."
            )
        rest, left = narrow
        return rest, [*of_types, *of_status, *of_worker, *left]
    if given:
        index = "tasks_by_worker" if column == "id" else "tasks_by_worker_and_priority"
        return [
            _stream(f"{{index {index}}}", [*of_worker, ("status = ?", one), *of_types])
            for one in statuses
        ], []
    each = statuses or STATUSES
    if type_ids is not None and (statuses or len(type_ids) * len(each) <= MAX_STREAMS):
        index = "tasks_claim_by_id" if column == "id" else "tasks_claim_by_priority"
        return [
            _stream(f"{{index {index}}}", [("task_type_id = ?", type_id), ("status = ?", one)])
            for type_id, one in product(type_ids, each)
        ], []
    return [_stream("{index tasks_by_priority}" if column == "claim_rank" else "", of_types)], []


def _narrow_stream(task_filter: TaskFilter) -> tuple[list[_Stream], list[_Condition]] | None:
    """What has certain dedupe keys, else one parent, batch or tag; None: the filter has none.

    Also which of them are left to check. The tasks of one key are sorted by their ids: few share
    one, unless it is held by none.
    """
    of_parent: list[_Condition] = [("parent_task_id = ?", task_filter.parent_task_id)]
    of_batch: list[_Condition] = [("batch_id = ?", task_filter.batch_id)]
    of_tag: list[_Condition] = [("tag = ?", task_filter.tag)]
    left: list[_Condition] = []
    if task_filter.tag is not None:
        left = [("id IN (SELECT task_id FROM {task_tags} WHERE tag = ?)", task_filter.tag)]
    if task_filter.dedupe_keys:
        left += of_parent if task_filter.parent_task_id is not None else []
        left += of_batch if task_filter.batch_id is not None else []
        return [
            _stream("{unique tasks_key_while_open}", [("dedupe_key = ?", key)])
            for key in task_filter.dedupe_keys
        ], left
    if task_filter.parent_task_id is not None:
        left += of_batch if task_filter.batch_id is not None else []
        return [_stream("{index tasks_by_parent}", of_parent)], left
    if task_filter.batch_id is not None:
        of_members: list[_Condition] = [("member_of = ?", task_filter.batch_id)]
        return [_Stream(_MEMBERS, of_members, _WHOLE_MEMBERS)], left
    if task_filter.tag is not None:
        return [_Stream(_TAGGED, of_tag, _WHOLE_TAGGED)], []
    return None


def _with_columns(ids: Sequence[int], columns: Sequence[str]) -> list[Row]:
    if not ids:
        return []
    rows = fetch_all(f"SELECT {', '.join(columns)} FROM {{tasks}} WHERE id IN ?", (ids,))
    by_id = {row["id"]: task_types.with_type(row) for row in rows}
    # A task can be pruned between the two reads.
    return [by_id[task_id] for task_id in ids if task_id in by_id]


def _count(streams: Sequence[_Stream], asked: search.Search) -> tuple[int, bool]:
    """How many tasks there are among the first ROWS_COUNTED, and whether those are all.

    The bound is on what is read, because a filter may leave nothing of a million rows.
    """
    matching, values_of_asked = _where(asked.conditions)
    columns = [name for name in columns_of(Task) if re.search(rf"\b{name}\b", matching)]
    total, left = 0, ROWS_COUNTED
    for stream in streams:
        where, values = _where(stream.conditions)
        [row] = fetch_all(
            f"SELECT COUNT(*) AS looked_at, COUNT(CASE WHEN {matching} THEN 1 END) AS matching "
            f"FROM (SELECT {', '.join(columns) or 'id'} FROM {stream.whole} "
            f"WHERE {where} LIMIT ?) AS first_rows",
            [*values_of_asked, *values, left + 1],
        )
        total += row["matching"]
        left -= row["looked_at"]
        if left < 0:
            return min(total, ROWS_COUNTED), False
    return total, True


def _cursor(row: Row, column: str) -> str:
    text = json.dumps([column, row[column], row["id"]])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _position(cursor: str | None, column: str) -> Row | None:
    """The row that a cursor stands for, with its `id` and `column`. Raises InvalidRequest."""
    if cursor is None:
        return None
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
    return {column: value, "id": task_id}


def _parts_beyond(after: Row | None, column: str, descending: bool) -> list[list[_Condition]]:
    """The conditions of what follows a row, as one or two parts in order.

    The rest of one priority and the priorities after it are two parts, because no
    server finds both in an index with one condition.
    """
    if after is None:
        return [[]]
    beyond = "<" if descending else ">"
    if column == "id":
        return [[(f"id {beyond} ?", after["id"])]]
    return [
        [("claim_rank = ?", after["claim_rank"]), (f"id {beyond} ?", after["id"])],
        [(f"claim_rank {beyond} ?", after["claim_rank"])],
    ]
