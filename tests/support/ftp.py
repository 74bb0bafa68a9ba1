"""The FTP server of a shared host: what it stores belongs to the account's user.

Run as a program it is the server; the tests start it by `FtpServer`.
"""

import ftplib
import io
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from tests.support.accounts import Account
from tests.support.ports import free_port

USER, PASSWORD = "me", "ftp-password"


class FtpServer:
    """Serves the account's home folder on 127.0.0.1."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "FtpServer":
        user = self.account.user
        arguments = [self.port, self.account.home, user.pw_uid, user.pw_gid]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.ftp", *map(str, arguments)],
            cwd=Path(__file__).parents[2],
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                self._connect().close()
                return self
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.02)

    def __exit__(self, *error: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)

    def _connect(self) -> ftplib.FTP:
        client = ftplib.FTP(encoding="utf-8")
        client.connect("127.0.0.1", self.port, timeout=60)
        return client

    def upload(self, folder: Path, files: Mapping[str, bytes]) -> None:
        """Stores `files`, by path below `folder`, which lies in the home folder."""
        top = PurePosixPath("/") / folder.relative_to(self.account.home)
        with self._connect() as client:
            client.login(USER, PASSWORD)
            present: set[PurePosixPath] = {PurePosixPath("/")}
            for path, content in files.items():
                target = top / path
                for parent in reversed(target.parents):
                    if parent not in present:
                        _make_folder(client, parent)
                        present.add(parent)
                client.storbinary(f"STOR {target}", io.BytesIO(content))


def _make_folder(client: ftplib.FTP, path: PurePosixPath) -> None:
    try:
        client.mkd(str(path))
    except ftplib.error_perm as error:
        if "exists" not in str(error):
            raise


def _serve(port: int, folder: str, user: int, group: int) -> None:
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import FTPHandler
    from pyftpdlib.servers import FTPServer

    logging.basicConfig(level=logging.WARNING)

    class Handler(FTPHandler):
        authorizer = DummyAuthorizer()

    os.umask(0o022)
    Handler.authorizer.add_user(USER, PASSWORD, folder, perm="elradfmwMT")
    server = FTPServer(("127.0.0.1", port), Handler)
    # Only now: the user may not read what has been imported up to here.
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(group)
        os.setuid(user)
    server.serve_forever()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
