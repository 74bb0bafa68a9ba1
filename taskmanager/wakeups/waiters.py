"""The calls of this process that wait, and the thread that wakes them.

Calls that wait for the same stand in one line. Only the first of a line is woken, and looks. It
wakes the next one when it leaves the line, so that one new task does not make all of them look.
"""

import contextlib
import selectors
import threading
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from taskmanager.wakeups import pipes

# Without calls that wait, the thread ends after so long.
IDLE_SECONDS = 1.0


class Waiter:
    """One call that waits. `was_shut_down`: what it names as `unless` has happened."""

    def __init__(self, line: "_Line", unless: str | None) -> None:
        self._line, self.unless = line, unless
        self.was_shut_down = False
        self._woken = threading.Event()

    @property
    def is_first(self) -> bool:
        """Whether it looks for all that wait for the same."""
        return self._line.waiters[:1] == [self]

    def wait(self, seconds: float) -> bool:
        """Waits until it is woken, which returns True, or the time is over."""
        woken = self._woken.wait(seconds)
        self._woken.clear()  # before the look: what happens meanwhile wakes it again
        return woken

    def wait_for(self, topics: Collection[str]) -> None:
        """What the whole line waits for from now on."""
        self._line.topics = frozenset(topics)

    def wake(self) -> None:
        self._woken.set()


@dataclass
class _Line:
    topics: frozenset[str] = frozenset()
    waiters: list[Waiter] = field(default_factory=list)


class Wakeups:
    """Announces to all processes of the host, and wakes the calls of this process.

    The processes share `folder`; with None, nothing is announced and only `stop` wakes a call.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._lines: dict[Hashable, _Line] = {}
        self._pipe: pipes.Pipe | None = None
        self.is_stopping = False

    def announce(self, topics: Callable[[], Iterable[str]]) -> None:
        """Wakes who waits for one of these topics. Call it after COMMIT.

        `topics` is called only if a process listens. Never waits and never fails.
        """
        if self._folder and (names := pipes.listening(self._folder)):
            pipes.send(self._folder, names, [*dict.fromkeys(topics())])

    def count(self) -> int:
        """How many calls of this process wait."""
        return sum([len(line.waiters) for line in [*self._lines.values()]])

    @contextlib.contextmanager
    def waiting(
        self, line: Hashable, topics: Collection[str], *, most: int, unless: str | None = None
    ) -> Iterator[Waiter | None]:
        """Stands in a line; None if `most` calls of this process wait already.

        What was announced before may be missed by the first of a line, who is therefore woken
        at once. `unless` is a topic that ends the waiting of this call alone.
        """
        with self._lock:
            waiter = None if self.count() >= most or self.is_stopping else self._join(line, unless)
            if waiter:
                waiter.wait_for(topics)
        try:
            yield waiter
        finally:
            if waiter:
                self._leave(line, waiter)

    def stop(self) -> None:
        """Wakes every call that waits, for good. A signal handler may call it."""
        self.is_stopping = True
        if self._pipe is not None:
            self._pipe.interrupt()

    def forget_parent(self) -> None:
        """In a forked child: nobody waits here."""
        if self._pipe is not None:
            self._pipe.forget()
        self._start()

    def _join(self, key: Hashable, unless: str | None) -> Waiter:
        if self._pipe is None and self._folder is not None:
            with contextlib.suppress(OSError):  # then calls only look now and then
                self._pipe = pipes.Pipe(self._folder)
                self._start_listening(self._pipe)
        line = self._lines.setdefault(key, _Line())
        waiter = Waiter(line, unless)
        line.waiters.append(waiter)
        if waiter.is_first:
            waiter.wake()
        return waiter

    def _start_listening(self, pipe: pipes.Pipe) -> None:
        try:
            threading.Thread(target=self._listen, name="wakeups", daemon=True).start()
        except RuntimeError:  # the account has too many threads
            self._pipe = None
            pipe.close()

    def _leave(self, key: Hashable, waiter: Waiter) -> None:
        with self._lock:
            line = self._lines[key]
            line.waiters.remove(waiter)
            if line.waiters:
                line.waiters[0].wake()
            else:
                del self._lines[key]

    def _listen(self) -> None:
        pipe = self._pipe
        if pipe is None:
            return
        with selectors.DefaultSelector() as selector:
            selector.register(pipe.descriptor, selectors.EVENT_READ)
            while True:
                has_news = bool(selector.select(IDLE_SECONDS))
                with self._lock:
                    if has_news:
                        self._wake(pipe.read())
                    elif not self._lines:
                        self._pipe = None
                        break
        pipe.close()

    def _wake(self, words: set[str]) -> None:
        for line in self._lines.values():
            if self.is_stopping:
                woken = line.waiters
            else:
                woken = [waiter for waiter in line.waiters if waiter.unless in words]
                for waiter in woken:
                    waiter.was_shut_down = True
                if not words.isdisjoint(line.topics):
                    woken = [line.waiters[0], *woken]
            for waiter in woken:
                waiter.wake()
