"""Connections that nobody uses: handed over to one at a time, closed in time, never in use."""

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from taskmanager.db.mysql.pool import IdleConnections


class Connection:
    """Notes who has it, and what must not happen."""

    def __init__(self) -> None:
        self.is_closed = False
        self.is_used = False
        self.was_closed_in_use = False

    def close(self) -> None:
        self.was_closed_in_use |= self.is_used
        self.is_closed = True


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def anything(connection: object) -> bool:
    return True


def timers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def test_one_that_is_not_wanted_is_closed_and_so_are_the_others() -> None:
    idle = IdleConnections(60)
    connections = [Connection(), Connection()]
    for connection in connections:
        idle.put(connection)
    assert idle.take(lambda connection: False) is None
    assert all(connection.is_closed for connection in connections)


def test_the_one_that_was_used_last_is_handed_out_first() -> None:
    idle = IdleConnections(60)
    first, second = Connection(), Connection()
    idle.put(first)
    idle.put(second)

    assert [idle.take(anything), idle.take(anything), idle.take(anything)] == [second, first, None]
    assert not first.is_closed
    assert not second.is_closed


def test_one_that_nobody_comes_for_is_closed_and_the_timer_ends_with_the_last() -> None:
    idle = IdleConnections(0.02)
    connections = [Connection() for _ in range(3)]
    before = timers()
    for connection in connections:
        idle.put(connection)
        assert len(timers()) - len(before) <= 1

    wait_until(lambda: all(connection.is_closed for connection in connections))
    wait_until(lambda: not set(timers()) - set(before))
    assert idle.take(anything) is None


def test_one_that_is_used_is_not_closed_however_long_it_takes() -> None:
    idle = IdleConnections(0.02)
    used, other = Connection(), Connection()
    idle.put(used)
    assert idle.take(anything) is used
    idle.put(other)

    wait_until(lambda: other.is_closed)

    assert not used.is_closed


def test_after_zero_seconds_means_at_once_and_takes_no_timer() -> None:
    idle = IdleConnections(0)
    connection = Connection()
    before = timers()
    idle.put(connection)

    assert connection.is_closed
    assert idle.take(anything) is None
    assert timers() == before


def test_one_that_is_too_old_is_not_handed_out_even_where_the_timer_is_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(IdleConnections, "_close_expired", lambda self: None)
    idle = IdleConnections(0.01)
    older, old = Connection(), Connection()
    idle.put(older)
    idle.put(old)
    put_at = time.monotonic()
    wait_until(lambda: time.monotonic() > put_at + 0.01)

    assert idle.take(anything) is None
    assert old.is_closed
    assert older.is_closed


def test_where_no_thread_can_be_had_none_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(timer: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Timer, "start", refuse)
    idle = IdleConnections(60)
    connection = Connection()
    idle.put(connection)

    assert connection.is_closed
    assert idle.take(anything) is None


def test_one_that_fails_to_close_does_not_keep_the_others_open() -> None:
    class Broken(Connection):
        def close(self) -> None:
            raise OSError("gone")

    idle = IdleConnections(0.02)
    last = Connection()
    for connection in (Broken(), last):
        idle.put(connection)

    wait_until(lambda: last.is_closed)
    assert idle.take(anything) is None


def test_a_forked_child_begins_without_those_of_its_parent() -> None:
    idle = IdleConnections(60)
    connection = Connection()
    idle.put(connection)
    idle._lock.acquire()  # as another thread may hold it at the very moment
    if (child := os.fork()) == 0:
        status = 1
        signal.alarm(30)
        try:
            idle.forget_parent()
            found = idle.take(anything)
            idle.put(Connection())
            status = 0 if found is None and idle.take(anything) is not None else 1
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    idle._lock.release()

    assert status == 0
    assert idle.take(anything) is connection
    assert not connection.is_closed


def test_threads_and_the_timer_never_have_the_same_one() -> None:
    idle = IdleConnections(0.001)
    made: list[Connection] = []
    shared: list[Connection] = []

    def closed() -> int:
        return sum(connection.is_closed for connection in made)

    def let_the_timer_begin() -> None:
        before = closed()
        wait_until(lambda: closed() > before)

    meeting = threading.Barrier(4, action=let_the_timer_begin)

    def use_one() -> None:
        connection = idle.take(anything)
        if connection is None:
            connection = Connection()
            made.append(connection)
        assert isinstance(connection, Connection)
        if connection.is_used or connection.is_closed:
            shared.append(connection)
        connection.is_used = True
        os.sched_yield()
        if connection.is_closed:
            shared.append(connection)
        connection.is_used = False
        idle.put(connection)

    def work() -> None:
        for _ in range(20):
            for _ in range(20):
                use_one()
            meeting.wait(30)

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(work) for _ in range(4)]:
            done.result()

    assert shared == []
    assert not any(connection.was_closed_in_use for connection in made)
    wait_until(lambda: closed() == len(made))
