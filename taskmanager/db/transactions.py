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
from taskmanager.db.errors import is_connection_lost, is_rolled_back, translated
from taskmanager.errors import DatabaseUnavailable

log = logging.getLogger(__name__)

MAX_TRANSACTION_RUNS = 10
MAX_BACKOFF_SECONDS = 0.25
P = ParamSpec("P")
R = TypeVar("R")


class _PerThread(threading.local):
    """`after_commit`: what is to be done once the thread's transaction is committed."""

    def __init__(self) -> None:
        self.after_commit: list[Callable[[], object]] = []


_own = _PerThread()


def after_commit(action: Callable[[], object]) -> None:
    """Does something once the present write transaction is committed; never if it is not."""
    _own.after_commit.append(action)


def write_transaction(operation: Callable[P, R]) -> Callable[P, R]:
    """Runs the whole function as one transaction: all of it is committed, or nothing.

    The function may run several times: whatever it does besides SQL must be
    repeatable. It is run again when the server has rolled it back (deadlock,
    lock wait, Galera certification) or the connection was lost before COMMIT.
    A connection lost during COMMIT is not repeated, since nobody can know
    whether it was done: the caller gets DatabaseUnavailable and asks again.

    Raises DatabaseUnavailable, and RuntimeError when called inside another
    transaction (peewee would turn it into a savepoint and drop the lock).
    """

    @functools.wraps(operation)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if database.in_transaction():
            raise RuntimeError(f"{operation.__name__} must be the outermost transaction")
        for attempt in range(1, MAX_TRANSACTION_RUNS + 1):
            try:
                return _run_once(operation, args, kwargs)
            except DatabaseUnavailable:
                close_connection()
                raise
            except (_RolledBack, _ConnectionLost) as failure:
                if isinstance(failure, _ConnectionLost):
                    close_connection()
                if failure.ambiguous:
                    raise DatabaseUnavailable(
                        "The connection to the database was lost at the last moment, and it cannot "
                        "be told whether this was done. Look, or send the same again."
                    ) from failure.error
                if attempt == MAX_TRANSACTION_RUNS:
                    raise database.given_up(failure.error) from failure.error
                log.info("transaction %s again: %s", operation.__name__, failure.error)
            time.sleep(random.uniform(0, min(MAX_BACKOFF_SECONDS, 0.005 * 2**attempt)))  # noqa: S311
        raise AssertionError("unreachable: the last run returns or raises")

    return run


class _RolledBack(Exception):
    """The server has undone the transaction; the same may be tried again."""

    def __init__(self, error: Exception, *, ambiguous: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.ambiguous = ambiguous


class _ConnectionLost(_RolledBack):
    """The connection is gone; with it the transaction, unless it was lost during COMMIT."""


def _run_once(operation: Callable[..., R], args: Any, kwargs: Any) -> R:
    engine = database.obj
    try:
        # Peewee forgets that it is in a transaction when it connects within one.
        engine.connection()
    except (peewee.DatabaseError, peewee.InterfaceError) as error:
        raise _failure(error) from error
    _own.after_commit = []
    committing, is_open = False, False
    try:
        with engine.manual_commit():
            try:
                engine.begin()
                result = operation(*args, **kwargs)
                committing = True
                engine.commit()
            except BaseException as error:
                is_open = not _roll_back(engine)
                if isinstance(error, peewee.IntegrityError):
                    raise
                if isinstance(error, (peewee.DatabaseError, peewee.InterfaceError)):
                    raise _failure(error, during_commit=committing) from error
                raise
    finally:
        if is_open:
            close_connection()  # peewee refuses that until its block has ended
    for action in _own.after_commit:
        action()
    return result


def _roll_back(engine: peewee.Database) -> bool:
    """Whether it worked. Else a transaction may still be open, and nobody may go on in it.

    A lost connection cannot roll back and need not: the server does when it notices.
    """
    try:
        engine.rollback()
    except peewee.PeeweeException:
        return False
    return True


def _failure(error: Exception, *, during_commit: bool = False) -> Exception:
    if is_connection_lost(error):
        return _ConnectionLost(error, ambiguous=during_commit)
    if is_rolled_back(error):
        return _RolledBack(error)
    return translated(error)
