"""Group commit: makes commits to a SQLite database durable, many with one wait for the disk.

With `synchronous=FULL` SQLite waits for the disk while it holds the write lock, so commits wait one
after the other. With `NORMAL` it does not wait at all. Here SQLite runs with NORMAL; each writer
waits for the disk after it has released the write lock. Writers that wait at once share one
fdatasync of the log.

Every commit is as safe from a power cut as with FULL: the log is written in order, so once a sync
returns, the disk has at least all that was committed before it began. SQLite itself syncs the log
before it copies the log into the database. docs/decisions/0009 has the figures.
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
        self.forget_parent()

    def forget_parent(self) -> None:
        """In a forked child: starts anew. A thread that the child does not have may hold a lock."""
        self._counting, self._syncing = threading.Lock(), threading.Lock()
        self._asked = self._done = 0
        self._file: OpenFile | None = None

    def sync(self) -> None:
        """Returns when all that was committed before the call is on the disk. Raises OSError."""
        with self._counting:
            self._asked += 1
            mine = self._asked
        with self._syncing:
            if self._done >= mine:  # another writer has synced for this one too
                return
            with self._counting:
                reached = self._asked
            os.fdatasync(self._descriptor())
            self._done = reached

    def close(self) -> None:
        """Closes the file unless another thread is syncing it; the next sync opens it."""
        if self._syncing.acquire(blocking=False):
            self._file = None
            self._syncing.release()

    def _descriptor(self) -> int:
        """Of the present file: the last connection to close deletes it."""
        if self._file is None or os.fstat(self._file.descriptor).st_nlink == 0:
            self._file = OpenFile(self._path)
            self._sync_name()
        return self._file.descriptor

    def _sync_name(self) -> None:
        """Makes the new file's name durable too; like SQLite, as far as the file system can."""
        with contextlib.suppress(OSError):
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
