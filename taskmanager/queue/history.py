"""One row for every transition of a task.

Always written in the transaction of what it records, so the two cannot disagree. A task may go
round in circles for ever, so its oldest events are removed and counted. feed.py reads the rows of
all tasks in order.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from taskmanager.access.caller import Caller
from taskmanager.clock import format_time
from taskmanager.db.connection import dialect, wakeups
from taskmanager.db.dialect import SQLITE
from taskmanager.db.statements import (
    MAX_ROWS,
    Row,
    execute,
    fetch_all,
    fetch_value,
    insert,
    insert_many,
    parts_of,
    update,
)
from taskmanager.db.transactions import after_commit
from taskmanager.payloads.sealing import all_opened, with_sealed
from taskmanager.queue.answer_size import count_that_fits
from taskmanager.wakeups import topics

# A task without one of these has at most a few events for each of its 100 attempts. So a history
# is bounded if it is shortened wherever one of them is stored.
EVENTS_OF_CYCLES = frozenset({"released", "retried", "lease_restored", "updated"})
SHORTENED = "history_shortened"
MAX_EVENTS = 1_000
KEPT_EVENTS = 500
# In one transaction.
MAX_REMOVED = 1_000
MAX_TASKS_SHORTENED = 5
ATTEMPT_ERRORS_SHOWN = 100


def event_row(
    task: Row,
    event: str,
    *,
    now: int,
    caller: Caller | None = None,
    status: str | None = None,
    message: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Row:
    """A row for `record_rows`, with the attempt, worker and claim token where `task` has them.

    `status` is that of the task after the event, unless `task` has it already. The `message` is
    encrypted if the task is.
    """
    row = {
        "task_id": task["id"],
        "event": event,
        "status": status or task["status"],
        "attempt": task.get("attempts"),
        "worker_id": task.get("worker_id"),
        "api_key_id": caller.key_id if caller else None,
        "claim_token": task.get("claim_token"),
        "message": message,
        "payload_key": task["payload_key"] if message else None,
        "metadata": json.dumps(metadata, ensure_ascii=False) if metadata else None,
        "created_at": now,
    }
    return with_sealed(row, of=row, table="task_logs") if message else row


def record(tasks: Iterable[Row], event: str, **details: Any) -> None:
    """Stores the same event for each task; `details` are those that `event_row` takes."""
    tasks = list(tasks)
    rows = [event_row(task, event, **details) for task in tasks]
    record_rows(rows, of=tasks)
    if event in EVENTS_OF_CYCLES:
        _shorten([row["task_id"] for row in rows])


def record_rows(rows: Sequence[Row], *, of: Sequence[Row]) -> None:
    """Stores rows made by `event_row`, in order. `of` has the task of each, with its type.

    Once they are committed, the calls that wait for such events are woken.
    """
    insert_many("task_logs", rows)
    type_ids = [task["task_type_id"] for task in of]
    after_commit(lambda: wakeups().announce(lambda: _topics_of(rows, type_ids)))


def _topics_of(rows: Sequence[Row], type_ids: Sequence[int]) -> Iterator[str]:
    for row, type_id in zip(rows, type_ids, strict=True):
        status = row["status"]
        if status == "pending":
            yield topics.pending_of(type_id)
        elif status in ("completed", "failed", "cancelled"):
            yield topics.finished(row["task_id"])
        if status != "claimed":
            yield topics.ended_of(type_id)
    yield topics.EVENTS


def delete(task_ids: list[int]) -> None:
    """Deletes the whole history of these tasks, as part of the transaction that deletes them."""
    newest = _newest_id()
    execute("DELETE FROM {task_logs} WHERE task_id IN ?", (task_ids,))
    # SQLite numbers the next row from the highest id that is left; other servers count on.
    if dialect() is SQLITE and (left := _newest_id()) < newest:
        record_cut(left)


def _newest_id() -> int:
    return fetch_value("SELECT MAX(id) FROM {task_logs}") or 0


def record_cut(last_log_id: int) -> None:
    """Notes that the next row gets the id after this one, although it may have been given before.

    Part of a transaction. Whoever has read further goes on after `last_log_id`.
    """
    # An earlier cut at or behind this one sends nobody back who is not sent back by this one.
    execute("DELETE FROM {task_log_cuts} WHERE last_log_id >= ?", (last_log_id,))
    insert("task_log_cuts", {"last_log_id": last_log_id})
    execute(
        "UPDATE {task_log_readers} SET last_log_id = ?, slices = slices + 1 WHERE last_log_id > ?",
        (last_log_id, last_log_id),
    )


def _shorten(task_ids: Sequence[int]) -> None:
    """Removes the oldest events of those of these tasks that have more than MAX_EVENTS.

    The first event, the latest claim and the newest KEPT_EVENTS stay. The last of those removed
    becomes SHORTENED, which counts them. If many tasks are that long, the others come later.
    """
    for some in parts_of(task_ids, MAX_ROWS):
        long = fetch_all(
            "SELECT task_id, COUNT(*) AS events FROM {task_logs} WHERE task_id IN ? "
            "GROUP BY task_id HAVING COUNT(*) > ? ORDER BY COUNT(*) DESC LIMIT ?",
            (some, MAX_EVENTS, MAX_TASKS_SHORTENED),
        )
        for row in long:
            _remove_oldest(row["task_id"], row["events"] - 1 - KEPT_EVENTS)


def _remove_oldest(task_id: int, count: int) -> None:
    """Removes `count` events after the first, or MAX_REMOVED if that is less."""
    latest_claim = fetch_value(
        "SELECT id FROM {task_logs} WHERE task_id = ? AND event = 'claimed' "
        "ORDER BY id DESC LIMIT 1",
        (task_id,),
    )
    first, *oldest = fetch_all(
        "SELECT id, event, metadata, created_at FROM {task_logs} WHERE task_id = ? "
        "ORDER BY id LIMIT ?",
        (task_id, 1 + min(count, MAX_REMOVED)),
    )
    removed = [row for row in oldest if row["id"] != latest_claim]
    events: Counter[str] = Counter()
    since = format_time(removed[0]["created_at"])
    for row in removed:
        if row["event"] == SHORTENED:  # what was removed before
            earlier = json.loads(row["metadata"])
            since = earlier["since"]
            events.update(earlier["events"])
        else:
            events[row["event"]] += 1
    last = removed[-1]["id"]
    text = json.dumps({"events": events, "since": since})
    columns = ("status", "attempt", "worker_id", "api_key_id", "claim_token", "payload_key")
    nothing = dict.fromkeys(columns)
    message = f"{events.total():,} older events were removed."
    shortened = {**nothing, "event": SHORTENED, "message": message, "metadata": text}
    update("task_logs", shortened, "id = ?", (last,))
    execute(
        "DELETE FROM {task_logs} WHERE task_id = ? AND id > ? AND id < ? AND id <> ?",
        (task_id, first["id"], last, latest_claim or 0),
    )


def list_logs(*, task_id: int, limit: int, cursor: int | None) -> tuple[list[Row], int | None]:
    """A page of a task's history, oldest first, and the id of its last event if there are more.

    `cursor` is the id after which the page begins. The page ends before its limit if its
    messages and metadata are too large for one answer.
    """
    sizes = fetch_all(
        "SELECT id, COALESCE(LENGTH(message), 0) + COALESCE(LENGTH(metadata), 0) AS size "
        "FROM {task_logs} WHERE task_id = ? AND id > ? ORDER BY id LIMIT ?",
        (task_id, cursor or 0, limit + 1),
    )
    count = count_that_fits(row["size"] for row in sizes[:limit])
    ids = [row["id"] for row in sizes[:count]]
    found = []
    if ids:
        found = fetch_all(
            "SELECT * FROM {task_logs} WHERE task_id = ? AND id >= ? AND id <= ? ORDER BY id",
            (task_id, ids[0], ids[-1]),
        )
    return all_opened(found, "task_logs"), ids[-1] if len(sizes) > count else None


def list_attempt_errors(*, task_id: int) -> tuple[list[Row], bool]:
    """How the latest failed attempts of a task ended, oldest first; whether there were more.

    At most ATTEMPT_ERRORS_SHOWN, each reported or a lease that expired.
    """
    newest = fetch_all(
        "SELECT * FROM {task_logs} WHERE task_id = ? "
        "AND event IN ('retry_scheduled', 'failed', 'lease_expired') ORDER BY id DESC LIMIT ?",
        (task_id, ATTEMPT_ERRORS_SHOWN + 1),
    )
    shown = all_opened(newest[:ATTEMPT_ERRORS_SHOWN], "task_logs")
    return shown[::-1], len(newest) > len(shown)
