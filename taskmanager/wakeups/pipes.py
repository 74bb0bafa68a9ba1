"""Named pipes between the processes of one host, in a folder that they share.

A process that listens has a pipe of its own there. Whoever has news writes it into every
pipe. The system forgets what a killed process had open: its pipe has no reader, which the next
writer notices, and removes it. Nothing is promised: news is lost if a pipe is full.
"""

import contextlib
import errno
import os
import select
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

# Lines up to this length are never mixed with those of others. Linux takes 4,096 bytes.
LINE_BYTES = getattr(select, "PIPE_BUF", 512)
READ_BYTES = 65_536
_SUFFIX = ".pipe"


class Pipe:
    """The end of a process that listens. Raises OSError where the folder takes no pipes."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        made = folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._path = made.with_suffix(_SUFFIX)
        os.mkfifo(made, 0o600)
        # Open for writing too, or else it would be at its end whenever nobody writes.
        self.descriptor = os.open(made, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        made.rename(self._path)  # writers remove a pipe that nobody has open
        self._rest = b""

    def read(self) -> set[str]:
        """The words that have arrived; never waits."""
        try:
            received = self._rest + os.read(self.descriptor, READ_BYTES)
        except BlockingIOError:
            return set()
        *lines, self._rest = received.split(b"\n")
        return {word.decode() for line in lines for word in line.split()}

    def interrupt(self) -> None:
        """Makes the pipe readable. A signal handler may call it."""
        with contextlib.suppress(OSError):
            os.write(self.descriptor, b"\n")

    def close(self) -> None:
        """Removes the pipe."""
        self._path.unlink(missing_ok=True)
        os.close(self.descriptor)

    def forget(self) -> None:
        """In a forked child: leaves the pipe to its parent."""
        os.close(self.descriptor)


def listening(folder: Path) -> list[str]:
    """The pipes in the folder. Takes some 5 µs where there are none."""
    try:
        return [name for name in os.listdir(folder) if name.endswith(_SUFFIX)]
    except OSError:
        return []


def send(folder: Path, names: Sequence[str], words: Sequence[str]) -> None:
    """Writes the words into these pipes of the folder; never waits and never fails."""
    lines = [*_lines(words)]
    for name in names:
        path = folder / name
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno == errno.ENXIO:  # its process is gone
                with contextlib.suppress(OSError):
                    path.unlink()
            continue
        try:
            for line in lines:
                os.write(descriptor, line)
        except OSError:  # it is full; or its process has just gone
            pass
        finally:
            os.close(descriptor)


def _lines(words: Sequence[str]) -> Iterator[bytes]:
    line = b""
    for word in words:
        encoded = word.encode()
        if line and len(line) + len(encoded) + 2 > LINE_BYTES:
            yield line + b"\n"
            line = b""
        line += b" " + encoded
    yield line + b"\n"
