"""The next tasks of each type, read without a lock: the first entries of an index for each.

A statement of its own for each type, with its id as a value: MySQL sees of no other that the index
has the order, MariaDB not of every other, and both would sort a type's whole backlog.
"""

from collections.abc import Sequence

from taskmanager.db.connection import dialect
from taskmanager.db.statements import Row, fetch_all, look_before_next
from taskmanager.queue.claim_orders import ClaimOrder

TYPES_PER_STATEMENT = 100  # SQLite joins at most 500 SELECTs in one statement


def find_heads(type_ids: Sequence[int], *, order: ClaimOrder, count: int) -> list[Row]:
    """`id`, `task_type_id` and `rank_value` of up to `count` pending tasks of each type.

    `rank_value` is what the order's column holds.
    """
    heads: list[Row] = []
    for start in range(0, len(type_ids), TYPES_PER_STATEMENT):
        some = type_ids[start : start + TYPES_PER_STATEMENT]
        values = [value for type_id in some for value in (type_id, count)]
        heads += fetch_all(select_heads(len(some), order), values)
    return heads


def select_heads(types: int, order: ClaimOrder) -> str:
    """The SELECT of the next tasks of that many types; values: type id, number of rows, of each."""
    one = (
        f"SELECT id, task_type_id, {order.column} AS rank_value "
        f"FROM tasks {dialect().use_index.format(order.index_name)} "
        f"WHERE task_type_id = ? AND status = 'pending' ORDER BY {order.order_by} LIMIT ?"
    )
    return one if types == 1 else " UNION ALL ".join([dialect().union_member.format(one)] * types)


def note_head(type_id: int, *, order: ClaimOrder) -> None:
    """Only on MySQL: with the next statement of a transaction, whose condition is `from_head`.

    A SELECT that locks takes a lock on the entry of every task that was claimed since the server
    last cleaned the index up; a plain one passes them by: docs/decisions/0014.
    """
    look_before_next(select_head(order), (type_id,))


def select_head(order: ClaimOrder) -> str:
    """The statement that notes where the pending tasks of a type begin; value: type id."""
    return (
        f"SELECT {order.column}, id INTO @head_value, @head_id "
        f"FROM tasks {dialect().use_index.format(order.index_name)} "
        f"WHERE task_type_id = ? AND status = 'pending' ORDER BY {order.order_by} LIMIT 1"
    )
