"""TaskManager on a shared host: the folders of an account, what the panel writes, Apache in front.

Everything is done by the means of somebody without a shell: FTP, the panel, HTTP.
"""

import contextlib
import http.client
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.accounts import Account
from tests.support.apache import Apache
from tests.support.ftp import FtpServer


class Layout(NamedTuple):
    """Where the site's files lie in the home folder, and under which address it is served."""

    document_root: str
    app_root: str
    base_uri: str
    uses_mysql: bool = False
    block_comes_first: bool = False

    def __str__(self) -> str:
        place = "inside" if self.is_inside else "outside"
        engine = "mariadb" if self.uses_mysql else "sqlite"
        return f"{self.base_uri} with the app {place} the document root on {engine}"

    @property
    def is_inside(self) -> bool:
        """Whether Apache finds the app's own files at addresses of the site."""
        return Path(self.app_root).is_relative_to(self.document_root)


LAYOUTS = [
    Layout("public_html", "taskmanager", "/"),
    Layout("queue.example.org", "queue.example.org", "/", uses_mysql=True),
    Layout("shop.example.org", "queue", "/queue", uses_mysql=True),
    Layout("blog.example.org", "blog.example.org/queue", "/queue", block_comes_first=True),
]


class Reply(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def data(self) -> Any:
        return self.json["data"]


class Site:
    """One set-up of TaskManager in an account. `settings` are what `.env` holds."""

    def __init__(self, account: Account, layout: Layout, ftp: FtpServer, python: Path) -> None:
        self.account = account
        self.layout = layout
        self.ftp = ftp
        self.python = python
        self.document_root = account.home / layout.document_root
        self.app_root = account.home / layout.app_root
        self.prefix = layout.base_uri.rstrip("/")
        self.settings: dict[str, str] = {}
        self.key = ""
        self.apache: Apache
        self.port = 0

    def upload(self, files: Mapping[str, bytes]) -> None:
        self.ftp.upload(self.app_root, files)

    def write_block(self, python: Path | None = None) -> None:
        """What "Setup Python App" does to the folder of the address when an app is created."""
        block = (
            "# DO NOT REMOVE. CLOUDLINUX PASSENGER CONFIGURATION BEGIN\n"
            f'PassengerAppRoot "{self.app_root}"\n'
            f'PassengerBaseURI "{self.layout.base_uri}"\n'
            f'PassengerPython "{python or self.python}"\n'
            "# DO NOT REMOVE. CLOUDLINUX PASSENGER CONFIGURATION END\n"
            "# DO NOT REMOVE OR MODIFY. CLOUDLINUX ENV VARS CONFIGURATION BEGIN\n"
            "<IfModule Litespeed>\n"
            "</IfModule>\n"
            "# DO NOT REMOVE OR MODIFY. CLOUDLINUX ENV VARS CONFIGURATION END\n"
        )
        path = self.document_root / self.prefix.lstrip("/") / ".htaccess"
        there = path.read_text() if path.exists() else ""
        parts = [block, there] if self.layout.block_comes_first else [there, block]
        self.account.write(path, "\n".join(parts))

    @contextlib.contextmanager
    def served(self, **options: Any) -> Iterator["Site"]:
        """While Apache runs; `options` are those of `Apache`."""
        self.write_settings()
        with Apache(self.account, self.document_root, **options) as self.apache:
            self.port = self.apache.port
            yield self

    @contextlib.contextmanager
    def another_apache(self, document_root: Path | None = None, **options: Any) -> Iterator[Apache]:
        """While requests go to another server with these options."""
        another = Apache(self.account, document_root or self.document_root, **options)
        with another, self.through(another.port):
            yield another

    @contextlib.contextmanager
    def through(self, port: int) -> Iterator[None]:
        """While requests go to another port."""
        usual, self.port = self.port, port
        try:
            yield
        finally:
            self.port = usual

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.prefix}"

    def write_settings(self) -> None:
        """Uploads `.env`, with the permissions that docs/hosting.md asks for."""
        lines = "".join(f"{name}={value}\n" for name, value in self.settings.items())
        self.upload({".env": lines.encode()})
        (self.app_root / ".env").chmod(0o600)

    def restart(self) -> None:
        """Uploads an empty `tmp/restart.txt`; two such within one second count as one."""
        path = self.app_root / "tmp" / "restart.txt"
        before = int(path.stat().st_mtime) if path.exists() else 0
        deadline = time.monotonic() + 30
        self.upload({"tmp/restart.txt": b""})
        while int(path.stat().st_mtime) == before:
            assert time.monotonic() < deadline, "the clock stands still"
            time.sleep(0.05)
            self.upload({"tmp/restart.txt": b""})

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        caller: str = "127.0.0.1",
    ) -> Reply:
        """One request for `path` as it stands, below the app's address, from a local address."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=60, source_address=(caller, 0)
        )
        with contextlib.closing(connection):
            connection.putrequest(method, self.prefix + path, skip_accept_encoding=True)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            connection.endheaders(body)
            try:
                response = connection.getresponse()
                return Reply(response.status, response.headers, response.read())
            except ConnectionError as error:
                error.add_note(self.apache.log()[-2000:])
                raise

    def call(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> Reply:
        """One call of the API with the admin key."""
        headers = {"X-API-Key": self.key if key is None else key}
        if body is None:
            return self.request(method, path, headers=headers)
        headers["Content-Type"] = "application/json"
        return self.request(method, path, json.dumps(body).encode(), headers)

    def wait_for(self, method: str, path: str, status: int, *, key: str | None = None) -> Reply:
        """Repeats a call until it is answered with `status`."""
        deadline = time.monotonic() + 60
        while (reply := self.call(method, path, key=key)).status != status:
            assert time.monotonic() < deadline, (reply, self.apache.log()[-2000:])
            time.sleep(0.05)
        return reply

    def make_first_key(self, bootstrap_key: str) -> None:
        """By the setting for hosts without a shell, with which it was started; takes it out."""
        body = {"name": "owner", "role": "admin", "rate_limit": "0"}
        made = self.call("POST", "/api/admin/keys", body, key=bootstrap_key)
        assert made.status == 201, (made, self.apache.log()[-2000:])
        self.key = made.data["key"]
        keys = self.call("GET", "/api/admin/keys").data["keys"]
        (old,) = [key["id"] for key in keys if key["id"] != made.data["id"]]
        del self.settings["TASKMANAGER_BOOTSTRAP_ADMIN_KEY"]
        self.write_settings()
        self.restart()
        assert self.call("DELETE", f"/api/admin/keys/{old}").status == 200
