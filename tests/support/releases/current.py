"""A release of the files as they are now, whatever of them is committed here."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

_NOT_COMMITTED = shutil.ignore_patterns(
    *(".git", ".venv", "instance", ".env", "__pycache__", "*.egg-info", ".*_cache", "dist"),
    ".coverage*",  # of a run beside this one, which may remove them meanwhile
)


def git(folder: Path, *arguments: str) -> str:
    """Git's output, whatever the settings of whoever runs the tests."""
    done = subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments],
        cwd=folder,
        env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def make_checkout(folder: Path) -> Path:
    """A repository in `folder` whose one commit has the files as they are now."""
    shutil.copytree(ROOT, folder, ignore=_NOT_COMMITTED)
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "all")


def release(checkout: Path, output: Path) -> subprocess.CompletedProcess[str]:
    """Runs the script that makes a release of the checkout's commit."""
    return subprocess.run(
        [sys.executable, str(checkout / ".ci" / "release"), str(output)],
        capture_output=True,
        text=True,
        check=False,
    )


def released_files(archive: Path) -> dict[str, bytes]:
    """What a person finds after unpacking the release: content by path."""
    with zipfile.ZipFile(archive) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}
