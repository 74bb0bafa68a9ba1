"""The largest answer: how much of the stored params and results one answer may hold.

A task may hold a megabyte of params and a megabyte of result. A hundred of them
at once would fill the memory of a small host; decoded they take more still (a
megabyte of empty lists takes twenty).
"""

from collections.abc import Iterable, Sequence

from taskmanager.db.models import Task, columns_of
from taskmanager.db.statements import fetch_all, fetch_value
from taskmanager.errors import ValidationFailed

MAX_ANSWER_TEXT = 4_000_000  # characters of params and results, as they are stored

# Conditions look at them; who reads a task has no use for them.
_OF_CONDITIONS = ("claim_rank", "claim_request_id", "holds_key_forever", "holds_key_while_open")
COLUMNS = tuple(column for column in columns_of(Task) if column not in _OF_CONDITIONS)
LARGE_COLUMNS = ("params", "result")
LIGHT_COLUMNS = tuple(column for column in COLUMNS if column not in LARGE_COLUMNS)


def count_that_fits(sizes: Iterable[int], room: int = MAX_ANSWER_TEXT) -> int:
    """How many of these sizes, from the first on, fit into `room`; at least one of any."""
    count = 0
    for size in sizes:
        room -= size
        if room < 0 and count:
            break
        count += 1
    return count


def require_small(field: str, text: str, most: int) -> None:
    """Raises ValidationFailed where a field that lists always show has over `most` characters."""
    if len(text) > most:
        message = f"has {len(text):,} characters as JSON; the limit is {most:,}"
        raise ValidationFailed(
            f"{field} {message}.",
            code="invalid_request",
            details=[{"path": field, "message": message, "keyword": "maxLength"}],
        )


def sizes_of(task_ids: Sequence[int], columns: Sequence[str]) -> list[int]:
    """The length of these columns of each task together; 0 for a task that no longer exists."""
    if not columns or not task_ids:
        return [0] * len(task_ids)
    size = " + ".join(f"COALESCE(LENGTH({column}), 0)" for column in columns)
    rows = fetch_all(f"SELECT id, {size} AS size FROM {{tasks}} WHERE id IN ?", (list(task_ids),))
    found = {row["id"]: row["size"] for row in rows}
    return [found.get(task_id, 0) for task_id in task_ids]


def total_size_of(task_ids: Sequence[int], column: str) -> int:
    """The length of this column of all these tasks together."""
    if not task_ids:
        return 0
    total = fetch_value(
        f"SELECT SUM(LENGTH({column})) AS total FROM {{tasks}} WHERE id IN ?", (list(task_ids),)
    )
    return int(total or 0)
