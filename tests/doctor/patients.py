"""The doctor as a process of its own, and what it examines: an upload in a folder."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from taskmanager.manifest import MANIFEST, manifest_text

ROOT = Path(__file__).resolve().parent.parent.parent
UPLOADED = ("taskmanager", "schema.sql", "requirements.txt", "passenger_wsgi.py", ".htaccess")


class Report(NamedTuple):
    """What the doctor said with `--json`."""

    exit_status: int
    findings: list[dict[str, Any]]
    stderr: str

    def of(self, code: str) -> dict[str, Any]:
        """The one finding of this code."""
        (found,) = [finding for finding in self.findings if finding["code"] == code]
        return found

    def level(self, code: str) -> str:
        level: str = self.of(code)["level"]
        return level

    def codes(self) -> set[str]:
        return {finding["code"] for finding in self.findings}

    def not_checked(self) -> str:
        """What was left out, in one string."""
        return " ".join(one["found"] for one in self.findings if one["code"] == "not_checked")

    def problems(self) -> set[str]:
        return {finding["code"] for finding in self.findings if finding["level"] == "problem"}


class Upload:
    """A folder as FTP leaves it on a host: the program, a manifest, and an instance folder."""

    def __init__(self, folder: Path, python: str) -> None:
        self.folder = folder
        self.instance = folder / "instance"
        self.python = python
        self.environment = {"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"}
        folder.mkdir()
        for name in UPLOADED:
            source = ROOT / name
            if source.is_dir():
                unwanted = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, folder / name, ignore=unwanted)
            else:
                shutil.copy(source, folder / name)
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        (folder / MANIFEST).write_text(manifest_text("a release", files))

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """`python -m taskmanager …` in the folder; `lease_seconds="5"` sets that setting."""
        return subprocess.run(
            [self.python, "-m", "taskmanager", *arguments],
            cwd=self.folder,
            env={**self.environment, **as_variables(settings)},
            capture_output=True,
            text=True,
            check=False,
        )

    def examine(self, *arguments: str, **settings: str) -> Report:
        done = self.run("doctor", "--json", *arguments, **settings)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode in (0, 1), done.stderr
        answer = json.loads(done.stdout)
        report = Report(done.returncode, answer["findings"], done.stderr)
        assert answer["problems"] == sum(one["level"] == "problem" for one in report.findings)
        assert report.exit_status == (1 if answer["problems"] else 0)
        for finding in report.findings:
            assert finding["level"] == "ok" or finding["remedy"], finding
            assert str(self.folder.parent) not in finding["found"] or finding["code"] in (
                "settings",
                "settings_unreadable",
            )
        return report

    def start_queue(self, **settings: str) -> None:
        """What the first start and the first key make."""
        done = self.run("keys", "create", "--name", "me", "--role", "admin", **settings)
        assert done.returncode == 0, done.stderr

    def contents(self) -> dict[str, bytes]:
        """Every file by its name."""
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }


def as_variables(settings: Mapping[str, str]) -> dict[str, str]:
    return {f"TASKMANAGER_{name.upper()}": value for name, value in settings.items()}


def remount_read_only(disk: Path) -> None:
    """Not even root can write there afterwards."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
