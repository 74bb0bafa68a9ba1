"""Locks between the processes of one host. The system drops them when their holder dies."""

import contextlib
import fcntl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Holds `path` for this process alone; waits for the one that has it."""
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def try_file_lock(path: Path) -> Iterator[bool]:
    """Like `file_lock`, but yields False at once where another process has it."""
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


class Turnstile:
    """Lets the threads and processes of one host through one after the other, as they come.

    The system wakes the next one at once. Where the file system knows no locks
    everybody passes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._own = threading.local()

    def enter(self) -> float:
        """Waits for its turn; returns the seconds it waited."""
        started = time.monotonic()
        # flock() belongs to an open file: every thread needs its own.
        with contextlib.suppress(OSError):
            handle: IO[str] | None = getattr(self._own, "handle", None)
            if handle is None:
                handle = self._own.handle = self._path.open("a")
            fcntl.flock(handle, fcntl.LOCK_EX)
        return time.monotonic() - started

    def leave(self) -> None:
        """Lets the next one in; does nothing where it is not inside."""
        handle: IO[str] | None = getattr(self._own, "handle", None)
        if handle is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)

    def close(self) -> None:
        """Closes this thread's file; its next turn opens another."""
        handle: IO[str] | None = self._own.__dict__.pop("handle", None)
        if handle is not None:
            handle.close()

    def forget_files_of_parent(self) -> None:
        """A forked child that kept its parent's open file would share its parent's turn."""
        self._own = threading.local()
