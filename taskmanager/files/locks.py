"""Locks between the processes of one host. The system releases them when their holder dies."""

import contextlib
import fcntl
import os
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
