"""The files that a queue is written to and read from: whole or not there, packed or not."""

import contextlib
import gzip
import os
import tempfile
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, cast

from taskmanager.errors import TransferFailed
from taskmanager.files.durable import sync_folder
from taskmanager.files.locks import OpenFile, lock_file

GZIP_MAGIC = b"\x1f\x8b"
# Half the time of gzip's own 9 for a few percent more bytes.
GZIP_LEVEL = 6
LOCK_SECONDS = 5.0
PART_PREFIX, PART_SUFFIX = ".taskmanager-export-", ".part"


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that its owner alone may read, and that has its name only once it is whole.

    It is written beside its place; an older one of that name stays until then.
    A name that ends in .gz: compressed. Raises TransferFailed where it cannot be written.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        raise TransferFailed(f"{path} is no file. To write to a pipe, give - and redirect it.")
    try:
        number, name = _new_part(target.parent)
        try:
            with os.fdopen(number, "wb") as plain:
                if path.suffix == ".gz":
                    with gzip.GzipFile("", "wb", GZIP_LEVEL, plain, mtime=0) as packed:
                        yield cast(BinaryIO, packed)
                else:
                    yield plain
                plain.flush()
                os.fsync(number)
            Path(name).replace(target)
            sync_folder(target.parent)
        except BaseException:
            Path(name).unlink()
            raise
    except OSError as error:
        raise TransferFailed(
            f"{path} could not be written: {error.strerror or error}. Nothing of it was kept."
        ) from error


def _new_part(folder: Path) -> tuple[int, str]:
    """An open file, locked until it is closed, and its name. Deletes those of killed runs."""
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # nobody else may find the new file before it is locked
            lock_file(place, patience_seconds=LOCK_SECONDS)
        for part in folder.glob(f"{PART_PREFIX}*{PART_SUFFIX}"):
            with contextlib.suppress(OSError):  # another user's, or no locks here: it stays
                found = OpenFile(part)
                if lock_file(found.descriptor, patience_seconds=0):
                    part.unlink()
        number, name = tempfile.mkstemp(prefix=PART_PREFIX, suffix=PART_SUFFIX, dir=folder)
        with contextlib.suppress(OSError):
            lock_file(number, patience_seconds=0)
        return number, name
    finally:
        os.close(place)


def unpacked(plain: BufferedReader) -> BinaryIO:
    """The stream, uncompressed if its first bytes say that it is compressed."""
    is_packed = plain.peek(2).startswith(GZIP_MAGIC)
    return cast(BinaryIO, gzip.GzipFile(fileobj=plain) if is_packed else plain)


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Raises TransferFailed if the file that is read in the block is damaged or unreadable."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TransferFailed(
            f"The file is damaged or was cut off ({error}). Nothing was imported; export again, or "
            "copy the file again."
        ) from error
    except OSError as error:
        raise TransferFailed(
            f"The file could not be read: {error.strerror or error}. Nothing was imported."
        ) from error
