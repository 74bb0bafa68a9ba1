"""Lanes: tasks of one type that share a key and take turns by it.

A task with a `concurrency_key` is in the lane of that key while it is pending or held, and one with
a `group_key` in the lane of its group until it has ended. Claims of a type with a limit per key,
and of a fair type, ask the lanes which tasks are next; claims of any other type do not. So a lane
with a million tasks that may not run costs such a claim nothing.

Owns the tables lanes and lane_members. The row of a lane is locked by every transition of one of
its tasks and by every claim that takes from it, until the transaction ends. It is always written
too, so that two nodes of a cluster cannot both commit. Nothing is counted ahead: how many tasks of
a lane are held is looked up under that lock. A lane is deleted with its last task.

A transition locks its tasks before their lanes. A claim locks lanes first, and skips tasks that
somebody else has locked: so the two do not wait for each other.

Refuses to change the status of a task: a task that waits for others of its lane is pending.
"""

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import peewee

from taskmanager.db.connection import dialect, how_to_look, skips_locked
from taskmanager.db.dialect import SQLITE
from taskmanager.db.statements import (
    Row,
    execute,
    fetch_all,
    fetch_one,
    fetch_value,
    insert,
    insert_many,
    update,
)
from taskmanager.db.transactions import SnapshotTooOld, write_transaction
from taskmanager.errors import ClaimLost, InvalidRequest

CONCURRENCY, GROUP = "concurrency", "group"
# The column with the key of a task, by the kind of lane.
KEYS = {CONCURRENCY: "concurrency_key", GROUP: "group_key"}
UNFINISHED = ("blocked", "scheduled", "pending", "claimed")
# A task is in its lane while it has one of these. All but the pending ones count as held.
STATUSES = {CONCURRENCY: ("pending", "claimed"), GROUP: UNFINISHED}
# What record() needs of a task besides its id, type and status.
COLUMNS = "priority, concurrency_key, group_key"
# Tasks of such types that came without a key are in one lane, whose limit is none.
NO_KEY = ""

SPREAD_LANES = 20  # more that a claim looks at, because other claims have locked the first
STRAGGLERS_READ = 100
WALKED = 500  # tasks that one slice of a walk looks at
WALKED_AT_ONCE = 20  # slices of the call that gives a type its lanes
SLICE_LANES = 25
MAX_LOCK_ROUNDS = 3
MAX_FULL_LOOKS = 20  # that find nothing but full lanes. These are not ready after that

_LANE = "id, task_type_id, kind, name, is_ready, turn, next_task_id"
READY = (
    f"SELECT {_LANE} FROM {{lanes}} {{index lanes_by_turn}} "
    "WHERE task_type_id = ? AND kind = ? AND is_ready = 1 ORDER BY turn, next_task_id LIMIT ?"
)
# Whoever has waited for a lane's lock must find the lane. MySQL goes on in an index from where it
# has waited, and in lanes_by_turn would miss a lane that has moved back meanwhile.
BY_KEY = (
    f"SELECT {_LANE} FROM {{lanes}} {{unique lanes_name}} "
    "WHERE task_type_id = ? AND kind = ? AND name = ?"
)
TOUCH = (
    "UPDATE {lanes} {unique lanes_name} SET changes = changes + 1 "
    "WHERE task_type_id = ? AND kind = ? AND name = ?"
)
# There are no more of them than tasks that are held.
FULL = (
    f"SELECT {_LANE} FROM {{lanes}} {{index lanes_by_turn}} "
    "WHERE task_type_id = ? AND kind = ? AND is_ready = 0 AND id > ? ORDER BY id LIMIT ?"
)
NEXT_TASKS = (
    "SELECT task_id, claim_rank FROM {lane_members} {index lane_members_in_order} "
    "WHERE lane_id = ? AND is_held = 0 ORDER BY claim_rank, task_id LIMIT ?"
)
HELD_TASKS = (
    "SELECT task_id FROM {lane_members} {index lane_members_in_order} "
    "WHERE lane_id = ? AND is_held = 1 LIMIT ?"
)
# One status after the other, because the index has them so.
WALK = (
    "SELECT id FROM {tasks} {index tasks_claim_by_id} "
    "WHERE task_type_id = ? AND status = ? AND id > ? ORDER BY id LIMIT ?"
)
MEMBERS = (
    "SELECT COUNT(*) AS counted FROM (SELECT task_id FROM {lane_members} "
    "{index lane_members_in_order} WHERE lane_id = ? LIMIT ?) AS some"
)
STRAGGLERS = (
    "SELECT id FROM (SELECT id, concurrency_key, group_key "
    "FROM {tasks} {index tasks_claim_by_priority} "
    "WHERE task_type_id = ? AND status = 'pending' ORDER BY claim_rank, id LIMIT ?) AS first_tasks "
)


def limit_per_key(concurrency: str | None) -> int | None:
    """How many tasks of one key may be held, by the column of a type; None: any number."""
    if concurrency is None:
        return None
    fields = json.loads(concurrency)
    return int(fields["limit"]) if fields.get("per") == "key" else None


def kind_of(task_type: Row) -> str | None:
    """The kind of lanes that claims of a type take from: `concurrency` or `group`; None: none.

    `task_type` has at least `concurrency` and `fair`.
    """
    if task_type["fair"]:
        return GROUP
    return CONCURRENCY if limit_per_key(task_type["concurrency"]) is not None else None


def require_one_kind(task_type: Row) -> None:
    """Raises InvalidRequest for a type that has a limit per key and is fair."""
    if task_type["fair"] and limit_per_key(task_type["concurrency"]) is not None:
        raise InvalidRequest(
            "A type cannot be fair and have a limit per key: both decide which key is next. "
            "Choose one, or give the limit per type."
        )


def keys_of_new(request: Mapping[str, object], task_type: Row) -> Row:
    """The columns of the keys of a task that is to be created."""
    kind = kind_of(task_type)
    return {
        column: request.get(column) or (NO_KEY if each == kind else None)
        for each, column in KEYS.items()
    }


def record(tasks: Iterable[Row]) -> None:
    """Lets these tasks enter or leave their lanes, as their statuses say.

    Part of the transaction that changes them, or creates them. `tasks` are rows as they are after
    the transition, with `id`, `task_type_id`, `status`, `priority` and both keys. The same row
    again changes nothing. Runs no statement for tasks without keys.
    """
    by_lane: dict[tuple[int, str, str], list[Row]] = defaultdict(list)
    for task in tasks:
        for kind, column in KEYS.items():
            if task[column] is not None:
                by_lane[task["task_type_id"], kind, task[column]].append(task)
    # In one order for everybody: two transactions that want the same lanes cannot deadlock.
    for key in sorted(by_lane):
        _enter_or_leave(key, by_lane[key])


def _enter_or_leave(key: tuple[int, str, str], tasks: Sequence[Row]) -> None:
    type_id, kind, name = key
    claimed = [task for task in tasks if task["status"] == "claimed"]
    inside = [task for task in tasks if task["status"] in STATUSES[kind]]
    lane = _lock(type_id, kind, name, is_needed=bool(inside))
    if lane is None:
        return
    ids = [task["id"] for task in tasks]
    execute("DELETE FROM {lane_members} WHERE task_id IN ? AND lane_id = ?", (ids, lane["id"]))
    rows = [
        {
            "task_id": task["id"],
            "lane_id": lane["id"],
            "is_held": int(task["status"] != "pending"),
            "claim_rank": -task["priority"],
        }
        for task in inside
    ]
    insert_many("lane_members", rows)
    _settle(lane, turns=len(claimed))


def _lock(type_id: int, kind: str, name: str, *, is_needed: bool) -> Row | None:
    """The lane, locked; where there is none, a new one if `is_needed`."""
    key = (type_id, kind, name)
    for _ in range(MAX_LOCK_ROUNDS):
        if execute(TOUCH, key).rowcount:
            return fetch_one(f"{BY_KEY} {{lock_rows}}", key)
        if not is_needed:
            return None
        new = {"task_type_id": type_id, "kind": kind, "name": name, "turn": 0}
        new |= {"is_ready": 0, "next_task_id": None, "changes": 0}
        # Another transaction may just have made it, or make and delete it.
        with contextlib.suppress(peewee.IntegrityError):
            return {**new, "id": insert("lanes", new)}
    raise SnapshotTooOld


def _turn_now(type_id: int) -> int:
    """The turn of the group that is next: a group that comes now is not behind, nor ahead."""
    first = fetch_one(READY, (type_id, GROUP, 1))
    return int(first["turn"]) if first else 0


def _settle(lane: Row, *, turns: int = 0) -> None:
    """Stores what a claim may take next from a locked lane; `turns` is how many it has taken now.

    The turn of a group grows with each task that is claimed; one that had no task that waits gets
    the present turn. With a limit per key, the lane with the most urgent and oldest task is next.
    """
    head = fetch_one(NEXT_TASKS + how_to_look(), (lane["id"], 1))
    limit = _limit(lane)
    held = _count_held(lane, limit or 1)
    if head is None and not held:
        execute("DELETE FROM {lanes} WHERE id = ?", (lane["id"],))
        return
    changes = {"is_ready": 0, "next_task_id": None, "turn": lane["turn"] + turns}
    if head is not None:
        is_ready = limit is None or held < limit
        changes |= {"is_ready": int(is_ready), "next_task_id": head["task_id"]}
        if lane["kind"] == CONCURRENCY:
            changes["turn"] = head["claim_rank"]
        elif lane["next_task_id"] is None:
            changes["turn"] = _turn_now(lane["task_type_id"])
    update("lanes", changes, "id = ?", (lane["id"],))


def _limit(lane: Row) -> int | None:
    if lane["kind"] != CONCURRENCY or lane["name"] == NO_KEY:
        return None
    type_id = lane["task_type_id"]
    return limit_per_key(
        fetch_value("SELECT concurrency FROM {task_types} WHERE id = ?", (type_id,))
    )


def _count_held(lane: Row, limit: int) -> int:
    """How many tasks of a locked lane are held, up to `limit`."""
    return len(fetch_all(HELD_TASKS + how_to_look(), (lane["id"], limit)))


def count_members(type_id: int, group: str, most: int) -> int:
    """How many tasks of a group are open, up to `most`."""
    lane = fetch_one(BY_KEY, (type_id, GROUP, group))
    return int(fetch_value(MEMBERS, (lane["id"], most))) if lane else 0


def is_any_ready(task_type: Row) -> bool:
    """Whether a claim of a type with lanes may find a task."""
    type_id, kind = task_type["id"], str(kind_of(task_type))
    return bool(fetch_all(READY, (type_id, kind, 1)) or _stragglers(type_id, kind))


def find_heads(type_id: int, *, count: int) -> list[Row]:
    """`id`, `task_type_id` and `claim_rank` of the next task of each key that may run, up to
    `count`. For types with a limit per key.
    """
    lanes = fetch_all(READY, (type_id, CONCURRENCY, count))
    return [
        {"id": lane["next_task_id"], "task_type_id": type_id, "claim_rank": lane["turn"]}
        for lane in lanes
    ]


def take_next(task_type: Row, *, count: int) -> list[int]:
    """The ids of up to `count` tasks that a claim may take next from the lanes of a type, in order.

    There may be more if there are some. Part of the claim's transaction, which then claims them and
    calls `record`; their lanes are locked until it ends.
    """
    kind = str(kind_of(task_type))
    for _ in range(MAX_FULL_LOOKS):
        lanes = _lock_ready(task_type["id"], kind, count)
        if not lanes and _adopt(task_type["id"], kind):
            lanes = _lock_ready(task_type["id"], kind, count)
        if found := _first_tasks(lanes, kind, count):
            return found
        if not lanes:
            break
    return []


def _first_tasks(lanes: Sequence[Row], kind: str, count: int) -> list[int]:
    """The ids of up to `count` tasks of these locked lanes, in order. Settles lanes without any."""
    found = []
    for lane in lanes:
        limit = _limit(lane)
        # Each group gets its share of a claim of many.
        most = -(-count // len(lanes)) if kind == GROUP else count
        room = most if limit is None else min(most, limit - _count_held(lane, limit))
        tasks = fetch_all(NEXT_TASKS + how_to_look(), (lane["id"], room)) if room > 0 else []
        if not tasks:  # the limit was lowered, or somebody has removed tasks by hand
            _settle(lane)
        for turn, task in enumerate(tasks, lane["turn"]):
            rank = turn if kind == GROUP else task["claim_rank"]
            found.append((rank, task["task_id"]))
    return [task_id for _, task_id in sorted(found)[:count]]


def _lock_ready(type_id: int, kind: str, count: int) -> list[Row]:
    """Locks up to `count` lanes from which a claim may take, the next ones of those that are free.

    One by one: a statement that sorts would lock all that it reads.
    """
    if dialect() is SQLITE:  # the transaction has the write lock already
        return fetch_all(READY, (type_id, kind, count))
    found = fetch_all(READY, (type_id, kind, count + SPREAD_LANES))
    lock = f"SELECT {_LANE} FROM {{lanes}} WHERE id = ? AND is_ready = 1 "
    how = "{lock_free_rows}" if skips_locked() else "{lock_rows}"
    locked: list[Row] = []
    for lane in found:
        # Where this had to wait for another claim, the lane has had its turn.
        locked += fetch_all(f"{lock} AND turn <= ? {how}", (lane["id"], lane["turn"]))
        if len(locked) == count:
            break
    if found and not locked:  # others are at work on all of them
        locked = fetch_all(lock + "{lock_rows}", (found[0]["id"],))
    return locked


def restore(task: Row) -> None:
    """Lets a requeued task be held again by its worker, who has sent a late heartbeat.

    Part of the transaction that has locked the task and then claims it. Raises ClaimLost where
    others hold as many tasks of its key as may be held.
    """
    key = task["concurrency_key"]
    if key is not None:
        lane = _lock(task["task_type_id"], CONCURRENCY, key, is_needed=True) or {}
        limit = _limit(lane)
        if limit is not None and _count_held(lane, limit) >= limit:
            raise ClaimLost(
                f"The lease of task {task['id']} has expired, and {limit} other tasks with the "
                f"concurrency_key '{key}' are held by now, which is the limit of the type. Stop "
                "working on it.",
                details={"status": task["status"], "attempts": task["attempts"]},
            )
    record([{**task, "status": "claimed"}])


def lane_of(task: Row, kind: str) -> Row | None:
    """`next_task_id`, `is_ready` and `name` of the lane of a task; None: it is in none."""
    return fetch_one(BY_KEY, (task["task_type_id"], kind, task[KEYS[kind]]))


def _stragglers(type_id: int, kind: str) -> list[int]:
    """Tasks in no lane, among the first that wait.

    They came without a key, or were tried again, just when the type got its lanes.
    """
    rows = fetch_all(f"{STRAGGLERS} WHERE {KEYS[kind]} IS NULL", (type_id, STRAGGLERS_READ))
    return [row["id"] for row in rows]


@write_transaction
def adopt_slice(type_id: int, kind: str) -> int:
    """Brings up to STRAGGLERS_READ tasks into the lane of those without a key; returns how many.

    Transition: none.
    Commits together: the slice.
    Raises DatabaseUnavailable.
    A crash leaves the slice as it was.
    """
    return _adopt(type_id, kind)


def _adopt(type_id: int, kind: str) -> int:
    """The same as part of a transaction."""
    if not (ids := _stragglers(type_id, kind)):
        return 0
    how = "{lock_free_rows}" if skips_locked() else "{lock_rows}"
    return _give_no_key(ids, kind, ("pending",), how)


def _give_no_key(ids: Sequence[int], kind: str, statuses: Sequence[str], how: str) -> int:
    """Lets those of these tasks that have no key share a lane; returns how many."""
    column = KEYS[kind]
    tasks = fetch_all(
        f"SELECT id, task_type_id, status, {COLUMNS} FROM {{tasks}} {{by_id}} "
        f"WHERE id IN ? AND status IN ? AND {column} IS NULL ORDER BY id {how}",
        (list(ids), list(statuses)),
    )
    if tasks:
        adopted = [task["id"] for task in tasks]
        update("tasks", {column: NO_KEY}, "id IN ?", (adopted,), hint="{by_id}")
        record([{**task, column: NO_KEY} for task in tasks])
    return len(tasks)


def place(tasks: Sequence[Row]) -> None:
    """Lets those of these tasks have a lane that were made when their type had no lanes yet.

    Part of the transaction that tries them again, or that creates what a batch has kept for later.
    Runs one statement for each type, and no more where nothing is to be done.
    """
    for type_id in sorted({task["task_type_id"] for task in tasks}):
        row = fetch_one("SELECT concurrency, fair FROM {task_types} WHERE id = ?", (type_id,))
        if row is None or (kind := kind_of(row)) is None:
            continue
        without = [
            task["id"]
            for task in tasks
            if task["task_type_id"] == type_id and task[KEYS[kind]] is None
        ]
        if without:
            _give_no_key(without, kind, UNFINISHED, "{lock_rows}")


def walk_for(task_type: Row, changes: Mapping[str, object]) -> Row:
    """The columns that make a walk due where `changes` of a type give it lanes of another kind."""
    kind = kind_of({**task_type, **changes})
    return {} if kind in (None, kind_of(task_type)) else {"adopted_until": 0}


def begin_walk(type_id: int) -> None:
    """Brings the first tasks that came without a key into their lane; maintenance does the rest."""
    for _ in range(WALKED_AT_ONCE):
        if not walk_slice(type_id, is_last=False):
            break


@write_transaction
def walk_slice(type_id: int, *, is_last: bool = True) -> bool:
    """Lets the next WALKED unfinished tasks of a type have a lane; returns whether there are more.

    With `is_last` the walk is over when there are no more. The call that gives a type its lanes
    leaves that open: others may still create tasks as before.

    Transition: none.
    Commits together: the slice, and how far the walk has come.
    Raises DatabaseUnavailable.
    A crash leaves the slice as it was.
    """
    task_type = fetch_one(
        "SELECT concurrency, fair, adopted_until FROM {task_types} WHERE id = ?", (type_id,)
    )
    if task_type is None or task_type["adopted_until"] is None:
        return False
    kind, after = kind_of(task_type), task_type["adopted_until"]
    ids = [
        row["id"]
        for status in UNFINISHED
        for row in fetch_all(WALK, (type_id, status, after, WALKED))
    ]
    ids = sorted(set(ids))[:WALKED] if kind else []
    if ids:
        _give_no_key(ids, str(kind), UNFINISHED, "{lock_rows}")
    is_more = len(ids) == WALKED
    until = None if is_last and not is_more else max(ids, default=after)
    # Of two that walk at once, one may go the same way again.
    update("task_types", {"adopted_until": until}, "id = ? AND adopted_until = ?", (type_id, after))
    return is_more


def types_with_lanes() -> list[tuple[int, str]]:
    """The id of each type whose claims take from lanes, and their kind."""
    rows = fetch_all(
        "SELECT id, concurrency, fair FROM {task_types} WHERE concurrency IS NOT NULL OR fair = 1"
    )
    return [(row["id"], kind) for row in rows if (kind := kind_of(row)) is not None]


def apply_limit(type_id: int) -> None:
    """Lets a higher limit per key count for lanes that were at the old one.

    A lower one counts for every claim that begins after it was stored. If this is cut short, the
    higher one counts for the rest of the lanes when one of their tasks has ended.
    """
    last_id: int | None = 0
    while last_id is not None:
        last_id = _apply_limit_slice(type_id, last_id)


@write_transaction
def _apply_limit_slice(type_id: int, after: int) -> int | None:
    """Settles the next lanes that are at their limit; returns the id of the last, None: no more."""
    full = fetch_all(FULL, (type_id, CONCURRENCY, after, SLICE_LANES))
    for row in full:
        lane = _lock(type_id, CONCURRENCY, row["name"], is_needed=False)
        if lane is not None:
            _settle(lane)
    return full[-1]["id"] if len(full) == SLICE_LANES else None
