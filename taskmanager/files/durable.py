"""Makes the names of files durable: a new, renamed or deleted file is so only with its folder."""

import contextlib
import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Waits until the names in `folder` are on the disk, as far as the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
