"""Free space on disks. Does not see the quota of an account."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple


class Space(NamedTuple):
    """What is left on the disk of `name`. `files` is None where their number is not limited."""

    name: str
    free_bytes: int
    files: int | None


def free_space(folders: Mapping[str, Path]) -> Iterator[Space]:
    """The space on each disk once, under the name of its first folder.

    A folder that does not exist yet counts as the one above it. Raises OSError.
    """
    seen = set()
    for name, folder in folders.items():
        there = next(path for path in (folder, *folder.parents) if path.is_dir())
        device = there.stat().st_dev
        if device not in seen:
            seen.add(device)
            disk = os.statvfs(there)
            files = disk.f_favail if disk.f_files else None
            yield Space(name, disk.f_bavail * disk.f_frsize, files)
