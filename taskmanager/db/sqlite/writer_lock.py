"""The mutex that writers to one SQLite file take before they ask SQLite for its own lock.

SQLite's own waiting sleeps up to 100 ms between two tries, while the lock is free and newcomers
overtake those who sleep.
"""

import fcntl
import threading
import time
from pathlib import Path

from taskmanager.files.locks import OpenFile, lock_file


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
        """Waits until nobody holds it; returns False where that took too long."""
        began = time.monotonic()
        if not self._threads.acquire(timeout=patience_seconds):
            return False
        self._own.holds = True
        patience_seconds -= time.monotonic() - began
        try:
            self._file = self._file or OpenFile(self._path)
            if lock_file(self._file.descriptor, patience_seconds=patience_seconds):
                return True
        except OSError:
            return True
        self.release()
        return False

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
