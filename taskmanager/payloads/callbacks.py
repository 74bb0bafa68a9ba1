"""The params of the tasks that a batch will create, sealed in the row that the batch keeps.

They are sealed for their type: the batch has no id when they are checked, and the task neither.
"""

from taskmanager.db.statements import Row
from taskmanager.payloads.sealing import find_key


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
