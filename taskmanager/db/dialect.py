"""What the engines share: words in which their SQL differs, recovery, and options of a URL.

Refuses to know any table, and which engine is in use: database.py holds that.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Dialect(NamedTuple):
    """What differs between the engines, as words to put into a statement."""

    name: str
    placeholder: str
    lock_rows: str  # closes a SELECT of rows that this transaction will change
    lock_free_rows: str  # the same, leaving out rows that another transaction has locked
    use_index: str  # follows the table's name; `{}` is the index
    # The same for the index of a UNIQUE constraint. SQLite names that one itself, and finds it.
    use_unique: str
    # The same for rows looked up by id: MySQL would otherwise reach them through an index that the
    # statement changes, and lock the neighbours that other transactions are at work on.
    by_id: str
    union_member: str  # a SELECT with its own ORDER BY and LIMIT inside a UNION ALL

    def sql(self, statement: str) -> str:
        return statement.replace("?", self.placeholder)

    def first_of(self, members: Sequence[str], order: str, limit: int) -> str:
        """The SELECT of the first rows of all members together; each reads an index in that order.

        SQLite takes the next row of one of them at a time, and stops. MySQL would
        read all there are, so there each member has the limit, and what is left is sorted.
        """
        if len(members) > 1 and self.name != "sqlite":
            members = [f"({member} ORDER BY {order} LIMIT {limit})" for member in members]
        return f"{' UNION ALL '.join(members)} ORDER BY {order} LIMIT {limit}"


SQLITE = Dialect(
    name="sqlite",
    placeholder="?",
    lock_rows="",
    lock_free_rows="",
    use_index="INDEXED BY {}",
    use_unique="",
    by_id="NOT INDEXED",
    union_member="SELECT * FROM ({})",
)
MYSQL = Dialect(
    name="mysql",
    placeholder="%s",
    lock_rows="FOR UPDATE",
    lock_free_rows="FOR UPDATE SKIP LOCKED",
    use_index="FORCE INDEX ({})",
    use_unique="FORCE INDEX ({})",
    by_id="FORCE INDEX (PRIMARY)",
    union_member="({})",
)
