"""What else happens in the transaction that ends a task: its dependents, lanes, webhook, batch."""

from collections.abc import Sequence

from taskmanager.db.statements import Row
from taskmanager.db.transactions import write_transaction
from taskmanager.queue import outbox
from taskmanager.queue.flow import batches, dependencies, lanes


def record(tasks: Sequence[Row], *, now: int) -> None:
    """Follows the end of those of these tasks that have ended; the others may change their lanes.

    Part of the caller's transaction. `tasks` are rows with `type`, as they are after the
    transition. Runs no statement for tasks that ask for nothing.
    """
    lanes.record(tasks)
    # Dependencies first: whoever ends a task locks those that wait for it, then its batch.
    record_followed([*tasks, *dependencies.follow_ends(tasks, now=now)], now=now)


def record_retries(tasks: Sequence[Row], *, now: int) -> None:
    """Follows that tasks which have ended are tried again. `tasks` are rows as they were before.

    Part of the caller's transaction. A task that depends on others is blocked again until they
    have completed, or ends again at once.
    """
    ended = dependencies.block_again(tasks, now=now)
    lanes.place(tasks)
    batches.record_retries(tasks, now=now)
    record_followed(ended, now=now)


def record_late_reports(tasks: Sequence[Row], *, now: int) -> None:
    """Follows that tasks which failed for their leases have been reported on after all.

    Part of the caller's transaction. `tasks` are rows as they were before.
    """
    dependencies.forget_ends(tasks)
    batches.record_retries(tasks, now=now)


@write_transaction
def follow_dependencies_slice(*, now: int, rows: int) -> int:
    """Goes on with the ends of dependencies that one transaction could not follow to their end.

    Transition: blocked → pending, scheduled, failed or cancelled.
    Commits together: the slice's transitions, their history rows and deliveries.
    Raises DatabaseUnavailable.
    A crash leaves the slice as it was.
    """
    followed, ended = dependencies.follow_noted(now=now, rows=rows)
    record_followed(ended, now=now)
    return followed


def record_followed(ended: Sequence[Row], *, now: int) -> None:
    """Follows the end of tasks whose lanes and dependents know it already.

    Part of the caller's transaction.
    """
    outbox.record(ended, now=now)
    batches.record_ends(ended, now=now)
