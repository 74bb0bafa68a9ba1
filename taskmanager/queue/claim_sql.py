"""Finding and locking the next tasks: the orders of a claim, and the SQL of each engine.

Every statement reads one index in its own order and stops at the first rows, so its cost does not
depend on how many tasks there are. Each type gets a statement of its own, with its id as a value:
with any other form MySQL does not see that the index is in the right order, and sorts the backlog.
Refuses to decide who may claim what: claim.py does that.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from taskmanager.db.connection import (
    cache,
    dialect,
    keeps_snapshot,
    meets_other_nodes,
    skips_locked,
)
from taskmanager.db.dialect import SQLITE
from taskmanager.db.statements import Row, fetch_all, parts_of
from taskmanager.queue.answer_size import COLUMNS, count_that_fits, sizes_of

TYPES_PER_STATEMENT = 100  # SQLite joins at most 500 SELECTs in one statement
FEW_TASKS = 10  # are read before it is known how large they are

# Without SKIP LOCKED.
MAX_LOOKS = 10
SPREAD_ROWS = 20
CONTENDED_MS = 1_000

# The columns of a task that its end alone sets: each is NULL while it is pending.
OF_ITS_END: Row = dict.fromkeys(("result", "completed_at", "pruned_at", "dedupe_until"))
# What a claim overwrites (see _hold() in claim.py), and what nobody asks of a claimed task.
_OVERWRITTEN = {
    *("status", "worker_id", "claim_token", "lease_seconds", "claimed_at", "lease_expires_at"),
    *("progress", "progress_message", "updated_at", "dedupe_seconds"),
}
_COLUMNS = ", ".join(column for column in COLUMNS if column not in {*_OVERWRITTEN, *OF_ITS_END})
_LOCKED = " {lock_free_rows}"


@dataclass(frozen=True)
class ClaimOrder:
    """An index, read one way or the other, and the statements that read it.

    `column` is the first of the index after type and status; `id` is always the
    last. Ids follow the order in which tasks are stored, so `created_at` and
    `id` are one order. Read backwards, ties are broken newest first.
    """

    index_name: str
    column: str
    backwards: bool

    @cached_property
    def order_by(self) -> str:
        direction = "DESC" if self.backwards else "ASC"
        columns = [self.column] if self.column == "id" else [self.column, "id"]
        return ", ".join(f"{column} {direction}" for column in columns)

    def place(self, task: Row) -> tuple[int, int]:
        """What tasks are sorted by, where the index has not done it."""
        rank = -task["priority"] if self.column == "claim_rank" else task[self.column]
        return rank, task["id"]

    @cached_property
    def any_id_of_type(self) -> str:
        """The subquery for some pending task of each row of task_types.

        Not for the next one: MySQL would sort all of them here.
        """
        return (
            f"SELECT id FROM {{tasks}} {{index {self.index_name}}} "
            "WHERE task_type_id = {task_types}.id AND status = 'pending' LIMIT 1"
        )

    @cached_property
    def heads(self) -> str:
        """The next tasks of one type, without a lock. Values: type id, number of rows."""
        return self._next(f"id, task_type_id, {self.column} AS rank_value")

    @cached_property
    def sizes(self) -> str:
        """How large the next tasks of one type are. Values: type id, number of rows."""
        return self._next("LENGTH(params) AS size")

    @cached_property
    def lock(self) -> str:
        """Locks the next tasks of one type. Values: type id, number of rows."""
        return self._next(_COLUMNS) + _LOCKED

    @cached_property
    def lock_from_head(self) -> str:
        """The same from one task on. Values: type id, begin_at() of the task, number of rows."""
        after = "<" if self.backwards else ">"
        from_head = f" AND id {after}= ?"
        if self.column != "id":
            from_head = f" AND ({self.column} = ? AND id {after}= ? OR {self.column} {after} ?)"
        return self._next(_COLUMNS, from_head) + _LOCKED

    def begin_at(self, head: Row) -> tuple[int, ...]:
        """The values of lock_from_head that stand for a row of heads."""
        if self.column == "id":
            return (head["id"],)
        return (head["rank_value"], head["id"], head["rank_value"])

    def _next(self, columns: str, condition: str = "") -> str:
        return (
            f"SELECT {columns} FROM {{tasks}} {{index {self.index_name}}} "
            f"WHERE task_type_id = ? AND status = 'pending'{condition} "
            f"ORDER BY {self.order_by} LIMIT ?"
        )


# Locks those of the tasks that are still pending. Value: ids.
LOCK_PENDING = (
    f"SELECT {_COLUMNS} FROM {{tasks}} {{by_id}} WHERE id IN ? AND status = 'pending' "
    "ORDER BY id {lock_rows}"
)

# The same for the tasks that lanes have chosen: one that somebody else is changing is left out.
LOCK_CHOSEN = (
    f"SELECT {_COLUMNS} FROM {{tasks}} {{by_id}} WHERE id IN ? AND status = 'pending' ORDER BY id "
)

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
# Where only `sort_by` is given: what a person would expect of that column.
DEFAULT_DIRECTION = {"priority": "DESC", "created_at": "ASC", "id": "ASC", "attempts": "ASC"}
SORT_COLUMNS = tuple(DEFAULT_DIRECTION)


def claim_order(sort_by: str | None, sort_order: str | None) -> ClaimOrder:
    """The order for a claim; either part may be left out. `sort_order` in either case."""
    column = sort_by or "priority"
    return CLAIM_ORDERS[column, (sort_order or DEFAULT_DIRECTION[column]).upper()]


def find_heads(type_ids: Sequence[int], *, order: ClaimOrder, count: int) -> list[Row]:
    """`id`, `task_type_id` and `rank_value` of up to `count` pending tasks of each type.

    Read without a lock. `rank_value` is what the order's column holds.
    """
    heads: list[Row] = []
    for some in parts_of(type_ids, TYPES_PER_STATEMENT):
        members = " UNION ALL ".join([dialect().union_member % order.heads] * len(some))
        heads += fetch_all(members, [value for type_id in some for value in (type_id, count)])
    return heads


def lock_next(order: ClaimOrder, type_id: int, *, count: int, room: int, now: int) -> list[Row]:
    """Locks the next pending tasks of a type: up to `count`, fewer where `room` runs out.

    Part of the claim's transaction. `room` is what the answer has left, in characters.
    """
    if count > FEW_TASKS:
        sizes = fetch_all(order.sizes, (type_id, count))
        count = count_that_fits((row["size"] for row in sizes), room)
    if dialect() is SQLITE:  # the transaction has the write lock already
        rows = fetch_all(order.lock, (type_id, count))
    elif skips_locked():
        rows = _lock_what_nobody_locks(order, type_id, count)
    else:
        rows = _lock_candidates(order, type_id, count, now)
    if len(rows) > 1:
        rows = rows[: count_that_fits((len(row["params"]) for row in rows), room)]
    return rows


def lock_chosen(ids: Sequence[int], *, room: int) -> list[Row]:
    """Locks those of these tasks that are pending and free, in the order of `ids`, while `room`
    lasts. Part of the claim's transaction.
    """
    if len(ids) > FEW_TASKS:
        ids = ids[: count_that_fits(sizes_of(ids, ["params"]), room)]
    how = "{lock_free_rows}" if skips_locked() else "{lock_rows}"
    found = {row["id"]: row for row in fetch_all(LOCK_CHOSEN + how, (list(ids),))}
    rows = [found[task_id] for task_id in ids if task_id in found]
    return rows[: count_that_fits((len(row["params"]) for row in rows), room)]


def _lock_what_nobody_locks(order: ClaimOrder, type_id: int, count: int) -> list[Row]:
    """MySQL 8, MariaDB 10.6: skips the rows that another claim has locked.

    Index entries of claimed tasks stay until the server purges them. A locking
    SELECT locks each one that it meets; a plain SELECT skips them. So a plain one
    finds the first pending task, and the locking one starts there: docs/decisions/0014.

    The nodes of a cluster do not see each other's locks, and one of two that take the same
    task learns it at COMMIT. After that a claim starts at one of the first SPREAD_ROWS, where
    that leaves enough tasks behind it.
    """
    looked_at = SPREAD_ROWS + count - 1 if meets_other_nodes() else 1
    heads = fetch_all(order.heads, (type_id, looked_at))
    if not heads:
        return []
    head = random.choice(heads[: max(1, len(heads) - count + 1)])  # noqa: S311
    return fetch_all(order.lock_from_head, (type_id, *order.begin_at(head), count))


def _lock_candidates(order: ClaimOrder, type_id: int, count: int, now: int) -> list[Row]:
    """MySQL 5.7, MariaDB 10.5: looks without a lock, then locks what is still pending, by id.

    After another claim took some of the candidates, this process picks at random
    from SPREAD_ROWS more of them for CONTENDED_MS. Otherwise all claims would wait
    for the same first task. A worker that is alone gets its tasks in strict order.
    Where a transaction keeps its snapshot it looks once, and the claim's next round again.
    """
    remembered = cache()
    for _ in range(1 if keeps_snapshot() else MAX_LOOKS):
        is_contended = abs(now - remembered.claims_contended_at) < CONTENDED_MS
        heads = fetch_all(order.heads, (type_id, count + SPREAD_ROWS * is_contended))
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
