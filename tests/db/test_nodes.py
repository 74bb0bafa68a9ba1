"""Which of several servers is tried first, and for how long a failed one is left alone."""

import os
from types import SimpleNamespace

import pytest

from taskmanager.db.mysql import nodes
from taskmanager.db.mysql.nodes import AVOID_SECONDS, Node, Nodes

A, B, C = Node("a", 1), Node("b", 2), Node("c", 3)


class Clock:
    now = 1_000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    monkeypatch.setattr(nodes, "time", SimpleNamespace(monotonic=lambda: moved.now))
    monkeypatch.setattr(os, "getpid", lambda: 300)  # which begins with the first
    return moved


def test_processes_begin_with_different_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    several = Nodes([A, B, C])
    begins = []
    for number in (300, 301, 302, 303):
        monkeypatch.setattr(os, "getpid", lambda number=number: number)
        begins.append("".join(node.host for node in several.to_try()))
    assert begins == ["abc", "bca", "cab", "abc"]


def test_a_server_that_failed_is_tried_last_until_its_time_is_over(clock: Clock) -> None:
    several = Nodes([A, B, C])
    several.avoid(A)
    assert list(several.to_try()) == [B, C, A]
    assert not several.has_better_than(B)
    clock.now += AVOID_SECONDS
    assert several.has_better_than(B)
    assert list(several.to_try()) == [A, B, C]


def test_only_one_thread_tries_a_server_that_may_still_hang(clock: Clock) -> None:
    several = Nodes([A, B, C])
    several.avoid(A)
    clock.now += AVOID_SECONDS
    assert next(several.to_try()) == A
    assert next(several.to_try()) == B
    several.use(A)
    assert next(several.to_try()) == A
    assert not several.has_better_than(A)


def test_where_all_have_failed_all_are_tried(clock: Clock) -> None:
    several = Nodes([A, B, C])
    for node in several:
        several.avoid(node)
    assert list(several.to_try()) == [A, B, C]
