"""Fixtures of the tests of the doctor."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.test_release import make_environment
from tests.conftest import require
from tests.doctor.patients import ROOT, Upload


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with the required libraries alone: this very checkout is not in its reach."""
    folder = tmp_path_factory.mktemp("python") / "environment"
    return str(make_environment(folder, ROOT / "requirements.txt"))


@pytest.fixture
def upload(tmp_path: Path, python: str) -> Upload:
    """A whole upload that nobody has started yet."""
    return Upload(tmp_path / "host", python)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 30 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    require("A small file system (mount, which takes root)", mounted)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
