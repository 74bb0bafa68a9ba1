"""Figures about the whole queue."""

from typing import Any

from taskmanager.database import fetch_all, fetch_one, placeholders
from taskmanager.services.keys import Caller
from taskmanager.services.task_queries import FINISHED_STATUSES, STATUSES
from taskmanager.services.task_types import find_task_types, name_of

PERIODS_MS = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}


def queue_statistics(*, caller: Caller, now: int) -> dict[str, Any]:
    """Counts by status and by type, the oldest pending task's age, and what was finished lately.

    Types that the caller may not touch are left out.
    """
    by_status = dict.fromkeys(STATUSES, 0)
    by_type: dict[str, dict[str, int]] = {}
    for row in fetch_all(
        "SELECT task_type_id, status, COUNT(*) AS counted FROM tasks GROUP BY task_type_id, status"
    ):
        name = name_of(row["task_type_id"])
        if caller.may_touch(name):
            by_type.setdefault(name, dict.fromkeys(STATUSES, 0))[row["status"]] = row["counted"]
            by_status[row["status"]] += row["counted"]
    of_types, type_ids = _limit_to_types(caller)
    oldest = fetch_one(
        f"SELECT created_at FROM tasks WHERE status = 'pending' {of_types} ORDER BY id LIMIT 1",
        type_ids,
    )
    return {
        "by_status": by_status,
        "by_type": by_type,
        "total": sum(by_status.values()),
        "oldest_pending_seconds": (now - oldest["created_at"]) / 1000 if oldest else None,
        "finished": {
            period: _finished_since(now - ms, of_types, type_ids)
            for period, ms in PERIODS_MS.items()
        },
    }


def _limit_to_types(caller: Caller) -> tuple[str, list[int]]:
    """A condition, empty for a key that is not limited, and its values."""
    if caller.task_types is None:
        return "", []
    found = find_task_types(ids=None, names=None, pattern=None, caller=caller)
    type_ids = [row["id"] for row in found]
    # No id is 0, and MySQL does not take an empty list.
    return f"AND task_type_id IN ({placeholders([0, *type_ids])})", [0, *type_ids]


def _finished_since(moment: int, of_types: str, type_ids: list[int]) -> dict[str, int]:
    counts = dict.fromkeys(FINISHED_STATUSES, 0)
    for row in fetch_all(
        "SELECT status, COUNT(*) AS counted FROM tasks "
        f"WHERE completed_at > ? {of_types} GROUP BY status",
        (moment, *type_ids),
    ):
        counts[row["status"]] = row["counted"]
    return counts
