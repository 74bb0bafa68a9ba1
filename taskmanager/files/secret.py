"""A random secret in a file of its own, created once even where several processes start."""

import contextlib
import os
import secrets
from pathlib import Path

from taskmanager.files.durable import sync_folder


def read_or_create_secret(path: Path) -> str:
    """The text of the file `path`, which is created with a new secret of 256 bits if missing.

    The file has its whole content from the moment it has its name, so every process reads the
    same secret. Raises OSError where the folder cannot be written.
    """
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(encoding="ascii").strip()
    own = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        _give_name(own, path)
    finally:
        own.unlink(missing_ok=True)
    sync_folder(path.parent)
    return path.read_text(encoding="ascii").strip()


def _give_name(own: Path, path: Path) -> None:
    """Names the file `path`, unless another process was first."""
    with contextlib.suppress(FileExistsError):
        try:
            os.link(own, path)
        except PermissionError:  # a file system without hard links
            if not path.exists():
                own.rename(path)
