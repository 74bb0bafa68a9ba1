"""The threads that answer requests."""

import threading
from collections.abc import Iterator

import pytest

from taskmanager.serving.threads import Threads

PATIENCE_SECONDS = 30


class Ended:
    """Counts the threads that have ended."""

    def __init__(self) -> None:
        self.count = 0
        self.changed = threading.Condition()

    def __call__(self) -> None:
        with self.changed:
            self.count += 1
            self.changed.notify_all()

    def wait_for(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.count >= count, PATIENCE_SECONDS)


@pytest.fixture
def ended() -> Ended:
    return Ended()


@pytest.fixture
def threads(ended: Ended) -> Iterator[Threads]:
    threads = Threads(2, at_end=ended)
    yield threads
    threads.shutdown()


def result_of(future: object) -> object:
    return future.result(PATIENCE_SECONDS)  # type: ignore[attr-defined]


def test_work_returns_its_result_or_raises_its_error(threads: Threads) -> None:
    assert result_of(threads.submit(divmod, 7, 2)) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        result_of(threads.submit(divmod, 7, 0))
    assert result_of(threads.submit(divmod, 9, 2)) == (4, 1)


def test_no_more_threads_work_at_once_than_there_are_places(threads: Threads) -> None:
    begun, may_end = threading.Semaphore(0), threading.Event()

    def work(number: int) -> int:
        begun.release()
        assert may_end.wait(PATIENCE_SECONDS)
        return number

    futures = [threads.submit(work, number) for number in range(4)]
    assert begun.acquire(timeout=PATIENCE_SECONDS)
    assert begun.acquire(timeout=PATIENCE_SECONDS)
    assert not begun.acquire(blocking=False)
    may_end.set()
    assert [result_of(future) for future in futures] == [0, 1, 2, 3]


def test_a_parked_thread_leaves_its_place_to_others_and_takes_one_again(threads: Threads) -> None:
    parked, may_go_on = threading.Semaphore(0), threading.Event()
    at_work = threading.Semaphore(0)
    may_end = threading.Event()

    def wait() -> str:
        with threads.parked():
            parked.release()
            assert may_go_on.wait(PATIENCE_SECONDS)
        at_work.release()
        assert may_end.wait(PATIENCE_SECONDS)
        return "waited"

    waiting = [threads.submit(wait) for _ in range(10)]
    for _ in waiting:
        assert parked.acquire(timeout=PATIENCE_SECONDS)
    assert result_of(threads.submit(str, 1)) == "1"
    may_go_on.set()
    assert at_work.acquire(timeout=PATIENCE_SECONDS)
    assert at_work.acquire(timeout=PATIENCE_SECONDS)
    assert not at_work.acquire(blocking=False)
    may_end.set()
    assert {result_of(future) for future in waiting} == {"waited"}


def test_the_threads_beyond_the_places_end_when_they_have_no_work(
    threads: Threads, ended: Ended
) -> None:
    parked, may_go_on = threading.Semaphore(0), threading.Event()

    def wait() -> None:
        with threads.parked():
            parked.release()
            assert may_go_on.wait(PATIENCE_SECONDS)

    waiting = [threads.submit(wait) for _ in range(10)]
    for _ in waiting:
        assert parked.acquire(timeout=PATIENCE_SECONDS)
    may_go_on.set()
    for future in waiting:
        result_of(future)
    ended.wait_for(8)
    threads.shutdown()
    ended.wait_for(10)


def test_work_that_was_submitted_before_the_end_is_done(threads: Threads, ended: Ended) -> None:
    futures = [threads.submit(str, number) for number in range(20)]
    threads.shutdown()
    assert [result_of(future) for future in futures] == [str(number) for number in range(20)]
    ended.wait_for(1)
