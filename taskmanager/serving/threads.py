"""The threads that answer requests: so many at once, and more that wait for something to happen."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

Job = Callable[[], None]


class Threads:
    """Runs work in the order in which it comes, in at most `count` threads at once.

    A thread within `parked()` does not count: another one works in its place. Its own work goes
    on once there is a place again. Up to `count` threads are kept for later work; one that ends
    calls `at_end`.

    Takes the place of concurrent.futures.ThreadPoolExecutor, whose threads all count and never end.
    """

    def __init__(self, count: int, *, at_end: Job) -> None:
        self._count, self._at_end = count, at_end
        self._lock = threading.Lock()
        self._running = 0
        self._is_over = False
        # Work that waits for a place: jobs, and parked threads that go on when their event is set.
        self._queue: deque[Job | threading.Event] = deque()
        # The thread that has worked last is the first to work again.
        self._idle: list[SimpleQueue[Job | None]] = []

    def submit(self, work: Callable[..., Any], *args: Any) -> "Future[Any]":
        """Runs the work as soon as it may. Its future is always run, and cannot be cancelled."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()

        def job() -> None:
            try:
                result = work(*args)
            except BaseException as error:  # noqa: BLE001 - whoever has the future gets it
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._lock:
            self._queue.append(job)
            self._fill()
        return future

    @contextlib.contextmanager
    def parked(self) -> Iterator[None]:
        """Gives up the place of this thread, which works, and takes one again at the end."""
        with self._lock:
            self._running -= 1
            self._fill()
        try:
            yield
        finally:
            has_place = threading.Event()
            with self._lock:
                self._queue.append(has_place)
                self._fill()
            has_place.wait()

    def shutdown(self, wait: bool = False) -> None:
        """Ends the threads once they have nothing to do."""
        with self._lock:
            self._is_over = True
            for idle in self._idle:
                idle.put(None)
            self._idle.clear()

    def _fill(self) -> None:
        """Gives free places to those who wait for one. With the lock."""
        while self._queue and self._running < self._count:
            self._running += 1
            following = self._queue.popleft()
            if isinstance(following, threading.Event):
                following.set()
            elif self._idle:
                self._idle.pop().put(following)
            else:
                try:
                    threading.Thread(target=self._work, args=(following,)).start()
                except RuntimeError:  # the account has too many threads
                    self._running -= 1
                    self._queue.appendleft(following)
                    break

    def _work(self, job: Job | None) -> None:
        inbox: SimpleQueue[Job | None] = SimpleQueue()
        while job is not None:
            job()
            job = self._next(inbox) or inbox.get()
        self._at_end()

    def _next(self, inbox: "SimpleQueue[Job | None]") -> Job | None:
        """The work to go on with, or None: look into the inbox."""
        with self._lock:
            # A thread goes on by itself: to wake another one would take longer.
            if self._queue and not isinstance(following := self._queue[0], threading.Event):
                self._queue.popleft()
                return following
            self._running -= 1
            if self._is_over or len(self._idle) >= self._count:
                inbox.put(None)
            else:
                self._idle.append(inbox)
            self._fill()
        return None
