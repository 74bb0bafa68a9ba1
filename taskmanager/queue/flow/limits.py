"""How many tasks of a type may be held at once, and how many may start in a time.

How many tasks of one key may be held is up to lanes.py.

Owns the table type_starts. Its row of a type is locked by a claim that takes from that type and by
a heartbeat that takes up an expired lease: so they take turns, and the limits are exact. So do
creations where backlog.py limits them. Types without limits have no row.
"""

import contextlib
import json
from collections import Counter
from typing import NamedTuple

import peewee

from taskmanager.db.connection import how_to_look
from taskmanager.db.statements import Row, execute, fetch_all, fetch_one, insert, update
from taskmanager.errors import ClaimLost
from taskmanager.queue.flow import lanes
from taskmanager.rates import parse_rate

MAX_CONCURRENCY = 10_000
TOLERANCE_MS = 60_000


def is_limited(task_type: Row) -> bool:
    """Whether claims of a type take turns, by its columns `concurrency` and `start_rate`."""
    if task_type["start_rate"] is not None:
        return True
    return task_type["concurrency"] is not None and _limit_of(task_type) is not None


def _limit_of(task_type: Row) -> int | None:
    """How many tasks of the type may be held; None: any number, or so many of each key."""
    text = task_type["concurrency"]
    if text is None or lanes.limit_per_key(text) is not None:
        return None
    return int(json.loads(text)["limit"])


class Room(NamedTuple):
    """How many more tasks of a type may be claimed now; where none, `why` and from when on.

    `why` is `concurrency` or `start_rate`. `next_at` in milliseconds, None where nobody knows.
    """

    tasks: int
    why: str | None = None
    next_at: int | None = None


def room_of(type_id: int, *, now: int, lock: bool = False) -> Room:
    """What a type has room for. With `lock`, nobody else takes it until the transaction ends."""
    if lock:
        take_turn(type_id, now)
    row = fetch_one("SELECT concurrency, start_rate FROM {task_types} WHERE id = ?", (type_id,))
    if row is None:
        return Room(0)
    rooms = []
    limit = _limit_of(row)
    if limit is not None:
        rooms.append(Room(limit - _count_held(type_id, limit, lock=lock, now=now), "concurrency"))
    if row["start_rate"] is not None:
        rooms.append(_room_of_rate(type_id, row["start_rate"], lock=lock, now=now))
    return min(rooms, key=lambda room: room.tasks, default=Room(MAX_CONCURRENCY))


def record_starts(type_id: int, count: int) -> None:
    """Counts tasks that were claimed, after `room_of` with `lock` in the same transaction."""
    execute(
        "UPDATE {type_starts} SET started = started + ? WHERE task_type_id = ?", (count, type_id)
    )


class Places:
    """Room for leases that have expired and are taken up again, in one transaction."""

    def __init__(self, now: int) -> None:
        self._now = now
        self._taken: Counter[int] = Counter()

    def require(self, task: Row) -> None:
        """Raises ClaimLost where others hold as many tasks of the type as may be held."""
        type_id = task["task_type_id"]
        row = fetch_one("SELECT concurrency FROM {task_types} WHERE id = ?", (type_id,))
        limit = None if row is None else _limit_of(row)
        if limit is None:
            return
        take_turn(type_id, self._now)
        held = _count_held(type_id, limit, lock=True, now=self._now) + self._taken[type_id]
        if held >= limit:
            raise ClaimLost(
                f"The lease of task {task['id']} has expired, and {limit} other tasks of its type "
                "are held by now, which is the limit of the type. Stop working on it.",
                details={"status": task["status"], "attempts": task["attempts"]},
            )
        self._taken[type_id] += 1


def is_expired(task: Row, now: int) -> bool:
    """Whether a task, claimed or requeued since, takes no place any more."""
    return task["lease_expires_at"] is None or int(task["lease_expires_at"]) <= now


def take_turn(type_id: int, now: int) -> None:
    """Locks the row of a type until the transaction ends.

    Written, not only locked: so two nodes of a cluster cannot both commit.
    """
    touched = {"touched_at": now}
    if not update("type_starts", touched, "task_type_id = ?", (type_id,)):
        new = {"task_type_id": type_id, "window_at": 0, "started": 0, "touched_at": now}
        with contextlib.suppress(peewee.IntegrityError):  # another claim has just done so
            insert("type_starts", new)
        update("type_starts", touched, "task_type_id = ?", (type_id,))


def _count_held(type_id: int, limit: int, *, lock: bool, now: int) -> int:
    """How many tasks of a type are held, up to `limit`."""
    # A transaction may keep the snapshot of its first look; a locking look sees the present.
    how = how_to_look() if lock else ""
    rows = fetch_all(
        "SELECT id FROM {tasks} {index tasks_claim_by_id} WHERE task_type_id = ? "
        f"AND status = 'claimed' AND lease_expires_at > ? LIMIT ?{how}",
        (type_id, now, limit),
    )
    return len(rows)


def _room_of_rate(type_id: int, start_rate: str, *, lock: bool, now: int) -> Room:
    """The first start begins a window; when it is over, the count starts anew."""
    rate = parse_rate(start_rate)
    row = fetch_one(
        "SELECT window_at, started FROM {type_starts} WHERE task_type_id = ?"
        + (" {lock_rows}" if lock else ""),
        (type_id,),
    )
    ends_at = row["window_at"] + rate.seconds * 1000 if row else 0
    # A window may begin a moment later than a request that came before; one far in the future is
    # from before the clock was set back.
    if row is None or not row["window_at"] - TOLERANCE_MS <= now < ends_at:
        if lock:
            new = {"window_at": now, "started": 0}
            update("type_starts", new, "task_type_id = ?", (type_id,))
        return Room(rate.amount, "start_rate", now)
    return Room(rate.amount - row["started"], "start_rate", ends_at)
