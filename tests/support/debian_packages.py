"""Programs of other Debian releases than this machine's, unpacked beside it and never installed.

The mirror is the one that this machine's apt uses. What has been fetched once is kept in a folder
of the user's cache. Refuses to know what the programs are for.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "taskmanager-tests"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
PATIENCE_SECONDS = 300


class NotToBeHad(Exception):
    """Why a package could not be fetched: no apt, no such release on its mirror, no network."""


def unpacked(suite: str, package: str) -> Path:
    """The folder that holds a package of a Debian release and all that it depends on."""
    target = CACHE / f"{suite}-{package}"
    if target.exists():
        return target
    missing = [name for name in ("apt-get", "dpkg-deb") if shutil.which(name) is None]
    if missing:
        raise NotToBeHad(f"there is no {' and no '.join(missing)}")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{target.name}.", dir=CACHE) as name:
        folder = Path(name)
        root = folder / "root"
        root.mkdir()
        for archive in _download(folder, suite, package):
            _run(["dpkg-deb", "-x", str(archive), str(root)])
        if not target.exists():  # another run may have been as fast
            root.rename(target)
    return target


def library_folders(root: Path) -> list[Path]:
    return [*root.glob("lib/*-linux-gnu*"), *root.glob("usr/lib/*-linux-gnu*")]


def command(root: Path, program: str, *library_folders_besides: str) -> list[str]:
    """How a program in an unpacked folder is run: with the loader and libraries of its release."""
    folders = library_folders(root)
    loader = next(path for folder in folders for path in folder.glob("ld-linux*.so.*"))
    folders += [root / folder for folder in library_folders_besides]
    path = ":".join(str(folder) for folder in folders)
    return [str(loader), "--library-path", path, str(root / program)]


def _download(folder: Path, suite: str, package: str) -> list[Path]:
    """As if nothing were installed, and with lists of its own: this machine's are left alone."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {suite} main\n")
    settings = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "",
        "Acquire::Check-Valid-Until": "false",  # an old release is renewed no more
        "Acquire::http::Timeout": 20,
    }
    options = [f"--option={name}={value}" for name, value in settings.items()]
    _run(["apt-get", *options, "--error-on=any", "update"])
    fetch = ["--no-install-recommends", "--download-only", "--assume-yes", "install", package]
    _run(["apt-get", *options, *fetch])
    return sorted((folder / "cache" / "archives").glob("*.deb"))


def _mirror() -> str:
    """Where apt takes this machine's own release from."""
    found = _run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    ).split()
    for uri in found:
        if "security" not in uri:
            return uri
    raise NotToBeHad("apt is told of no mirror")


def _run(arguments: list[str]) -> str:
    try:
        done = subprocess.run(
            arguments, check=True, capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise NotToBeHad(f"{arguments[0]} took more than {PATIENCE_SECONDS} s") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["it gives no reason"]
        raise NotToBeHad(f"{arguments[0]} failed: {lines[-1]}") from error
    return done.stdout
