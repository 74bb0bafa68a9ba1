"""The demo's input: which files there are, and the fingerprint of one."""

import hashlib
import os
import stat
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1024 * 1024
# What was installed beside the standard library is not part of it.
NOT_STANDARD_LIBRARY = frozenset({"site-packages", "dist-packages"})


@dataclass
class FoundFiles:
    """`paths` to enqueue, in order; and how many things were left out, by the reason."""

    paths: list[str] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)

    def skip(self, reason: str) -> None:
        self.skipped[reason] = self.skipped.get(reason, 0) + 1


class NotAFile(Exception):
    """A device, pipe or folder stands where a file was expected."""


def standard_library() -> Path:
    """The folder of this Python's own standard library."""
    return Path(sysconfig.get_path("stdlib"))


def find_files(folder: Path, *, leave_out: frozenset[str] = frozenset()) -> FoundFiles:
    """Every file under `folder`; folders named in `leave_out` are not entered.

    A link that leads nowhere is among them: its task fails, as it should. Links
    to folders are not followed. JSON is UTF-8, so a path that is not cannot be
    sent and is counted as skipped, as are pipes, sockets and devices.
    """
    found = FoundFiles()
    walk = os.walk(folder, onerror=lambda _: found.skip("folder that cannot be read"))
    for parent, folders, names in walk:
        folders[:] = sorted(name for name in folders if name not in leave_out)
        for name in sorted(names):
            path = os.path.join(parent, name)
            if not _is_utf8(path):
                found.skip("file whose name is not UTF-8")
            elif _is_special(path):
                found.skip("pipe, socket or device")
            else:
                found.paths.append(path)
    return found


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:  # the system's bytes, carried as surrogates
        return False
    return True


def _is_special(path: str) -> bool:
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:  # leads nowhere, or may not be looked at: the task will say so
        return False


def fingerprint(path: str, *, while_reading: Callable[[], None]) -> dict[str, Any]:
    """SHA-256, size and number of lines (newline characters, as `wc -l` counts them).

    Calls `while_reading` at least once a mebibyte. Raises OSError, NotAFile.
    """
    digest, size, lines = hashlib.sha256(), 0, 0
    for chunk in _chunks(path):
        digest.update(chunk)
        size += len(chunk)
        lines += chunk.count(b"\n")
        while_reading()
    return {"sha256": digest.hexdigest(), "size_bytes": size, "lines": lines}


def _chunks(path: str) -> Iterator[bytes]:
    # O_NONBLOCK: opening a pipe that has taken the file's place would wait for ever.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise NotAFile("not a regular file")
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
