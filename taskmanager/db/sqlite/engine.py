"""SQLite: connecting, the journal, and how writers wait for one another."""

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any

import peewee

from taskmanager.config import split_sqlite_url
from taskmanager.db.dialect import SQLITE, SQLITE_BUSY_TIMEOUT_SECONDS
from taskmanager.db.engine import Recovering, options_of
from taskmanager.db.sqlite.group_commit import WriteAheadLog
from taskmanager.errors import ConfigurationError, DatabaseUnavailable
from taskmanager.files.locks import Mutex
from taskmanager.files.systems import file_system_of, is_network

# Of a new database. A commit writes every page that it touches to the log, most of them for a few
# changed bytes. Half of SQLite's usual page size writes half as much.
SQLITE_PAGE_BYTES = 2_048
# The larger the log may grow, the more commits share the copying of one page. This is 16 MB.
SQLITE_CHECKPOINT_PAGES = 8_000
OLDEST_WITH_EXTRA = (3, 12)


class _SqliteDatabase(Recovering, peewee.SqliteDatabase):
    """Writers take a mutex before they ask SQLite for its lock.

    SQLite's own waiting sleeps up to 100 ms between two tries, while the lock is free and
    newcomers overtake those who sleep.
    """

    dialect = SQLITE

    def __init__(
        self, path: str, *, synchronous: str, journal: str | None, table_prefix: str
    ) -> None:
        super().__init__(
            path,
            table_prefix=table_prefix,
            lock_type="IMMEDIATE",
            timeout=SQLITE_BUSY_TIMEOUT_SECONDS,
            pragmas={
                "page_size": SQLITE_PAGE_BYTES,
                "foreign_keys": 1,
                "temp_store": "memory",
                "wal_autocheckpoint": SQLITE_CHECKPOINT_PAGES,
            },
        )
        self._synchronous = synchronous
        self._journal = journal
        self._writers = Mutex(Path(path + ".writers"))
        self._log = WriteAheadLog(path)
        self._waits_for_disk = False

    def skips_locked(self) -> bool:
        return True

    def wanted_journal(self) -> str:
        """`wal`, or `delete` where the URL says so or the file lies on a network file system."""
        if self._journal is None:
            file_system = file_system_of(Path(self.database).parent)
            self._journal = "delete" if is_network(file_system) else "wal"
        return self._journal

    def journal(self) -> str:
        """The mode in force. It is stored in the file, so all processes have the same."""
        mode: str = self.execute_sql("PRAGMA journal_mode").fetchone()[0]
        return mode

    def switch_journal(self) -> None:
        """Changes to the wanted mode; where the database is in use, the next start tries again."""
        if self.journal() != self.wanted_journal():
            with contextlib.suppress(DatabaseUnavailable), self.without_waiting():
                self.execute_sql(f"PRAGMA journal_mode = {self.wanted_journal()}")
            self.close_quietly()  # a connection learns the mode when it is opened

    def _connect(self) -> Any:
        # Only its owner may read a new file, whatever the folder lets others do. SQLite gives the
        # journal, the log and its index the same mode. An existing file must not be opened here:
        # closing it would release this process's locks on it.
        with contextlib.suppress(OSError):
            os.close(os.open(self.database, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return super()._connect()  # type: ignore[misc]

    def _initialize_connection(self, conn: Any) -> None:
        has_log = conn.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        self._waits_for_disk = has_log and self._synchronous == "FULL"
        if has_log:
            by_sqlite = "NORMAL"  # with FULL, commit() waits for the disk
        elif self._synchronous == "FULL" and sqlite3.sqlite_version_info >= OLDEST_WITH_EXTRA:
            # FULL does not sync the folder after the journal was deleted. If the journal is there
            # again after a power cut, SQLite rolls the committed transaction back.
            by_sqlite = "EXTRA"
        else:
            by_sqlite = self._synchronous
        conn.execute(f"PRAGMA synchronous = {by_sqlite}")

    def begin(self, lock_type: str | None = None) -> None:
        if not self._writers.acquire(SQLITE_BUSY_TIMEOUT_SECONDS):
            raise DatabaseUnavailable(
                "The database stayed locked by another process. Nothing was changed; "
                "try again shortly."
            )
        try:
            if self._waits_for_disk and self._log.has_failed():
                self._recover_log()
            super().begin(lock_type)
        except BaseException:
            self._writers.release()
            raise

    def commit(self) -> None:
        super().commit()
        self._writers.release()
        if self._waits_for_disk:
            try:
                self._log.sync()
            except OSError as error:
                raise DatabaseUnavailable(
                    f"The disk failed ({error.strerror}) and may not keep what was asked for. "
                    "Look whether it was done, or send the same again."
                ) from error

    def has_failed_log(self) -> bool:
        """Whether a sync of the log has failed and the log has not been recovered since."""
        return self._log.has_failed()

    def _recover_log(self) -> None:
        try:
            self._log.recover(self.connection())  # type: ignore[no-untyped-call]
        except (OSError, sqlite3.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise DatabaseUnavailable(
                f"The disk failed to keep earlier changes and has not recovered ({reason}). "
                "Nothing was changed; try again shortly."
            ) from error

    def rollback(self) -> None:
        try:
            super().rollback()
        finally:
            self._writers.release()

    def close(self) -> bool:
        try:
            return bool(super().close())
        finally:
            self._writers.close()
            self._log.close()

    def dispose(self) -> None:
        super().dispose()
        self._writers.forget_parent()
        self._log.forget_parent()


def sqlite_engine(url: str, *, synchronous: str, table_prefix: str) -> _SqliteDatabase:
    """Raises ConfigurationError where `url` names no file, or an option that is not known."""
    path, query = split_sqlite_url(url)
    if not path or path.startswith(("~", "$")):
        raise ConfigurationError(
            "TASKMANAGER_DATABASE_URL names no file: write sqlite:///path/to/file.db, without ~ "
            "or a variable"
        )
    options = options_of(query, {"journal": ("delete", "wal")})
    return _SqliteDatabase(
        path, synchronous=synchronous, journal=options.get("journal"), table_prefix=table_prefix
    )
