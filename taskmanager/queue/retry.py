"""Whether and when a failed attempt is retried: a pure decision."""

import random
from collections.abc import Mapping
from typing import Any

STRATEGIES = ("immediate", "fixed", "exponential")
DEFAULT_POLICY: Mapping[str, Any] = {"strategy": "immediate"}
DEFAULT_BASE_SECONDS = 30
DEFAULT_MAX_SECONDS = 3_600


def retry_delay(
    *,
    policy: Mapping[str, Any] | None,
    attempts: int,
    max_attempts: int,
    is_retryable: bool,
    retry_after_seconds: float | None,
) -> float | None:
    """The seconds until attempt number `attempts`, just failed, is followed by another; or None.

    `retry_after_seconds` from the worker overrides the type's policy. With
    `jitter` the delay is drawn evenly between half of it and all of it, so that
    tasks that failed together do not come back together.
    """
    if not is_retryable or attempts >= max_attempts:
        return None
    if retry_after_seconds is not None:
        return retry_after_seconds
    policy = policy or DEFAULT_POLICY
    if policy["strategy"] == "immediate":
        return 0
    delay = float(policy.get("base_seconds", DEFAULT_BASE_SECONDS))
    if policy["strategy"] == "exponential":
        # 2**64 seconds is past any cap: the exponent stays bounded for any number of attempts.
        delay *= 2 ** min(attempts - 1, 64)
    delay = min(delay, policy.get("max_seconds", DEFAULT_MAX_SECONDS))
    if policy.get("jitter"):
        delay = random.uniform(delay / 2, delay)  # noqa: S311
    return delay
