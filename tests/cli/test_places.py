"""Where a queue is, by how the program came to the machine: each a process without any setting."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


class Program:
    """A copy of the program in `folder`, run in an empty folder by a user with an empty home."""

    def __init__(self, folder: Path, tmp_path: Path, *, installed: bool) -> None:
        self.folder = folder
        self.home = tmp_path / "home"
        self.elsewhere = tmp_path / "empty"
        for made in (folder, self.home, self.elsewhere):
            made.mkdir(parents=True)
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "taskmanager", folder / "taskmanager", ignore=unwanted)
        shutil.copy(ROOT / "schema.sql", folder)
        if installed:  # as every installer notes it
            (folder / "taskmanager-9.9.dist-info").mkdir()

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "taskmanager", *arguments],
            cwd=self.elsewhere,
            env={
                "PATH": os.defpath,
                "HOME": str(self.home),
                "PYTHONPATH": str(self.folder),
                "PYTHONDONTWRITEBYTECODE": "1",
                **variables,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def says_where(self, **variables: str) -> Path:
        """Where the database is after `init-db`, which says so, as the doctor does too."""
        made = self.run("init-db", **variables)
        assert made.returncode == 0, made.stderr
        place = made.stderr.rstrip().rpartition("): ")[2]
        assert Path(place).is_file()
        assert f"\nDatabase: {place}\n" in self.run("doctor", **variables).stdout
        return Path(place)


@pytest.fixture
def installed(tmp_path: Path) -> Program:
    return Program(tmp_path / "venv" / "lib" / "site-packages", tmp_path, installed=True)


@pytest.fixture
def uploaded(tmp_path: Path) -> Program:
    return Program(tmp_path / "queue", tmp_path, installed=False)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="the data folder has another name there")
def test_an_installed_package_keeps_its_queue_where_it_outlives_the_environment(
    installed: Program,
) -> None:
    data = installed.home / ".local" / "share" / "taskmanager"
    assert installed.says_where() == data / "instance" / "taskmanager.db"
    assert (data / "instance").stat().st_mode & 0o777 == 0o700
    assert not (installed.folder / "instance").exists()
    assert list(installed.elsewhere.iterdir()) == []
    named = installed.says_where(TASKMANAGER_INSTANCE_PATH="other")
    assert named == data / "other" / "taskmanager.db"
    shared = installed.home / "shared"
    elsewhere = installed.says_where(XDG_DATA_HOME=str(shared))
    assert elsewhere == shared / "taskmanager" / "instance" / "taskmanager.db"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="the data folder has another name there")
def test_the_settings_file_of_an_installed_package_is_in_the_data_folder(
    installed: Program,
) -> None:
    data = installed.home / ".local" / "share" / "taskmanager"
    data.mkdir(parents=True)
    (data / ".env").write_text("TASKMANAGER_INSTANCE_PATH=mine\n")
    (data / ".env").chmod(0o644)
    assert installed.says_where() == data / "mine" / "taskmanager.db"
    assert "Other users can read `.env`" in installed.run("doctor").stdout
    (installed.folder / ".env").write_text("TASKMANAGER_LEASE_SECONDS=soon\n")
    assert f"in {installed.folder / '.env'}, line 1" in installed.run("init-db").stderr


@pytest.mark.slow
def test_an_uploaded_folder_keeps_its_queue_beside_the_program(uploaded: Program) -> None:
    assert uploaded.says_where() == uploaded.folder / "instance" / "taskmanager.db"
    assert list(uploaded.home.iterdir()) == []


@pytest.mark.slow
def test_a_queue_that_is_among_the_packages_already_stays_in_use_and_the_doctor_warns(
    installed: Program,
) -> None:
    (installed.folder / "instance").mkdir(mode=0o700)
    assert installed.says_where() == installed.folder / "instance" / "taskmanager.db"
    assert "[instance_among_packages]" in installed.run("doctor").stdout


@pytest.mark.slow
def test_what_cannot_be_written_stops_the_start_and_nothing_else_is_taken(
    installed: Program,
) -> None:
    (installed.home / ".local").write_text("")  # not even root can make a folder there
    failed = installed.run("init-db")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith(f"taskmanager: The folder {installed.home}/.local/share")
    assert "set TASKMANAGER_INSTANCE_PATH" in failed.stderr
    assert not (installed.folder / "instance").exists()


@pytest.mark.slow
@pytest.mark.parametrize("path", ["~nobody-of-this-name/queue", "~nobody-of-this-name"])
def test_the_home_of_a_user_who_does_not_exist_is_told(installed: Program, path: str) -> None:
    failed = installed.run("init-db", TASKMANAGER_INSTANCE_PATH=path)
    assert failed.returncode == 1
    assert "must be an absolute path" in failed.stderr
    assert "~nobody-of-this-name has no home" in failed.stderr
    assert "Traceback" not in failed.stderr
