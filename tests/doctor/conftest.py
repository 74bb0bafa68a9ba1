"""Fixtures of the tests of the doctor."""

from pathlib import Path

import pytest

from tests.acceptance.test_release import make_environment
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
