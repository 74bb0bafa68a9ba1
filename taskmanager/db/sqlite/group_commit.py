"""Makes commits to a SQLite database durable, many with one wait for the disk.

With `synchronous=FULL` SQLite waits for the disk while it holds the write lock,
so commits wait in a row. With `NORMAL` it does not wait at all; here each writer
waits after it has let the next one in, and those who wait together need only
one more write of the disk's. Whoever has waited is as safe from a power cut as
with FULL: the log is written in order, so what is on the disk of it reaches at
least as far as its own commit. SQLite itself syncs the log before it empties it.
"""

import contextlib
import os
import threading
from pathlib import Path

from taskmanager.files.locks import OpenFile


class WriteAheadLog:
    """The `-wal` file beside a database in WAL mode."""

    def __init__(self, database_path: str) -> None:
        self._path = Path(database_path + "-wal")
        self.forget_file_of_parent()

    def forget_file_of_parent(self) -> None:
        """A forked child begins anew: a thread that it does not have may have held a lock."""
        self._counting, self._syncing = threading.Lock(), threading.Lock()
        self._asked = self._done = 0
        self._file: OpenFile | None = None

    def sync(self) -> None:
        """Comes back when all that was committed before the call is on the disk. Raises OSError."""
        with self._counting:
            self._asked += 1
            mine = self._asked
        with self._syncing:
            if self._done >= mine:  # whoever was let in before has synced for this one too
                return
            with self._counting:
                reached = self._asked
            os.fdatasync(self._descriptor())
            self._done = reached

    def close(self) -> None:
        """Closes the file unless another thread syncs it just now; the next sync opens it."""
        if self._syncing.acquire(blocking=False):
            self._file = None
            self._syncing.release()

    def _descriptor(self) -> int:
        """Of the file that is there now: the last connection to close takes it away."""
        if self._file is None or os.fstat(self._file.descriptor).st_nlink == 0:
            self._file = OpenFile(self._path)
            self._sync_name()
        return self._file.descriptor

    def _sync_name(self) -> None:
        """Puts the new file's name on the disk too; like SQLite, as far as the file system can."""
        with contextlib.suppress(OSError):
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
