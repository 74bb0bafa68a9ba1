"""Searching a list of tasks for what no index has.

The rows of the list are read in its order and looked at one by one, at most MAX_SCANNED for a
page. A page that ends at this bound says so, and its cursor goes on after the last row looked at:
an empty page never means that nothing was found when rows are left.
Refuses to know the order of a list: read.py has it.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from taskmanager.db.statements import Row, fetch_all
from taskmanager.errors import InvalidRequest
from taskmanager.params.paths import value_at
from taskmanager.payloads.sealing import all_opened, keyring
from taskmanager.queue.answer_size import (
    MAX_ANSWER_TEXT,
    count_that_fits,
    sizes_of,
    total_size_of,
)

MAX_SCANNED = 1_000
ROUNDS = 4  # of looking at a quarter of them

# What a filter asks of a row. Each has one `?`, for its value.
CONDITIONS = {
    "priority_min": "priority >= ?",
    "priority_max": "priority <= ?",
    "created_after": "created_at > ?",
    "created_before": "created_at < ?",
    "finished_after": "completed_at > ?",
    "finished_before": "completed_at < ?",
    "available_after": "available_at > ?",
    "available_before": "available_at < ?",
    "attempts_min": "attempts >= ?",
    "error_code": "error_code = ?",
    "error": "LOWER(error_message) LIKE ? ESCAPE '!'",
    "parent_task_id": "parent_task_id = ?",
}

Condition = tuple[str, Any]  # with one `?`, and its value


class Search(NamedTuple):
    """What is asked of each row: `conditions` in SQL, and values of its params by their path.

    `sealed_error` is a part of the error message, which the database cannot see in a task that is
    encrypted.
    """

    conditions: Sequence[Condition]
    params: Sequence[tuple[str, str]]
    sealed_error: str | None = None

    def __bool__(self) -> bool:
        return bool(self.conditions or self.params)


class Found(NamedTuple):
    """`rows` that match, in order; `last` is the last row looked at, None if the list has ended."""

    rows: list[Row]
    scanned: int
    last: Row | None


def conditions_of(filters: Row) -> list[Condition]:
    """The conditions of those filters that are set, by their names in CONDITIONS."""
    given = {name: filters[name] for name in CONDITIONS if filters.get(name) is not None}
    if "error" in given:
        given["error"] = _like(given["error"])
    of_sealed = "(payload_key IS NOT NULL AND error_message IS NOT NULL OR {})"
    conditions = {
        name: of_sealed.format(text) if name == "error" and keyring() is not None else text
        for name, text in CONDITIONS.items()
    }
    return [(conditions[name], value) for name, value in given.items()]


def scan(
    search: Search,
    wanted: int,
    after: Row | None,
    at_once: int,
    next_rows: Callable[[Row | None, int], list[Row]],
) -> Found:
    """The first `wanted` rows after the row `after` that match.

    `next_rows` gives up to so many rows of the list after a row, with their `id`. It is
    called ROUNDS times at most, for `at_once` rows.
    """
    found: list[Row] = []
    scanned, last, room = 0, after, MAX_ANSWER_TEXT
    for _ in range(ROUNDS):
        listed = rows = next_rows(last, at_once)
        if search.params:
            rows, room = _that_fit(rows, room)
        matching = _matching([row["id"] for row in rows], search)
        for row in rows:
            scanned, last = scanned + 1, row
            if row["id"] in matching:
                found.append(row)
                if len(found) == wanted:
                    return Found(found, scanned, last)
        if len(listed) < at_once and len(rows) == len(listed):
            return Found(found, scanned, None)
        if room <= 0 or len(rows) < len(listed):
            break
    return Found(found, scanned, last)


def _that_fit(rows: list[Row], room: int) -> tuple[list[Row], int]:
    """The first of these tasks whose params fit into `room`, and the room that is left."""
    ids = [row["id"] for row in rows]
    size = total_size_of(ids, "params")
    if size > room:  # rare, so only then each one's size is read
        sizes = sizes_of(ids, ["params"])
        rows = rows[: count_that_fits(sizes, room)]
        size = sum(sizes[: len(rows)])
    return rows, room - size


def _matching(ids: list[int], search: Search) -> set[int]:
    """Those of these tasks that match."""
    if not ids:
        return set()
    where = " AND ".join(["id IN ?", *(text for text, _ in search.conditions)])
    columns = "id, payload_key, params" if search.params else "id, payload_key"
    if search.sealed_error is not None:
        columns += ", CASE WHEN payload_key IS NOT NULL THEN error_message END AS error_message"
    rows = fetch_all(
        f"SELECT {columns} FROM {{tasks}} {{by_id}} WHERE {where}",
        (ids, *(value for _, value in search.conditions)),
    )
    rows = all_opened(rows)
    if search.sealed_error is not None:
        rows = [row for row in rows if _has_error(row, search.sealed_error)]
    if search.params:
        rows = [row for row in rows if _has_params(json.loads(row["params"]), search.params)]
    return {row["id"] for row in rows}


def _has_error(row: Row, part: str) -> bool:
    """Whether an encrypted message has the part; of the others the database has said so."""
    return row["payload_key"] is None or part.lower() in row["error_message"].lower()


def _has_params(params: Any, wanted: Sequence[tuple[str, str]]) -> bool:
    try:
        return all(_is(value_at(params, path), text) for path, text in wanted)
    except LookupError:
        return False


def _is(value: Any, text: str) -> bool:
    """Whether a value is this text, or the number, true, false or null that the text spells."""
    if isinstance(value, str):
        return value == text
    if isinstance(value, bool) or value is None:
        return text == json.dumps(value)
    if isinstance(value, (int, float)):
        try:
            return bool(value == (int(text) if isinstance(value, int) else float(text)))
        except ValueError:
            return False
    return False


def _like(text: str) -> str:
    """The LIKE pattern of what contains a text, in lower case."""
    for special in "!%_":
        text = text.replace(special, f"!{special}")
    return f"%{text.lower()}%"


def require_within_reach(found: Found, offset: int) -> None:
    """Raises InvalidRequest where the search ended before it had reached the offset."""
    if offset and found.last is not None and len(found.rows) <= offset:
        raise InvalidRequest(
            f"A search looks at up to {MAX_SCANNED:,} tasks a page, which does not reach offset "
            f"{offset}; leave offset out, and send next_cursor as cursor instead."
        )
