"""Locks between the processes of one host. The system releases them when their holder dies."""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

# Between two tries. A write holds its lock for about a millisecond. Shorter pauses cost the holder
# more processor time than they save whoever waits.
SHORTEST_PAUSE_SECONDS = 0.0004
LONGEST_PAUSE_SECONDS = 0.001
TRIES_PER_WAIT = 20


def lock_file(descriptor: int, *, patience_seconds: float) -> bool:
    """Locks an open file; returns False where another process held it all the time.

    It tries again and again: flock() cannot wait with a timeout, and the process
    that holds the lock may have been stopped. Raises OSError where the file system
    has no locks.
    """
    began = 0.0
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            now = time.monotonic()
            began = began or now
            if now - began >= patience_seconds:
                return False
        pause = max((now - began) / TRIES_PER_WAIT, SHORTEST_PAUSE_SECONDS)
        time.sleep(min(pause, LONGEST_PAUSE_SECONDS))


@contextlib.contextmanager
def try_file_lock(path: Path, *, patience_seconds: float = 0.0) -> Iterator[bool]:
    """Locks the file `path` and yields True, or False where another process held it all the time.

    Where the file system has no locks, every process passes.
    """
    file = OpenFile(path)
    locked = True
    with contextlib.suppress(OSError):
        locked = lock_file(file.descriptor, patience_seconds=patience_seconds)
    yield locked


class OpenFile:
    """An open file, closed when the last reference to it is gone.

    A new one is its owner's alone: whoever may open it could keep it locked.
    """

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class Mutex:
    """A lock on a file, held by one thread of one process at a time.

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
