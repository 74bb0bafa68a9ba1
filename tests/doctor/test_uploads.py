"""A program that arrived in pieces, or without its libraries: the doctor runs, and says which."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from taskmanager.doctor.case import Case
from taskmanager.doctor.findings import numbers_of
from taskmanager.doctor.program import check_libraries, judge_python, old_loader_below
from tests.acceptance.test_release import make_environment
from tests.doctor.patients import ROOT, Upload


def test_a_whole_upload_is_what_the_manifest_says(upload: Upload) -> None:
    report = upload.examine()
    assert (report.level("release_files"), report.level("program_loads")) == ("ok", "ok")
    assert report.level("libraries") == "ok"
    assert not {code for code in report.codes() if code.startswith("files_")} - {"files_exposed"}


def test_without_a_manifest_the_files_cannot_be_judged(upload: Upload) -> None:
    (upload.folder / "MANIFEST.sha256").unlink()
    found = upload.examine().of("release_files")
    assert found["level"] == "ok"
    assert found["found"].startswith("Not applicable: there is no MANIFEST.sha256")


@pytest.mark.parametrize("content", [b"", b"\xff<html>404</html>"])
def test_a_manifest_that_lists_nothing_is_a_problem(upload: Upload, content: bytes) -> None:
    (upload.folder / "MANIFEST.sha256").write_bytes(content)
    report = upload.examine()
    assert report.level("release_files") == "problem"
    assert report.exit_status == 1


def test_each_way_in_which_an_upload_breaks_is_named_with_its_files(upload: Upload) -> None:
    package = upload.folder / "taskmanager"
    (package / "demo" / "run.py").unlink()
    (package / "demo" / "files.py").write_bytes((package / "demo" / "files.py").read_bytes()[:99])
    (package / "rates.py").write_text((package / "rates.py").read_text() + "# older\n")
    schema = upload.folder / "schema.sql"
    schema.write_bytes(schema.read_bytes().replace(b"\n", b"\r\n"))
    (package / "cli.py").write_text("# of an older version")

    report = upload.examine()

    assert "taskmanager/demo/run.py" in report.of("files_missing")["found"]
    assert "taskmanager/demo/files.py (cut short)" in report.of("files_damaged")["found"]
    assert "taskmanager/rates.py (changed)" in report.of("files_damaged")["found"]
    assert "schema.sql" in report.of("files_text_mode")["found"]
    assert "binary" in report.of("files_text_mode")["remedy"]
    assert "taskmanager/cli.py" in report.of("files_left_over")["found"]
    assert report.level("files_left_over") == "warning"
    assert {"files_missing", "files_damaged", "files_text_mode"} == report.problems()
    assert "release_files" not in report.codes()


def test_an_upload_in_text_mode_still_runs_and_is_told(upload: Upload) -> None:
    for path in [path for path in upload.folder.rglob("*") if path.is_file()]:
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    report = upload.examine()
    assert report.level("program_loads") == "ok"
    assert report.problems() == {"files_text_mode"}
    assert "and " in report.of("files_text_mode")["found"]  # ten names, and how many more


def test_lines_that_the_host_has_added_to_htaccess_are_a_warning(upload: Upload) -> None:
    file = upload.folder / ".htaccess"
    file.write_text(file.read_text() + "\nPassengerAppRoot /home/me/queue\n")
    report = upload.examine()
    assert report.level("htaccess_changed") == "warning"
    assert "files_damaged" not in report.codes()


CRUCIAL = [
    *("cli/__init__.py", "app.py", "config.py", "errors.py", "clock.py", "db"),
    *("queue", "api", "access", "rates.py"),
]


@pytest.mark.parametrize("name", CRUCIAL)
def test_where_a_file_that_all_need_is_missing_the_doctor_still_names_it(
    upload: Upload, name: str
) -> None:
    path = upload.folder / "taskmanager" / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()

    report = upload.examine()

    assert f"taskmanager/{name}" in report.of("files_missing")["found"]
    assert report.level("program_loads") == "problem"
    assert report.level("python_version") == "ok"


@pytest.mark.parametrize("name", ["app.py", "errors.py", "config.py", "cli/__init__.py"])
def test_where_a_file_was_cut_short_the_doctor_says_which_keeps_the_program_from_starting(
    upload: Upload, name: str
) -> None:
    path = upload.folder / "taskmanager" / name
    path.write_text(path.read_text() + "\ndef half(")
    report = upload.examine()
    assert f"taskmanager/{name}" in report.of("files_damaged")["found"]
    assert f"in taskmanager/{name}, SyntaxError" in report.of("program_loads")["found"]


@pytest.mark.parametrize(
    "name",
    [
        *("queue/dedupe.py", "api/claims.py", "cli/terminal.py", "db/sqlite/engine.py", "access"),
        *("api/openapi/document.py", "db/mysql/engine.py", "db/mysql/pool.py"),
        "serving/server.py",
    ],
)
def test_a_missing_module_is_named_itself_and_not_the_one_that_imports_it(
    upload: Upload, name: str
) -> None:
    path = upload.folder / "taskmanager" / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    module = f"taskmanager/{name}".removesuffix(".py").replace("/", ".")
    found = upload.examine().of("program_loads")
    assert found["level"] == "problem"
    assert found["found"].partition(f" {module}")[1], found
    assert ".py" not in found["found"]


def test_a_part_of_the_doctor_that_is_missing_is_a_finding_and_the_rest_goes_on(
    upload: Upload,
) -> None:
    (upload.folder / "taskmanager" / "doctor" / "folders.py").unlink()
    (upload.folder / "taskmanager" / "manifest.py").write_text("raise RuntimeError('secret')")
    report = upload.examine()
    failed = [one for one in report.findings if one["code"] == "check_failed"]
    assert [one["group"] for one in failed] == ["program", *["host"] * 4]
    assert "secret" not in str(failed)
    assert report.level("settings") == "ok"


def test_other_commands_lead_to_the_doctor_where_they_cannot_start(upload: Upload) -> None:
    (upload.folder / "taskmanager" / "clock.py").unlink()
    failed = upload.run("stats")
    assert failed.returncode == 1
    assert failed.stderr.rstrip().endswith("python -m taskmanager doctor")


def test_wrong_usage_exits_with_2_also_where_nothing_else_starts(upload: Upload) -> None:
    for arguments in (["--url", "file:///etc/passwd"], ["--url", "example.org"], ["--yaml"]):
        assert upload.run("doctor", *arguments).returncode == 2
    (upload.folder / "taskmanager" / "clock.py").unlink()
    for arguments in (["--url", "file:///etc/passwd"], ["--url", "example.org"], ["--yaml"]):
        wrong = upload.run("doctor", *arguments)
        assert (wrong.returncode, wrong.stdout) == (2, "")
        assert "error: " in wrong.stderr


# Libraries


@pytest.mark.parametrize(
    ("library", "folder"),
    [
        ("flask", "flask"),
        ("peewee", "peewee.py"),
        ("limits", "limits"),
        ("click", "click"),
        ("cronsim", "cronsim"),
        ("pymysql", "pymysql"),
        ("gunicorn", "gunicorn"),
    ],
)
def test_a_library_that_is_missing_is_named_and_the_rest_is_examined(
    upload: Upload, tmp_path: Path, library: str, folder: str
) -> None:
    environment = tmp_path / "environment"
    upload.python = str(make_environment(environment, upload.folder / "requirements.txt"))
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / folder).unlink()
    for metadata in packages.glob(f"{library.replace('-', '_')}-*.dist-info"):
        metadata.unlink()
    (upload.folder / ".env").write_text("TASKMANAGER_LEASE_SECONDS=60\n")
    (upload.folder / ".env").chmod(0o600)

    report = upload.examine()

    missing = report.of("program_loads")
    assert report.of("libraries")["found"] == f"Not installed: {library}."
    assert f"the module {folder.removesuffix('.py')} is missing" in missing["found"]
    assert report.level("settings") == "ok"
    assert report.level("release_files") == "ok"
    assert report.level("env_file") == "ok"
    assert report.exit_status == 1
    told = upload.run(
        "serve", database_url="mysql://me@127.0.0.1:1/q" if library == "pymysql" else ""
    )
    assert told.returncode == 1
    assert "python -m taskmanager doctor" in told.stderr
    if library in ("pymysql", "gunicorn"):
        assert told.stderr.startswith(f"taskmanager: The module {library} is missing.")


@pytest.mark.parametrize(
    ("asked", "level", "sentence"),
    [
        ("peewee>=99,<100", "problem", "Too old: peewee"),
        ("peewee>=1,<2", "warning", "Newer than the tested versions: peewee"),
        ("peewee>=1,<99\n# a comment\n\nflask>=1", "ok", "All 2 libraries"),
        ("", "ok", "Not applicable"),
    ],
)
def test_what_is_installed_is_held_against_what_is_asked_for(
    upload: Upload, asked: str, level: str, sentence: str
) -> None:
    (upload.folder / "requirements.txt").write_text(asked)
    found = upload.examine().of("libraries")
    assert found["level"] == level
    assert found["found"].startswith(sentence)


def test_without_requirements_what_pip_was_told_counts() -> None:
    """This checkout is installed by pip; a folder without the list stands for site-packages."""
    (found,) = check_libraries(Case(root=Path(__file__).parent))
    required = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    count = sum(bool(line) and not line.startswith("#") for line in required)
    assert f"All {count} libraries" in found.found


@pytest.mark.parametrize(
    ("version", "bound", "older"),
    [
        ("3.1.3", "3.1.3", False),
        ("3.1.2", "3.1.3", True),
        ("3.10", "3.9", False),
        ("3.1", "3.1.0", False),
        ("3.1", "3.1.1", True),
        ("2025.2", "2025.2", False),
        ("4.0.0rc1", "4", False),
        ("4.5.3+local.7", "4.6", True),
    ],
)
def test_versions_are_compared_number_by_number(version: str, bound: str, older: bool) -> None:
    assert (numbers_of(version) < numbers_of(bound)) is older


# Python


def test_python_is_judged_by_its_version_and_by_the_passenger_of_the_host() -> None:
    assert judge_python((3, 10, 9), None).level == "problem"
    assert judge_python((3, 11, 2), True).level == "ok"
    assert judge_python((3, 12, 0), True).level == "warning"
    assert judge_python((3, 13, 1), False).level == "ok"
    assert "6.0.18" in judge_python((3, 12, 0), None).found


def test_an_old_passenger_is_known_by_how_it_loads_programs(tmp_path: Path) -> None:
    assert old_loader_below(tmp_path) is None
    debian = tmp_path / "usr/share/passenger/helper-scripts"
    cpanel = tmp_path / "opt/cpanel/ea-ruby27/root/usr/share/passenger/helper-scripts"
    for folder, modules in (
        (cpanel, "sys, importlib.util, re"),
        (debian, "sys, os, re, imp, json"),
    ):
        folder.mkdir(parents=True)
        (folder / "wsgi-loader.py").write_text(f"#!/usr/bin/env python\nimport {modules}\n")
        assert old_loader_below(tmp_path) is (folder is debian)


def test_a_python_that_is_too_old_is_told_in_one_sentence_by_every_command() -> None:
    script = (
        "import sys; sys.version_info = (3, 9, 2); from taskmanager.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "taskmanager: Python 3.9 is too old. Use 3.11 or newer.\n"
