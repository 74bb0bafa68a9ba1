"""The database of this process: pointing at it, its dialect, this thread's connection.

Refuses to know any table.
"""

import os

import peewee

from taskmanager.db.dialect import Dialect
from taskmanager.db.sqlite.engine import sqlite_engine

database = peewee.DatabaseProxy()


def connect_database(
    url: str, *, sqlite_synchronous: str = "FULL", idle_seconds: float = 60
) -> None:
    """Points the proxy at `url`; no connection is opened before the first statement.

    Raises ConfigurationError where the URL cannot be understood.
    """
    engine: peewee.Database
    if url.startswith("sqlite:///"):
        engine = sqlite_engine(url, sqlite_synchronous)
    else:
        # PyMySQL and TLS take a while to load, and SQLite needs none of it.
        from taskmanager.db.mysql.engine import mysql_engine

        engine = mysql_engine(url, idle_seconds)
    if database.obj is not None:
        close_connection()
    database.initialize(engine)


def dialect() -> Dialect:
    """The dialect of the database that is connected."""
    found: Dialect = database.obj.dialect
    return found


def skips_locked() -> bool:
    """Whether `lock_free_rows` may be used; where not, rows must be taken by guarded updates.

    Found out once per database. On SQLite nobody else holds a lock within a write transaction.
    """
    skips: bool = database.obj.skips_locked()
    return skips


def close_connection() -> None:
    """Closes this thread's connection in whatever state; the next statement opens another.

    On MySQL also those that no thread uses.
    """
    if database.obj is not None:
        database.close_quietly()


def release_connection() -> None:
    """This thread needs none for now: another one may use it, and if nobody does it is closed.

    Nothing happens within a transaction, nor on SQLite, where an open connection is an open file.
    """
    database.release()


def forget_connections_of_parent() -> None:
    """A forked child must not talk over, nor close, a connection that its parent still uses."""
    if database.obj is not None:
        database.dispose()


os.register_at_fork(after_in_child=forget_connections_of_parent)
