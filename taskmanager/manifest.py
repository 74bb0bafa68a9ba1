"""The manifest of a release: what each file must be, and whether an upload has brought it whole.

Needs nothing but Python's own library and no other module of the product: it
also runs where half of the program is missing.
"""

import hashlib
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

MANIFEST = "MANIFEST.sha256"
PACKAGE = "taskmanager"

_HASH_LINE = re.compile(r"^([0-9a-f]{64})  (\S.*)$", re.MULTILINE)
_SIZE_LINE = re.compile(r"^# +(\d+) bytes  (\S.*)$", re.MULTILINE)


class Fault(StrEnum):
    """How a file differs from what the manifest says of it."""

    MISSING = "missing"
    CUT_SHORT = "cut short"
    TEXT_MODE = "line ends changed"
    CHANGED = "changed"
    LEFT_OVER = "left over"
    UNREADABLE = "unreadable"


class Difference(NamedTuple):
    """One file, by its path below the application's folder."""

    path: str
    fault: Fault


class NoManifest(Exception):
    """There is no manifest, or it lists no file."""


def manifest_text(heading: str, files: Mapping[str, bytes]) -> str:
    """The manifest of `files`, by path; `sha256sum --check` understands it too."""
    lines = [
        f"# {heading}",
        f"# Check them: python3 -m {PACKAGE} doctor",
        f"# Or without it: sha256sum --check {MANIFEST}",
    ]
    for path, content in sorted(files.items()):
        lines.append(f"# {len(content):>7} bytes  {path}")
        lines.append(f"{hashlib.sha256(content).hexdigest()}  {path}")
    return "\n".join(lines) + "\n"


def compare_with_manifest(root: Path) -> list[Difference]:
    """Every file below `root` that is not what the release holds, and what is left of an older one.

    Raises NoManifest, and OSError where the manifest cannot be read.
    """
    hashes, sizes = _read_manifest(root / MANIFEST)
    found = [
        Difference(path, fault)
        for path, digest in hashes.items()
        if (fault := _fault(root / path, digest, sizes.get(path)))
    ]
    # Python's caches do not count.
    present = [path for path in (root / PACKAGE).rglob("*") if "__pycache__" not in path.parts]
    names = sorted(path.relative_to(root).as_posix() for path in present if path.is_file())
    return found + [Difference(name, Fault.LEFT_OVER) for name in names if name not in hashes]


def _read_manifest(path: Path) -> tuple[dict[str, str], dict[str, int]]:
    """Digests and sizes by path."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise NoManifest from None
    hashes = {name: digest for digest, name in _HASH_LINE.findall(text)}
    if not hashes:
        raise NoManifest
    return hashes, {name: int(size) for size, name in _SIZE_LINE.findall(text)}


def _fault(path: Path, digest: str, size: int | None) -> Fault | None:
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return Fault.MISSING
    except OSError:
        return Fault.UNREADABLE
    if hashlib.sha256(content).hexdigest() == digest:
        return None
    # What an FTP program makes of a file that it takes for text.
    if hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest() == digest:
        return Fault.TEXT_MODE
    if size is not None and len(content) < size:
        return Fault.CUT_SHORT
    return Fault.CHANGED
