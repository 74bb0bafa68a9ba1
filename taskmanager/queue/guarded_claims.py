"""Claims on servers that know no SKIP LOCKED: MySQL 5.7, MariaDB before 10.6.

Nothing is locked while looking. The update itself decides whose a task is: it
takes what is still pending. Who has lost a task to another worker looks past the
first few for a while, since workers that all want the first one wait in a row for
it. A worker that is alone loses none and is given its tasks in strict order.
"""

import random
from collections.abc import Callable, Sequence

from taskmanager.db.connection import database, dialect
from taskmanager.db.statements import Row, fetch_all, fetch_packed, placeholders
from taskmanager.queue.answer_size import COLUMNS
from taskmanager.queue.claim_orders import ClaimOrder

MAX_LOOKS = 10
SPREAD_ROWS = 20
CONTENDED_MS = 1_000


def select_candidates(order: ClaimOrder) -> str:
    """The SELECT of the next tasks of one type; values: type id, number of rows."""
    return (
        f"SELECT id FROM tasks {dialect().use_index.format(order.index_name)} "
        "WHERE task_type_id = ? AND status = 'pending' "
        f"ORDER BY {order.order_by} LIMIT ?"
    )


def take_pending(
    *,
    order: ClaimOrder,
    type_id: int,
    count: int,
    hold: Callable[[Sequence[int]], int],
    token_of: Callable[[int], str],
    now: int,
) -> list[Row]:
    """Makes up to `count` pending tasks of one type the caller's; returns them as they are then.

    Part of the claim's transaction. `hold` updates those of the given tasks that
    are still pending and returns how many that were; `token_of` names the claim
    token that it gives to a task.
    """
    cache = database.obj.cache
    for _ in range(MAX_LOOKS):
        contended = abs(now - cache.get("claims_contended_at", 0)) < CONTENDED_MS
        spread = count + SPREAD_ROWS if contended else 0
        candidates = [
            row["id"] for row in fetch_all(select_candidates(order), (type_id, count + spread))
        ]
        if not candidates:
            return []
        chosen = candidates
        if contended:
            picked = set(random.sample(candidates, min(count, len(candidates))))
            chosen = [task_id for task_id in candidates if task_id in picked]
        held = hold(chosen)
        if held < len(chosen):
            cache["claims_contended_at"] = now
        if held:
            rows = fetch_packed(COLUMNS, f"FROM tasks WHERE id IN ({placeholders(chosen)})", chosen)
            mine = {row["id"]: row for row in rows if row["claim_token"] == token_of(row["id"])}
            return [mine[task_id] for task_id in chosen if task_id in mine]
    return []
