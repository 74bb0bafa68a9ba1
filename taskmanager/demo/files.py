"""The input of the demo: finds files and computes the fingerprint of one."""

import errno
import hashlib
import os
import stat
import sysconfig
from collections import Counter
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1024 * 1024
STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))
# Folders of installed packages inside the standard library's folder.
NOT_STANDARD_LIBRARY = frozenset({"site-packages", "dist-packages"})


def find_files(folder: Path, *, leave_out: Container[str]) -> tuple[list[str], Counter[str]]:
    """The paths of all files under `folder`, except in folders named in `leave_out`.

    Also returns the number of skipped entries by reason.
    Broken links are included: their tasks fail, as they should. Links to folders
    are not followed. Paths that are not UTF-8 are skipped, because JSON cannot
    hold them, and so are pipes, sockets and devices.
    """
    paths: list[str] = []
    skipped: Counter[str] = Counter()
    walk = os.walk(folder, onerror=lambda _: skipped.update(["unreadable folder"]))
    for parent, folders, names in walk:
        folders[:] = sorted(name for name in folders if name not in leave_out)
        for name in sorted(names):
            path = os.path.join(parent, name)
            if reason := _reason_to_skip(path):
                skipped[reason] += 1
            else:
                paths.append(path)
    return paths, skipped


def _reason_to_skip(path: str) -> str | None:
    try:
        path.encode()
        is_special = not stat.S_ISREG(os.stat(path).st_mode)
    except UnicodeEncodeError:  # bytes that are not UTF-8, decoded to surrogates
        return "file whose name is not UTF-8"
    except OSError:  # a broken link or no permission: the task will report it
        return None
    return "pipe, socket or device" if is_special else None


def fingerprint(path: str, *, while_reading: Callable[[], None]) -> dict[str, Any]:
    """SHA-256, size in bytes, and number of newline characters, like `wc -l`.

    Calls `while_reading` after each mebibyte or less. Raises OSError.
    """
    digest, size, lines = hashlib.sha256(), 0, 0
    # O_NONBLOCK: if a pipe has replaced the file, opening it would block forever.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            lines += chunk.count(b"\n")
            while_reading()
    return {"sha256": digest.hexdigest(), "size_bytes": size, "lines": lines}
