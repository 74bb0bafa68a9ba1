"""The orders in which tasks can be claimed, as data: each is an index, read one way or the other.

Tasks get their ids in the order in which they are stored, so `created_at` and
`id` are one order. Read backwards, ties are broken newest first.
"""

from typing import NamedTuple


class ClaimOrder(NamedTuple):
    """`column` is the first of the index after type and status; `id` is always the last."""

    index_name: str
    column: str
    backwards: bool

    @property
    def order_by(self) -> str:
        direction = "DESC" if self.backwards else "ASC"
        columns = [self.column] if self.column == "id" else [self.column, "id"]
        return ", ".join(f"{column} {direction}" for column in columns)

    @property
    def from_head(self) -> str:
        """The condition that a task is not before the one that note_head() has noted."""
        after = "<" if self.backwards else ">"
        if self.column == "id":
            return f"id {after}= @head_id"
        return (
            f"({self.column} = @head_value AND id {after}= @head_id "
            f"OR {self.column} {after} @head_value)"
        )


CLAIM_ORDERS = {
    ("priority", "DESC"): ClaimOrder("tasks_claim_by_priority", "claim_rank", backwards=False),
    ("priority", "ASC"): ClaimOrder("tasks_claim_by_priority", "claim_rank", backwards=True),
    ("created_at", "ASC"): ClaimOrder("tasks_claim_by_id", "id", backwards=False),
    ("created_at", "DESC"): ClaimOrder("tasks_claim_by_id", "id", backwards=True),
    ("id", "ASC"): ClaimOrder("tasks_claim_by_id", "id", backwards=False),
    ("id", "DESC"): ClaimOrder("tasks_claim_by_id", "id", backwards=True),
    ("attempts", "ASC"): ClaimOrder("tasks_claim_by_attempts", "attempts", backwards=False),
    ("attempts", "DESC"): ClaimOrder("tasks_claim_by_attempts", "attempts", backwards=True),
}
SORT_COLUMNS = ("priority", "created_at", "id", "attempts")

# Where only `sort_by` is given: what a person would expect of that column.
DEFAULT_DIRECTION = {"priority": "DESC", "created_at": "ASC", "id": "ASC", "attempts": "ASC"}
DEFAULT_COLUMN = "priority"


def claim_order(sort_by: str | None, sort_order: str | None) -> ClaimOrder:
    """The order for a claim; either part may be left out. `sort_order` in either case."""
    column = sort_by or DEFAULT_COLUMN
    return CLAIM_ORDERS[column, (sort_order or DEFAULT_DIRECTION[column]).upper()]
