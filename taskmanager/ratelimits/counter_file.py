"""Counters that all processes of one host share, in one small file of fixed size.

Knows nothing of rate limits. The file is opened, locked, read, written and
closed for every count: seven system calls, and in return nothing is kept here
that a fork, a deleted file or a killed neighbour could spoil. It is not mapped
into memory, because touching a mapped page that somebody cut off, or that the
disk has no room for, kills the process; here it is an OSError.

Layout: a seed, then BUCKETS buckets of SLOTS counters, each bucket with its
checksum. A counter's name decides its bucket. What does not fit its checksum,
be it foreign bytes or half of a write, counts as empty.
"""

import contextlib
import hashlib
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from taskmanager.files.locks import lock_file

BUCKETS = 1_024
SLOTS = 8
LOCK_SECONDS = 2.0  # a busy disk can hold up a write for a second
MAX_COUNT = 2**32 - 1
LONGEST_WINDOW_MS = 86_400_000
LATEST_MS = 10_000  # from a look at the clock to the count: more than LOCK_SECONDS

_SLOT = struct.Struct("<16sqI")  # digest of the name, end of the window in ms, count
_BUCKET_BYTES = 256  # the checksum, the slots, and room to spare: no bucket crosses a page
_SLOTS_AT = 4
_SLOTS_END = _SLOTS_AT + SLOTS * _SLOT.size
_SEED_BYTES = 16
_FILE_BYTES = _BUCKET_BYTES * (BUCKETS + 1)
_NOTHING = (b"", 0, 0)

Slot = tuple[bytes, int, int]


class Window(NamedTuple):
    """How often something happened in the window that ends at `ends_at` (ms since the epoch)."""

    hits: int
    ends_at: int


class CounterFile:
    """Counters by name. Every method raises OSError where the file system will not have it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, name: str, *, amount: int, seconds: int, now: int) -> Window:
        """Adds to the counter; the first one begins a window of `seconds`.

        Where a bucket is full of counters still running, the smallest gives
        its place away, and its count with it: a counter may then read too
        high, but a flood of names can never make one forget.
        """
        with self._bucket(name, changes=True) as (digest, slots):
            index = _place(slots, digest, now)
            there, ends_at, count = slots[index]
            longest_ms = seconds * 1000 if there == digest else LONGEST_WINDOW_MS
            if not is_running(ends_at, now, longest_ms):
                count = 0
            if count == 0 or there != digest:
                ends_at = now + seconds * 1000
            count = min(count + amount, MAX_COUNT)
            slots[index] = (digest, ends_at, count)
        return Window(count, ends_at)

    def read(self, name: str, *, now: int) -> Window:
        """The counter as it stands; 0 and `now` where its window is not running.

        How long the window is, is not known here: after the clock was set back by less
        than LONGEST_WINDOW_MS, it may seem to run until `add` begins a new one.
        """
        with self._bucket(name, changes=False) as (digest, slots):
            for there, ends_at, count in slots:
                if there == digest and is_running(ends_at, now, LONGEST_WINDOW_MS):
                    return Window(count, ends_at)
        return Window(0, now)

    def clear(self, name: str) -> None:
        """Forgets one counter."""
        with self._bucket(name, changes=True) as (digest, slots):
            slots[:] = [_NOTHING if slot[0] == digest else slot for slot in slots]

    def reset(self) -> None:
        """Forgets every counter."""
        self._path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _bucket(self, name: str, *, changes: bool) -> Iterator[tuple[bytes, list[Slot]]]:
        """The digest of a name and the slots of its bucket, locked; `changes`: stores the slots."""
        handle = self._open()
        try:
            if not lock_file(handle, patience_seconds=LOCK_SECONDS):
                raise BlockingIOError(f"another process keeps {self._path.name} locked")
            # The seed keeps it from being known outside which names share a bucket.
            seed = os.pread(handle, _SEED_BYTES, 0)
            digest = hashlib.blake2b(name.encode(), digest_size=16, key=seed).digest()
            at = _BUCKET_BYTES * (int.from_bytes(digest[:2], "little") % BUCKETS + 1)
            slots = _read(handle, at)
            yield digest, slots
            if changes:
                _write(handle, at, slots)
        finally:
            os.close(handle)  # and with it the lock

    def _open(self) -> int:
        """Opens the file; makes it where it is missing or was cut short."""
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            self._make(put_in_place=_link)
        else:
            if os.fstat(handle).st_size == _FILE_BYTES:
                return handle
            os.close(handle)
            self._make(put_in_place=os.replace)
        return os.open(self._path, os.O_RDWR | os.O_NOFOLLOW)

    def _make(self, *, put_in_place: Callable[[str, Path], None]) -> None:
        """Puts a new file in place whole: with room on the disk for all that it will ever hold."""
        handle, made = tempfile.mkstemp(prefix=self._path.name + ".", dir=self._path.parent)
        try:
            with open(handle, "wb") as file:
                file.write(os.urandom(_SEED_BYTES).ljust(_FILE_BYTES, b"\0"))
            put_in_place(made, self._path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(made)


def _link(made: str, path: Path) -> None:
    """Where another process was faster its file stays, for it may have been counted in already."""
    with contextlib.suppress(FileExistsError):
        os.link(made, path)


def _read(handle: int, at: int) -> list[Slot]:
    content = os.pread(handle, _SLOTS_END, at)
    slots = content[_SLOTS_AT:]
    if len(content) < _SLOTS_END or zlib.crc32(slots).to_bytes(4, "little") != content[:_SLOTS_AT]:
        return [_NOTHING] * SLOTS
    return list(_SLOT.iter_unpack(slots))


def _write(handle: int, at: int, slots: list[Slot]) -> None:
    content = b"".join([_SLOT.pack(*slot) for slot in slots])
    os.pwrite(handle, zlib.crc32(content).to_bytes(4, "little") + content, at)


def is_running(ends_at: int, now: int, longest_ms: int) -> bool:
    """False where the window is over, or the clock was set back since it began.

    A window that another process has just begun may end a little later than any
    that begins `now`: it looked at the clock later and had the lock first.
    """
    return now < ends_at <= now + longest_ms + LATEST_MS


def _place(slots: list[Slot], digest: bytes, now: int) -> int:
    """Where a counter is, or may be put: in a free slot, else in that of the smallest count."""
    for index, slot in enumerate(slots):
        if slot[0] == digest:
            return index
    for index, (_, ends_at, _) in enumerate(slots):
        if not is_running(ends_at, now, LONGEST_WINDOW_MS):
            return index
    return min(range(SLOTS), key=lambda index: slots[index][2])
