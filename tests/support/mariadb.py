"""A private MariaDB server in a temporary folder, for the tests that run on a real one."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pymysql

from tests.support.ports import free_port

# What makes a server refuse READ COMMITTED to whoever writes.
LOGS_STATEMENTS = ("--log-bin=binlog", "--binlog-format=STATEMENT", "--server-id=1")


def is_installed() -> bool:
    return shutil.which("mariadbd") is not None and shutil.which("mariadb-install-db") is not None


class MariaDB:
    """Starts, stops and kills one server; `durable` keeps what a kill would otherwise lose."""

    user = "root"  # the account that the server runs as

    def __init__(
        self,
        folder: Path,
        *,
        durable: bool = False,
        buffer_pool: str = "64M",
        options: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.durable = durable
        self.buffer_pool = buffer_pool
        self.options = options
        self._process: subprocess.Popen[bytes] | None = None
        if not (folder / "data").exists():  # else it is of an earlier run
            self._make()

    def _make(self) -> None:
        """Fills the empty data folder."""
        subprocess.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                f"--user={self.user}",
                f"--datadir={self.folder / 'data'}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ],
            # Two that run at once would take each other's temporary tables.
            env={**os.environ, "TMPDIR": str(self.folder)},
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _program(self) -> list[str]:
        return ["mariadbd", "--no-defaults"]

    def _options(self) -> list[str]:
        options = [
            f"--user={self.user}",
            f"--datadir={self.folder / 'data'}",
            f"--socket={self.folder / 's'}",
            f"--tmpdir={self.folder}",
            f"--pid-file={self.folder / 'pid'}",
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            "--skip-name-resolve",
            f"--innodb-buffer-pool-size={self.buffer_pool}",
            "--performance-schema=OFF",
        ]
        if not self.durable:
            options += [
                "--innodb-flush-log-at-trx-commit=0",
                "--innodb-flush-method=nosync",
                "--innodb-doublewrite=0",
            ]
        return options

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._program(), *self._options(), *self.options], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                self.run("SELECT 1")
                return
            except pymysql.err.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def run(self, statement: str, database: str | None = None) -> None:
        """One statement as the server's administrator."""
        connection = pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user="root",
            database=database,
            autocommit=True,
            ssl_disabled=True,
        )
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute(statement)

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """What a statement finds, as the server's administrator."""
        connection = pymysql.connect(
            host="127.0.0.1", port=self.port, user="root", autocommit=True, ssl_disabled=True
        )
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute("SET SESSION sql_big_selects = 1")  # whatever max_join_size is
            cursor.execute(statement)
            return list(cursor.fetchall())

    def connections_to(self, database: str) -> list[int]:
        """The ids of the connections that use a database now."""
        return [
            number
            for (number,) in self.rows(
                f"SELECT id FROM information_schema.processlist WHERE db = '{database}'"
            )
        ]

    def aborted_clients(self) -> int:
        """How many connections have ended without a word since the server's start."""
        ((_, count),) = self.rows("SHOW GLOBAL STATUS LIKE 'Aborted_clients'")
        return int(count)

    def create_database(self, name: str) -> str:
        """Makes an empty database; returns its TASKMANAGER_DATABASE_URL."""
        self.run(f"DROP DATABASE IF EXISTS {name}")
        self.run(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        return f"mysql://root@127.0.0.1:{self.port}/{name}"

    def send_signal(self, what: signal.Signals) -> None:
        """Sends a signal that does not end the server."""
        assert self._process is not None
        self._process.send_signal(what)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As a power cut does."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None
