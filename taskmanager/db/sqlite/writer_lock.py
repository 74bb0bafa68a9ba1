"""The lock that writers to one SQLite file wait for, before they ask SQLite for its own."""

import fcntl
import threading
import time
from pathlib import Path

from taskmanager.files.locks import LONGEST_PAUSE_SECONDS, OpenFile

# Between two looks at a lock. Who waits for a commit of a fraction of a millisecond must not sleep
# past its end; who waits for longer may look less often.
SHORTEST_PAUSE_SECONDS = 0.0001
LOOKS_PER_WAIT = 20


class Turnstile:
    """Lets the threads and processes of one host through one after the other.

    The threads of a process queue up before its lock, so that only one of them
    asks for the file's. Where the file system knows no locks every process passes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._own = threading.local()
        self._threads = threading.Lock()
        self._file: OpenFile | None = None

    def enter(self, patience_seconds: float) -> bool:
        """Waits until nobody else is inside; returns False where that took too long.

        Looks again and again: flock() can wait by itself, but not only for a
        while, and whoever is inside may have been stopped.
        """
        began = time.monotonic()
        if not self._threads.acquire(timeout=patience_seconds):
            return False
        self._own.is_inside = True
        came = time.monotonic()
        while True:
            try:
                self._file = self._file or OpenFile(self._path)
                fcntl.flock(self._file.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                now = time.monotonic()
                if now > began + patience_seconds:
                    self.leave()
                    return False
                pause = max((now - came) / LOOKS_PER_WAIT, SHORTEST_PAUSE_SECONDS)
                time.sleep(min(pause, LONGEST_PAUSE_SECONDS))
            except OSError:
                return True
            else:
                return True

    def leave(self) -> None:
        """Lets the next one in; does nothing where this thread is not inside."""
        if not getattr(self._own, "is_inside", False):
            return
        self._own.is_inside = False
        if self._file is not None:
            try:  # noqa: SIM105 - contextlib would cost every transaction a microsecond
                fcntl.flock(self._file.descriptor, fcntl.LOCK_UN)
            except OSError:
                pass
        self._threads.release()

    def close(self) -> None:
        """Ends this thread's turn, and closes the file unless another thread is inside."""
        self.leave()
        if self._threads.acquire(blocking=False):
            self._file = None
            self._threads.release()

    def forget_turn_of_parent(self) -> None:
        """A forked child that kept its parent's open file would share its parent's turn."""
        self.__init__(self._path)  # type: ignore[misc]
