"""Databases that tests can be run on besides this machine's own: `pytest --database NAME`.

    python -m tests.support.other_databases NAME

fetches one, and says why where that cannot be done. Each is that of another Debian
release: see debian_packages.py. A cluster is made of what is installed.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.support import debian_packages, galera
from tests.support.debian_packages import NotToBeHad
from tests.support.mariadb import MariaDB


class Package(NamedTuple):
    suite: str
    name: str

    def unpacked(self) -> Path:
        return debian_packages.unpacked(self.suite, self.name)


SQLITE = "sqlite-3.34"
PACKAGES = {
    "mariadb-10.5": Package("bullseye", "mariadb-server-core-10.5"),
    "mysql": Package("sid", "mysql-server-core"),
    SQLITE: Package("bullseye", "libsqlite3-0"),
}
GALERA = "galera"
NAMES = (*PACKAGES, GALERA)


def fetch(name: str) -> None:
    """Raises NotToBeHad."""
    if name != GALERA:
        PACKAGES[name].unpacked()
    elif not galera.is_installed():
        raise NotToBeHad("galera-4 and rsync are not installed")


class OldMariaDB(MariaDB):
    """MariaDB 10.5, which knows no SKIP LOCKED."""

    def _make(self) -> None:
        """What mariadb-install-db does, which cannot be told to use another loader."""
        (self.folder / "data").mkdir()
        scripts = self._root() / "usr/share/mysql"
        names = ("system_tables", "performance_tables", "system_tables_data")
        text = "create database mysql;\nuse mysql;\n" + "".join(
            (scripts / f"mysql_{name}.sql").read_text(encoding="utf-8") for name in names
        )
        lines = [line for line in text.splitlines() if "@current_hostname" not in line]
        self._run_program(["--bootstrap"], "\n".join(lines))

    def _program(self) -> list[str]:
        root = self._root()
        return [
            *debian_packages.command(root, "usr/sbin/mariadbd"),
            "--no-defaults",
            f"--basedir={root / 'usr'}",
        ]

    def _root(self) -> Path:
        return PACKAGES["mariadb-10.5"].unpacked()

    def _run_program(self, options: list[str], text: str = "") -> None:
        subprocess.run(
            [*self._program(), "--user=root", f"--datadir={self.folder / 'data'}", *options],
            input=text,
            text=True,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


class MySQL(OldMariaDB):
    """The MySQL of Debian's sid, whatever its version is by now."""

    def _make(self) -> None:
        self._run_program(["--initialize-insecure"])
        # Without names of hosts, localhost is a socket and 127.0.0.1 another user.
        (self.folder / "first.sql").write_text(
            "CREATE USER IF NOT EXISTS root@127.0.0.1;\n"
            "GRANT ALL ON *.* TO root@127.0.0.1 WITH GRANT OPTION;\n"
        )

    def _program(self) -> list[str]:
        root = self._root()
        return [
            *debian_packages.command(root, "usr/sbin/mysqld", "usr/lib/mysql/private"),
            "--no-defaults",
            f"--basedir={root / 'usr'}",
            f"--lc-messages-dir={root / 'usr/share/mysql'}",
            f"--plugin-dir={root / 'usr/lib/mysql/plugin'}",
            "--secure-file-priv=NULL",
        ]

    def _root(self) -> Path:
        return PACKAGES["mysql"].unpacked()

    def _options(self) -> list[str]:
        return [
            *super()._options(),
            "--mysqlx=OFF",
            "--skip-log-bin",
            f"--init-file={self.folder / 'first.sql'}",
        ]


class Cluster(MariaDB):
    """Three nodes in the place of one server. Statements of the tests go to the first of them."""

    def _make(self) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="galera-")  # other accounts can reach it
        self._cluster = galera.Galera(Path(self._place.name), durable=False)
        self.port = self._cluster.nodes[0].port

    def start(self) -> None:
        self._cluster.start()

    def create_database(self, name: str) -> str:
        return self._cluster.create_database(name)

    def _end(self, how: signal.Signals) -> None:
        self._cluster.stop()
        self._place.cleanup()


SERVERS: Mapping[str, type[MariaDB]] = {
    "mariadb-10.5": OldMariaDB,
    "mysql": MySQL,
    GALERA: Cluster,
}


def run_again_on_old_sqlite() -> None:
    """Starts this process anew with the old library in place of the one that Python is linked to.

    Python asks for functions that the old one lacks and nobody calls; those come from the other,
    which is behind it. Returns where that has been done.
    """
    import sqlite3

    name = "libsqlite3.so.0"
    old = [folder / name for folder in debian_packages.library_folders(PACKAGES[SQLITE].unpacked())]
    path = next(str(path) for path in old if path.exists())
    if path in os.environ.get("LD_PRELOAD", ""):
        assert sqlite3.sqlite_version.startswith("3.34."), sqlite3.sqlite_version
        return
    loaded = Path("/proc/self/maps").read_text().split()
    own = next((one for one in loaded if Path(one).name.startswith(name)), None)
    if own is None:
        raise NotToBeHad("this Python has an SQLite of its own inside")
    os.environ["LD_PRELOAD"] = f"{path}:{own}"
    os.execv(sys.executable, sys.orig_argv)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=NAMES)
    name = parser.parse_args().name
    try:
        fetch(name)
    except NotToBeHad as error:
        sys.exit(f"{name} is not to be had here: {error}")


if __name__ == "__main__":
    main()
