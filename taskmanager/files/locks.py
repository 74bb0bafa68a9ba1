"""Locks between the processes of one host. The system drops them when their holder dies."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

LONGEST_PAUSE_SECONDS = 0.001


@contextlib.contextmanager
def try_file_lock(path: Path, *, patience_seconds: float = 0.0) -> Iterator[bool]:
    """Holds `path` for this process alone; yields False where another has it all the while.

    Where the file system knows no locks everybody passes.
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
    """Open as long as somebody refers to it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
