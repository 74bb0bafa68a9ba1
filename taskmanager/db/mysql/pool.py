"""A pool of idle connections; each is closed when no thread has used it for a while.

A connection is in one place: with the one thread that uses it, or here. Whoever takes it from here,
a thread for its next request or the timer to close it, has it alone. So none is closed in use.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from pymysql.connections import Connection


class IdleConnections:
    """The pool of one process and one database. No connection is kept for longer than `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.forget_parent()

    def forget_parent(self) -> None:
        """In a forked child: starts anew, without the parent's timer and connections."""
        self._lock = threading.Lock()
        self._waiting: deque[tuple[float, Connection]] = deque()  # the one idle for longest first
        self._timer: threading.Timer | None = None

    def put(self, connection: Connection) -> None:
        """Takes over a connection; closes it where none may be kept."""
        with self._lock:
            if self._seconds and (self._timer is not None or self._start_timer(self._seconds)):
                self._waiting.append((time.monotonic(), connection))
                return
        _close(connection)

    def take(self, is_wanted: Callable[[Any], bool]) -> Connection | None:
        """Hands over the connection that was used last; None where all are too old or unwanted."""
        with self._lock:
            if not self._waiting:
                return None
            since, connection = self._waiting.pop()
        if time.monotonic() - since < self._seconds and is_wanted(connection):
            return connection
        _close(connection)
        self.close_all()  # the others have waited for longer, and are alike
        return None

    def close_all(self) -> None:
        """Closes all idle connections."""
        with self._lock:
            connections, self._waiting = self._waiting, deque()
        for _, connection in connections:
            _close(connection)

    def _start_timer(self, seconds: float) -> bool:
        """Starts the timer of the pool; False where no thread can be started."""
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
    with contextlib.suppress(Exception):  # a dead connection may fail to close
        connection.close()
