"""How the engines' SQL differs. A statement is written once, as a template; a dialect spells it.

In a template `?` stands for a value and braces for a word that depends on the engine or on the
table prefix:

    {tasks}                     a table, with the prefix
    {index tasks_by_worker}     reads the table that it follows through this index
    {unique tasks_key_forever}  the same for the index of a UNIQUE constraint
    {by_id}                     the same for the primary key
    {modulo}                    between two numbers: the rest of a division
    {lock_rows}                 closes a SELECT of rows that this transaction will change
    {lock_free_rows}            the same, but skips rows that another transaction has locked
"""

import re
from collections.abc import Sequence
from typing import NamedTuple


class Dialect(NamedTuple):
    """The words of one engine. A `%s` in a hint stands for the name of the index."""

    name: str
    placeholder: str
    lock_rows: str
    lock_free_rows: str
    modulo: str  # a % is how pymysql marks a value
    index_hint: str
    # SQLite names the index of a UNIQUE constraint itself, and finds it without a hint.
    unique_hint: str
    # MySQL would otherwise reach rows through an index that the statement changes, and lock the
    # neighbours that other transactions are at work on.
    by_id: str
    union_member: str  # a SELECT with its own ORDER BY and LIMIT inside a UNION ALL
    # For a connection that is to wait a second for a lock at most, and one that waits as usual.
    short_lock_wait: str
    usual_lock_wait: str

    def spell(self, template: str, prefix: str = "") -> str:
        """The statement of a template, for tables and indexes whose names begin with `prefix`."""

        def word(braces: re.Match[str]) -> str:
            hint, _, name = braces[1].rpartition(" ")
            if hint:
                return hints[hint].replace("%s", prefix + name)
            return words.get(name, prefix + name)

        hints = {"index": self.index_hint, "unique": self.unique_hint}
        words: dict[str, str] = self._asdict()
        return re.sub("{(.*?)}", word, template).replace("?", self.placeholder)

    def first_of(self, members: Sequence[str], order: str, limit: int) -> str:
        """The SELECT of the first rows of all members together; each reads an index in that order.

        SQLite takes the next row of one of them at a time, and stops. MySQL would
        read all there are, so there each member has the limit, and what is left is sorted.
        """
        if len(members) > 1 and self.name != "sqlite":
            members = [f"({member} ORDER BY {order} LIMIT {limit})" for member in members]
        return f"{' UNION ALL '.join(members)} ORDER BY {order} LIMIT {limit}"


SQLITE_BUSY_TIMEOUT_SECONDS = 10
SQLITE = Dialect(
    name="sqlite",
    placeholder="?",
    lock_rows="",
    lock_free_rows="",
    modulo="%",
    index_hint="INDEXED BY %s",
    unique_hint="",
    by_id="NOT INDEXED",
    union_member="SELECT * FROM (%s)",
    short_lock_wait="PRAGMA busy_timeout = 0",
    usual_lock_wait=f"PRAGMA busy_timeout = {SQLITE_BUSY_TIMEOUT_SECONDS * 1000}",
)
MYSQL = Dialect(
    name="mysql",
    placeholder="%s",
    lock_rows="FOR UPDATE",
    lock_free_rows="FOR UPDATE SKIP LOCKED",
    modulo="MOD",
    index_hint="FORCE INDEX (%s)",
    unique_hint="FORCE INDEX (%s)",
    by_id="FORCE INDEX (PRIMARY)",
    union_member="(%s)",
    # The first is for FLUSH TABLES WITH READ LOCK, which backups use.
    short_lock_wait="SET SESSION lock_wait_timeout = 1, innodb_lock_wait_timeout = 1",
    usual_lock_wait="SET SESSION lock_wait_timeout = DEFAULT, innodb_lock_wait_timeout = DEFAULT",
)
