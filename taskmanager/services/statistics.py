"""Figures about the whole queue."""

from typing import Any

from taskmanager.database import fetch_all, fetch_one
from taskmanager.services.keys import Caller
from taskmanager.services.task_queries import FINISHED_STATUSES, STATUSES
from taskmanager.services.task_types import name_of

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
    oldest = fetch_one("SELECT created_at FROM tasks WHERE status = 'pending' ORDER BY id LIMIT 1")
    return {
        "by_status": by_status,
        "by_type": by_type,
        "total": sum(by_status.values()),
        "oldest_pending_seconds": (now - oldest["created_at"]) / 1000 if oldest else None,
        "finished": {period: _finished_since(now - ms) for period, ms in PERIODS_MS.items()},
    }


def _finished_since(moment: int) -> dict[str, int]:
    counts = dict.fromkeys(FINISHED_STATUSES, 0)
    for row in fetch_all(
        "SELECT status, COUNT(*) AS counted FROM tasks WHERE completed_at > ? GROUP BY status",
        (moment,),
    ):
        counts[row["status"]] = row["counted"]
    return counts
