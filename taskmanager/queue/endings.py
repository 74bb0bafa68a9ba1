"""What else happens in the transaction that ends a task: its webhook, its batch."""

from collections.abc import Sequence

from taskmanager.db.statements import Row
from taskmanager.queue import outbox
from taskmanager.queue.flow import batches


def record(tasks: Sequence[Row], *, now: int) -> None:
    """Follows the end of those of these tasks that have ended.

    Part of the caller's transaction. `tasks` are rows with `type`, as they are after the
    transition. Runs no statement for tasks that ask for nothing.
    """
    outbox.record(tasks, now=now)
    batches.record_ends(tasks, now=now)
