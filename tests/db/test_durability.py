"""What SQLITE_SYNCHRONOUS promises: an answered commit survives a power cut, or it need not."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from taskmanager.db.connection import close_connection, connect_database
from taskmanager.db.probe import find_write_refusal
from taskmanager.db.sqlite.group_commit import WriteAheadLog
from taskmanager.db.statements import execute
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import DatabaseUnavailable
from tests.conftest import require
from tests.db.disks import Disk
from tests.support.processes import CONTEXT


@write_transaction
def insert(number: int) -> None:
    execute("INSERT INTO numbers VALUES (?)", (number,))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    disk.replaces(monkeypatch.setattr)
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


@pytest.mark.slow
def test_with_full_commits_of_threads_that_wait_together_survive(disk: Disk) -> None:
    open_database(disk, "FULL")

    def commit(number: int) -> bool:
        insert(number)
        return number in disk.numbers_after_power_cut()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(commit, range(200)))


def test_only_its_owner_may_read_a_new_database_and_its_log(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    connect_database(f"sqlite:///{tmp_path / 'queue.db'}")
    execute("PRAGMA journal_mode = WAL")
    execute("CREATE TABLE numbers (number INTEGER)")
    insert(1)
    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    close_connection()
    assert {"queue.db", "queue.db-wal", "queue.db-shm", "queue.db.writers"} <= modes.keys()
    assert set(modes.values()) == {0o600}, modes


def test_with_normal_no_commit_waits_for_the_disk(disk: Disk) -> None:
    open_database(disk, "NORMAL")
    insert(1)
    assert disk.syncs == 0


@pytest.mark.parametrize(("synchronous", "level"), [("FULL", 3), ("NORMAL", 1)])
def test_without_a_log_sqlite_itself_waits(disk: Disk, synchronous: str, level: int) -> None:
    open_database(disk, synchronous, journal_mode="DELETE")
    assert execute("PRAGMA synchronous").fetchone() == (level,)
    insert(1)
    assert disk.syncs == 0


INSERTS_ONE = """
import sys
from taskmanager.db.connection import connect_database
from taskmanager.db.statements import execute
from taskmanager.db.transactions import write_transaction

connect_database(f"sqlite:///{sys.argv[1]}", sqlite_synchronous="FULL")
write_transaction(lambda: execute("INSERT INTO numbers VALUES (1)"))()
"""


@pytest.mark.slow
def test_without_a_log_the_deleted_journal_is_gone_from_the_disk_before_the_answer(
    tmp_path: Path,
) -> None:
    """Otherwise a power cut brings it back, and SQLite rolls the answered commit back."""
    require("strace", shutil.which("strace") is not None)
    connection = sqlite3.connect(tmp_path / "queue.db")
    connection.execute("CREATE TABLE numbers (number INTEGER)")
    connection.close()
    calls = tmp_path / "calls"
    trace = ["strace", "-f", "-y", "-e", "trace=unlink,unlinkat,fsync,fdatasync", "-o", str(calls)]
    subprocess.run(
        [*trace, sys.executable, "-c", INSERTS_ONE, str(tmp_path / "queue.db")], check=True
    )
    before, deletion, after = calls.read_text().rpartition(f'{tmp_path}/queue.db-journal"')
    assert deletion, before
    assert f"<{tmp_path}>) = 0" in after.replace("  ", " "), after


def test_after_a_failed_sync_nothing_is_confirmed_behind_the_hole(disk: Disk) -> None:
    open_database(disk, "FULL")
    insert(1)
    disk.fails(1)
    with pytest.raises(DatabaseUnavailable, match="may not keep what was asked for"):
        insert(2)
    assert disk.numbers_after_power_cut() == {1}
    for number in range(3, 6):
        insert(number)
        assert number in disk.numbers_after_power_cut()
    assert disk.numbers_after_power_cut() == {1, 2, 3, 4, 5}
    assert not list(disk.database.parent.glob("*.sync-failed"))


def test_while_the_disk_fails_nothing_more_is_written(disk: Disk) -> None:
    open_database(disk, "FULL")
    disk.fails(3)
    with pytest.raises(DatabaseUnavailable, match="may not keep what was asked for"):
        insert(1)
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable, match="Nothing was changed"):
            insert(2)
    assert execute("SELECT number FROM numbers").fetchall() == [(1,)]
    disk.fails(1)
    assert "Nothing was changed" in str(find_write_refusal())
    insert(3)
    assert disk.numbers_after_power_cut() == {1, 3}


def test_a_reader_of_an_older_moment_delays_the_recovery(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_database(disk, "FULL")
    insert(1)
    reader = sqlite3.connect(disk.database, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM numbers").fetchall()
    disk.fails(1)
    with pytest.raises(DatabaseUnavailable):
        insert(2)
    monkeypatch.setattr("taskmanager.db.sqlite.engine.SQLITE_BUSY_TIMEOUT_SECONDS", 0)
    execute("PRAGMA busy_timeout = 0")
    with pytest.raises(DatabaseUnavailable, match="A reader keeps the log in use"):
        insert(3)
    assert disk.numbers_after_power_cut() == {1, 2}  # the log itself is whole again
    reader.close()
    insert(4)
    assert disk.numbers_after_power_cut() == {1, 2, 4}


def test_a_process_whose_own_sync_succeeds_learns_of_the_failure_of_another(disk: Disk) -> None:
    """It has committed meanwhile, so its commit may lie behind the hole."""
    open_database(disk, "FULL")
    insert(1)
    one, other = WriteAheadLog(str(disk.database)), WriteAheadLog(str(disk.database))
    disk.fails(1)
    with pytest.raises(OSError, match="Input/output error"):
        one.sync()
    with pytest.raises(OSError, match="Input/output error"):
        other.sync()
    insert(2)  # which recovers the log
    other.sync()
    assert disk.numbers_after_power_cut() == {1, 2}


def test_a_disk_that_does_not_take_the_record_either_stops_at_least_its_own_process(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_database(disk, "FULL")
    log = WriteAheadLog(str(disk.database))
    insert(1)
    monkeypatch.setattr(log, "_failure", disk.database / "no folder")
    disk.fails(1)
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error"):
            log.sync()


def _insert_many(folder: Path, first: int, barrier: Any, confirmed: Any) -> None:
    """In a process of its own."""
    disk = Disk(folder)
    disk.replaces(setattr)
    connect_database(f"sqlite:///{disk.database}", sqlite_synchronous="FULL")
    barrier.wait()
    for number in range(first, first + 40):
        try:
            insert(number)
        except DatabaseUnavailable:
            continue
        confirmed.put((number, number in disk.numbers_after_power_cut()))
    confirmed.put(None)


@pytest.mark.slow
def test_processes_confirm_only_what_survives_though_syncs_fail_again_and_again(
    disk: Disk,
) -> None:
    open_database(disk, "FULL")
    barrier, confirmed = CONTEXT.Barrier(4), CONTEXT.Queue()
    arguments = [(disk.database.parent, 1000 * part, barrier, confirmed) for part in range(3)]
    processes = [CONTEXT.Process(target=_insert_many, args=each) for each in arguments]
    for process in processes:
        process.start()
    barrier.wait()
    running, answers = len(processes), []
    while running:
        answer = confirmed.get(timeout=60)
        if answer is None:
            running -= 1
        else:
            answers.append(answer)
            if len(answers) % 10 == 0:
                disk.fails(2)
    for process in processes:
        process.join()
    lost = [number for number, survived in answers if not survived]
    assert not lost
    assert len(answers) > 20
    disk.fails(0)
    insert(1)
    assert {number for number, _ in answers} <= disk.numbers_after_power_cut()


def test_a_log_that_was_taken_away_and_made_anew_is_found(disk: Disk) -> None:
    open_database(disk, "FULL")
    insert(1)
    close_connection()  # the last one to close takes the log away
    assert not disk.log.exists()
    insert(2)
    assert {1, 2} <= disk.numbers_after_power_cut()
