"""Why tasks fail: failures grouped by type, error code and message, with numbers and ids taken out.

Looks at the latest failures, at most so many: the answer says how many it has looked at.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from taskmanager.access.caller import Caller
from taskmanager.db.statements import MAX_ROWS, Row, fetch_all, parts_of
from taskmanager.payloads.sealing import all_opened, keyring
from taskmanager.queue import task_types
from taskmanager.queue.read import TaskFilter, find_ids
from taskmanager.queue.search import MAX_SCANNED

MESSAGE_CHARACTERS = 500  # of a message that are looked at
PATTERN_CHARACTERS = 200  # of a pattern that are shown

# What differs between two messages of one kind. An id is hexadecimal with a digit in it.
_VARIES = re.compile(
    r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"
    r"|\b0x[0-9a-f]+\b"
    r"|\b(?=[a-f]*[0-9])[0-9a-f]{8,}\b"
    r"|[0-9]+(?:[.,:][0-9]+)*",
    re.IGNORECASE,
)


class Failures(NamedTuple):
    """`groups`, the largest first; `scanned` tasks were looked at, from the latest created on.

    A group has `type`, `error_code`, `message` (a pattern), `count`, `first_at` and
    `last_at` in milliseconds, and the id and message of its latest task as `example_task_id` and
    `example_message`. Without `is_complete` there are more, after `next_cursor`.
    """

    groups: list[dict[str, Any]]
    scanned: int
    next_cursor: str | None
    is_complete: bool


def group_failures(*, task_filter: TaskFilter, cursor: str | None, caller: Caller) -> Failures:
    """Groups the failures that the filter finds: of failed tasks, unless it names statuses.

    Raises InvalidRequest for a cursor that this call has not returned.
    """
    if not task_filter.statuses:
        task_filter = task_filter._replace(statuses=("failed",))
    found = find_ids(
        task_filter=task_filter, descending=True, limit=MAX_SCANNED, cursor=cursor, caller=caller
    )
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in _failures(found.ids):
        message = (row["error_message"] or "")[:MESSAGE_CHARACTERS] or None
        pattern, at = message_pattern(message), row["failed_at"]
        key = (row["task_type_id"], row["error_code"], pattern)
        group = groups.get(key)
        if group is None:
            group = groups[key] = {
                "type": task_types.with_type_name(row)["type"],
                "error_code": row["error_code"],
                "message": pattern,
                "count": 0,
                "first_at": at,
                "last_at": at,
                "example_task_id": row["id"],
                "example_message": message,
            }
        group["count"] += 1
        group["first_at"] = min(group["first_at"], at)
        if at > group["last_at"]:
            latest = {"example_task_id": row["id"], "example_message": message}
            group |= {"last_at": at, **latest}
    scanned = len(found.ids) if found.scanned is None else found.scanned
    largest_first = sorted(groups.values(), key=lambda group: -group["count"])
    return Failures(largest_first, scanned, found.next_cursor, found.next_cursor is None)


def message_pattern(message: str | None) -> str | None:
    """The beginning of a message, with `#` for each number and id."""
    if message is None:
        return None
    return _VARIES.sub("#", message)[:PATTERN_CHARACTERS]


def _failures(ids: list[int]) -> Iterator[Row]:
    """Those of these tasks that have failed at least once, in any order."""
    message = f"SUBSTR(error_message, 1, {MESSAGE_CHARACTERS}) AS error_message"
    if keyring() is not None:  # a part of an encrypted text cannot be opened
        message = (
            f"CASE WHEN payload_key IS NULL THEN SUBSTR(error_message, 1, {MESSAGE_CHARACTERS}) "
            "ELSE error_message END AS error_message, payload_key"
        )
    for some in parts_of(ids, MAX_ROWS):
        rows = fetch_all(
            "SELECT id, task_type_id, error_code, "
            f"COALESCE(completed_at, updated_at) AS failed_at, {message} FROM {{tasks}} "
            "WHERE id IN ? AND (error_code IS NOT NULL OR error_message IS NOT NULL)",
            (some,),
        )
        yield from all_opened(rows)
