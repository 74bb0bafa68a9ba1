"""Calls that wait for something to happen before they are answered.

Owns how many calls of this process may wait, and what a call does meanwhile: it holds a thread, but
neither a database connection nor, under `taskmanager serve`, a place among the threads at work. The
first of those that wait for the same looks every LOOK_SECONDS, and when it is woken.
"""

import contextlib
import select
import socket
import time
from collections.abc import Callable, Collection, Hashable
from contextlib import AbstractContextManager
from typing import Any, Generic, NamedTuple, TypeVar

from flask import Flask, current_app, g, request

from taskmanager.api.auth import renew_caller
from taskmanager.clock import utc_now
from taskmanager.db.connection import park_connection, wakeups
from taskmanager.wakeups.waiters import Waiter, Wakeups

LOOK_SECONDS = 1.0
PAUSE_SECONDS = 0.01  # after a look in vain, however much happens meanwhile
_EXTENSION = "taskmanager.waiting_calls"

Answer = TypeVar("Answer")


class Look(NamedTuple, Generic[Answer]):
    """What a look has found. It is final unless one of the topics `waits_for` may change it."""

    answer: Answer
    waits_for: Collection[str] | None = None


class WaitingCalls:
    """The calls of one application that wait. `most` of them may; None: the server decides."""

    def __init__(self, most: int | None, wakeups: Wakeups) -> None:
        self._set, self.most, self._wakeups = most, most or 0, wakeups
        self.parked: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext

    @staticmethod
    def of(app: Flask) -> "WaitingCalls":
        found: WaitingCalls = app.extensions[_EXTENSION]
        return found

    def register(self, app: Flask) -> None:
        app.extensions[_EXTENSION] = self

    def use(self, most: int, *, parked: Callable[[], AbstractContextManager[None]]) -> None:
        """What the server offers: a number, unless the settings have one, and a place for others.

        Other requests are answered in the place of one within `parked()`.
        """
        self.most = most if self._set is None else self._set
        self.parked = parked

    def stop(self) -> None:
        """Lets all calls answer at once, and no further one wait. A signal handler may call it."""
        self._wakeups.stop()


def wait_until(
    look: Callable[[], Look[Answer]],
    *,
    seconds: float,
    line: Hashable,
    unless: str | None = None,
) -> Answer:
    """The answer of the first look that is final, or of the last one once `seconds` are over.

    Answers with what was found so far where no further call may wait, the server stops, the client
    has hung up, or the topic `unless` is announced. Calls with the same `line` wait for the same.
    Each look after the first has a new `g.now`, and `g.caller` as the key is by then.

    Raises what `look` raises; NotAuthenticated, NotAllowed where the key does not allow the call
    any more.
    """
    found = look()
    if found.waits_for is None or not seconds:
        return found.answer
    looked_at = time.monotonic() - PAUSE_SECONDS  # the next look is only to be sure
    ends_at = time.monotonic() + seconds
    calls = WaitingCalls.of(current_app)
    with wakeups().waiting(line, found.waits_for, most=calls.most, unless=unless) as waiter:
        while waiter and found.waits_for is not None:
            park_connection()
            with calls.parked():
                is_worth_a_look = _sleep(waiter, looked_at, ends_at)
            if not is_worth_a_look:
                break
            is_last = time.monotonic() >= ends_at
            g.now = utc_now()
            renew_caller()
            found = look()
            if is_last:
                break
            waiter.wait_for(found.waits_for or ())
            looked_at = time.monotonic()
    return found.answer


def _sleep(waiter: Waiter, looked_at: float, ends_at: float) -> bool:
    """Waits until there may be news or the time is over; False if nobody wants to know."""
    while True:
        left = ends_at - time.monotonic()
        was_woken = waiter.wait(min(LOOK_SECONDS, max(left, 0.0)))
        if wakeups().is_stopping or waiter.was_shut_down or _has_hung_up():
            return False
        if was_woken or waiter.is_first or left <= 0:
            time.sleep(max(0.0, looked_at + PAUSE_SECONDS - time.monotonic()))
            return True


def _has_hung_up() -> bool:
    """Whether the client has closed its connection, where the server shows it."""
    sock: Any = request.environ.get("gunicorn.socket")
    if sock is None:
        return False
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    try:
        return bool(poll.poll(0)) and sock.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True
