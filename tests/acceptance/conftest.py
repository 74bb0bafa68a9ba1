"""The release that is uploaded, and the account on a shared host that it is uploaded to."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.conftest import require
from tests.support import apache, mariadb
from tests.support.accounts import SYSTEM_PYTHON, Account
from tests.support.ftp import FtpServer
from tests.support.releases import current
from tests.support.shared_host import LAYOUTS, Layout, Site

ADMIN_KEY = "a-bootstrap-key-that-is-only-used-in-this-test"
DATABASE_PASSWORD = "p@ss/word:1"


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A commit of the files as they are now, whatever of them is committed here."""
    require("git", shutil.which("git") is not None)
    return current.make_checkout(tmp_path_factory.mktemp("checkout") / "tree")


@pytest.fixture(scope="session")
def archive(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    done = current.release(checkout, tmp_path_factory.mktemp("release"))
    assert (done.returncode, done.stderr) == (0, "")
    return Path(done.stdout.strip())


@pytest.fixture(scope="session")
def account() -> Iterator[Account]:
    require(f"Python ({SYSTEM_PYTHON})", SYSTEM_PYTHON.exists())
    made = Account()
    yield made
    made.remove()


@pytest.fixture(scope="session")
def ftp(account: Account) -> Iterator[FtpServer]:
    with FtpServer(account) as server:
        yield server


@pytest.fixture(scope="session")
def environment(account: Account, archive: Path) -> Path:
    """What "Run Pip Install" leaves in the account: the interpreter with the requirements."""
    requirements = account.home / "requirements.txt"
    account.write(requirements, current.released_files(archive)["requirements.txt"].decode())
    return account.make_environment(account.home / "virtualenv/taskmanager/3.11", requirements)


def make_database(server: mariadb.MariaDB, name: str) -> str:
    """What the panel's "MySQL Databases" gives: a database and a user with a password."""
    url = server.create_database(name)
    server.run(f"DROP USER IF EXISTS {name}@'127.0.0.1'")
    server.run(f"CREATE USER {name}@'127.0.0.1' IDENTIFIED BY '{DATABASE_PASSWORD}'")
    server.run(f"GRANT ALL PRIVILEGES ON {name}.* TO {name}@'127.0.0.1'")
    return url.replace("root@", f"{name}:{quote(DATABASE_PASSWORD, safe='')}@")


@pytest.fixture(scope="session", params=LAYOUTS, ids=str)
def site(
    request: pytest.FixtureRequest,
    account: Account,
    ftp: FtpServer,
    environment: Path,
    archive: Path,
) -> Iterator[Site]:
    """TaskManager as the owner of an account has set it up, with a first admin key."""
    require("Apache with Passenger", apache.is_installed())
    layout: Layout = request.param
    new = Site(account, layout, ftp, environment)
    new.upload(current.released_files(archive))
    new.write_block()
    new.settings["TASKMANAGER_BOOTSTRAP_ADMIN_KEY"] = ADMIN_KEY
    if layout.uses_mysql:
        name = f"account_{LAYOUTS.index(layout)}"
        url = make_database(request.getfixturevalue("mariadb_server"), name)
        new.settings["TASKMANAGER_DATABASE_URL"] = url
    with new.served():
        new.make_first_key(ADMIN_KEY)
        yield new
    for folder in (new.app_root, new.document_root):  # another file of tests may set it up again
        shutil.rmtree(folder, ignore_errors=True)
