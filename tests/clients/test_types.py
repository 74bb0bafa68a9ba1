"""The types of the JavaScript client, checked by TypeScript where npm can install it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.debian_packages import CACHE

pytestmark = pytest.mark.slow

TYPESCRIPT = CACHE / "typescript"
STRICT = ("--noEmit", "--strict", "--module", "nodenext", "--target", "es2022")
LIBRARIES = ("--lib", "es2022,dom,dom.asynciterable")


@pytest.fixture(scope="module")
def tsc() -> Path:
    program = TYPESCRIPT / "node_modules" / ".bin" / "tsc"
    if not program.exists():
        if shutil.which("npm") is None:
            pytest.skip("npm is not installed")
        TYPESCRIPT.mkdir(parents=True, exist_ok=True)
        (TYPESCRIPT / "package.json").write_text('{"private": true}')
        command = ["npm", "install", "--silent", "--no-audit", "typescript@5"]
        done = subprocess.run(command, cwd=TYPESCRIPT, capture_output=True, check=False)
        if done.returncode:
            pytest.skip("npm cannot install typescript")
    return program


def test_typescript_accepts_and_refuses_what_it_should(tsc: Path) -> None:
    file = Path(__file__).parent / "drivers" / "types.mts"
    command = [tsc, *STRICT, *LIBRARIES, file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
