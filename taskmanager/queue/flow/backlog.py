"""How many tasks of a type, and of each of its groups, may be open: its `max_open`.

A task is open until it has ended. Where a type has a limit, the creations of its tasks take turns.
New tasks are stored first and counted then, in one transaction: so what de-duplication finds takes
no room, and the limits are exact. If there are too many, all of the transaction is undone.

Refuses to guard what the queue does by itself: callbacks of batches are created, and tasks are
tried again, however many are open. Otherwise they would be lost.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from taskmanager.access.caller import Caller
from taskmanager.db.statements import Row, fetch_value
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import QueueFull
from taskmanager.queue.flow import lanes, limits
from taskmanager.queue.store import Stored, store_tasks
from taskmanager.queue.task_types import with_type_name

MOST = 100_000  # each creation counts that many entries of an index, once the queue is full

OPEN_OF_TYPE = (
    "SELECT COUNT(*) AS counted FROM (SELECT id FROM {tasks} {index tasks_claim_by_id} "
    "WHERE task_type_id = ? AND status IN ('blocked', 'scheduled', 'pending', 'claimed') LIMIT ?) "
    "AS some"
)


def store_within_limits(
    rows: list[Row],
    *,
    caller: Caller,
    message: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> list[Stored]:
    """`store_tasks`, where more tasks would not be open than may be. Raises QueueFull.

    `rows` have the `max_open` of their types besides.
    """
    of_types = {row["task_type_id"]: row["max_open"] for row in rows if row["max_open"]}
    # Before anything is read: a transaction may keep the snapshot of its first look.
    for type_id in sorted(of_types):
        limits.take_turn(type_id, rows[0]["created_at"])
    stored = store_tasks(rows, caller=caller, message=message, metadata=metadata)
    refused: dict[int, QueueFull] = {}
    for type_id, max_open in of_types.items():
        new = {
            index: row
            for index, (row, (_, existed)) in enumerate(zip(rows, stored, strict=True))
            if row["task_type_id"] == type_id and not existed
        }
        refused |= _refused(new, json.loads(max_open)) if new else {}
    if refused:
        by_id = {stored[index][0]["id"]: error for index, error in refused.items()}
        error = refused[min(refused)]
        # With those that would have been the same task.
        error.refused = {
            index: by_id[task["id"]]
            for index, (task, _) in enumerate(stored)
            if task["id"] in by_id
        }
        raise error
    return stored


store_in_transaction = write_transaction(store_within_limits)


def _refused(new: Mapping[int, Row], max_open: Mapping[str, int]) -> dict[int, QueueFull]:
    """The errors of those of these new tasks of one type that are too many: the last ones."""
    refused: dict[int, QueueFull] = {}
    first = next(iter(new.values()))
    name = with_type_name(first)["type"]
    if (most := max_open.get("group")) is not None:
        for group, indexes in _by_group(new).items():
            found = lanes.count_members(first["task_type_id"], group, most + len(indexes))
            what = f"tasks of type '{name}' with the group_key '{group}'"
            refused |= _too_many(indexes, found - most, most, what, limit="group", group_key=group)
    if (most := max_open.get("type")) is not None:
        found = fetch_value(OPEN_OF_TYPE, (first["task_type_id"], most + len(new)))
        left = [index for index in new if index not in refused]
        count = found - len(refused) - most
        refused |= _too_many(left, count, most, f"tasks of type '{name}'", limit="type")
    return refused


def _too_many(
    indexes: Sequence[int], count: int, most: int, what: str, **details: str
) -> dict[int, QueueFull]:
    """The error for the last `count` of these tasks. `what` they are, of which `most` may be open.

    It says how many there is room for, so that it is right whether these are created or not.
    """
    if count <= 0:
        return {}
    room = len(indexes) - count
    why = f"As many {what} are open as may be"
    if room:
        why = f"There is room for {room} of {len(indexes)} new {what}"
    error = QueueFull(
        f"{why} (max_open: {most}). Wait until some have ended.",
        details={
            **details,
            "max_open": most,
            "open": most - room,
            "retry_after_seconds": QueueFull.retry_after_seconds,
        },
    )
    return dict.fromkeys(indexes[-count:], error)


def _by_group(new: Mapping[int, Row]) -> Mapping[str, list[int]]:
    """Tasks without a group_key are no group."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, row in new.items():
        if row["group_key"]:
            found[row["group_key"]].append(index)
    return found
