"""Dependencies: tasks that are blocked until other tasks have completed.

Owns the tables task_dependencies and ended_dependencies. A row of task_dependencies is open until
the task that it names has ended. The transaction that ends a task closes its rows and unblocks
the tasks that waited for it last, after it has locked them: of two dependencies that end at once,
the second one sees that no row is open. A task that others depend on has their number in
`dependents`, so the end of any other task runs no statement here.

One transaction follows at most FOLLOWED rows. What is left over is noted in ended_dependencies in
that same transaction, and maintenance goes on from there. See docs/decisions/0040.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from taskmanager.access.caller import OPERATOR, Caller
from taskmanager.db.connection import how_to_look, is_clustered, takes
from taskmanager.db.statements import (
    MAX_ROWS,
    Row,
    execute,
    fetch_all,
    fetch_value,
    insert_many,
    parts_of,
    update,
)
from taskmanager.errors import Conflict, InvalidRequest, TaskManagerError, ValidationFailed
from taskmanager.params import validation
from taskmanager.payloads.sealing import as_long, with_opened, with_sealed
from taskmanager.queue import history, store, task_types
from taskmanager.queue.columns import params_text, when_available
from taskmanager.queue.flow import lanes, placeholders
from taskmanager.queue.flow.failed_dependencies import DEPENDENCY_FAILED, failed_of
from taskmanager.queue.holder import finished, lock_tasks
from taskmanager.queue.read import FINISHED_STATUSES
from taskmanager.queue.store import Stored

FOLLOWED = 100  # rows of task_dependencies that one transaction follows
MAX_FILLED_CHARACTERS = 1_048_576  # of params with the results in them
_TOO_LARGE = "The params with the results in them are too large."

NEXT = "SELECT ended_at FROM {ended_dependencies} ORDER BY ended_at LIMIT 1"
LINKS_OF = (
    "SELECT task_id, position FROM {task_dependencies} {index task_dependencies_open} "
    "WHERE depends_on_id = ? AND is_open = 1 ORDER BY task_id LIMIT ?"
)
STILL_OPEN = (
    "SELECT task_id FROM {task_dependencies} {index task_dependencies_by_task} "
    "WHERE task_id IN ? AND is_open = 1"
)
_COUNT_DEPENDENT = "UPDATE {tasks} {by_id} SET dependents = COALESCE(dependents, 0) + 1"
LINKS_OF_BLOCKED = (
    "SELECT id, depends_on_id FROM {task_dependencies} WHERE task_id IN ? "
    "ORDER BY task_id, position"
)
# Of those of these tasks whose params may have placeholders that nobody has filled yet. What was
# filled in may look like one itself.
UNFILLED = (
    "SELECT id, params, payload_key FROM {tasks} "
    "WHERE id IN ? AND (payload_key IS NOT NULL OR INSTR(params, ?) > 0) AND NOT EXISTS "
    "(SELECT 1 FROM {task_dependencies} {index task_dependencies_by_task} "
    "WHERE task_id = {tasks}.id AND is_filled = 1)"
)
POSITIONS = "SELECT position, depends_on_id FROM {task_dependencies} WHERE task_id = ?"
COUNT = "SELECT COUNT(*) FROM {task_dependencies} WHERE task_id = ?"
NOTED = (
    "SELECT task_id FROM {ended_dependencies} {index ended_dependencies_by_ended_at} "
    "ORDER BY ended_at, task_id LIMIT ?"
)

# An entry of depends_on: the id of a task, or {"index": n} of an earlier one in the same request.
Reference = Any


def missing_ids(requests: Iterable[Mapping[str, Any]], caller: Caller) -> set[int]:
    """Dependencies that do not exist, or that the caller may not know to exist."""
    wanted = {one for each in requests for one in each.get("depends_on", ()) if type(one) is int}
    if not wanted:
        return wanted
    found: list[Row] = []
    for some in parts_of(sorted(wanted), MAX_ROWS):
        found += fetch_all(
            "SELECT id, task_type_id FROM {tasks} WHERE id IN ? AND pruned_at IS NULL",
            (list(some),),
        )
    return wanted - {row["id"] for row in task_types.allowed_as_stored(found, caller)}


def no_such_dependency(task_id: int) -> InvalidRequest:
    """The error for a dependency that is missing."""
    return InvalidRequest(
        f"There is no task {task_id} to depend on.",
        code="dependency_not_found",
        details={"task_id": task_id},
    )


def renumbered(items: Sequence[Any]) -> list[Any]:
    """Items with `depends_on`, or errors; each {"index": n} counts the items without the errors.

    An item that depends on an error, or on one that is not earlier, becomes an error.
    """
    places: list[int | None] = []
    done: list[Any] = []
    count = 0
    for item in items:
        one = item
        if not isinstance(one, TaskManagerError) and one.get("depends_on"):
            try:
                one = {**one, "depends_on": [_moved(it, places) for it in one["depends_on"]]}
            except InvalidRequest as error:
                one = error
        is_error = isinstance(one, TaskManagerError)
        places.append(None if is_error else count)
        count += not is_error
        done.append(one)
    return done


def _moved(reference: Reference, places: Sequence[int | None]) -> Reference:
    if not isinstance(reference, dict):
        return int(reference)  # JSON may write 1 as 1.0
    at = int(reference["index"])
    if at >= len(places):
        raise InvalidRequest(
            f'depends_on names {{"index": {at}}}, which is not earlier in the request.',
            code="dependency_not_found",
        )
    if places[at] is None:
        raise InvalidRequest(
            f"tasks[{at}], which this task depends on, is wrong.", code="dependency_not_found"
        )
    return {"index": places[at]}


def connect(
    rows: Sequence[Row], stored: Sequence[Stored], *, now: int
) -> tuple[list[Stored], list[Row]]:
    """Makes new tasks wait for what they depend on, or go on where nothing is left to wait for.

    Part of the transaction that has stored the `rows` as `stored`. Returns `stored` as the tasks
    are then, and the tasks that have ended by it. Runs no statement where none has depends_on.
    """
    waiting = {
        task["id"]: [it if type(it) is int else stored[it["index"]][0]["id"] for it in named]
        for row, (task, existed) in zip(rows, stored, strict=True)
        if (named := row["depends_on"]) and not existed
    }
    if not waiting:
        return list(stored), []
    statuses = _lock(sorted({one for ids in waiting.values() for one in ids}))
    links = [
        {
            "task_id": task_id,
            "depends_on_id": one,
            "position": at,
            "is_open": int(statuses[one] not in FINISHED_STATUSES),
            "is_filled": 0,
        }
        for task_id, ids in waiting.items()
        for at, one in enumerate(ids)
    ]
    insert_many("task_dependencies", links)
    ended = _settle(sorted(waiting), now)
    after = _states(list(waiting))
    return [({**task, **after.get(task["id"], {})}, existed) for task, existed in stored], ended


def block_again(tasks: Sequence[Row], *, now: int) -> list[Row]:
    """Lets tasks that are tried again wait for what they depend on; returns those that ended.

    Part of the transaction that has made them pending. `tasks` are rows as they were before.
    """
    forget_ends(tasks)
    ids = sorted(task["id"] for task in tasks if task["on_dependency_failed"] is not None)
    if not ids:
        return []
    links = fetch_all(LINKS_OF_BLOCKED, (ids,))
    statuses = _lock(sorted({link["depends_on_id"] for link in links}), missing_is_done=True)
    for is_open in (0, 1):
        some = [
            link["id"]
            for link in links
            if int(statuses[link["depends_on_id"]] not in FINISHED_STATUSES) == is_open
        ]
        for part in parts_of(some, MAX_ROWS):
            update("task_dependencies", {"is_open": is_open}, "id IN ?", (list(part),))
    update("tasks", {"status": "blocked"}, "id IN ?", (ids,), hint="{by_id}")
    blocked = [task for task in tasks if task["id"] in ids]
    lanes.record([{**task, "status": "blocked"} for task in blocked])
    rows = [{name: task[name] for name in store.OF_EVENT} for task in blocked]
    history.record(rows, "blocked", status="blocked", now=now)
    return _settle(ids, now, is_retry=True)


def forget_ends(tasks: Iterable[Row]) -> None:
    """Lets those that wait for these tasks wait again, as far as they were not told of the end."""
    if named := [task["id"] for task in tasks if task["dependents"]]:
        execute("DELETE FROM {ended_dependencies} WHERE task_id IN ?", (named,))


def _lock(ids: Sequence[int], *, missing_is_done: bool = False) -> dict[int, str]:
    """The status of each task that others depend on, which cannot end meanwhile."""
    found: dict[int, str] = {}
    for some in parts_of(ids, MAX_ROWS):
        rows = fetch_all(
            "SELECT id, status FROM {tasks} WHERE id IN ? ORDER BY id {lock_rows}", (list(some),)
        )
        found |= {row["id"]: row["status"] for row in rows}
    missing = [one for one in ids if one not in found]
    if missing and not missing_is_done:
        raise Conflict(f"Task {missing[0]} has just been removed; try again.")
    unfinished = [one for one, status in found.items() if status not in FINISHED_STATUSES]
    for some in parts_of(unfinished, MAX_ROWS):
        # Counted and not only marked: a cluster then sees that both transactions write the row.
        execute(f"{_COUNT_DEPENDENT} WHERE id IN ?", (list(some),))
    return found | dict.fromkeys(missing, "completed")


def _settle(ids: Sequence[int], now: int, *, is_retry: bool = False) -> list[Row]:
    """Cancels those of these blocked tasks that have a failed dependency, unblocks the free ones.

    Returns those that have ended, with what has ended by that.
    """
    ended: list[Row] = []
    for some in parts_of(ids, MAX_ROWS):
        failed = _positions(failed_of(some, is_retry=is_retry))
        tasks = [one for one in lock_tasks(some, OPERATOR).values() if one["status"] == "blocked"]
        ended += _go_on(tasks, failed, now)
    return [*ended, *follow_ends(ended, now=now)]


def _states(ids: Sequence[int]) -> dict[int, Row]:
    rows: list[Row] = []
    columns = "id, status, params, available_at, completed_at, error_code, error_message, "
    columns += "payload_key, updated_at"
    for some in parts_of(ids, MAX_ROWS):
        rows += fetch_all(f"SELECT {columns} FROM {{tasks}} WHERE id IN ?", (list(some),))
    return {row["id"]: with_opened(row) for row in rows}


def follow_ends(tasks: Iterable[Row], *, now: int) -> list[Row]:
    """Tells the tasks that wait for these that they have ended; returns what ended by that.

    Part of the transaction that ends them. `tasks` are rows as they are after the transition.
    Runs no statement where nobody has named one of them.
    """
    ends = {
        task["id"]: task["status"]
        for task in tasks
        if task["dependents"] and task["status"] in FINISHED_STATUSES
    }
    if not ends:
        return []
    ended, left = _follow(ends, FOLLOWED, now)
    _note(left, now)
    return ended


def follow_noted(*, now: int, rows: int) -> tuple[int, list[Row]]:
    """Goes on with up to `rows` rows of what ended_dependencies has noted.

    Part of a transaction. Returns how many tasks it has told, and those that ended by that.
    """
    noted = fetch_all(NOTED, (rows,))
    ids = sorted(row["task_id"] for row in noted)
    if not ids:
        return 0, []
    # In the order in which everybody locks: the tasks that have ended, then those that wait.
    fetch_all("SELECT id FROM {tasks} WHERE id IN ? ORDER BY id {lock_rows}", (ids,))
    still = fetch_all(
        "SELECT task_id, status FROM {ended_dependencies} WHERE task_id IN ? {lock_rows}", (ids,)
    )
    ends = {row["task_id"]: row["status"] for row in still}
    ended, left = _follow(ends, rows, now)
    if done := [one for one in ends if one not in left]:
        execute("DELETE FROM {ended_dependencies} WHERE task_id IN ?", (done,))
    _note({one: status for one, status in left.items() if one not in ends}, now)
    # As many as were asked for: there is more to do. Others may have gone on with some meanwhile.
    return rows if left or len(ends) < len(ids) else len(ids), ended


def _note(ends: Mapping[int, str], now: int) -> None:
    if ends:
        # One may be there from an end before: the task was tried again.
        execute("DELETE FROM {ended_dependencies} WHERE task_id IN ?", (list(ends),))
        rows = [{"task_id": one, "status": ends[one], "ended_at": now} for one in ends]
        insert_many("ended_dependencies", rows)


def _follow(ends: Mapping[int, str], room: int, now: int) -> tuple[list[Row], dict[int, str]]:
    """Follows ends until `room` rows are closed: what has ended by that, and what is left."""
    left, ended = dict(ends), []
    while left and room > 0:
        one, status = next(iter(left.items()))
        links = fetch_all(LINKS_OF + how_to_look(), (one, room))
        if len(links) < room:
            del left[one]
        room -= max(1, len(links))
        if not links:
            continue
        some = _close(one, status, _positions(links), now)
        ended += some
        left |= {task["id"]: task["status"] for task in some if task["dependents"]}
    return ended, left


def _positions(links: Iterable[Row]) -> dict[int, int]:
    """For each task where in its depends_on it names another one; a task may name that twice."""
    return {link["task_id"]: link["position"] for link in links}


def _close(depends_on_id: int, status: str, places: Mapping[int, int], now: int) -> list[Row]:
    """Closes what tasks wait for; they are locked first, so each sees the other's end.

    `places` has the position of the dependency for each of the tasks.
    """
    task_ids = sorted(places)
    tasks = [one for one in lock_tasks(task_ids, OPERATOR).values() if one["status"] == "blocked"]
    if tasks and is_clustered():  # where locks are local to a node; it compares what was written
        execute(f"{_COUNT_DEPENDENT} WHERE id IN ?", ([task["id"] for task in tasks],))
    update(
        "task_dependencies",
        {"is_open": 0},
        "depends_on_id = ? AND is_open = 1 AND task_id IN ?",
        (depends_on_id, task_ids),
    )
    return _go_on(tasks, {} if status == "completed" else places, now)


def _go_on(tasks: Sequence[Row], failed: Mapping[int, int], now: int) -> list[Row]:
    """What becomes of these locked, blocked tasks. Returns those that have ended.

    `failed` has those with a failed dependency, each with the position of that.
    """
    cancelled = [
        task for task in tasks if task["id"] in failed and task["on_dependency_failed"] == "cancel"
    ]
    others = [task for task in tasks if task not in cancelled]
    waiting: set[int] = set()
    if others:
        found = fetch_all(STILL_OPEN + how_to_look(), ([task["id"] for task in others],))
        waiting = {row["task_id"] for row in found}
    unblocked = unblock([task for task in others if task["id"] not in waiting], now=now)
    return [*_cancel(cancelled, failed, now), *unblocked]


def _cancel(tasks: Sequence[Row], failed: Mapping[int, int], now: int) -> list[Row]:
    ended = []
    for task in tasks:
        # Not its id: a key that may see the task may be limited to other types than that one has.
        message = f"The task at depends_on[{failed[task['id']]}] did not complete."
        error = {"error_code": DEPENDENCY_FAILED, "error_message": message}
        ended.append(_end(task, {**finished("cancelled", now), **error}, "cancelled", now))
    return ended


def _end(task: Row, changes: Row, event: str, now: int) -> Row:
    guard = (task["id"],)
    stored = with_sealed(changes, of=task)
    if not update("tasks", stored, "id = ? AND status = 'blocked'", guard, hint="{by_id}"):
        raise AssertionError("a locked task was no longer blocked")
    lanes.record([{**task, **changes}])
    history.record(
        [task],
        event,
        status=changes["status"],
        message=changes["error_message"],
        metadata={"error_code": changes["error_code"]},
        now=now,
    )
    return {**task, **changes}


def unblock(tasks: Sequence[Row], *, now: int) -> list[Row]:
    """Lets these blocked tasks run: nothing is left that they depend on.

    Transition: blocked → pending, or scheduled where their time is to come; → failed with
    `validation_failed` where the results do not fit into their params.
    Part of a transaction that has locked them. Returns those that have failed.
    """
    if not tasks:
        return []
    ended = []
    texts = _texts_with_placeholders([task["id"] for task in tasks])
    alike: dict[int, list[Row]] = {}
    for task in tasks:
        changes: Row = {}
        if task["id"] in texts:
            try:
                changes = _with_results(task, texts[task["id"]])
            except ValidationFailed as error:
                failure = {"error_code": error.code, "error_message": error.message}
                ended.append(_end(task, {**finished("failed", now), **failure}, "failed", now))
                continue
        # One that was to run at once does so, however far ahead the clock was when it was stored.
        is_delayed = task["available_at"] > task["updated_at"]
        available_at = max(task["available_at"], now) if is_delayed else now
        if changes:
            changes |= {**when_available(available_at, now), "updated_at": now}
            stored = with_sealed(changes, of=task)
            update("tasks", stored, "id = ?", (task["id"],), hint="{by_id}")
            _mark(task["id"], is_filled=1)
            lanes.record([{**task, **changes}])
            history.record([task], "unblocked", status=changes["status"], now=now)
        else:
            alike.setdefault(available_at, []).append(task)
    for available_at, some in alike.items():
        changes = {**when_available(available_at, now), "updated_at": now}
        ids = [task["id"] for task in some]
        update("tasks", changes, "id IN ?", (ids,), hint="{by_id}")
        lanes.record([{**task, **changes} for task in some])
        history.record(some, "unblocked", status=changes["status"], now=now)
    return ended


def _texts_with_placeholders(ids: list[int]) -> dict[int, Any]:
    """The params of those of these tasks that may have placeholders to fill."""
    rows = fetch_all(UNFILLED, (ids, placeholders.NAME))
    texts = {row["id"]: with_opened(row)["params"] for row in rows}
    return {one: json.loads(text) for one, text in texts.items() if placeholders.NAME in text}


def expect_results(task_id: int) -> None:
    """Lets the params of a blocked task be filled when it is unblocked, though some were before."""
    _mark(task_id, is_filled=0)


def _mark(task_id: int, *, is_filled: int) -> None:
    hint = "{index task_dependencies_by_task}"
    update("task_dependencies", {"is_filled": is_filled}, "task_id = ?", (task_id,), hint=hint)


def _with_results(task: Row, params: Any) -> Row:
    """The column `params` with the results in it. Raises ValidationFailed."""
    links = fetch_all(POSITIONS, (task["id"],))
    ids = {link["position"]: link["depends_on_id"] for link in links}
    used = placeholders.used_values(params, dependencies=len(ids))
    whole = placeholders.filled(params, _values(used, ids))
    task_type = task_types.get_task_type(name=task["type"])
    validation.check_params(task_type["param_schema"], whole, type_name=task["type"])
    text = params_text(whole)
    if len(text) > MAX_FILLED_CHARACTERS or not takes(as_long(text, of=task)):
        raise ValidationFailed(_TOO_LARGE)
    return {"params": text}


def _values(
    used: Mapping[placeholders.Place, int], ids: Mapping[int, int]
) -> dict[placeholders.Place, Any]:
    """What the placeholders stand for. Raises ValidationFailed.

    One result at a time is in memory, and no more of its values than the params may hold.
    """
    values = {}
    room = MAX_FILLED_CHARACTERS
    for position, places in groupby(sorted(used), key=itemgetter(0)):
        result = _result(ids[position], position)
        for place in places:
            try:
                values[place] = placeholders.value_in(result, place)
            except placeholders.NoSuchValue as error:
                raise ValidationFailed(str(error)) from None
            text = json.dumps(values[place], ensure_ascii=False, separators=(",", ":"))
            room -= used[place] * len(text)
            if room < 0:
                raise ValidationFailed(_TOO_LARGE)
    return values


def _result(task_id: int, position: int) -> Any:
    """The result of the task at a position of depends_on; None where it did not complete."""
    rows = fetch_all(
        "SELECT id, status, result, pruned_at, payload_key FROM {tasks} WHERE id = ?"
        + how_to_look(),
        (task_id,),
    )
    if not rows or rows[0]["pruned_at"] is not None:
        raise ValidationFailed(f"The result of depends_on[{position}] was pruned.")
    text = with_opened(rows[0])["result"]
    return json.loads(text) if text and rows[0]["status"] == "completed" else None


def count_of(task_id: int) -> int:
    """How many entries the depends_on of a task has."""
    return int(fetch_value(COUNT, (task_id,)) or 0)
