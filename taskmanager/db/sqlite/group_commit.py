"""Group commit: makes commits to a SQLite database durable, many with one wait for the disk.

With `synchronous=FULL` SQLite waits for the disk while it holds the write lock, so commits wait one
after the other. With `NORMAL` it does not wait at all. Here SQLite runs with NORMAL; each writer
waits for the disk after it has released the write lock. Writers that wait at once share one
fdatasync of the log.

Every commit is as safe from a power cut as with FULL: the log is written in order, so once a sync
returns, the disk has at least all that was committed before it began. SQLite itself syncs the log
before it copies the log into the database. docs/decisions/0009 has the figures.

After a failed sync, Linux regards the unwritten pages as clean, so the next sync succeeds although
the log on the disk has a hole, which hides all that follows it. Therefore a failure is recorded in
a file beside the database, and no process confirms a commit until one has recovered the log.
"""

import contextlib
import errno
import os
import sqlite3
import threading
from pathlib import Path

from taskmanager.files.durable import sync_folder
from taskmanager.files.locks import OpenFile

COPIED_BYTES = 1_048_576


class WriteAheadLog:
    """The `-wal` file beside a database in WAL mode."""

    def __init__(self, database_path: str) -> None:
        self._path = Path(database_path + "-wal")
        self._failure = database_path + ".sync-failed"  # exists until the log is recovered
        self.forget_parent()

    def forget_parent(self) -> None:
        """In a forked child: starts anew. A thread that the child does not have may hold a lock."""
        self._counting, self._syncing = threading.Lock(), threading.Lock()
        self._asked = self._done = 0
        self._file: OpenFile | None = None
        self._saw_failure = False  # where the disk does not take the file either

    def sync(self) -> None:
        """Returns when all that was committed before the call is on the disk.

        Raises OSError where it may not be: the sync failed, or another one has failed before.
        """
        with self._counting:
            self._asked += 1
            mine = self._asked
        with self._syncing:
            if self._done >= mine:  # another writer has synced for this one too
                return
            with self._counting:
                reached = self._asked
            try:
                os.fdatasync(self._descriptor())
            except OSError:
                self._record_failure()
                raise
            if self.has_failed():
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            self._done = reached

    def has_failed(self) -> bool:
        """Whether a sync has failed, in any process, and the log has not been recovered since."""
        return self._saw_failure or os.access(self._failure, os.F_OK)

    def recover(self, connection: sqlite3.Connection) -> None:
        """Makes everything in the log durable again and empties it.

        It first writes the log onto itself, so that the system writes every page to the disk. If
        SQLite copied a log with a hole into the database, a power cut would leave pages of
        different moments. Then a checkpoint copies it, syncs the database and empties the log.

        Raises OSError and sqlite3.Error; the log is then still not durable.
        """
        with self._syncing:
            self._file = None  # the system may report an old failure to an open file once more
            connection.execute("BEGIN IMMEDIATE")  # nobody else changes the log
            try:
                self._write_again()
            finally:
                connection.execute("ROLLBACK")
            is_busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if is_busy:
                raise OSError(errno.EBUSY, "A reader keeps the log in use")
            Path(self._failure).unlink(missing_ok=True)
            self._saw_failure = False

    def _write_again(self) -> None:
        descriptor = self._descriptor()
        position = 0
        while content := os.pread(descriptor, COPIED_BYTES, position):
            position += os.pwrite(descriptor, content, position)
        os.fdatasync(descriptor)

    def _record_failure(self) -> None:
        self._saw_failure = True
        with contextlib.suppress(OSError):
            OpenFile(Path(self._failure))

    def close(self) -> None:
        """Closes the file unless another thread is syncing it; the next sync opens it."""
        if self._syncing.acquire(blocking=False):
            self._file = None
            self._syncing.release()

    def _descriptor(self) -> int:
        """Of the present file: the last connection to close deletes it."""
        if self._file is None or os.fstat(self._file.descriptor).st_nlink == 0:
            self._file = OpenFile(self._path)
            sync_folder(self._path.parent)
        return self._file.descriptor
