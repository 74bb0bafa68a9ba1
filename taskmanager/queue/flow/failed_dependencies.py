"""Dependencies that did not complete: which tasks they hold back, and what a retry says of them."""

from collections.abc import Collection, Sequence

from taskmanager.access.caller import Caller
from taskmanager.db.connection import how_to_look
from taskmanager.db.statements import Row, fetch_all
from taskmanager.errors import Conflict
from taskmanager.queue import task_types

DEPENDENCY_FAILED = "dependency_failed"
FAILED_OF = (
    "SELECT {task_dependencies}.task_id AS task_id, {task_dependencies}.position AS position, "
    "{tasks}.id AS id, {tasks}.task_type_id AS task_type_id, {tasks}.pruned_at AS pruned_at "
    "FROM {task_dependencies} "
    "JOIN {tasks} ON {tasks}.id = {task_dependencies}.depends_on_id "
    "WHERE {task_dependencies}.task_id IN ? AND {tasks}.status IN ('failed', 'cancelled') "
    "ORDER BY {task_dependencies}.task_id DESC, {task_dependencies}.position DESC"
)


def held_back(
    tasks: Sequence[Row], *, retried: Collection[int], is_locking: bool = True
) -> set[int]:
    """The ids of those of these tasks that would be cancelled again at once if all were retried.

    `retried` are tasks that the same call tries again, besides these. Where a dependency ends
    meanwhile, dependencies.block_again() cancels what waits for it. Runs no statement where none
    of the tasks has depends_on.
    """
    ids = [task["id"] for task in tasks if task["on_dependency_failed"] == "cancel"]
    if not ids:
        return set()
    failed = failed_of(ids, is_retry=True, is_locking=is_locking)
    going_on = {*retried, *(task["id"] for task in tasks)}
    # By ascending id, as a task has a higher one than those it depends on.
    for row in reversed(failed):
        if row["id"] not in going_on:
            going_on.discard(row["task_id"])
    return set(ids) - going_on


def refusal(task_id: int, caller: Caller) -> Conflict:
    """The error for a task that dependencies.block_again() has cancelled in this transaction."""
    first = failed_of([task_id], is_retry=True)[-1]
    named = f"The task at depends_on[{first['position']}]"
    details: dict[str, int] = {}
    if task_types.allowed_as_stored([first], caller):
        named, details = f"Task {first['id']}", {"task_id": first["id"]}
    return Conflict(
        f"{named}, which this task depends on, has not completed. Retry that one first.",
        code=DEPENDENCY_FAILED,
        details={"position": first["position"], **details},
    )


def failed_of(ids: Sequence[int], *, is_retry: bool, is_locking: bool = True) -> list[Row]:
    """The dependencies of these tasks that did not complete, the highest `task_id` first.

    A retry does not wait for what is gone, and a task that was pruned cannot be tried again.
    """
    rows = fetch_all(FAILED_OF + (how_to_look() if is_locking else ""), (ids,))
    return [row for row in rows if row["pruned_at"] is None or not is_retry]
