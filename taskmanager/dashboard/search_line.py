"""The search line: `type:mail.send status:failed error:"no answer" params.user:5 #123`.

Turns it into the filters of GET /api/tasks, and filters back into it.
"""

import re
from collections.abc import Mapping

from taskmanager.api.request_schemas import TASK_FILTERS
from taskmanager.errors import InvalidRequest
from taskmanager.queue.read import STATUSES

# What people type → the filter that it is.
SHORT = {
    "worker": "worker_id",
    "parent": "parent_task_id",
    "key": "dedupe_key",
    "code": "error_code",
    "attempts": "attempts_min",
}
_LONG = {filter_name: typed for typed, filter_name in SHORT.items()}
_WORD = re.compile(r'(?:([A-Za-z_]\w*(?:\.[^\s:]+)?):)?(?:"([^"]*)"|(\S+))')


def task_id_of(line: str) -> int | None:
    """The id where the line is nothing but one, with or without #."""
    found = re.fullmatch(r"#?([0-9]{1,18})", line.strip())
    return int(found[1]) if found else None


def filters_of(line: str) -> dict[str, str]:
    """The filters that a line asks for, by their names, as text.

    A word alone is a status, or else a part of a type's name. Raises InvalidRequest.
    """
    filters: dict[str, str] = {}
    for name, quoted, plain in _WORD.findall(line):
        value = quoted or plain
        typed = SHORT.get(name, name)
        if not typed and value in STATUSES:
            typed = "status"
        elif not typed:
            typed, value = "type", value if "%" in value else f"%{value}%"
        if typed not in TASK_FILTERS and not typed.startswith("params."):
            raise InvalidRequest(
                f"There is no filter '{name}'; write type:, status:, error:, code:, tag:, "
                "worker:, parent:, params.NAME: or one that docs/api.md names."
            )
        filters[typed] = f"{filters[typed]},{value}" if typed in filters else value
    return filters


def line_of(filters: Mapping[str, str]) -> str:
    """The line that asks for these filters."""
    words = []
    for name, value in filters.items():
        shown = f'"{value}"' if re.search(r"\s", value) or not value else value
        words.append(f"{_LONG.get(name, name)}:{shown}")
    return " ".join(words)
