"""The params of the tasks that a batch will create, sealed in the row that the batch keeps.

They are sealed for their type: the batch has no id when they are checked, and the task neither.
"""

import json

from taskmanager.db.statements import Row
from taskmanager.payloads.sealing import find_key

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


def _place(row: Row) -> str:
    return f"params of a batch's task of type id {row['task_type_id']}"
