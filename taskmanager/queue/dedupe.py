"""De-duplication: the key of a task, and how long the task holds it.

A task holds its key as long as it exists (`forever`), until it is finished (`active`) or never
(`none`). With `dedupe_seconds`, `forever` ends so long after the task was created. Pruning ends it
too, unless the type has `dedupe_days`: then the task is emptied and keeps its key for so long
after its end. Two unique indexes decide, on (dedupe_key,
holds_key_forever) and (dedupe_key, holds_key_while_open): a NULL in the second column never
collides.
"""

import hashlib
import json
from typing import Any

from taskmanager.db.statements import Row
from taskmanager.payloads import keys_in_use

POLICIES = ("forever", "active", "none")
# What a request does to the task that exists already, if that still waits.
ON_DUPLICATE = ("keep", "replace", "postpone")
DEFAULT_POLICY = "forever"

# Above this a float no longer tells neighbouring integers apart (IEEE 754, 53-bit significand).
MAX_EXACT_FLOAT = 2**53


def canonical_json(value: Any) -> str:
    """One text for equal JSON values: keys sorted at every depth, no spaces, 1.0 as 1."""
    text = _sorted_text(value)
    # Written again only where a whole float may be in it: a copy of a megabyte takes long.
    return _sorted_text(_whole_floats_decoder.decode(text)) if ".0" in text else text


def _sorted_text(value: Any) -> str:
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def _whole_as_integer(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() and abs(number) <= MAX_EXACT_FLOAT else number


_whole_floats_decoder = json.JSONDecoder(parse_float=_whole_as_integer)


def dedupe_key(*, type_name: str, params: Any, requested_key: str | None = None) -> str:
    """64 hexadecimal digits: SHA-256 of the type's name, a NUL byte and the canonical JSON.

    `requested_key` replaces `params`. As a JSON string it never equals the text
    of any params, which are an object.
    """
    content = canonical_json(params if requested_key is None else requested_key)
    return hashlib.sha256(f"{type_name}\0{content}".encode()).hexdigest()


def stored_key(key: str, task_type: Row) -> str:
    """A key as a task of this type has it: without the server's secret, that of an encrypted one
    does not show what the params are.
    """
    return keys_in_use.hide_key(key) if task_type["is_encrypted"] else key


def possible_keys(*, type_name: str, requested_key: str) -> tuple[str, ...]:
    """The stored keys of tasks that were created with this one, encrypted or not."""
    return stored_keys(dedupe_key(type_name=type_name, params=None, requested_key=requested_key))


def stored_keys(key: str) -> tuple[str, ...]:
    """A key as any task has it: its type may have been encrypted, or not, when it was created."""
    return (key, *keys_in_use.hidden_keys(key))


def held_keys(policy: str) -> Row:
    """The columns by which an unfinished task of this policy holds its key."""
    return {
        "holds_key_forever": 1 if policy == "forever" else None,
        "holds_key_while_open": None if policy == "none" else 1,
    }


# The columns of a task that holds its key no longer.
NO_KEYS: Row = {"holds_key_forever": None, "holds_key_while_open": None}


def window_is_over(task: Row, now: int) -> bool:
    """Whether a task with `dedupe_seconds` was created so long ago that its key is free."""
    seconds = task["dedupe_seconds"]
    return seconds is not None and int(task["created_at"]) + seconds * 1000 <= now


def keys_of_retried(task: Row, now: int) -> Row:
    """The columns by which a task that is tried again holds its key."""
    return NO_KEYS if window_is_over(task, now) else held_keys(task["dedupe"])


# What becomes of them when a task is finished.
KEYS_WHEN_FINISHED: Row = {"holds_key_while_open": None}
