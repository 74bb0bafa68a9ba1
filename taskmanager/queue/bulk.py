"""Changing many tasks at once: those with the given ids, or those that a filter finds.

The tasks are changed in slices, each a short transaction of its own, so no lock is held for long. A
call that dies in the middle has changed the slices before; the same call again changes the rest.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import peewee

from taskmanager.access import audit
from taskmanager.access.caller import Caller
from taskmanager.db.errors import is_duplicate
from taskmanager.db.statements import Row, execute, fetch_all, parts_of, update
from taskmanager.db.transactions import rest_since, write_transaction
from taskmanager.queue import history, operate
from taskmanager.queue.columns import when_available
from taskmanager.queue.flow import batches, failed_dependencies
from taskmanager.queue.holder import lock_tasks, put_back
from taskmanager.queue.read import FINISHED_STATUSES, WAITING_STATUSES, TaskFilter, find_ids
from taskmanager.queue.task_types import OPEN_STATUSES, allowed_rows

# On SQLite a claim waits for a slice to end: python -m benchmarks.operating
SLICE_ROWS = 10

# The cursor of a call for a batch, which takes none, where another batch has the rest.
MORE = "more"


class Action(NamedTuple):
    """What is done to each task, from which statuses, and its event in the history.

    `changes` gives the columns of a task at a time; None: the task is deleted.
    `refusal` is the code of why a task in another status is skipped.
    """

    event: str
    statuses: Sequence[str]
    refusal: str
    changes: Callable[[Row, int], Row] | None


RETRY = Action("retried", ("failed", "cancelled"), "task_not_retryable", operate.new_attempts)
CANCEL = Action("cancelled", OPEN_STATUSES, "task_finished", operate.cancellation)
RELEASE = Action(
    "released", ("claimed",), "task_not_claimed", lambda task, now: put_back(task, 0, now)
)
DELETE = Action("deleted", FINISHED_STATUSES, "task_not_finished", None)


def updating(priority: int | None, available_at: int | None) -> Action:
    """The action that sets the priority, or the time before which nobody gets the task, or both."""

    def changes(task: Row, now: int) -> Row:
        changed: Row = {"status": task["status"], "updated_at": now}
        if priority is not None:
            changed |= {"priority": priority, "claim_rank": -priority}
        if available_at is not None:
            changed |= when_available(available_at, now, of=task)
        return changed

    return Action("updated", WAITING_STATUSES, "task_not_waiting", changes)


class Outcome(NamedTuple):
    """How many tasks were found and changed, and how many skipped by the code of the reason.

    `next_cursor` is None where the filter finds no more; without `is_complete` the search was
    cut short. In a dry run `changed` is how many would be.
    """

    matched: int
    changed: int
    skipped: Mapping[str, int]
    next_cursor: str | None
    is_complete: bool


def change_tasks(
    action: Action,
    *,
    ids: Sequence[int] | None,
    task_filter: TaskFilter,
    limit: int,
    cursor: str | None,
    dry_run: bool,
    reason: str | None,
    asked: Mapping[str, Any],
    caller: Caller,
    now: int,
) -> Outcome:
    """Does the same to each task of `ids`, or to up to `limit` that the filter finds, oldest first.

    A filter without statuses finds those that the action can change.

    Transition: that of the action; a task in another status is skipped, and a retry skips one
    that would be cancelled again at once for what it depends on.
    Commits together: a slice of the transitions, their history rows and deliveries; with the
    first slice that changes something the audit event, with `asked`, which says what was asked for.
    Raises InvalidRequest for a cursor that no such call has returned.
    A crash leaves the slices before it done.
    """
    next_cursor, is_complete = None, True
    if ids is None:
        if not task_filter.statuses:
            task_filter = task_filter._replace(statuses=action.statuses)
        ids, next_cursor, _, is_complete = find_ids(
            task_filter=task_filter, descending=False, limit=limit, cursor=cursor, caller=caller
        )
    what = f"{action.event}: {json.dumps(asked, ensure_ascii=False)}, {len(ids)} tasks"
    outcomes: Counter[str] = Counter()
    judged: set[int] = set()
    # By id, so that what others depend on is tried again before them.
    for some in _slices(sorted(set(ids))):
        if dry_run:
            outcomes += _judge(action, some, judged, caller)
        else:
            unsaid = None if outcomes["changed"] else what
            outcomes += _change(action, some, reason, unsaid, caller, now)
    changed = outcomes.pop("changed", 0)
    return Outcome(len(ids), changed, dict(outcomes), next_cursor, is_complete)


def change_batch(
    action: Action,
    *,
    batch_id: int,
    limit: int,
    dry_run: bool,
    reason: str | None,
    caller: Caller,
    now: int,
) -> Outcome:
    """Does the same to up to `limit` tasks of a batch, as change_tasks() does.

    Cancelling also closes the batch, so that it can finish, and does both to all batches in it that
    the caller may see, at any depth. `next_cursor` is not None where some are left: the same call
    again changes those. Raises NotFound.
    """
    batch = batches.get_batch(batch_id=batch_id, caller=caller)
    batch_ids = [batch_id]
    if action is CANCEL:
        batch_ids = list(_with_those_within(batch, closes=not dry_run, caller=caller, now=now))
    ids, next_cursor, is_complete = _tasks_of(batch_ids, action, limit, caller)
    outcome = change_tasks(
        action,
        ids=ids,
        task_filter=TaskFilter(),
        limit=limit,
        cursor=None,
        dry_run=dry_run,
        reason=reason,
        asked={"batch_id": batch_id},
        caller=caller,
        now=now,
    )
    return outcome._replace(next_cursor=next_cursor, is_complete=is_complete)


def _tasks_of(
    batch_ids: Iterable[int], action: Action, limit: int, caller: Caller
) -> tuple[list[int], str | None, bool]:
    """Up to `limit` tasks of these batches that the action can change; `next_cursor` and
    `is_complete` as in Outcome.
    """
    ids: list[int] = []
    is_complete = True
    for batch_id in batch_ids:
        room = limit - len(ids)
        found = find_ids(
            task_filter=TaskFilter(batch_id=batch_id, statuses=action.statuses),
            descending=False,
            limit=room or 1,
            cursor=None,
            caller=caller,
        )
        ids += found.ids[:room]
        is_complete = is_complete and found.is_complete
        if next_cursor := found.next_cursor or (MORE if found.ids and not room else None):
            return ids, next_cursor, is_complete
    return ids, None, is_complete


def _with_those_within(batch: Row, *, closes: bool, caller: Caller, now: int) -> Iterator[int]:
    """A batch and the unfinished ones in it, at any depth, the outer ones first; may close them.

    A batch is closed before those in it are looked for: then no more come.
    """
    level = [batch]
    while level:
        yield from (one["id"] for one in level)
        if closes:
            level = [
                one
                if one["closed_at"] is not None
                else batches.close_batch(one["id"], caller=caller, now=now)
                for one in level
            ]
        outer = [one["id"] for one in level if one["open_batches"]]
        level = batches.unfinished_within(outer, caller=caller) if outer else []


def _slices(ids: list[int]) -> Iterator[Sequence[int]]:
    """Parts of the ids; between them the writer rests as long as it has written."""
    for some in parts_of(ids, SLICE_ROWS):
        started = time.monotonic()
        yield some
        rest_since(started)


def _judge(action: Action, ids: Sequence[int], judged: set[int], caller: Caller) -> Counter[str]:
    """What _change() would do, except that it does not see who has the key of a task meanwhile.

    `judged` are the tasks that the slices before would change; those of this one join them.
    """
    rows = fetch_all(
        "SELECT id, task_type_id, status, pruned_at, on_dependency_failed FROM {tasks} "
        "WHERE id IN ?",
        (list(ids),),
    )
    good, skipped = _changeable(action, allowed_rows(rows, caller), len(ids))
    if action is RETRY:
        held_back = failed_dependencies.held_back(good, retried=judged, is_locking=False)
        good, skipped = _without(held_back, good, skipped)
    judged.update(task["id"] for task in good)
    return skipped + Counter(changed=len(good))


def _change(
    action: Action,
    ids: Sequence[int],
    reason: str | None,
    what: str | None,
    caller: Caller,
    now: int,
) -> Counter[str]:
    """Changes a slice. Where one of its tasks cannot hold its key again, the others still are."""
    try:
        return _change_slice(action, ids, reason, what, caller, now)
    except peewee.IntegrityError as error:
        if not is_duplicate(error):
            raise
    if len(ids) == 1:
        return Counter(duplicate_task=1)
    middle = len(ids) // 2
    outcomes = _change(action, ids[:middle], reason, what, caller, now)
    what = None if outcomes["changed"] else what
    return outcomes + _change(action, ids[middle:], reason, what, caller, now)


@write_transaction
def _change_slice(
    action: Action,
    ids: Sequence[int],
    reason: str | None,
    what: str | None,
    caller: Caller,
    now: int,
) -> Counter[str]:
    locked = lock_tasks(ids, caller).values()
    tasks, skipped = _changeable(action, locked, len(ids))
    if action is RETRY:
        tasks, skipped = _without(failed_dependencies.held_back(tasks, retried=()), tasks, skipped)
    if tasks and what:
        event, message = f"tasks_{action.event}", f"{what} by {caller.name}"
        audit.record(event=event, message=message, caller=caller, now=now)
    if action.changes is None:
        _delete(tasks)
    else:
        _update(tasks, action.event, action.changes, reason, caller, now)
    return skipped + Counter(changed=len(tasks))


def _changeable(
    action: Action, found: Collection[Row], asked: int
) -> tuple[list[Row], Counter[str]]:
    """Those of the tasks found that the action may change, and why the others are skipped."""
    good = [
        task
        for task in found
        if task["status"] in action.statuses
        # The params of a pruned task are gone; it can be deleted and nothing else.
        and (task["pruned_at"] is None or action is DELETE)
    ]
    skipped = {"task_not_found": asked - len(found), action.refusal: len(found) - len(good)}
    return good, +Counter(skipped)


def _without(
    held_back: Collection[int], tasks: Sequence[Row], skipped: Counter[str]
) -> tuple[list[Row], Counter[str]]:
    """The tasks that can be tried again, and why the others are skipped."""
    skipped = skipped + Counter({failed_dependencies.DEPENDENCY_FAILED: len(held_back)})
    return [task for task in tasks if task["id"] not in held_back], skipped


def _delete(tasks: Sequence[Row]) -> None:
    if ids := [task["id"] for task in tasks]:
        history.delete(ids)
        execute("DELETE FROM {tasks} WHERE id IN ?", (ids,))


def _update(
    tasks: Sequence[Row],
    event: str,
    changes_of: Callable[[Row, int], Row],
    reason: str | None,
    caller: Caller,
    now: int,
) -> None:
    """One UPDATE for all tasks that change alike. What follows looks at them as they are then."""
    alike: dict[tuple[tuple[str, Any], ...], list[Row]] = {}
    for task in tasks:
        alike.setdefault(tuple(changes_of(task, now).items()), []).append(task)
    for changes, some in alike.items():
        ids = [task["id"] for task in some]
        if update("tasks", dict(changes), "id IN ?", (ids,), hint="{by_id}") != len(ids):
            raise AssertionError("a locked task was gone")
    for changes, some in alike.items():
        operate.record_intervention(some, event, dict(changes), reason, caller, now)
