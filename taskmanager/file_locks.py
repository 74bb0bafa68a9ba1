"""Locks between the processes of one host. The system drops them when their holder dies."""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

LOOK_AGAIN_SECONDS = 0.001


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
                time.sleep(LOOK_AGAIN_SECONDS)
            except OSError:
                break
            else:
                break
        yield True


class Turnstile:
    """Lets the threads and processes of one host through one after the other.

    Where the file system knows no locks everybody passes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._own = threading.local()

    def enter(self, patience_seconds: float) -> bool:
        """Waits until nobody else is inside; returns False where that took too long.

        Looks again every millisecond: flock() can wait by itself, but not only
        for a while, and whoever is inside may have been stopped.
        """
        deadline = time.monotonic() + patience_seconds
        while True:
            try:
                fcntl.flock(self._file(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
                time.sleep(LOOK_AGAIN_SECONDS)
            except OSError:
                return True
            else:
                return True

    def leave(self) -> None:
        """Lets the next one in; does nothing where it is not inside."""
        own: _OpenFile | None = getattr(self._own, "file", None)
        if own is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(own.descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Closes this thread's file; its next turn opens another."""
        self._own.__dict__.pop("file", None)

    def forget_files_of_parent(self) -> None:
        """A forked child that kept its parent's open file would share its parent's turn."""
        self._own = threading.local()

    def _file(self) -> int:
        """The descriptor of this thread's own open file: that is what a lock belongs to."""
        own: _OpenFile | None = getattr(self._own, "file", None)
        if own is None:
            own = self._own.file = _OpenFile(self._path)
        return own.descriptor


class _OpenFile:
    """Open as long as somebody refers to it: a thread's ends with the thread."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
