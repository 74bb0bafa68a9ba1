"""Handing out tasks: each to one worker, the most urgent and oldest first.

The claim reads an index in its own order and stops at the first rows, so its
cost does not depend on how many tasks there are. For several types it looks at
the head of each type's index and takes the best of the heads.
"""

import math
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from taskmanager.access.caller import Caller
from taskmanager.db.connection import database, dialect, skips_locked
from taskmanager.db.dialect import SQLITE
from taskmanager.db.statements import (
    Row,
    execute,
    execute_later,
    fetch_all,
    fetch_one,
    fetch_packed,
    placeholders,
)
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import NoTaskAvailable
from taskmanager.queue import guarded_claims, history, maintenance, task_types, workers
from taskmanager.queue.answer_size import COLUMNS, MAX_ANSWER_TEXT, count_that_fits
from taskmanager.queue.claim_heads import find_heads, note_head
from taskmanager.queue.claim_orders import ClaimOrder
from taskmanager.queue.task_types import TaskDefaults

MAX_ROUNDS = 20  # of looking, while others each time take first what was found or made due
FEW_TASKS = 10  # are read before it is known how large they are
POLL_SECONDS_EMPTY = 5
POLL_SECONDS_PAUSED = 15
IDLE_TYPE_MS = 10_000  # so long a type that was paused meanwhile may pass for one without tasks


class ClaimRequest(NamedTuple):
    """What a worker asks for. Several filters: all must hold. None: not by this."""

    worker_id: str
    order: ClaimOrder
    type_ids: Sequence[int] | None = None
    type_names: Sequence[str] | None = None
    type_pattern: str | None = None
    limit: int = 1
    lease_seconds: int | None = None
    request_id: str | None = None

    @property
    def only_type_name(self) -> str | None:
        """The one type that it asks for by name; None where it asks in another way."""
        if self.type_ids is None and self.type_pattern is None and len(self.type_names or ()) == 1:
            return self.type_names[0]  # type: ignore[index]
        return None


class Source(NamedTuple):
    """A type to take tasks from, as it was when its row was read."""

    type_id: int
    lease_seconds: int
    updated_at: int

    @property
    def version(self) -> tuple[int, int]:
        """Values for TYPE_IS_UNCHANGED."""
        return self.type_id, self.updated_at


TYPE_IS_UNCHANGED = "AND (SELECT updated_at FROM task_types WHERE id = ?) = ?"


def claim_tasks(
    request: ClaimRequest, *, defaults: TaskDefaults, caller: Caller, now: int
) -> list[Row]:
    """Claims up to `request.limit` tasks, fewer large ones; each row has its `claim_token`.

    Transition: pending → claimed.
    Commits together: the claim, the counted attempt and the history row.
    Raises NoTaskAvailable, with a hint when to ask again, having written nothing.
    Dying after the commit leaves tasks claimed until their lease runs out, or
    until the worker sends the same request_id and gets them again.
    """
    if repeated := _claimed_before(request, caller, now):
        return repeated
    maintenance.run_slice_if_due(defaults=defaults, now=now)
    if tasks := _claim_of_busy_type(request, caller, now):
        return tasks
    for rounds_left in reversed(range(MAX_ROUNDS)):
        types = _idle_type(request, caller, now) or _running_types(request, caller, now)
        sources = [
            Source(
                type_id=row["id"],
                lease_seconds=row["lease_seconds"] or defaults.lease_seconds,
                updated_at=row["updated_at"],
            )
            for row in types
            if row["some_task_id"] is not None
        ]
        if sources:
            tasks = _claim(request, sources, caller, now)
            if tasks:
                _remember_busy_type(request, sources)
                return tasks
        # After the last look nothing is made due, or it would be left behind unseen.
        elif not rounds_left or not maintenance.run_slice(defaults=defaults, now=now):
            break
    # The same request, sent twice at once, may have been given the last of them meanwhile.
    if repeated := _claimed_before(request, caller, now):
        return repeated
    raise _nothing_available(request, types, now)


def _claim_of_busy_type(request: ClaimRequest, caller: Caller, now: int) -> list[Row]:
    """Saves the look at a type in which this process last found tasks; [] where there is none.

    Only on MySQL: on SQLite the look costs little, and a claim in vain would take the write lock.
    """
    name = request.only_type_name
    source = _busy_types().get(name) if name is not None else None
    if name is None or source is None or not caller.may_touch(name):
        return []
    tasks = _claim(request, [source], caller, now, if_unchanged=True)
    if not tasks:
        _busy_types().pop(name, None)
    return tasks


def _remember_busy_type(request: ClaimRequest, sources: list[Source]) -> None:
    if dialect() is not SQLITE and skips_locked() and request.only_type_name is not None:
        _busy_types()[request.only_type_name] = sources[0]


def _busy_types() -> dict[str, Source]:
    busy: dict[str, Source] = database.obj.cache.setdefault("busy_types", {})
    return busy


def _idle_type(request: ClaimRequest, caller: Caller, now: int) -> list[Row]:
    """The only type asked for where it still has no tasks, which this process saw a moment ago.

    A look at the head of its index alone; [] where that says too little.
    """
    row, seen_at = _idle_types().get(request.only_type_name, (None, 0))
    if row is None or abs(now - seen_at) >= IDLE_TYPE_MS or not caller.may_touch(row["name"]):
        return []
    if fetch_one(select_any_id(request.order), (row["id"],)) is None:
        return [row]
    _idle_types().pop(request.only_type_name, None)
    return []


def _idle_types() -> dict[str | None, tuple[Row, int]]:
    """By the name asked for: the row, and when it was read."""
    idle: dict[str | None, tuple[Row, int]] = database.obj.cache.setdefault("idle_types", {})
    return idle


def _running_types(request: ClaimRequest, caller: Caller, now: int) -> list[Row]:
    """The types that the claim may take from, each with the id of a pending task or None."""
    found = task_types.find_task_types(
        ids=request.type_ids,
        names=request.type_names,
        pattern=request.type_pattern,
        caller=caller,
        columns={
            **{name: name for name in ("is_paused", "lease_seconds", "updated_at")},
            "some_task_id": f"({select_any_id(request.order, 'task_types.id')})",
        },
    )
    running = [row for row in found if not row["is_paused"]]
    if request.only_type_name is not None and running and running[0]["some_task_id"] is None:
        _idle_types()[request.only_type_name] = running[0], now
    return running


def _with_type_names(rows: list[Row]) -> list[Row]:
    return [{**row, "type": task_types.name_of(row["task_type_id"])} for row in rows]


@write_transaction
def _claim(
    request: ClaimRequest,
    sources: Sequence[Source],
    caller: Caller,
    now: int,
    *,
    if_unchanged: bool = False,
) -> list[Row]:
    if request.request_id is not None:
        # Writing the worker's row first makes two calls of one worker take turns here, so the
        # second of them finds what the first was given. On Galera certification does the same.
        workers.record_sign_of_life(request.worker_id, now=now, always=True)
        if repeated := _claimed_before(request, caller, now):
            return repeated
    tasks: list[Row] = []
    room = MAX_ANSWER_TEXT
    for source, count in _shares(sources, request):
        if room > 0:
            taken = _claim_of_type(request, source, count, room, now, if_unchanged)
            room -= sum(len(task["params"]) for task in taken)
            tasks += taken
    if not tasks:
        return []
    if len(sources) > 1:
        tasks.sort(
            key=lambda task: (task[request.order.column], task["id"]),
            reverse=request.order.backwards,
        )
    history.record(
        [
            history.event_row(
                task_id=task["id"],
                event="claimed",
                status="claimed",
                attempt=task["attempts"],
                worker_id=request.worker_id,
                api_key_id=caller.key_id,
                claim_token=task["claim_token"],
                now=now,
            )
            for task in tasks
        ]
    )
    workers.record_sign_of_life(request.worker_id, now=now)
    return _with_type_names(tasks)


def _claim_of_type(
    request: ClaimRequest, source: Source, count: int, room: int, now: int, if_unchanged: bool
) -> list[Row]:
    """Makes the first `count` pending tasks of one type the worker's, fewer where they are large.

    With `if_unchanged` none, where the type is not as it was when `source` was read.
    """
    lease_seconds = request.lease_seconds or source.lease_seconds
    nonce = secrets.token_urlsafe(16)
    held: Row = {
        "status": "claimed",
        "worker_id": request.worker_id,
        "claim_request_id": request.request_id,
        "lease_seconds": lease_seconds,
        "claimed_at": now,
        "lease_expires_at": now + lease_seconds * 1000,
        "progress": None,
        "progress_message": None,
        "updated_at": now,
    }
    if count > FEW_TASKS:
        sizes = fetch_all(select_sizes(request.order), (source.type_id, count))
        count = count_that_fits((row["size"] for row in sizes), room)
        if not count:
            return []
    if not skips_locked():
        return guarded_claims.take_pending(
            order=request.order,
            type_id=source.type_id,
            count=count,
            hold=lambda ids: int(execute(*_holding(ids, held, nonce)).rowcount),
            token_of=lambda task_id: f"{nonce}.{task_id}",
            now=now,
        )
    condition, values = ("", ()) if not if_unchanged else (TYPE_IS_UNCHANGED, source.version)
    if dialect() is not SQLITE:
        note_head(source.type_id, order=request.order)
    rows = fetch_packed(
        [column for column in COLUMNS if column not in held],
        from_pending(request.order, condition),
        (source.type_id, *values, count),
    )
    if not rows:
        return []
    rows = rows[: count_that_fits((len(row["params"]) for row in rows), room)]
    ids = [row["id"] for row in rows]
    execute_later(*_holding(ids, held, nonce), rows=len(ids))
    return [
        {
            **row,
            **held,
            "attempts": row["attempts"] + 1,
            "claim_token": f"{nonce}.{row['id']}",
        }
        for row in rows
    ]


def _holding(ids: Sequence[int], held: Row, nonce: str) -> tuple[str, Sequence[Any]]:
    """The UPDATE, with its values, that claims those of the tasks that are pending."""
    assignments = ", ".join(f"{column} = ?" for column in held)
    return (
        f"UPDATE tasks {dialect().by_id} SET {assignments}, attempts = attempts + 1, "
        f"claim_token = ? || id WHERE status = 'pending' AND id IN ({placeholders(ids)})",
        (*held.values(), f"{nonce}.", *ids),
    )


def from_pending(order: ClaimOrder, condition: str = "") -> str:
    """What follows the columns to lock the next tasks of one type; on MySQL after note_head().

    Values: type id, those of the condition, number of rows.
    """
    if dialect() is not SQLITE:
        condition += f" AND {order.from_head}"
    return (
        f"FROM tasks {dialect().use_index.format(order.index_name)} "
        f"WHERE task_type_id = ? AND status = 'pending' {condition} "
        f"ORDER BY {order.order_by} LIMIT ? {dialect().lock_free_rows}"
    )


def select_sizes(order: ClaimOrder) -> str:
    """The SELECT of how large the next tasks of one type are; values: type id, number of rows."""
    return (
        f"SELECT LENGTH(params) AS size FROM tasks {dialect().use_index.format(order.index_name)} "
        f"WHERE task_type_id = ? AND status = 'pending' ORDER BY {order.order_by} LIMIT ?"
    )


def select_any_id(order: ClaimOrder, type_id: str = "?") -> str:
    """The SELECT of some task of a type that could be claimed.

    Not of the next one: MySQL does not see here that the index has the order, and sorts them all.
    """
    return (
        f"SELECT id FROM tasks {dialect().use_index.format(order.index_name)} "
        f"WHERE task_type_id = {type_id} AND status = 'pending' LIMIT 1"
    )


def _shares(sources: Sequence[Source], request: ClaimRequest) -> Iterable[tuple[Source, int]]:
    """How many tasks to take of each type so that together they are the best there are.

    Another worker may take some of them first (MySQL); then the next of the
    same type are taken in their place.
    """
    if len(sources) == 1:
        return [(sources[0], request.limit)]
    by_id = {source.type_id: source for source in sources}
    heads = find_heads(list(by_id), order=request.order, count=request.limit)
    heads.sort(key=lambda head: (head["rank_value"], head["id"]), reverse=request.order.backwards)
    shares = Counter(head["task_type_id"] for head in heads[: request.limit])
    return [(by_id[type_id], count) for type_id, count in shares.items()]


def _claimed_before(request: ClaimRequest, caller: Caller, now: int) -> list[Row]:
    """What the same request was given and still holds, in the order in which it was given.

    Whoever else learns of its names gets nothing that is not for its key.
    """
    if request.request_id is None:
        return []
    rows = fetch_packed(
        COLUMNS,
        f"FROM tasks {dialect().use_index.format('tasks_by_worker')} "
        "WHERE worker_id = ? AND status = 'claimed' "
        "AND claim_request_id = ? AND lease_expires_at > ? "
        f"ORDER BY {request.order.order_by}",
        (request.worker_id, request.request_id, now),
    )
    return [row for row in _with_type_names(rows) if caller.may_touch(row["type"])]


def _nothing_available(request: ClaimRequest, types: list[Row], now: int) -> NoTaskAvailable:
    names = request.type_names or ([request.type_pattern] if request.type_pattern else [])
    what = f" of type {', '.join(names)}" if names else ""
    if not types:
        return NoTaskAvailable(
            f"No available tasks{what}: no task type that this claim may take from is "
            "registered and running.",
            details={"poll_after_seconds": POLL_SECONDS_PAUSED},
        )
    return NoTaskAvailable(
        f"No available tasks{what}.",
        details={"poll_after_seconds": _poll_after_seconds(now)},
    )


def _poll_after_seconds(now: int) -> int:
    """When to ask again: at the time of the next scheduled task, else after a few seconds."""
    soonest = maintenance.next_due(now=now).task_at
    if soonest is None:
        return POLL_SECONDS_EMPTY
    seconds = math.ceil((soonest - now) / 1000)
    return max(1, min(POLL_SECONDS_EMPTY, seconds))
