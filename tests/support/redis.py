"""A private Redis server that keeps nothing on its disk."""

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.support.ports import free_port


def is_installed() -> bool:
    return shutil.which("redis-server") is not None


class Redis:
    """Starts, stops and kills one server, always on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder)]
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["redis-server", *options, "--save", "", "--appendonly", "no"],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=10).close()
                return
            assert time.monotonic() < deadline, (self.folder / "redis.log").read_text()
            time.sleep(0.05)

    def send_signal(self, what: signal.Signals) -> None:
        """Sends a signal that does not end the server."""
        assert self._process is not None
        self._process.send_signal(what)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
            self._process = None
