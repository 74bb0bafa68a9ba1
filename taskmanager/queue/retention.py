"""Which finished tasks are old enough to prune, where task types differ in how long they are kept.

The index of finished tasks is by age alone. Tasks that are kept for longer lie there before those
that are due, and each run would read all of them again. So a type has `pruned_until`: every task
of it that was finished earlier is gone. A run looks at each finished task once for each number of
days that types have. Refuses to change tasks: maintenance.py prunes what is found here.
"""

import time
from collections import defaultdict
from collections.abc import Collection
from typing import NamedTuple

from taskmanager.db.statements import Row, execute, fetch_all, parts_of
from taskmanager.db.transactions import write_transaction

LOOKED_AT = 1_000  # tasks a statement
TYPES_PER_STATEMENT = 500
STORED_EVERY_MS = 3_600_000  # a run that was lost looks at an hour's tasks again
DAY_MS = 86_400_000

FINISHED_FROM = (
    "SELECT id, task_type_id, completed_at FROM {tasks} {index tasks_by_completed_at} "
    "WHERE dedupe_until IS NULL AND completed_at >= ? AND completed_at < ? "
    "AND (completed_at > ? OR id > ?) ORDER BY completed_at, id LIMIT ?"
)


class Group(NamedTuple):
    """Types whose tasks are due at the same age: what was finished from `start` until `cutoff`.

    `type_ids` is None for all types.
    """

    type_ids: Collection[int] | None
    start: int
    cutoff: int


def groups(*, retention_days: int, now: int) -> list[Group]:
    """The types by how long their tasks are kept; those that keep all are in none.

    `retention_days` is for the types that have none of their own. While all types have the same,
    the oldest tasks are the first of the index, and nothing needs to be remembered.
    """
    by_days: dict[int, list[Row]] = defaultdict(list)
    for row in fetch_all("SELECT id, retention_days, pruned_until FROM {task_types}"):
        own = row["retention_days"]
        by_days[retention_days if own is None else own].append(row)
    if len(by_days) == 1:
        return [Group(None, 0, now - days * DAY_MS) for days in by_days if days]
    found = []
    for days, rows in by_days.items():
        if days:
            cutoff = now - days * DAY_MS
            # Later than the cutoff: the days were raised, or the clock was set back.
            start = min(cutoff, *(row["pruned_until"] or 0 for row in rows))
            found.append(Group({row["id"] for row in rows}, start, cutoff))
    return found


class Search:
    """Finds the tasks of a group, oldest first, until `deadline` in seconds of time.monotonic()."""

    def __init__(self, group: Group, deadline: float) -> None:
        self._group = group
        self._deadline = deadline
        self._due: list[Row] = []
        self._at = (group.start, 0)  # `completed_at` and `id` of the last task looked at
        self._is_over = False

    def next_ids(self, count: int) -> list[int]:
        """The next `count` tasks; fewer if there are no more, or no time."""
        while len(self._due) < count and not self._is_over and time.monotonic() < self._deadline:
            self._look_at_more()
        taken, self._due = self._due[:count], self._due[count:]
        return [row["id"] for row in taken]

    def _look_at_more(self) -> None:
        type_ids, _, cutoff = self._group
        finished_at, task_id = self._at
        values = (finished_at, cutoff, finished_at, task_id, LOOKED_AT)
        rows = fetch_all(FINISHED_FROM, values)
        self._due += [row for row in rows if type_ids is None or row["task_type_id"] in type_ids]
        self._is_over = len(rows) < LOOKED_AT
        if rows:
            self._at = (rows[-1]["completed_at"], rows[-1]["id"])

    def reached(self) -> int:
        """Every task of the group that was finished before has been handed out."""
        if self._due:
            return int(self._due[0]["completed_at"])
        return self._group.cutoff if self._is_over else self._at[0]


def remember(group: Group, reached: int) -> None:
    """Lets the next run begin where this one has come to: all before it is gone."""
    if group.type_ids is not None and abs(reached - group.start) >= STORED_EVERY_MS:
        _store(list(group.type_ids), reached)


@write_transaction
def _store(type_ids: list[int], reached: int) -> None:
    for some in parts_of(type_ids, TYPES_PER_STATEMENT):
        execute("UPDATE {task_types} SET pruned_until = ? WHERE id IN ?", (reached, some))
