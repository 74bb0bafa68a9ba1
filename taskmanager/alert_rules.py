"""The rules of alerts as data: what each looks at, from which threshold on, and what to do then.

Owns their names, texts and thresholds. Refuses to look at anything: `alerts/findings.py` does.
"""

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

OFF = "off"
ON = "on"


class Rule(NamedTuple):
    """`default` is a threshold in `unit`; None: the rule is off. A rule without a unit has none.

    `sentence` follows the name of what it is about and has in braces what was found. `seen_by` is
    who may know: whoever may use the type, only who may use all types, or admins. `is_grave`:
    something stands still.
    """

    name: str
    looks_at: str
    default: float | None
    unit: Literal["seconds", "days", "MB", "share", ""]
    sentence: str
    remedy: str
    seen_by: Literal["type", "all types", "admin"]
    is_grave: bool = False


_RULES = (
    Rule(
        name="no_worker",
        looks_at="a type with waiting tasks that no worker takes",
        default=900,
        unit="seconds",
        sentence="has tasks waiting, the oldest for {age}, and nobody works on it.",
        remedy="Start a worker for this type, or see why its workers have stopped.",
        seen_by="type",
        is_grave=True,
    ),
    Rule(
        name="oldest_pending",
        looks_at="the oldest waiting task of a type, while workers take others",
        default=3_600,
        unit="seconds",
        sentence="has a task that has been waiting for {age}.",
        remedy="Add workers, or see what makes the tasks of this type slow.",
        seen_by="type",
    ),
    Rule(
        name="failure_share",
        looks_at="the share of failures among the tasks of a type that ended in the last hour",
        default=0.1,
        unit="share",
        sentence="has {failed} failures among {ended} tasks that ended in the last hour.",
        remedy="See why they failed: taskmanager tasks errors, or the page Errors.",
        seen_by="type",
    ),
    Rule(
        name="maintenance_silent",
        looks_at="how long ago maintenance ran by command or over HTTP",
        default=900,
        unit="seconds",
        sentence="{said}: schedules and retries wait for the next claim, and old tasks are kept.",
        remedy="Let cron run 'taskmanager maintain' every minute. See docs/operations.md.",
        seen_by="all types",
    ),
    Rule(
        name="disk_space",
        looks_at="free space on the disks that the queue writes to",
        default=200,
        unit="MB",
        sentence="has {left}.",
        remedy="Delete what you do not need, or ask the host for more space.",
        seen_by="admin",
        is_grave=True,
    ),
    Rule(
        name="database_size",
        looks_at="the size of the database, where the host limits it",
        default=None,
        unit="MB",
        sentence="has grown to {size:,} MB.",
        remedy="Set TASKMANAGER_RETENTION_DAYS lower, or ask the host for more space.",
        seen_by="admin",
    ),
    Rule(
        name="key_expiry",
        looks_at="when a key expires that was valid for longer than that",
        default=7,
        unit="days",
        sentence="is a key that expires in {left}.",
        remedy="Rotate it: taskmanager keys rotate ID, or the page Keys.",
        seen_by="admin",
    ),
    Rule(
        name="webhook_failing",
        looks_at="how long every delivery to a webhook has failed",
        default=21_600,
        unit="seconds",
        sentence="is a webhook whose deliveries have failed for {age}.",
        remedy="Mend the receiver. After three days the webhook is switched off.",
        seen_by="admin",
    ),
    Rule(
        name="webhook_off",
        looks_at="a webhook that was switched off because it failed for three days",
        default=0,
        unit="",
        sentence="is a webhook that was switched off {age} ago, after three days of failures.",
        remedy="Mend the receiver, set is_active to true, and send again what failed.",
        seen_by="admin",
        is_grave=True,
    ),
)
RULES: Mapping[str, Rule] = {rule.name: rule for rule in _RULES}
MAX_THRESHOLD = 1_000_000_000


@dataclass(frozen=True)
class Thresholds:
    """The threshold of each rule, by name; None where it is off."""

    values: Mapping[str, float | None]

    def rules(self) -> Iterator[tuple[Rule, float]]:
        """The rules that are on, with their thresholds."""
        for name, threshold in self.values.items():
            if threshold is not None:
                yield RULES[name], threshold

    def text_of(self, name: str) -> str:
        """`900 seconds`, `0.1 of all`, `on`, `off`, for people."""
        threshold, unit = self.values[name], RULES[name].unit
        if threshold is None or not unit:
            return OFF if threshold is None else ON
        return f"{threshold:,g} {'of all' if unit == 'share' else unit}"

    def __str__(self) -> str:
        """As in the setting: those that are not the default."""
        changed = [name for name, it in self.values.items() if it != RULES[name].default]
        texts = [f"{name}={self.text_of(name).split()[0].replace(',', '')}" for name in changed]
        return ", ".join(texts)


def parse_thresholds(text: str) -> Thresholds:
    """Reads `oldest_pending=7200, failure_share=off`; the other rules keep their defaults.

    Raises ValueError that says what may stand there.
    """
    values = {name: rule.default for name, rule in RULES.items()}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in RULES:
            near = difflib.get_close_matches(name, RULES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the rules are {', '.join(RULES)}"
            raise ValueError(f"rules and thresholds such as oldest_pending=7200 ({hint})")
        values[name] = _threshold(RULES[name], value)
    return Thresholds(values)


def _threshold(rule: Rule, value: str) -> float | None:
    if value == OFF:
        return None
    if not rule.unit:
        if value != ON:
            raise ValueError(f"{rule.name}=on or {rule.name}=off")
        return 0
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    highest = 1 if rule.unit == "share" else MAX_THRESHOLD
    if not 0 < number <= highest:
        what = "a share from 0 to 1" if rule.unit == "share" else f"a number of {rule.unit}"
        raise ValueError(f"{what} above 0 or off, as in {rule.name}={rule.default or 500:g}")
    return number
