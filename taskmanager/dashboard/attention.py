"""What needs a person, in one sentence each, the worst first: the top of the overview.

Says what the rules of alerts find now, and which paused types have tasks. Refuses to look for
anything else.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from taskmanager.access.caller import Caller
from taskmanager.alerts.findings import find_all
from taskmanager.config import Settings
from taskmanager.dashboard.wording import count_of
from taskmanager.db.statements import Row
from taskmanager.queue.figures.statistics import QueueFigures

# Rule → the kind of page that says more.
LINKS = {
    "no_worker": "pending",
    "oldest_pending": "pending",
    "failure_share": "failures",
    "maintenance_silent": "doctor",
    "disk_space": "doctor",
    "key_expiry": "keys",
    "webhook_failing": "webhooks",
    "webhook_off": "webhooks",
}


class Notice(NamedTuple):
    """A sentence about `subject`. `is_bad`: something stands still. `link` names a kind of page."""

    is_bad: bool
    subject: str
    sentence: str
    link: str = ""


def notices(
    figures: QueueFigures, types: list[Row], *, settings: Settings, caller: Caller, now: int
) -> list[Notice]:
    """Everything that needs a person and that the caller may see, the worst first."""
    found = [
        Notice(it.rule.is_grave, it.subject, it.sentence, LINKS.get(it.rule.name, ""))
        for it in find_all(settings=settings, caller=caller, now=now)
    ]
    found += _of_paused(figures, {row["name"]: row for row in types})
    return sorted(found, key=lambda notice: not notice.is_bad)


def _of_paused(figures: QueueFigures, types: Mapping[str, Row]) -> Iterator[Notice]:
    for name, tasks in figures.tasks.items():
        if types[name]["is_paused"] and tasks["pending"]:
            waiting = f"has {count_of(tasks['pending'], 'task')} waiting"
            yield Notice(False, name, f"is paused and {waiting}.", "type")
