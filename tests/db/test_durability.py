"""What SQLITE_SYNCHRONOUS promises: an answered commit survives a power cut, or it need not."""

import errno
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from taskmanager.db.connection import close_connection, connect_database
from taskmanager.db.sqlite import group_commit
from taskmanager.db.statements import execute
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import DatabaseUnavailable


@write_transaction
def insert(number: int) -> None:
    execute("INSERT INTO numbers VALUES (?)", (number,))


class Disk:
    """Knows what of the log a power cut would leave: what had been synced by then."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "queue.db"
        self.log = folder / "queue.db-wal"
        self.synced = b""
        self.syncs = 0
        self.fails = False
        self._fdatasync = os.fdatasync
        self._lock = threading.Lock()

    def fdatasync(self, descriptor: int) -> None:
        assert os.path.samestat(os.fstat(descriptor), self.log.stat())
        if self.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        written = self.log.read_bytes()
        self._fdatasync(descriptor)
        with self._lock:
            self.syncs += 1
            self.synced = max(self.synced, written, key=len)

    def numbers_after_power_cut(self) -> set[int]:
        with self._lock:
            synced = self.synced
        copy = self.database.with_name(f"after-{threading.get_ident()}.db")
        shutil.copy(self.database, copy)
        copy.with_name(copy.name + "-wal").write_bytes(synced)
        connection = sqlite3.connect(copy)
        found = {number for (number,) in connection.execute("SELECT number FROM numbers")}
        connection.close()
        return found


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    monkeypatch.setattr(group_commit.os, "fdatasync", disk.fdatasync)
    yield disk
    close_connection()


def open_database(disk: Disk, synchronous: str, journal_mode: str = "WAL") -> None:
    connection = sqlite3.connect(disk.database)
    connection.execute(f"PRAGMA journal_mode = {journal_mode}")
    connection.execute("CREATE TABLE numbers (number INTEGER)")
    connection.close()
    connect_database(f"sqlite:///{disk.database}", sqlite_synchronous=synchronous)


def test_with_full_every_answered_commit_survives_a_power_cut(disk: Disk) -> None:
    open_database(disk, "FULL")
    for number in range(20):
        insert(number)
        assert number in disk.numbers_after_power_cut()


def test_with_full_commits_of_threads_that_wait_together_survive(disk: Disk) -> None:
    open_database(disk, "FULL")

    def commit(number: int) -> bool:
        insert(number)
        return number in disk.numbers_after_power_cut()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(commit, range(200)))


def test_with_normal_no_commit_waits_for_the_disk(disk: Disk) -> None:
    open_database(disk, "NORMAL")
    insert(1)
    assert disk.syncs == 0


def test_without_a_log_sqlite_itself_waits(disk: Disk) -> None:
    open_database(disk, "FULL", journal_mode="DELETE")
    assert execute("PRAGMA synchronous").fetchone() == (2,)
    insert(1)
    assert disk.syncs == 0


def test_a_disk_that_fails_is_reported_and_then_works_again(disk: Disk) -> None:
    open_database(disk, "FULL")
    disk.fails = True
    with pytest.raises(DatabaseUnavailable, match="may not keep what was asked for"):
        insert(1)
    disk.fails = False
    insert(2)
    assert 2 in disk.numbers_after_power_cut()


def test_a_log_that_was_taken_away_and_made_anew_is_found(disk: Disk) -> None:
    open_database(disk, "FULL")
    insert(1)
    close_connection()  # the last one to close takes the log away
    assert not disk.log.exists()
    disk.synced = b""
    insert(2)
    assert {1, 2} <= disk.numbers_after_power_cut()
