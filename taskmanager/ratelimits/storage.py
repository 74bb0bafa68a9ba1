"""Where requests are counted, as storages of the library `limits`.

`shared-file:/path` is a CounterFile, shared by all processes of the host.
`guarded:<any storage>` counts in memory while that storage is broken.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

from limits.errors import ConfigurationError
from limits.storage import MemoryStorage, Storage, storage_from_string

from taskmanager.clock import utc_now
from taskmanager.ratelimits.counter_file import (
    LATEST_MS,
    LONGEST_WINDOW_MS,
    CounterFile,
    Window,
    is_running,
)

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

GUARDED = "guarded:"
SHARED_FILE = "shared-file:"
RETRY_SECONDS = 5.0


class _LastHit(threading.local):
    """What the present thread counted last: the key, and its window as it was then."""

    key: str | None = None
    window: Window


class SharedFileStorage(Storage):
    """A CounterFile as `limits` uses it: fixed windows.

    A strategy asks for the count and for the end of the window in two more calls after
    each hit. The hit has read both, so a thread answers them from memory: 26 µs a
    request instead of 81 µs (`python -m benchmarks.rate_limits`), and one wait for the
    lock of the file instead of three.
    """

    STORAGE_SCHEME = ["shared-file"]  # noqa: RUF012 - the library's own type

    def __init__(self, uri: str, wrap_exceptions: bool = False) -> None:
        super().__init__(uri, wrap_exceptions)
        self._counters = CounterFile(Path(uri.removeprefix(SHARED_FILE)))
        self._last = _LastHit()

    @property
    def base_exceptions(self) -> type[Exception]:
        return OSError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        window = self._counters.add(key, amount=amount, seconds=expiry, now=utc_now())
        self._last.key, self._last.window = key, window
        return window.hits

    def get(self, key: str) -> int:
        return self._window(key).hits

    def get_expiry(self, key: str) -> float:
        return self._window(key).ends_at / 1000

    def _window(self, key: str) -> Window:
        now = utc_now()
        if self._last.key == key and is_running(self._last.window.ends_at, now, LONGEST_WINDOW_MS):
            return self._last.window
        return self._counters.read(key, now=now)

    def check(self) -> bool:
        try:
            self._counters.read("check", now=utc_now())
        except OSError:
            return False
        return True

    def reset(self) -> None:
        self._last = _LastHit()
        self._counters.reset()

    def clear(self, key: str) -> None:
        self._last = _LastHit()
        self._counters.clear(key)


class GuardedStorage(Storage):
    """Another storage, and the memory of this process while that one is broken. Never raises.

    A request tries the broken storage again after RETRY_SECONDS.
    """

    STORAGE_SCHEME = ["guarded"]  # noqa: RUF012 - the library's own type

    def __init__(
        self, uri: str, wrap_exceptions: bool = False, **options: float | str | bool
    ) -> None:
        """Raises limits.errors.ConfigurationError where there can be no such storage."""
        super().__init__(uri, wrap_exceptions)
        self._uri = uri.removeprefix(GUARDED)
        self._options = options
        self._storage: Storage | None = None
        self._memory: MemoryStorage | None = None
        self._memory_lock = threading.Lock()
        self._is_broken = False
        self._retry_at = 0.0
        try:
            self._connect()
        except (ConfigurationError, ValueError):
            raise
        except Exception as error:  # noqa: BLE001 - each client library has errors of its own
            self._note_failure(error)

    @property
    def base_exceptions(self) -> type[Exception]:
        return OSError

    @property
    def is_shared(self) -> bool:
        """False while each process counts alone."""
        return not self._is_broken and not isinstance(self._storage, MemoryStorage)

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        def count(storage: Storage) -> int:
            _forget_if_ahead(storage, key, expiry * 1000)
            return storage.incr(key, expiry, amount)

        return self._guard(count)

    def get(self, key: str) -> int:
        def read(storage: Storage) -> int:
            _forget_if_ahead(storage, key, LONGEST_WINDOW_MS)
            return storage.get(key)

        return self._guard(read)

    def get_expiry(self, key: str) -> float:
        return self._guard(lambda storage: storage.get_expiry(key))

    def check(self) -> bool:
        return True

    def reset(self) -> int | None:
        return self._guard(lambda storage: storage.reset())

    def clear(self, key: str) -> None:
        self._guard(lambda storage: storage.clear(key))

    def _guard(self, operation: Callable[[Storage], Answer]) -> Answer:
        if self._is_broken:
            if time.monotonic() < self._retry_at:
                return operation(self._fallback())
            self._retry_at = time.monotonic() + RETRY_SECONDS  # one request pays for the attempt
        try:
            answer = operation(self._storage or self._connect())
        except Exception as error:  # noqa: BLE001 - each client library has errors of its own
            self._note_failure(error)
            return operation(self._fallback())
        if self._is_broken:
            log.warning("the storage of the rate limits works again")
            self._is_broken = False
        return answer

    def _connect(self) -> Storage:
        if self._uri.startswith("async+"):
            raise ConfigurationError("an asynchronous storage cannot be used here")
        self._storage = storage = cast(Storage, storage_from_string(self._uri, **self._options))
        return storage

    def _note_failure(self, error: Exception) -> None:
        if not self._is_broken:
            log.error("the rate limits count in each process alone: %s", error)
        self._is_broken = True
        self._retry_at = time.monotonic() + RETRY_SECONDS

    def _fallback(self) -> MemoryStorage:
        with self._memory_lock:
            self._memory = self._memory or MemoryStorage()
            return self._memory


def _forget_if_ahead(storage: Storage, key: str, longest_ms: int) -> None:
    """Ends a window in memory that seems longer than it can be: the clock was set back since."""
    latest = utc_now() + longest_ms + LATEST_MS
    if isinstance(storage, MemoryStorage) and storage.get_expiry(key) * 1000 > latest:
        storage.clear(key)
