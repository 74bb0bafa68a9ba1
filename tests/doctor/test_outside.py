"""What anybody can fetch, asked of real servers: one that serves the folder, and the service."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doctor.patients import Upload
from tests.support.ports import free_port
from tests.support.server import Server

PASSWORD = "TASKMANAGER_BOOTSTRAP_ADMIN_KEY=a-secret-that-must-not-be-served-0123456789\n"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


class _Everything(_Quiet):
    """Answers every address with the same page, as some hosts do instead of 404."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>Welcome to our new site</html>" * 500)


class _OnlyEncoded(_Quiet):
    """A rule that forbids `.env` by its letters and not by its meaning."""

    def do_GET(self) -> None:
        if "/." in self.path:
            self.send_error(403)
        else:
            super().do_GET()


def serving(handler: type[_Quiet], folder: Path) -> Iterator[str]:
    made = functools.partial(handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), made)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def upload(upload: Upload) -> Upload:
    """One that is in use, with secrets in its `.env`."""
    (upload.folder / ".env").write_text(PASSWORD)
    (upload.folder / ".env").chmod(0o600)
    upload.start_queue()
    return upload


@pytest.fixture
def folder_server(upload: Upload) -> Iterator[str]:
    """Serves the files of the host as they lie there."""
    yield from serving(_Quiet, upload.folder)


def test_what_a_web_server_gives_away_is_named(upload: Upload, folder_server: str) -> None:
    report = upload.examine("--url", folder_server)
    found = report.of("files_exposed")
    assert found["level"] == "problem"
    for name in (".env", "schema.sql", "taskmanager/config.py", "instance/taskmanager.db"):
        assert name in found["found"]
    assert report.level("service_reached") == "warning"
    assert "is not from TaskManager" in report.of("service_reached")["found"]
    assert report.exit_status == 1
    assert "a-secret" not in str(report)


def test_a_rule_that_can_be_passed_by_writing_the_name_otherwise_is_no_rule(
    upload: Upload,
) -> None:
    servers = serving(_OnlyEncoded, upload.folder)
    report = upload.examine("--url", next(servers) + "/")
    assert ".env" in report.of("files_exposed")["found"]
    assert report.level("files_exposed") == "problem"
    next(servers, None)


def test_a_page_that_is_shown_for_every_address_is_no_file(upload: Upload) -> None:
    servers = serving(_Everything, upload.folder)
    report = upload.examine("--url", next(servers))
    assert report.level("files_exposed") == "ok"
    assert "is not from TaskManager" in report.of("service_reached")["found"]
    next(servers, None)


def test_the_service_itself_gives_no_file_away(upload: Upload, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    server = Server(tmp_path / "served", workers=1, threads=2)
    server.start()
    try:
        report = upload.examine("--url", server.url)
    finally:
        server.stop()
    assert report.level("service_reached") == "ok"
    assert "None of 5 files can be fetched" in report.of("files_exposed")["found"]
    assert report.exit_status == 0


def test_another_version_at_the_address_is_a_warning(upload: Upload, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    (upload.folder / "taskmanager" / "__init__.py").write_text('__version__ = "0.0.9"\n')
    server = Server(tmp_path / "served", workers=1, threads=2)
    server.start()
    try:
        report = upload.examine("--url", server.url)
    finally:
        server.stop()
    assert report.level("service_reached") == "warning"
    assert "tmp/restart.txt" in report.of("service_reached")["remedy"]


def test_plain_http_from_elsewhere_is_a_warning(upload: Upload, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    server = Server(tmp_path / "served", workers=1, threads=2)
    server.start()
    try:  # an address of this machine that is not one of those that everybody knows as such
        report = upload.examine("--url", server.url.replace("127.0.0.1", "0.0.0.0"))
    finally:
        server.stop()
    assert report.level("service_reached") == "warning"
    assert "plain HTTP" in report.of("service_reached")["found"]


def test_a_service_without_its_database_is_a_problem(upload: Upload, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    database_url = f"mysql://me:secret@127.0.0.1:{free_port()}/queue"
    server = Server(tmp_path / "served", database_url, workers=1, threads=2)
    server.key = "none"
    server.start(health=503)
    try:
        report = upload.examine("--url", server.url)
    finally:
        server.stop()
    assert report.problems() == {"service_reached"}
    assert "503" in report.of("service_reached")["found"]


def test_where_nothing_answers_nothing_is_said_of_the_files(upload: Upload) -> None:
    report = upload.examine("--url", f"http://127.0.0.1:{free_port()}")
    assert (report.level("service_reached"), report.level("files_exposed")) == (
        *("warning", "warning"),
    )
    assert "Connection refused" in report.of("service_reached")["found"]
    assert report.exit_status == 0


def test_without_an_address_nothing_is_fetched(upload: Upload) -> None:
    report = upload.examine()
    assert report.of("files_exposed")["found"].startswith("Not checked")
    assert "service_reached" not in report.codes()
