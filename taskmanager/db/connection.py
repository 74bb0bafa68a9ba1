"""The database of the application at work: pointing at it, and this thread's connection to it."""

import atexit
import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import peewee

from taskmanager.db.cache import Cache
from taskmanager.db.dialect import SQLITE, Dialect
from taskmanager.db.sqlite.engine import sqlite_engine
from taskmanager.wakeups.waiters import Wakeups

# All of this process, until they are disconnected: for a child that is forked, and for the end.
_engines: set[Any] = set()
_chosen: ContextVar[Any] = ContextVar("database of the application at work", default=None)


class _CurrentDatabase(peewee.DatabaseProxy):
    """What the models and statements talk to: the database chosen in this context, else the latest.

    One process may hold several applications, each with a database of its own.
    """

    __slots__ = ("latest",)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # peewee's own knows the slots of its class alone

    @property
    def obj(self) -> Any:
        return _chosen.get() or self.latest

    @obj.setter
    def obj(self, engine: Any) -> None:
        self.latest = engine


database = _CurrentDatabase()


def connect_database(
    url: str,
    *,
    sqlite_synchronous: str = "FULL",
    idle_seconds: float = 60,
    table_prefix: str = "",
    keyring: Any = None,
    wakeups_folder: Path | None = None,
) -> peewee.Database:
    """Makes the database at `url` the current one; the first statement opens a connection.

    `keyring` is a payloads.keyring.Keyring, or None. The processes of the host that use the
    database share `wakeups_folder`.

    Raises ConfigurationError where the URL cannot be understood.
    """
    engine: peewee.Database
    if url.startswith("sqlite:///"):
        engine = sqlite_engine(url, synchronous=sqlite_synchronous, table_prefix=table_prefix)
    else:
        # PyMySQL and TLS take a while to load, and SQLite needs none of it.
        from taskmanager.db.mysql.engine import mysql_engine

        engine = mysql_engine(url, idle_seconds=idle_seconds, table_prefix=table_prefix)
    engine.keyring = keyring
    engine.wakeups = Wakeups(wakeups_folder)
    _engines.add(engine)
    use_database(engine)
    database.initialize(engine)
    return engine


def use_database(engine: peewee.Database) -> None:
    """Chooses one of the connected databases for the rest of this context, such as a thread."""
    _chosen.set(engine)


@contextlib.contextmanager
def other_database(url: str) -> Iterator[None]:
    """Within it this context uses the MySQL or MariaDB database at `url`, of another program.

    Raises ConfigurationError where the URL cannot be understood.
    """
    from taskmanager.db.mysql.engine import mysql_engine

    at_work = database.obj
    other = mysql_engine(url, idle_seconds=0, table_prefix="")
    use_database(other)
    try:
        yield
    finally:
        other.close_quietly()
        use_database(at_work)


def disconnect_database(engine: peewee.Database) -> None:
    """Ends the use of a database: closes this thread's connection and those that no thread uses."""
    engine.close_quietly()  # type: ignore[attr-defined]
    _engines.discard(engine)
    if _chosen.get() is engine:
        _chosen.set(None)
    if database.latest is engine:
        database.initialize(None)


def cache() -> Cache:
    """What this process remembers of the current database."""
    remembered: Cache = database.obj.cache
    return remembered


def wakeups() -> Wakeups:
    """What wakes the calls that wait for something in the current database."""
    found: Wakeups = database.obj.wakeups
    return found


def park_connection() -> None:
    """Lets go of this thread's connection for a while; the next statement opens or finds one."""
    if dialect() is SQLITE:
        close_connection()
    else:
        release_connection()


def dialect() -> Dialect:
    """The dialect of the current database."""
    found: Dialect = database.obj.dialect
    return found


def skips_locked() -> bool:
    """Whether `{lock_free_rows}` may be used; where not, rows must be taken by guarded updates.

    Found out once per database. On SQLite nobody else holds a lock within a write transaction.
    """
    skips: bool = database.obj.skips_locked()
    return skips


def keeps_snapshot() -> bool:
    """Whether a transaction that looks again sees the same, while others change it.

    So it is on MySQL servers whose binary log has statements. Locking SELECTs see the present.
    """
    keeps: bool = database.obj.keeps_snapshot()
    return keeps


def how_to_look() -> str:
    """The end of a SELECT in a transaction that has to see the present, also where it has looked
    before.
    """
    return " {lock_rows}" if keeps_snapshot() else ""


def is_clustered() -> bool:
    """Whether the server is a node of a Galera cluster, where locks are local to a node."""
    is_node: bool = database.obj.is_clustered()
    return is_node


def meets_other_nodes() -> bool:
    """Whether another node of a Galera cluster has, in the last second, committed first what this
    process was doing.
    """
    meets: bool = database.obj.meets_other_nodes()
    return meets


def takes(text: str) -> bool:
    """Whether the database can store a text in a row of otherwise small values.

    MySQL servers limit the statement that holds it (max_allowed_packet).
    """
    is_taken: bool = database.obj.takes(text)
    return is_taken


def close_connection() -> None:
    """Closes this thread's connection in whatever state; the next statement opens another.

    On MySQL also those that no thread uses.
    """
    if database.obj is not None:
        database.close_quietly()


def release_connection() -> None:
    """Lets another thread use this thread's connection; if none does, it is closed after a while.

    Nothing happens within a transaction, nor on SQLite, where an open connection is an open file.
    """
    database.release()


def forget_connections_of_parent() -> None:
    """A forked child must not use, nor close, a connection that its parent still uses."""
    for engine in _engines:
        engine.dispose()


def close_all_connections() -> None:
    """Closes this thread's connections to all databases, and on MySQL those that no thread uses.

    At the end of a process: MySQL counts a connection that ends without a word as aborted, and
    MariaDB writes it to its log. A command in cron would add a line there every minute.
    """
    for engine in list(_engines):
        engine.close_quietly()


os.register_at_fork(after_in_child=forget_connections_of_parent)
atexit.register(close_all_connections)
