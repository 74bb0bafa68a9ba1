"""The feed of events: the rows of task_logs in order, for readers that come back with a cursor.

No reader misses an event or gets one twice, whatever is written meanwhile. Only on SQLite is the
order of the ids the order of the commits, and only there are ids used again: docs/decisions/0021
says what follows. Refuses to know what an event means.
"""

import re
import time
from collections.abc import Sequence
from typing import NamedTuple

from taskmanager.access.caller import Caller
from taskmanager.db.connection import cache, dialect
from taskmanager.db.dialect import SQLITE
from taskmanager.db.snapshot import fetch_uncommitted
from taskmanager.db.statements import MAX_ROWS, Row, fetch_all, fetch_value, parts_of
from taskmanager.errors import InvalidRequest
from taskmanager.payloads.sealing import with_opened
from taskmanager.queue import task_types
from taskmanager.queue.answer_size import count_that_fits

MAX_SCANNED = 5_000
ROWS_AT_ONCE = 500
LATEST = "latest"

# A row of this age has none before it that is still to be committed: no statement waits for the
# server longer than a minute, and no transaction has many that wait.
SETTLED_MS = 180_000
# How long a server takes at most from giving a row its id to storing it. It waits for no lock then.
STORED_SECONDS = 5.0


class Position(NamedTuple):
    """After the row `log_id`, in the numbering that began with the row `cut` of task_log_cuts."""

    cut: int
    log_id: int


class Part(NamedTuple):
    """Rows in order, and the position after them.

    With `is_at_end` nothing follows that can be read now; with `is_held_back` there are later rows.
    """

    rows: list[Row]
    position: Position
    is_at_end: bool
    is_held_back: bool


class Page(NamedTuple):
    """Events in order, each with `type`. With `is_complete` no more can be read now."""

    events: list[Row]
    next_cursor: str
    scanned: int
    is_complete: bool


def list_events(
    *,
    after: str | None,
    limit: int,
    type_pattern: str | None,
    statuses: Sequence[str],
    tag: str | None,
    caller: Caller,
    now: int,
) -> Page:
    """The next events that match, of tasks of the caller's types, oldest first.

    `after` is the cursor of the page before; LATEST begins with what happens next, and None with
    the oldest event that is kept. At most MAX_SCANNED rows are looked at, and a page ends before
    `limit` if its messages and metadata are too large for one answer. Raises InvalidRequest for a
    cursor that no page has returned.
    """
    position = _position(after)
    types = task_types.find_task_types(pattern=type_pattern, caller=caller)
    names = {row["id"]: row["name"] for row in types}
    events: list[Row] = []
    scanned, is_at_end = 0, False
    while not is_at_end and scanned < MAX_SCANNED and len(events) < limit:
        part = read_after(position, ROWS_AT_ONCE, now=now)
        matching = [
            {**row, "type": names[row["task_type_id"]]}
            for row in (part.rows if tag is None else _tagged(part.rows, tag))
            if row["task_type_id"] in names and (not statuses or row["status"] in statuses)
        ]
        wanted = _that_fit(matching[: limit - len(events)], events)
        events += wanted
        if len(wanted) < len(matching):
            last = wanted[-1]["id"] if wanted else position.log_id
            scanned += sum(row["id"] <= last for row in part.rows)
            return Page(_whole(events), _cursor(part.position.cut, last), scanned, False)
        position, is_at_end = part.position, part.is_at_end
        scanned += len(part.rows)
    return Page(_whole(events), _cursor(*position), scanned, is_at_end)


def read_after(position: Position, count: int, *, now: int) -> Part:
    """Up to `count` rows after a position, with the type of their tasks.

    They end before a row that others may still come to stand before.
    """
    while True:
        position = _present(position)
        rows = fetch_all(_NEXT_ROWS, (position.log_id, count))
        # A cut since then: the rows are numbered anew.
        if all(row["cut"] == position.cut for row in rows):
            break
    settled = rows[: _count_settled(rows, position.log_id, now)]
    if settled:
        position = position._replace(log_id=settled[-1]["id"])
    return Part(settled, position, len(settled) < count, len(settled) < len(rows))


# One statement, so that the rows and the cut are of one moment. For a join, SQLite would read all
# tasks.
_NEXT_ROWS = (
    "SELECT id, task_id, event, status, created_at, "
    "COALESCE(LENGTH(message), 0) + COALESCE(LENGTH(metadata), 0) AS size, "
    "(SELECT task_type_id FROM {tasks} AS task WHERE task.id = log.task_id) AS task_type_id, "
    "(SELECT COALESCE(MAX(id), 0) FROM {task_log_cuts}) AS cut "
    "FROM {task_logs} AS log WHERE id > ? ORDER BY id LIMIT ?"
)


def _present(position: Position) -> Position:
    """The same place in the numbering of now."""
    cuts = fetch_all(
        "SELECT MAX(id) AS latest, MIN(last_log_id) AS lowest FROM {task_log_cuts} WHERE id > ?",
        (position.cut,),
    )
    latest, lowest = cuts[0]["latest"], cuts[0]["lowest"]
    return position if latest is None else Position(latest, min(position.log_id, lowest))


def _count_settled(rows: Sequence[Row], last_id: int, now: int) -> int:
    """How many of these rows, from the first on, can have no row committed before them later.

    An id that is missing may belong to a transaction that is not yet committed.
    """
    if dialect() is SQLITE:  # there is one writer, and its ids have no gaps
        return len(rows)
    ids = [last_id, *(row["id"] for row in rows)]
    young_gaps = [
        at
        for at, row in enumerate(rows)
        if row["id"] > ids[at] + 1 and abs(now - row["created_at"]) < SETTLED_MS
    ]
    if not young_gaps:
        return len(rows)
    settled_id = _settled_up_to(ids[young_gaps[0] :])
    return next((at for at in young_gaps if rows[at]["id"] > settled_id), len(rows))


def _settled_up_to(ids: Sequence[int]) -> int:
    """The id up to which no row will come to stand among these; 0 if that is not known.

    It is known of ids that this process saw exceeded some seconds ago, if no open transaction has
    stored a row with one of them. Where several servers give ids (Galera), this one does not see
    the transactions of the others.
    """
    assigned, newest, since = cache().log_ids_seen
    if time.monotonic() - since >= STORED_SECONDS:
        assigned, newest = newest, ids[-1]
        cache().log_ids_seen = (assigned, newest, time.monotonic())
    if assigned <= ids[0] or fetch_value("SELECT @@auto_increment_increment") > 1:
        return 0
    stored = fetch_uncommitted(
        "SELECT id FROM {task_logs} WHERE id > ? AND id <= ?", (ids[0], min(assigned, ids[-1]))
    )
    late = [row["id"] for row in stored if row["id"] not in set(ids)]
    return min(late, default=assigned)


def _tagged(rows: Sequence[Row], tag: str) -> list[Row]:
    """Those of the rows whose tasks have the tag."""
    if not rows:
        return []
    found = fetch_all(
        "SELECT task_id FROM {task_tags} WHERE tag = ? AND task_id IN ?",
        (tag, list({row["task_id"] for row in rows})),
    )
    tagged = {row["task_id"] for row in found}
    return [row for row in rows if row["task_id"] in tagged]


def _that_fit(rows: list[Row], before: Sequence[Row]) -> list[Row]:
    """Those of the rows, from the first on, whose texts fit into one answer with those before."""
    sizes = [row["size"] for row in [*before, *rows]]
    return rows[: max(0, count_that_fits(sizes) - len(before))]


def _whole(events: Sequence[Row]) -> list[Row]:
    """The events with all columns of task_logs; one that was deleted meanwhile is left out."""
    details: dict[int, Row] = {}
    for some in parts_of([row["id"] for row in events], MAX_ROWS):
        rows = fetch_all("SELECT * FROM {task_logs} WHERE id IN ?", (list(some),))
        details |= {row["id"]: with_opened(row, "task_logs") for row in rows}
    whole = [{**row, **details.get(row["id"], {"event": None})} for row in events]
    same = ("task_id", "event", "created_at")  # else its id has been given to another event
    return [
        row
        for row, read in zip(whole, events, strict=True)
        if all(row[name] == read[name] for name in same)
    ]


def _cursor(cut: int, log_id: int) -> str:
    return f"{cut}.{log_id}"


def _position(cursor: str | None) -> Position:
    if cursor is None or cursor == LATEST:
        end = "MAX(id)" if cursor else "MIN(id) - 1"
        row = fetch_all(
            "SELECT (SELECT COALESCE(MAX(id), 0) FROM {task_log_cuts}) AS cut, "
            f"(SELECT COALESCE({end}, 0) FROM {{task_logs}}) AS log_id"
        )[0]
        return Position(**row)
    if not re.fullmatch(r"[0-9]{1,18}\.[0-9]{1,18}", cursor):
        raise InvalidRequest(
            "after is not a cursor that this call gave out: send next_cursor unchanged, or "
            f"{LATEST} to begin with what happens next."
        )
    cut, log_id = map(int, cursor.split("."))
    return Position(cut, log_id)
