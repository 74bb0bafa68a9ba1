"""Write transactions: outermost, locked from the start on SQLite, run again when rolled back.

When the server throws a transaction away (deadlock, lock wait, lost connection), the whole of it
is run again, never a part.
"""

import functools
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import peewee

from taskmanager.db.connection import close_connection, database
from taskmanager.db.errors import CONTENDED, is_conflict, is_rolled_back, refused
from taskmanager.errors import DatabaseUnavailable

log = logging.getLogger(__name__)

MAX_TRANSACTION_RUNS = 10
# A server finds a conflict at once. On a cluster one of the nodes wins, of all that write a row.
MAX_RUNS_IN_CONFLICT = 40
MAX_BACKOFF_SECONDS = 0.25
MAX_REST_SECONDS = 0.1
P = ParamSpec("P")
R = TypeVar("R")


# Of each thread: `after_commit`, what is to be done once its transaction is committed.
_own = threading.local()


def after_commit(action: Callable[[], object]) -> None:
    """Does something once the present write transaction is committed; never if it is not."""
    _own.after_commit.append(action)


class SnapshotTooOld(Exception):
    """What the transaction sees has changed since, and only a new transaction can look again."""


def write_transaction(operation: Callable[P, R]) -> Callable[P, R]:
    """Runs the whole function as one transaction: all of it is committed, or nothing.

    The function may run several times: whatever it does besides SQL must be
    repeatable. It is run again when the server has rolled it back (deadlock,
    lock wait, Galera certification), the connection was lost before COMMIT, or
    the function has raised SnapshotTooOld.
    A connection lost during COMMIT is not repeated, since nobody can know
    whether it was done: the caller gets DatabaseUnavailable and asks again.

    Raises DatabaseUnavailable, and RuntimeError when called inside another
    transaction (peewee would turn it into a savepoint and drop the lock).
    """

    @functools.wraps(operation)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if database.in_transaction():
            raise RuntimeError(f"{operation.__name__} must be the outermost transaction")
        attempt = 0
        while True:
            attempt += 1
            try:
                return _run_once(operation, args, kwargs)
            except SnapshotTooOld:
                if attempt >= MAX_RUNS_IN_CONFLICT:
                    raise refused(CONTENDED) from None
            except DatabaseUnavailable:
                close_connection()
                raise
            except peewee.IntegrityError:
                raise
            except (peewee.DatabaseError, peewee.InterfaceError) as error:
                is_lost, is_undone = database.is_lost(error), is_rolled_back(error)
                if is_lost:
                    close_connection()
                elif is_undone:
                    database.cache.conflict_at = time.monotonic()
                most = MAX_RUNS_IN_CONFLICT if is_conflict(error) else MAX_TRANSACTION_RUNS
                if attempt >= most or not (is_lost or is_undone):
                    raise database.given_up(error) from error
                log.info("transaction %s again: %s", operation.__name__, error)
            time.sleep(random.uniform(0, min(MAX_BACKOFF_SECONDS, 0.005 * 2**attempt)))  # noqa: S311

    return run


def _run_once(operation: Callable[..., R], args: Any, kwargs: Any) -> R:
    engine = database.obj
    engine.connection()  # peewee forgets that it is in a transaction when it connects within one
    _own.after_commit = []
    is_open = False
    try:
        with engine.manual_commit():
            try:
                engine.begin()
                result = operation(*args, **kwargs)
                _commit(engine)
            except BaseException:
                try:
                    engine.rollback()
                except peewee.PeeweeException:
                    # A lost connection cannot roll back and need not: the server does when it
                    # notices. Any other may still be in the transaction: nobody may go on in it.
                    is_open = True
                raise
    finally:
        if is_open:
            close_connection()  # peewee refuses that until its block has ended
    for action in _own.after_commit:
        action()
    return result


def _commit(engine: peewee.Database) -> None:
    try:
        engine.commit()
    except (peewee.DatabaseError, peewee.InterfaceError) as error:
        if not database.is_lost(error):
            raise
        raise DatabaseUnavailable(
            "The connection to the database was lost at the last moment, and it cannot "
            "be told whether this was done. Look, or send the same again."
        ) from error


def rest_since(started: float) -> None:
    """Between two slices of a long work: rests for as long as the last one took, but not for long.

    `started` is when it began, in time.monotonic(). SQLite's waiting writers look only now and
    then whether the lock is free, and would otherwise starve.
    """
    time.sleep(min(time.monotonic() - started, MAX_REST_SECONDS))
