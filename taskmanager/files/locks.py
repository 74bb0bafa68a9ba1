"""Locks between the processes of one host. The system releases them when their holder dies."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

LONGEST_PAUSE_SECONDS = 0.001


@contextlib.contextmanager
def try_file_lock(path: Path, *, patience_seconds: float = 0.0) -> Iterator[bool]:
    """Locks the file `path` and yields True, or False where another process held it all the time.

    Where the file system has no locks, every process passes.
    """
    deadline = time.monotonic() + patience_seconds
    with path.open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    yield False
                    return
                time.sleep(LONGEST_PAUSE_SECONDS)
            except OSError:
                break
            else:
                break
        yield True


class OpenFile:
    """An open file, closed when the last reference to it is gone."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
