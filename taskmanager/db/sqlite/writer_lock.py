"""The mutex that writers to one SQLite file take before they ask SQLite for its own lock.

SQLite's own waiting sleeps up to 100 ms between two tries, while the lock is free and newcomers
overtake those who sleep.
"""

import fcntl
import threading
import time
from pathlib import Path

from taskmanager.files.locks import LONGEST_PAUSE_SECONDS, OpenFile

# Between two tries. A commit takes a fraction of a millisecond, so the first pauses are short.
SHORTEST_PAUSE_SECONDS = 0.0001
TRIES_PER_WAIT = 20


class WriterLock:
    """Held by one thread of one process of a host at a time.

    The threads of a process queue up for a lock of their own first, so that only
    one of them asks for the file's. Where the file system has no locks, every
    process passes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._own = threading.local()
        self._threads = threading.Lock()
        self._file: OpenFile | None = None

    def acquire(self, patience_seconds: float) -> bool:
        """Waits until nobody holds it; returns False where that took too long.

        It tries again and again: flock() cannot wait with a timeout, and the
        process that holds the lock may have been stopped.
        """
        began = time.monotonic()
        if not self._threads.acquire(timeout=patience_seconds):
            return False
        self._own.holds = True
        came = time.monotonic()
        while True:
            try:
                self._file = self._file or OpenFile(self._path)
                fcntl.flock(self._file.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                now = time.monotonic()
                if now > began + patience_seconds:
                    self.release()
                    return False
                pause = max((now - came) / TRIES_PER_WAIT, SHORTEST_PAUSE_SECONDS)
                time.sleep(min(pause, LONGEST_PAUSE_SECONDS))
            except OSError:
                return True
            else:
                return True

    def release(self) -> None:
        """Lets the next writer in; does nothing where this thread does not hold the lock."""
        if not getattr(self._own, "holds", False):
            return
        self._own.holds = False
        if self._file is not None:
            try:  # noqa: SIM105 - contextlib would cost every transaction a microsecond
                fcntl.flock(self._file.descriptor, fcntl.LOCK_UN)
            except OSError:
                pass
        self._threads.release()

    def close(self) -> None:
        """Releases the lock, and closes the file unless another thread holds it."""
        self.release()
        if self._threads.acquire(blocking=False):
            self._file = None
            self._threads.release()

    def forget_parent(self) -> None:
        """In a forked child: an open file shared with the parent would share its lock."""
        self.__init__(self._path)  # type: ignore[misc]
