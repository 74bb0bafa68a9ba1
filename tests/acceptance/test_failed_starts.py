"""What somebody without a shell is told where the program cannot start, and how it recovers."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.support import apache
from tests.support.accounts import SYSTEM_PYTHON, Account
from tests.support.ftp import FtpServer
from tests.support.releases import current
from tests.support.shared_host import Layout, Reply, Site

OLD_PYTHON = Path("/usr/bin/pypy3")
LAYOUT = Layout("broken.example.org", "broken", "/")


@pytest.fixture(scope="module")
def broken(account: Account, ftp: FtpServer, environment: Path, archive: Path) -> Iterator[Site]:
    """A site of its own, which every test breaks and mends."""
    require("Apache with Passenger", apache.is_installed())
    site = Site(account, LAYOUT, ftp, environment)
    site.upload(current.released_files(archive))
    site.write_block()
    with site.served(processes=1):
        yield site


def refusal(site: Site) -> tuple[Reply, str]:
    """The answer after a restart, and what the report in the folder of the app says."""
    site.restart()
    reply = site.wait_for("GET", "/api/health", 503)
    assert (reply.json["success"], reply.json["code"]) == (False, "not_started")
    assert reply.json["error"] == reply.json["message"]
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["Retry-After"]
    assert reply.headers["X-Request-ID"]
    report = site.app_root / "start-error.log"
    assert report.stat().st_mode & 0o777 == 0o600
    return reply, report.read_text()


def assert_it_recovers(site: Site) -> None:
    """Without another restart: there may be nobody who knows that one is needed."""
    site.wait_for("GET", "/api/health", 200)
    assert not (site.app_root / "start-error.log").exists()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("TASKMANAGER_LEASE_SECONDS", "five", "must be a whole number from 1 to 86400"),
        ("TASKMANAGER_DATABASE_URL", "mysqli://me:s3cret@localhost/q", "or mysql://user:password"),
        ("TASKMANAGER_PLUGINS", "nowhere", "names the module 'nowhere'"),
        ("TASKMANAGER_INSTANCE_PATH", "/proc/none", "cannot be created"),
    ],
)
def test_a_wrong_setting_is_told_in_the_folder_and_the_log_and_not_to_strangers(
    broken: Site, name: str, value: str, told: str
) -> None:
    broken.settings[name] = value
    broken.write_settings()
    reply, report = refusal(broken)
    assert "start-error.log" in reply.json["message"]
    assert name not in reply.content.decode()
    assert str(broken.account.home) not in reply.content.decode()
    assert name in report
    assert told in report
    assert report.splitlines()[-1] in broken.apache.log()
    assert "s3cret@" not in report + broken.apache.log()
    assert "Traceback" not in report

    del broken.settings[name]
    broken.write_settings()
    assert_it_recovers(broken)


def test_the_refusal_to_a_head_request_has_no_body(broken: Site) -> None:
    broken.settings["TASKMANAGER_LEASE_SECONDS"] = "0"
    broken.write_settings()
    refusal(broken)
    reply = broken.request("HEAD", "/api/health")
    assert (reply.status, reply.content) == (503, b"")
    broken.settings.clear()
    broken.write_settings()
    assert_it_recovers(broken)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("taskmanager/app.py", None),
        ("taskmanager/app.py", b"def create_app(:\n"),
        ("taskmanager/api/__init__.py", b""),
    ],
)
def test_an_upload_that_was_not_whole_is_told_and_mended_by_another(
    broken: Site, archive: Path, path: str, content: bytes | None
) -> None:
    if content is None:
        (broken.app_root / path).unlink()
    else:
        broken.upload({path: content})
    reply, report = refusal(broken)
    assert "Upload the whole release again" in reply.json["message"]
    assert "Traceback" in report
    assert "Traceback" not in reply.content.decode()

    broken.upload({path: current.released_files(archive)[path]})
    assert_it_recovers(broken)


def test_a_missing_schema_is_told(broken: Site, archive: Path) -> None:
    for path in (broken.app_root / "instance").iterdir():
        path.unlink()
    (broken.app_root / "schema.sql").unlink()
    _, report = refusal(broken)
    assert "schema.sql is missing: upload it" in report
    broken.upload({"schema.sql": current.released_files(archive)["schema.sql"]})
    assert_it_recovers(broken)


@contextlib.contextmanager
def python_chosen(site: Site, python: Path) -> Iterator[None]:
    """As in "Setup Python App", where another version is selected."""
    block = site.document_root / ".htaccess"
    usual = block.read_text()
    block.unlink()
    site.write_block(python)
    # A pool of processes that knows the app already would go on with the other Python.
    with site.another_apache(processes=1):
        yield
    block.write_text(usual)


def test_requirements_that_are_not_installed_yet_are_told_and_noticed(
    broken: Site, environment: Path
) -> None:
    folder = broken.account.home / "virtualenv" / "empty"
    made = broken.account.run(SYSTEM_PYTHON, "-m", "venv", "--without-pip", folder)
    assert made.returncode == 0, made.stderr
    (packages,) = folder.glob("lib/python*/site-packages")
    (installed,) = environment.parent.parent.glob("lib/python*/site-packages")
    with python_chosen(broken, folder / "bin" / "python"):
        reply, _ = refusal(broken)
        assert re.match(r"The Python package (flask|peewee) is missing", reply.json["message"])
        assert "press Run Pip Install, or run pip install -r requi" in reply.json["message"]
        copied = broken.account.run("cp", "-R", f"{installed}/.", packages)
        assert copied.returncode == 0, copied.stderr
        assert_it_recovers(broken)


def test_an_old_python_is_told_to_be_too_old(broken: Site) -> None:
    require("an old Python (pypy3)", OLD_PYTHON.exists())
    with python_chosen(broken, OLD_PYTHON):
        reply, report = refusal(broken)
    message = reply.json["message"]
    assert message.startswith("TaskManager needs Python 3.11 or newer, but this is 3.")
    assert message in report
    assert_it_recovers(broken)
