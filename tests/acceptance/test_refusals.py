"""A server that says no: each reason has its words, in the answer and where the owner looks."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.doctor.patients import Upload, remount_read_only
from tests.support.mariadb import MariaDB
from tests.support.ports import free_port

# One process as Passenger runs it: reads "METHOD PATH" lines, prints [status, headers, body].
HOST = """
import json, sys
from werkzeug.test import Client
import passenger_wsgi
for line in sys.stdin:
    method, path = line.split()
    client = Client(passenger_wsgi.application)
    answer = client.open(path, method=method, headers={"X-API-Key": "k"})
    print(json.dumps([answer.status_code, dict(answer.headers), answer.get_json()]), flush=True)
"""


class Site:
    """An upload, loaded through passenger_wsgi.py on a database."""

    def __init__(self, folder: Path) -> None:
        self.upload = Upload(folder, sys.executable)
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None

    def start(self, database_url: str) -> None:
        self.stop()
        environment = {"PATH": "/usr/bin", "TASKMANAGER_DATABASE_URL": database_url}
        with (self.folder / "stderr").open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-c", HOST],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    def call(self, path: str) -> tuple[int, dict[str, str], Any]:
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"GET {path}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, (self.folder / "stderr").read_text()
        status, headers, body = json.loads(line)
        return status, headers, body

    @property
    def report(self) -> Path:
        return self.folder / "start-error.log"

    def stop(self) -> None:
        if self.process is not None:
            self.process.communicate()
            self.process = None


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site")
    yield site
    site.stop()


def test_why_the_database_cannot_be_used_is_told_to_an_owner_without_a_shell(
    site: Site, own_mariadb: MariaDB
) -> None:
    url = own_mariadb.create_database("queue")
    own_mariadb.run("CREATE USER me IDENTIFIED BY 's3cret'")
    own_mariadb.run("GRANT ALL ON queue.* TO me")
    right = url.replace("root@", "me:s3cret@")
    for wrong, code, told in (
        (right.replace("s3cret", "wr0ng"), "database_access_denied", "rejects the user or the pa"),
        (right.replace("/queue", "/mysql"), "database_access_denied", "has no access to this data"),
        (url.replace("/queue", "/gone"), "database_access_denied", "no database with this name"),
        (f"mysql://me:s3cret@127.0.0.1:{free_port()}/queue", "database_unavailable", "Nothing ans"),
    ):
        site.start(wrong)
        for path in ("/api/health", "/api/tasks"):
            status, headers, body = site.call(path)
            assert (status, body["code"]) == (503, code)
            assert told in body["message"]
            assert "start-error.log in the folder of the program" in body["message"]
            assert "TASKMANAGER_DATABASE_URL" not in json.dumps(body)
            assert ("Retry-After" in headers) is (code == "database_unavailable")
        report = site.report.read_text()
        assert told in report
        assert "TASKMANAGER_DATABASE_URL" in report or "host's panel" in report
        assert site.report.stat().st_mode & 0o777 == 0o600
        for secret in ("s3cret", "wr0ng", "127.0.0.1", "Traceback"):
            assert secret not in report + json.dumps(body)

    site.start(right)
    assert site.call("/api/health")[0] == 200
    assert not site.report.exists()


def test_the_reason_is_removed_when_the_server_is_there_again_and_changes_with_it(
    site: Site, own_mariadb: MariaDB
) -> None:
    url = own_mariadb.create_database("queue")
    own_mariadb.run("CREATE USER me IDENTIFIED BY 's3cret'")
    own_mariadb.run("GRANT SELECT ON queue.* TO me")
    own_mariadb.stop()
    site.start(url.replace("root@", "me:s3cret@"))
    assert site.call("/api/tasks")[2]["code"] == "database_unavailable"
    assert "Nothing answers" in site.report.read_text()

    own_mariadb.start()
    status, headers, body = site.call("/api/tasks")
    assert (status, body["code"], "Retry-After" in headers) == (503, "database_refused", False)
    assert site.call("/api/health")[0] == 503
    assert "may not change its tables" in site.report.read_text()

    own_mariadb.run("GRANT ALL ON queue.* TO me")
    assert site.call("/api/tasks")[0] == 401
    assert site.call("/api/health")[0] == 200
    assert not site.report.exists()


def test_a_server_that_turns_read_only_makes_the_service_unhealthy_until_it_ends(
    site: Site, own_mariadb: MariaDB
) -> None:
    url = own_mariadb.create_database("queue")
    own_mariadb.run("CREATE USER me IDENTIFIED BY 's3cret'")
    own_mariadb.run("GRANT ALL ON queue.* TO me")
    mine = url.replace("root@", "me:s3cret@")
    upload = site.upload
    site.start(mine)
    assert site.call("/api/health")[0] == 200
    assert upload.run("maintain", database_url=mine).returncode == 0
    site.start(mine)  # a process that has not looked yet
    own_mariadb.run("SET GLOBAL read_only = 1")

    status, headers, body = site.call("/api/health")
    assert (status, body["code"], "Retry-After" in headers) == (503, "database_read_only", False)
    assert (body["details"]["status"], body["details"]["database"]) == ("unhealthy", "connected")
    assert "ask the host to end read_only" in body["message"]
    for command in ("maintain", "prune", "requeue-stale"):
        done = upload.run(command, database_url=mine)
        assert done.returncode == 1
        assert "server is read-only" in done.stderr
        assert "Traceback" not in done.stderr
    report = upload.examine(database_url=mine)
    assert report.level("database_writes") == "problem"
    assert report.exit_status == 1

    own_mariadb.run("SET GLOBAL read_only = 0")
    assert site.call("/api/health")[0] == 200


@pytest.mark.parametrize("rights", ["SELECT", "SELECT, INSERT, UPDATE, DELETE"])
def test_rights_that_a_user_lacks_are_found(site: Site, own_mariadb: MariaDB, rights: str) -> None:
    url = own_mariadb.create_database("queue")
    own_mariadb.run("CREATE USER me IDENTIFIED BY 's3cret'")
    own_mariadb.run(f"GRANT {rights} ON queue.* TO me")
    mine = url.replace("root@", "me:s3cret@")
    upload = site.upload

    before = upload.examine(database_url=mine)
    assert before.level("database_writes") == "problem"
    assert "CREATE" in before.of("database_writes")["remedy"]
    assert own_mariadb.rows("SHOW TABLES FROM queue") == []

    assert upload.run("init-db", database_url=url).returncode == 0
    site.start(mine)
    after = upload.examine(database_url=mine)
    if rights == "SELECT":
        assert after.level("database_writes") == "problem"
        assert site.call("/api/health")[2]["code"] == "database_access_denied"
        assert upload.run("maintain", database_url=mine).returncode == 1
    else:
        assert after.level("database_writes") == "warning"
        assert "next upgrade" in after.of("database_writes")["found"]
        assert site.call("/api/health")[0] == 200
        assert upload.run("maintain", database_url=mine).returncode == 0


def test_a_folder_that_cannot_be_written_ends_maintenance_with_a_sentence(
    site: Site, own_mariadb: MariaDB, disk: Path
) -> None:
    upload = site.upload
    for url in (own_mariadb.create_database("queue"), f"sqlite:///{disk}/queue.db"):
        place = {"instance_path": str(disk), "database_url": url}
        assert upload.run("init-db", **place).returncode == 0
        remount_read_only(disk)
        done = upload.run("maintain", **place)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "cannot be written" in done.stderr
