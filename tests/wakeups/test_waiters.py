"""The lines of calls that wait, and who of them is woken."""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from taskmanager.wakeups import pipes
from taskmanager.wakeups.waiters import Waiter, Wakeups

PATIENCE_SECONDS = 30


@pytest.fixture
def wakeups(tmp_path: Path) -> Wakeups:
    return Wakeups(tmp_path / "waiting")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def join(stack: ExitStack, wakeups: Wakeups, line: str, topic: str, **more: str) -> Waiter:
    waiter = stack.enter_context(wakeups.waiting(line, [topic], most=10, **more))
    assert waiter is not None
    if waiter.is_first:
        assert waiter.wait(0)  # it looks once more
    return waiter


def announce(wakeups: Wakeups, *topics: str) -> None:
    wakeups.announce(lambda: topics)


def test_only_the_first_of_a_line_is_woken(wakeups: Wakeups, stack: ExitStack) -> None:
    first = join(stack, wakeups, "line", "a")
    second = join(stack, wakeups, "line", "a")
    announce(wakeups, "a")
    assert first.wait(PATIENCE_SECONDS)
    assert not second.wait(0)


def test_who_leaves_a_line_wakes_the_next(wakeups: Wakeups, stack: ExitStack) -> None:
    with ExitStack() as leaving:
        join(leaving, wakeups, "line", "a")
        second, third = (join(stack, wakeups, "line", "a") for _ in range(2))
        assert not second.is_first
    assert second.is_first
    assert second.wait(0)
    assert not third.wait(0)


def test_a_line_is_woken_by_its_own_topics_alone(wakeups: Wakeups, stack: ExitStack) -> None:
    one, other = join(stack, wakeups, "1", "a"), join(stack, wakeups, "2", "b")
    announce(wakeups, "b")
    assert other.wait(PATIENCE_SECONDS)
    assert not one.wait(0)
    one.wait_for(["b", "c"])
    announce(wakeups, "c")
    assert one.wait(PATIENCE_SECONDS)


def test_what_happens_during_a_look_leads_to_another_look(
    wakeups: Wakeups, stack: ExitStack
) -> None:
    waiter, other = join(stack, wakeups, "1", "a"), join(stack, wakeups, "2", "a")
    announce(wakeups, "a")
    assert waiter.wait(PATIENCE_SECONDS)
    assert other.wait(PATIENCE_SECONDS)
    announce(wakeups, "a")  # while both look
    assert waiter.wait(PATIENCE_SECONDS)
    assert other.wait(PATIENCE_SECONDS)


def test_news_reach_the_other_processes_of_the_host(tmp_path: Path, stack: ExitStack) -> None:
    here, there = (Wakeups(tmp_path / "waiting") for _ in range(2))
    waiter = join(stack, here, "line", "a")
    announce(there, "a")
    assert waiter.wait(PATIENCE_SECONDS)


def test_no_more_calls_wait_than_may(wakeups: Wakeups, stack: ExitStack) -> None:
    join(stack, wakeups, "1", "a")
    join(stack, wakeups, "2", "a")
    with wakeups.waiting("3", ["a"], most=2) as waiter:
        assert waiter is None
    with wakeups.waiting("3", ["a"], most=3) as waiter:
        assert waiter is not None
    assert wakeups.count() == 2


def test_one_call_of_a_line_is_ended_by_its_own_topic(wakeups: Wakeups, stack: ExitStack) -> None:
    first = join(stack, wakeups, "line", "a", unless="shutdown:1")
    second = join(stack, wakeups, "line", "a", unless="shutdown:2")
    announce(wakeups, "shutdown:2")
    assert second.wait(PATIENCE_SECONDS)
    assert second.was_shut_down
    assert not first.was_shut_down


def test_a_server_that_stops_wakes_every_call_for_good(wakeups: Wakeups, stack: ExitStack) -> None:
    waiters = [join(stack, wakeups, "line", "a") for _ in range(3)]
    wakeups.stop()
    for waiter in waiters:
        assert waiter.wait(PATIENCE_SECONDS)
    with wakeups.waiting("line", ["a"], most=10) as waiter:
        assert waiter is None


def test_nothing_is_made_of_the_news_where_nobody_waits(wakeups: Wakeups) -> None:
    asked: list[bool] = []

    def topics() -> list[str]:
        asked.append(True)
        return ["a"]

    wakeups.announce(topics)
    assert asked == []


def test_a_forked_child_leaves_the_calls_of_its_parent_alone(
    wakeups: Wakeups, stack: ExitStack
) -> None:
    waiter = join(stack, wakeups, "line", "a")
    child = os.fork()
    if not child:
        try:
            wakeups.forget_parent()
            assert wakeups.count() == 0
            with wakeups.waiting("other", ["b"], most=10):
                assert len(pipes.listening(wakeups._folder or Path())) == 2
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    announce(wakeups, "a")
    assert waiter.wait(PATIENCE_SECONDS)


def test_without_a_thread_to_listen_calls_wait_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    wakeups = Wakeups(tmp_path / "waiting")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with wakeups.waiting("line", ["topic"], most=1) as waiter:
            assert waiter is not None
    assert [*(tmp_path / "waiting").iterdir()] == []
