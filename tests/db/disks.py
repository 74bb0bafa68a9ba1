"""A disk whose failures and power cuts a test decides, for a database with a write-ahead log.

It stands between the program and `fdatasync`, and acts as Linux does: a sync that fails leaves what
it should have written neither on the disk nor among what the next sync writes. Its state is in
files, so that several processes share it.
"""

import errno
import fcntl
import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PAGE = 4_096

_fdatasync, _pwrite = os.fdatasync, os.pwrite


class Disk:
    """The folder has `queue.db`. `syncs` counts those of this process that succeeded."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "queue.db"
        self.log = folder / "queue.db-wal"
        self.syncs = 0
        self._kept = folder / "kept"  # the log as a power cut would leave it
        self._clean = folder / "clean"  # the log as the system believes it to be on the disk
        self._failures = folder / "failures"  # how many syncs are to fail
        for file in (self._kept, self._clean, self._failures):
            file.touch()
        self._threads = threading.Lock()

    def replaces(self, system: Any) -> None:
        """Takes the place of the functions of `os`; `system` sets an attribute, as monkeypatch."""
        system(os, "fdatasync", self.fdatasync)
        system(os, "pwrite", self.pwrite)

    def fails(self, times: int) -> None:
        self._failures.write_text(str(times))

    def fdatasync(self, descriptor: int) -> None:
        assert os.path.samestat(os.fstat(descriptor), self.log.stat())
        with self._locked():
            written, clean = self.log.read_bytes(), self._clean.read_bytes()
            self._clean.write_bytes(written)
            failures = int(self._failures.read_text() or 0)
            if failures:
                self._failures.write_text(str(failures - 1))
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            _fdatasync(descriptor)
            kept = bytearray(self._kept.read_bytes()[: len(written)].ljust(len(written), b"\0"))
            for start in range(0, len(written), PAGE):
                page = slice(start, start + PAGE)
                if written[page] != clean[page]:
                    kept[page] = written[page]
            self._kept.write_bytes(kept)
            self.syncs += 1

    def pwrite(self, descriptor: int, content: bytes, position: int) -> int:
        """Makes the pages dirty, also where it writes what was there."""
        done = _pwrite(descriptor, content, position)
        if os.path.samestat(os.fstat(descriptor), self.log.stat()):
            with self._locked():
                clean = bytearray(self._clean.read_bytes())
                clean[position : position + done] = bytes(byte ^ 255 for byte in content[:done])
                self._clean.write_bytes(clean)
        return done

    def numbers_after_power_cut(self) -> set[int]:
        copy = self.database.with_name(f"after-{os.getpid()}-{threading.get_ident()}.db")
        with self._locked():
            # Not in this process: closing the database file would release SQLite's locks on it.
            subprocess.run(["cp", self.database, copy], check=True)
            shutil.copy(self._kept, f"{copy}-wal")
        connection = sqlite3.connect(copy)
        found = {number for (number,) in connection.execute("SELECT number FROM numbers")}
        connection.close()
        return found

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._threads, self._failures.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
