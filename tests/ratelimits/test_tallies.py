"""Hits that a process keeps to itself for a moment: how many, how long, and that none gets lost."""

import threading
from pathlib import Path

import pytest

from taskmanager.ratelimits.counter_file import CounterFile
from taskmanager.ratelimits.tallies import TOLD_WITHIN_MS, Tallies

LIMIT = 10_000
SECONDS = 60


@pytest.fixture
def counters(tmp_path: Path) -> CounterFile:
    return CounterFile(tmp_path / "counters")


def hit(tallies: Tallies, *, now: int = 0, limit: int = LIMIT) -> int:
    return tallies.hit("name", limit=limit, seconds=SECONDS, now=now).hits


def told(counters: CounterFile, *, now: int = 0) -> int:
    """What the file has heard of."""
    return counters.read("name", now=now).hits


def test_of_a_limit_below_a_thousand_the_file_hears_of_every_hit_at_once(
    counters: CounterFile,
) -> None:
    tallies = Tallies(counters)
    for count in range(1, 1_200):
        assert hit(tallies, limit=1_000) == told(counters) == count


def test_a_thousandth_of_what_is_left_is_told_together(counters: CounterFile) -> None:
    tallies = Tallies(counters)
    seen = [(hit(tallies), told(counters)) for _ in range(20)]
    assert [count for count, _ in seen] == list(range(1, 21))
    assert [heard for _, heard in seen] == [1] * 10 + [11] * 10


def test_the_nearer_the_limit_the_sooner_the_file_hears(counters: CounterFile) -> None:
    tallies = Tallies(counters)
    counters.add("name", amount=LIMIT // 2, seconds=SECONDS, now=0)
    assert [hit(tallies) - told(counters) for _ in range(6)] == [0, 1, 2, 3, 4, 0]
    tallies.forget()
    counters.add("name", amount=LIMIT - 1_000 - told(counters), seconds=SECONDS, now=0)
    assert [hit(tallies) - told(counters) for _ in range(1_500)] == [0] * 1_500


@pytest.mark.parametrize("passed", [TOLD_WITHIN_MS, -TOLD_WITHIN_MS])
def test_the_next_hit_a_second_later_is_told_with_all_before_it_also_where_the_clock_is_set(
    counters: CounterFile, passed: int
) -> None:
    tallies = Tallies(counters)
    hit(tallies)
    almost = passed - 1 if passed > 0 else passed + 1
    assert [hit(tallies, now=almost), told(counters)] == [2, 1]
    assert [hit(tallies, now=passed), told(counters, now=passed)] == [3, 3]


def test_what_was_not_told_in_a_window_does_not_count_in_the_next(counters: CounterFile) -> None:
    tallies = Tallies(counters)
    end = SECONDS * 1_000
    hit(tallies)
    hit(tallies, now=end - 1)
    hit(tallies, now=end - 1)
    assert [hit(tallies, now=end), told(counters, now=end)] == [1, 1]


def test_names_are_counted_apart_and_what_was_forgotten_is_read_from_the_file_again(
    counters: CounterFile,
) -> None:
    tallies = Tallies(counters)
    assert [hit(tallies), hit(tallies)] == [1, 2]
    assert tallies.hit("other", limit=LIMIT, seconds=SECONDS, now=0).hits == 1
    counters.clear("name")
    tallies.forget()
    assert hit(tallies) == 1


def test_what_cannot_be_told_is_told_later(
    counters: CounterFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    tallies = Tallies(counters)
    for _ in range(5):
        hit(tallies)
    with monkeypatch.context() as broken:
        broken.setattr(counters, "_path", Path("/nowhere/counters"))
        with pytest.raises(OSError, match="nowhere"):
            hit(tallies, now=TOLD_WITHIN_MS)
    assert [hit(tallies, now=TOLD_WITHIN_MS), told(counters)] == [6, 6]


def test_four_processes_let_hardly_more_pass_than_the_limit(counters: CounterFile) -> None:
    processes = [Tallies(counters) for _ in range(4)]
    counts = [hit(processes[number % 4 if number % 7 else 0]) for number in range(2 * LIMIT)]
    passed = sum(count <= LIMIT for count in counts)
    assert LIMIT <= passed <= LIMIT + 4 * (LIMIT // 1_000)


def test_threads_lose_no_hit(counters: CounterFile) -> None:
    tallies = Tallies(counters)

    def count() -> None:
        for _ in range(500):
            hit(tallies, limit=1_000_000)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hit(tallies, now=TOLD_WITHIN_MS, limit=1_000_000) == 8 * 500 + 1
    assert told(counters) == 8 * 500 + 1
