"""Finding and locking the next tasks: the orders of a claim, and the SQL of each engine.

Every statement reads one index in its own order and stops at the first rows, so its cost does not
depend on how many tasks there are. Each type gets a statement of its own, with its id as a value:
MySQL sees of no other that the index has the order, and would sort a type's whole backlog.
Refuses to decide who may claim what: claim.py does that.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

from taskmanager.db.connection import cache, dialect, skips_locked
from taskmanager.db.dialect import SQLITE
from taskmanager.db.statements import Row, fetch_all, fetch_one
from taskmanager.queue.answer_size import COLUMNS, count_that_fits

TYPES_PER_STATEMENT = 100  # SQLite joins at most 500 SELECTs in one statement
FEW_TASKS = 10  # are read before it is known how large they are

# Without SKIP LOCKED.
MAX_LOOKS = 10
SPREAD_ROWS = 20
CONTENDED_MS = 1_000

PENDING = "task_type_id = ? AND status = 'pending'"


class ClaimOrder(NamedTuple):
    """An index, read one way or the other.

    `column` is the first of the index after type and status; `id` is always the
    last. Ids follow the order in which tasks are stored, so `created_at` and
    `id` are one order. Read backwards, ties are broken newest first.
    """

    index_name: str
    column: str
    backwards: bool

    @property
    def order_by(self) -> str:
        direction = "DESC" if self.backwards else "ASC"
        columns = [self.column] if self.column == "id" else [self.column, "id"]
        return ", ".join(f"{column} {direction}" for column in columns)

    @property
    def tasks(self) -> str:
        """The table, read through the index of this order."""
        return f"{{tasks}} {{index {self.index_name}}}"


CLAIM_ORDERS = {
    ("priority", "DESC"): ClaimOrder("tasks_claim_by_priority", "claim_rank", backwards=False),
    ("priority", "ASC"): ClaimOrder("tasks_claim_by_priority", "claim_rank", backwards=True),
    ("created_at", "ASC"): ClaimOrder("tasks_claim_by_id", "id", backwards=False),
    ("created_at", "DESC"): ClaimOrder("tasks_claim_by_id", "id", backwards=True),
    ("id", "ASC"): ClaimOrder("tasks_claim_by_id", "id", backwards=False),
    ("id", "DESC"): ClaimOrder("tasks_claim_by_id", "id", backwards=True),
    ("attempts", "ASC"): ClaimOrder("tasks_claim_by_attempts", "attempts", backwards=False),
    ("attempts", "DESC"): ClaimOrder("tasks_claim_by_attempts", "attempts", backwards=True),
}
SORT_COLUMNS = ("priority", "created_at", "id", "attempts")

# Where only `sort_by` is given: what a person would expect of that column.
DEFAULT_DIRECTION = {"priority": "DESC", "created_at": "ASC", "id": "ASC", "attempts": "ASC"}
DEFAULT_COLUMN = "priority"


def claim_order(sort_by: str | None, sort_order: str | None) -> ClaimOrder:
    """The order for a claim; either part may be left out. `sort_order` in either case."""
    column = sort_by or DEFAULT_COLUMN
    return CLAIM_ORDERS[column, (sort_order or DEFAULT_DIRECTION[column]).upper()]


def select_any_id(order: ClaimOrder, type_id: str = "?") -> str:
    """The SELECT of some pending task of a type; value: type id.

    Not of the next one: inside another SELECT, MySQL would sort all of them.
    """
    return (
        f"SELECT id FROM {order.tasks} WHERE task_type_id = {type_id} AND status = 'pending' "
        "LIMIT 1"
    )


def select_heads(types: int, order: ClaimOrder) -> str:
    """The SELECT of the next tasks of that many types; values: type id, number of rows, of each."""
    one = (
        f"SELECT id, task_type_id, {order.column} AS rank_value "
        f"FROM {order.tasks} WHERE {PENDING} ORDER BY {order.order_by} LIMIT ?"
    )
    return one if types == 1 else " UNION ALL ".join([dialect().union_member % one] * types)


def find_heads(type_ids: Sequence[int], *, order: ClaimOrder, count: int) -> list[Row]:
    """`id`, `task_type_id` and `rank_value` of up to `count` pending tasks of each type.

    Read without a lock. `rank_value` is what the order's column holds.
    """
    heads: list[Row] = []
    for start in range(0, len(type_ids), TYPES_PER_STATEMENT):
        some = type_ids[start : start + TYPES_PER_STATEMENT]
        values = [value for type_id in some for value in (type_id, count)]
        heads += fetch_all(select_heads(len(some), order), values)
    return heads


def lock_next(order: ClaimOrder, type_id: int, *, count: int, room: int, now: int) -> list[Row]:
    """Locks the next pending tasks of a type: up to `count`, fewer where `room` runs out.

    Part of the claim's transaction. `room` is what the answer has left, in characters.
    """
    if count > FEW_TASKS:
        sizes = fetch_all(select_sizes(order), (type_id, count))
        count = count_that_fits((row["size"] for row in sizes), room)
    if not count:
        return []
    if dialect() is SQLITE:
        rows = _next_of_only_writer(order, type_id, count)
    elif skips_locked():
        rows = _next_that_nobody_locks(order, type_id, count)
    else:
        rows = _next_that_nobody_takes_first(order, type_id, count, now)
    return rows[: count_that_fits((len(row["params"]) for row in rows), room)]


def _next_of_only_writer(order: ClaimOrder, type_id: int, count: int) -> list[Row]:
    """SQLite: the transaction has the write lock already."""
    return fetch_all(select_pending(order), (type_id, count))


def _next_that_nobody_locks(order: ClaimOrder, type_id: int, count: int) -> list[Row]:
    """MySQL 8, MariaDB 10.6: skips the rows that another claim has locked.

    A SELECT that locks takes a lock on the index entry of every task that was
    claimed since the server last purged the index; a plain one passes them by.
    So a plain one finds where to begin: docs/decisions/0014.
    """
    head = fetch_one(select_heads(1, order), (type_id, 1))
    if head is None:
        return []
    if order.column == "id":
        return fetch_all(select_pending(order, from_head=True), (type_id, head["id"], count))
    values = (type_id, head["rank_value"], head["id"], head["rank_value"], count)
    return fetch_all(select_pending(order, from_head=True), values)


def _next_that_nobody_takes_first(
    order: ClaimOrder, type_id: int, count: int, now: int
) -> list[Row]:
    """MySQL 5.7, MariaDB 10.5: looks without a lock, then locks what is still pending, by id.

    A claim that has lost tasks to another one picks from more of them for a
    while, since claims that all want the first one would wait for each other. A
    worker that is alone loses none and is given its tasks in strict order.
    """
    remembered = cache()
    for _ in range(MAX_LOOKS):
        is_contended = abs(now - remembered.claims_contended_at) < CONTENDED_MS
        spread = SPREAD_ROWS if is_contended else 0
        heads = fetch_all(select_heads(1, order), (type_id, count + spread))
        if not heads:
            return []
        ids = [head["id"] for head in heads]
        if is_contended:
            chosen = set(random.sample(ids, min(count, len(ids))))
            ids = [task_id for task_id in ids if task_id in chosen]
        locked = {row["id"]: row for row in fetch_all(LOCK_PENDING, (ids,))}
        if len(locked) < len(ids):
            remembered.claims_contended_at = now
        if locked:
            return [locked[task_id] for task_id in ids if task_id in locked]
    return []


# What a claim does not overwrite: see hold() in claim.py.
OVERWRITTEN = {
    *("status", "worker_id", "claim_token", "claim_request_id", "lease_seconds", "claimed_at"),
    *("lease_expires_at", "progress", "progress_message", "updated_at"),
}
_COLUMNS = ", ".join(column for column in COLUMNS if column not in OVERWRITTEN)
LOCK_PENDING = (
    f"SELECT {_COLUMNS} FROM {{tasks}} {{by_id}} WHERE id IN ? AND status = 'pending' "
    "ORDER BY id {lock_rows}"
)


def select_pending(order: ClaimOrder, *, from_head: bool = False) -> str:
    """The SELECT that locks the next tasks of one type.

    Values: type id; with `from_head` where to begin, the order's column (not
    where that is `id`), `id` and the column again; number of rows.
    """
    condition = ""
    if from_head:
        after = "<" if order.backwards else ">"
        condition = (
            f"AND id {after}= ?"
            if order.column == "id"
            else f"AND ({order.column} = ? AND id {after}= ? OR {order.column} {after} ?)"
        )
    return (
        f"SELECT {_COLUMNS} FROM {order.tasks} WHERE {PENDING} {condition} "
        f"ORDER BY {order.order_by} LIMIT ? {{lock_free_rows}}"
    )


def select_sizes(order: ClaimOrder) -> str:
    """The SELECT of how large the next tasks of one type are; values: type id, number of rows."""
    return (
        f"SELECT LENGTH(params) AS size FROM {order.tasks} "
        f"WHERE {PENDING} ORDER BY {order.order_by} LIMIT ?"
    )
