"""Keeps open connections that no thread needs just now, and closes each that nobody comes back for.

A connection is in one place: with the one thread that uses it, or here. Who takes it from here,
a thread for its next request or the timer to close it, has it alone: so none is closed in use.
Refuses to know more of a connection than that it can be closed.
"""

import contextlib
import threading
import time
from collections import deque
from typing import Protocol


class Connection(Protocol):
    """What is kept here."""

    def close(self) -> None:
        """Says goodbye to the server."""


class IdleConnections:
    """Those of one process to one database. None is kept for longer than `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.forget_those_of_parent()

    def forget_those_of_parent(self) -> None:
        """A forked child begins anew: it has no timer, and may never see the lock let go."""
        self._lock = threading.Lock()
        self._waiting: deque[tuple[float, Connection]] = deque()  # the longest idle one first
        self._timer: threading.Timer | None = None

    def put(self, connection: Connection) -> None:
        """Takes over a connection that nobody uses; closes it where none may be kept."""
        with self._lock:
            if self._seconds and (self._timer is not None or self._start_timer(self._seconds)):
                self._waiting.append((time.monotonic(), connection))
                return
        _close(connection)

    def take(self) -> Connection | None:
        """Hands over the one that was used last; None where there is none, or it is too old."""
        with self._lock:
            if not self._waiting:
                return None
            since, connection = self._waiting.pop()
        if time.monotonic() - since < self._seconds:
            return connection
        _close(connection)
        self.close_all()  # they have waited for longer
        return None

    def close_all(self) -> None:
        """Closes all that are here."""
        with self._lock:
            connections, self._waiting = self._waiting, deque()
        for _, connection in connections:
            _close(connection)

    def _start_timer(self, seconds: float) -> bool:
        """There is one while connections wait, and none else. False where no thread can be had."""
        self._timer = threading.Timer(seconds, self._close_expired)
        self._timer.daemon = True
        try:
            self._timer.start()
        except RuntimeError:
            self._timer = None
        return self._timer is not None

    def _close_expired(self) -> None:
        expired = []
        with self._lock:
            self._timer = None
            now = time.monotonic()
            while self._waiting and self._waiting[0][0] + self._seconds <= now:
                expired.append(self._waiting.popleft()[1])
            if self._waiting and not self._start_timer(self._waiting[0][0] + self._seconds - now):
                expired += [connection for _, connection in self._waiting]
                self._waiting.clear()
        for connection in expired:
            _close(connection)


def _close(connection: Connection) -> None:
    with contextlib.suppress(Exception):  # a dead connection may fail to say goodbye
        connection.close()
