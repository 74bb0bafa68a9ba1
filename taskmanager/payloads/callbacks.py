"""The params of the tasks that a batch will create, sealed in the row that the batch keeps.

They are sealed for their type: the batch has no id when they are checked, and the task neither.
"""

import json
from typing import TYPE_CHECKING

from taskmanager.db.statements import Row, fetch_value
from taskmanager.payloads import keys_in_use
from taskmanager.payloads.sealing import find_key, require_keyring

if TYPE_CHECKING:
    from taskmanager.payloads.keyring import Keyring

# The columns of a batch that have such rows, as JSON.
CALLBACKS = ("on_finished", "on_completed", "on_failed")


def in_plain(batch: Row) -> Row:
    """A row of batches whose callbacks are not encrypted. Raises PayloadUnreadable."""
    return batch | {name: _in_plain(batch[name]) for name in CALLBACKS if batch[name]}


def _in_plain(text: str) -> str:
    row: Row = json.loads(text)
    return json.dumps({**row, "params": opened_params(row), "payload_key": None})


def sealed_params(row: Row) -> str:
    """The params of a row for `store_tasks`, as a batch stores them."""
    params: str = row["params"]
    if row["payload_key"] is None:
        return params
    return find_key(row["payload_key"]).seal(params, _place(row))


def opened_params(row: Row) -> str:
    """The params of such a row, from a batch. Raises PayloadUnreadable."""
    params: str = row["params"]
    if row["payload_key"] is None:
        return params
    return find_key(row["payload_key"]).open(params, _place(row))


def is_sealed(text: str) -> bool:
    """Whether such a row, as JSON, has sealed params."""
    return json.loads(text)["payload_key"] is not None


def payload_key_of(row: Row) -> str | None:
    """The key for the task of such a row: its type may have become encrypted since."""
    key: str | None = row["payload_key"]
    if key is None and keys_in_use.is_noted() and _is_of_encrypted_type(row):
        return require_keyring().current.id
    return key


def _is_of_encrypted_type(row: Row) -> bool:
    query = "SELECT is_encrypted FROM {task_types} WHERE id = ?"
    return bool(fetch_value(query, (row["task_type_id"],)))


def under_first_key(text: str, keys: "Keyring") -> str:
    """Such a row as JSON, sealed with the first key if its type is encrypted or it was sealed."""
    row: Row = json.loads(text)
    if row["payload_key"] == keys.current.id:
        return text
    if row["payload_key"] is None and not _is_of_encrypted_type(row):
        return text
    row |= {"params": opened_params(row), "payload_key": keys.current.id}
    return json.dumps({**row, "params": sealed_params(row)}, ensure_ascii=False)


def _place(row: Row) -> str:
    return f"params of a batch's task of type id {row['task_type_id']}"
