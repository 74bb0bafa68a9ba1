"""Turns rows of the PHP TaskManager into rows of this queue. Knows no database.

Ids stay. What has no place here is changed as little as possible, and noted.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from taskmanager.db.statements import Row
from taskmanager.errors import ValidationFailed
from taskmanager.params import validation
from taskmanager.params.empty_objects import object_of, schema_with_objects
from taskmanager.queue import dedupe
from taskmanager.queue.columns import params_text
from taskmanager.queue.complete import MAX_ERROR_CHARACTERS
from taskmanager.queue.read import FINISHED_STATUSES
from taskmanager.transfer.php.notes import Notes

MAX_PRIORITY = 1_000_000
MAX_ATTEMPTS = 2**31 - 1
ANY_OBJECT = {"type": "object"}
# The event of each of its changes of status, and the status after it. Others keep their names.
EVENTS = {
    "created": ("created", "pending"),
    "claimed": ("claimed", "claimed"),
    "progress_update": ("progress", None),
    "completed": ("completed", "completed"),
    "failed": ("failed", "failed"),
    "pending (retry)": ("retry_scheduled", "pending"),
}
NO_OBJECT = "The params are not a JSON object."
FAILED_ATTEMPT = ("failed", "retry_scheduled")
FAILURE = json.dumps({"error_code": None, "is_retryable": True})


class Conversion:
    """One import: types first, then tasks, then their history, each row by row.

    It holds the name of each type and, for each task, its id and half of its dedupe key.
    """

    def __init__(self, *, max_attempts: int, retention_ms: int, now: int) -> None:
        self.notes = Notes()
        self._max_attempts = max_attempts
        self._keeps_since = now - retention_ms if retention_ms else 0
        self._now = now
        self._types: dict[int, tuple[str, str]] = {}  # id → name, version
        self._names: set[str] = set()
        self._holders: dict[bytes, int] = {}  # the beginning of a dedupe key → the task that has it
        self._claims: dict[int, int] = {}  # the id of each task → its claims in the history so far
        self._moved: list[Row] = []  # events of the import itself

    def task_type(self, row: Row) -> tuple[Row, Row]:
        """The type and its one version."""
        name = self._free_name(row["name"] or "", row["id"])
        schema, problem = _usable_schema(row["param_schema_json"])
        if problem:
            self.notes.add("type_inactive", f"{name}: {problem}")
        version = _plain(row["version"]).strip()[:50] or "1"
        self._types[row["id"]] = name, version
        times = self._times(row)
        type_row = {
            "id": row["id"],
            "name": name,
            "version": version,
            "is_active": int(bool(row["is_active"]) and not problem),
            "is_paused": 0,
            **times,
        }
        version_row = {
            "id": row["id"],
            "task_type_id": row["id"],
            "version": version,
            "param_schema": params_text(schema),
            **times,
        }
        return type_row, version_row

    def _free_name(self, given: str, type_id: int) -> str:
        name = re.sub(r"[^A-Za-z0-9._-]", "_", given) or "_"
        if name in self._names:
            name = f"{name[:240]}_{type_id}"
        if name != given:
            self.notes.add("type_renamed", f"{given} is now {name}")
        self._names.add(name)
        return name

    def task(self, row: Row) -> Row | None:
        """None for a task whose type does not exist."""
        task_id = row["id"]
        if row["type_id"] not in self._types:
            self.notes.add("without_type", task_id)
            return None
        self._claims[task_id] = 0
        type_name, version = self._types[row["type_id"]]
        params, is_broken = _params(row["params_json"])
        status = self._status(row, is_broken)
        is_finished = status in FINISHED_STATUSES
        times = self._times(row)
        completed_at = self._completed_at(row, times, status) if is_finished else None
        priority = max(-MAX_PRIORITY, min(row["priority"] or 0, MAX_PRIORITY))
        error_message = self._text(row["error_message"], task_id)
        is_invalid = is_broken and status == "failed"
        return {
            "id": task_id,
            "task_type_id": row["type_id"],
            "type_version": version,
            "status": status,
            "params": params_text(params),
            "result": self._result(row["result_json"], task_id),
            "error_message": error_message or (NO_OBJECT if is_invalid else None),
            "error_code": "invalid_params" if is_invalid else None,
            "priority": priority,
            "claim_rank": -priority,
            "progress": _progress(row["progress"], status),
            **self._attempts(row, is_finished),
            **self._key(task_id, dedupe.dedupe_key(type_name=type_name, params=params), status),
            "worker_id": (_plain(row["claimed_by"])[:255] or None) if is_finished else None,
            "claimed_at": row["claimed_at"] if is_finished else None,
            "available_at": times["created_at"],
            "completed_at": completed_at,
            **times,
        }

    def _status(self, row: Row, is_broken: bool) -> str:
        """The status here; an event in the history says so where it is another one."""
        status, task_id = row["status"], row["id"]
        if status not in ("pending", "claimed", *FINISHED_STATUSES):
            self.notes.add("status", task_id)
            status = "failed"
        if is_broken:
            self.notes.add("params", task_id)
            if status in ("pending", "claimed"):
                self._add_event(task_id, "failed", "failed", NO_OBJECT)
                return "failed"
        if status == "claimed":
            self.notes.add("claimed", task_id)
            self._add_event(task_id, "released", "pending", "Imported from the PHP TaskManager.")
            return "pending"
        return str(status)

    def _add_event(self, task_id: int, event: str, status: str, message: str) -> None:
        row = {"task_id": task_id, "event": event, "status": status, "message": message}
        self._moved.append({**row, "created_at": self._now})

    def _completed_at(self, row: Row, times: Row, status: str) -> int:
        """A task that only the import has ended is kept as long as one that has just failed."""
        if status != row["status"]:
            return self._now
        completed_at: int = row["completed_at"] or times["updated_at"]
        if completed_at < self._keeps_since:
            self.notes.add("pruned_soon", row["id"])
        return completed_at

    def _attempts(self, row: Row, is_finished: bool) -> Row:
        """An unfinished task has at least one attempt left. One that the import ends is free."""
        attempts = max(0, min(row["attempts"] or 0, MAX_ATTEMPTS))
        if not is_finished:
            attempts = max(0, attempts - (row["status"] == "claimed"))
            attempts = min(attempts, self._max_attempts - 1)
        return {"attempts": attempts, "max_attempts": max(self._max_attempts, min(attempts, 100))}

    def _key(self, task_id: int, key: str, status: str) -> Row:
        """Of tasks with the same key the first holds it."""
        holder = self._holders.setdefault(bytes.fromhex(key[:32]), task_id)
        if holder != task_id:
            self.notes.add("duplicate", f"{task_id} like {holder}")
        policy = dedupe.DEFAULT_POLICY if holder == task_id else "none"
        held = dedupe.held_keys(policy)
        if status in FINISHED_STATUSES:
            held |= dedupe.KEYS_WHEN_FINISHED
        return {"dedupe": policy, "dedupe_key": key, **held}

    def _result(self, text: str | None, task_id: int) -> str | None:
        if text is None:
            return None
        try:
            return json.dumps(_parsed(text), ensure_ascii=False, separators=(",", ":"))
        except ValueError:
            self.notes.add("result", task_id)
            return json.dumps(text, ensure_ascii=False)

    def event(self, row: Row) -> Row | None:
        """None for an entry whose task does not exist."""
        if row["task_id"] not in self._claims:
            self.notes.add("without_task", row["id"])
            return None
        change = _plain(row["status_change"])
        event, status = EVENTS.get(change, (change[:32] or "unknown", None))
        self._claims[row["task_id"]] += event == "claimed"
        return {
            "id": row["id"],
            **self._of_attempt(row["task_id"], event),
            "status": status,
            "worker_id": _plain(row["worker_id"])[:255] or None,
            "message": self._text(row["message"], row["task_id"]),
            "created_at": row["created_at"] or self._now,
        }

    def events_of_import(self, first_id: int) -> Iterator[Row]:
        """What the import itself has changed, as the latest entries of the history."""
        for event_id, row in enumerate(self._moved, first_id):
            yield {"id": event_id, **row, **self._of_attempt(row["task_id"], row["event"])}

    def _of_attempt(self, task_id: int, event: str) -> Row:
        is_failure = event in FAILED_ATTEMPT
        return {
            "task_id": task_id,
            "event": event,
            "attempt": self._claims[task_id] or (1 if is_failure else None),
            "metadata": FAILURE if is_failure else None,
        }

    def _text(self, text: str | None, task_id: int) -> str | None:
        plain = _plain(text)
        if len(plain) > MAX_ERROR_CHARACTERS:
            self.notes.add("shortened", task_id)
        return plain[:MAX_ERROR_CHARACTERS] or None

    def _times(self, row: Row) -> Row:
        created_at = row["created_at"] or row["updated_at"] or self._now
        return {"created_at": created_at, "updated_at": row["updated_at"] or created_at}


def _plain(text: str | None) -> str:
    """Without the character U+0000, which no request may contain either."""
    return (text or "").replace("\0", "\ufffd")


def _parsed(text: str) -> Any:
    """JSON that can be stored and answered again. Raises ValueError for any other text."""
    try:
        value = json.loads(text)
        json.dumps(
            value, ensure_ascii=False, allow_nan=False
        ).encode()  # no half of a surrogate pair
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    return value


def _params(text: str | None) -> tuple[dict[str, Any], bool]:
    """The params, and whether they are only a replacement for what is not a JSON object."""
    try:
        params = object_of(_parsed(text or ""))
    except ValueError:
        params = None
    if isinstance(params, dict):
        return params, False
    return {"params_json": text}, True


def _progress(percent: int | None, status: str) -> int | None:
    if status == "completed":
        return 100
    return max(0, min(percent or 0, 100)) if status == "failed" else None


def _usable_schema(text: str | None) -> tuple[dict[str, Any], str]:
    """A schema, and what is wrong with the given one, which is then only a comment."""
    try:
        schema = schema_with_objects(_parsed(text or ""))
        validation.check_schema(schema)
        return schema, ""
    except ValidationFailed as error:
        problem = error.message.partition(": ")[2] or error.message
    except ValueError:
        problem = "it is not JSON"
    return {**ANY_OBJECT, "$comment": _plain(text)}, problem
