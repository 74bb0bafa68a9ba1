"""Whether and when a failed attempt is retried."""

from typing import Any

import pytest

from taskmanager.queue.retry import retry_delay


def delay(policy: dict[str, Any] | None, attempts: int = 1, **changed: Any) -> float | None:
    fields: dict[str, Any] = {
        "max_attempts": 100,
        "is_retryable": True,
        "retry_after_seconds": None,
        **changed,
    }
    return retry_delay(policy=policy, attempts=attempts, **fields)


def test_without_a_policy_the_next_attempt_is_immediate() -> None:
    assert delay(None) == 0
    assert delay({"strategy": "immediate"}, attempts=50) == 0


def test_a_fixed_delay_is_the_same_after_every_attempt() -> None:
    policy = {"strategy": "fixed", "base_seconds": 7}
    assert [delay(policy, attempts) for attempts in (1, 2, 50)] == [7, 7, 7]


def test_an_exponential_delay_doubles_up_to_its_cap() -> None:
    policy = {"strategy": "exponential", "base_seconds": 10, "max_seconds": 100}
    assert [delay(policy, attempts) for attempts in (1, 2, 3, 4, 5, 99)] == [
        *(10, 20, 40, 80, 100, 100),
    ]


def test_the_defaults_are_thirty_seconds_and_a_cap_of_an_hour() -> None:
    assert delay({"strategy": "fixed"}) == 30
    assert [delay({"strategy": "exponential"}, n) for n in (1, 2, 7, 8)] == [30, 60, 1920, 3600]


def test_the_cap_holds_for_a_fixed_delay_too() -> None:
    assert delay({"strategy": "fixed", "base_seconds": 50, "max_seconds": 20}) == 20


@pytest.mark.parametrize("strategy", ["fixed", "exponential"])
def test_jitter_stays_between_half_and_all_of_the_delay(strategy: str) -> None:
    policy = {"strategy": strategy, "base_seconds": 10, "max_seconds": 60, "jitter": True}
    for attempts in (1, 2, 3, 90):
        whole = delay({**policy, "jitter": False}, attempts)
        assert whole is not None
        drawn = [delay(policy, attempts) for _ in range(200)]
        assert all(seconds is not None and whole / 2 <= seconds <= whole for seconds in drawn)
        assert len(set(drawn)) > 100


def test_the_last_attempt_is_not_followed_by_another() -> None:
    assert delay(None, attempts=2, max_attempts=3) == 0
    assert delay(None, attempts=3, max_attempts=3) is None
    assert delay(None, attempts=4, max_attempts=3) is None


def test_what_is_not_retryable_is_not_retried_whatever_else_is_said() -> None:
    assert delay({"strategy": "fixed"}, is_retryable=False, retry_after_seconds=5) is None


def test_the_workers_own_delay_goes_before_the_policy() -> None:
    assert delay({"strategy": "fixed", "base_seconds": 9}, retry_after_seconds=1.5) == 1.5
    assert delay({"strategy": "fixed", "base_seconds": 9}, retry_after_seconds=0) == 0
    assert delay(None, attempts=3, max_attempts=3, retry_after_seconds=1) is None
