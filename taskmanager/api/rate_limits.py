"""Who may ask how often: per key, per address where no key is needed, per address that fails.

Fixed windows: the first request begins a window, and the count starts anew when
the window is over. Flask-Limiter owns the storage and counts the requests of
routes that take no key. It costs more than a count, so a request with a key is
counted here, in the same storage, once it is known whose key it is.
"""

import ipaddress
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from flask import Flask, current_app, request

from taskmanager.access.audit import MAX_ADDRESS_LENGTH
from taskmanager.access.caller import Caller
from taskmanager.api.http_rules import answer_headers
from taskmanager.clock import utc_now
from taskmanager.config import Settings
from taskmanager.errors import ConfigurationError, RateLimited
from taskmanager.rates import Rate, parse_rate

if TYPE_CHECKING:  # imported by the server only: a command is spared their 50 ms
    from flask_limiter import Limiter, RequestLimit

    from taskmanager.ratelimits.storage import GuardedStorage

WITHOUT_KEY = Rate(600, "minute")  # per address, all routes that take no key together
FAILURES = Rate(30, "minute")  # per address and purpose

_EXTENSION = "taskmanager.rate_limits"


class Standing(NamedTuple):
    """What is left of a limit after this request; `resets_at` in seconds since the epoch."""

    policy: str
    rate: Rate
    remaining: int
    resets_at: float

    @property
    def resets_in(self) -> int:
        """Whole seconds until the window ends, at least 1."""
        return max(1, math.ceil(self.resets_at - utc_now() / 1000))


class RateLimits(NamedTuple):
    """The limits of one application."""

    per_key: Rate
    storage: "GuardedStorage"
    limiter: "Limiter"
    ask_limiter: Callable[[], Any]


def register_rate_limits(app: Flask, settings: Settings) -> None:
    """Limits every route of the API. Raises ConfigurationError for a storage that cannot be."""
    import limits.errors
    from flask_limiter import Limiter

    from taskmanager.ratelimits.storage import GuardedStorage

    limiter = Limiter(
        client_address,
        application_limits=[str(WITHOUT_KEY)],
        storage_uri=_storage_uri(settings),
        storage_options=_storage_options(settings.rate_limit_storage_uri),
        strategy="fixed-window",
        on_breach=_refuse,
    )
    try:
        limiter.init_app(app)
    except (limits.errors.ConfigurationError, ValueError) as error:
        uri = settings.rate_limit_storage_uri
        reason = str(error).replace(uri, uri.partition(":")[0])  # it may hold a password
        raise ConfigurationError(
            f"TASKMANAGER_RATE_LIMIT_STORAGE_URI cannot be used: {reason}. Leave it empty to count "
            "in a file that all processes of the host share, or write redis://host:6379 and "
            "install the package redis."
        ) from None
    if not isinstance(limiter.storage, GuardedStorage):
        raise AssertionError("the storage of the rate limits is not guarded")
    # Flask-Limiter's hooks: one that counts, called here for the requests that it is for; one that
    # tells in its own way what was counted; and one that tidies up what ends with the request.
    ask_limiter = app.before_request_funcs[None].pop()
    app.after_request_funcs[None].pop()
    app.teardown_request_funcs[None].pop()
    app.extensions[_EXTENSION] = RateLimits(
        settings.rate_limit, limiter.storage, limiter, ask_limiter
    )


def _storage_uri(settings: Settings) -> str:
    from taskmanager.ratelimits.storage import GUARDED, SHARED_FILE

    own = f"{SHARED_FILE}{settings.instance_path / 'rate_limits.counters'}"
    return GUARDED + (settings.rate_limit_storage_uri or own)


def _storage_options(uri: str) -> dict[str, str | int]:
    """A server that does not answer must not hold a request up for minutes."""
    if uri.startswith(("redis", "valkey")):
        return {"socket_connect_timeout": 1, "socket_timeout": 1}
    return {}


def count_request(caller: Caller) -> None:
    """Counts the present request against its key. Raises RateLimited."""
    limits = _limits()
    rate = _rate_of(caller, limits)
    if not rate.is_unlimited:
        standing = _hit(limits, "key", str(caller.key_id), rate)
        _tell(standing)
        if standing.remaining < 0:
            raise _refusal(standing, "This key may make {} requests a {}")


def count_request_without_key() -> None:
    """Counts the present request against the client's address. Raises RateLimited."""
    limits = _limits()
    limits.ask_limiter()
    if limits.limiter.current_limit is not None:
        _tell(_standing_without_key(limits.limiter.current_limit))


def count_failure(purpose: str) -> None:
    """Counts a failed attempt (a wrong key, a wrong password) against the client's address.

    Raises RateLimited once there have been more than FAILURES. A right key or
    password is never refused for the failures of others behind the same
    address: call this only when an attempt has failed.
    """
    standing = _hit(_limits(), purpose, client_address(), FAILURES)
    if standing.remaining < 0:
        _tell(standing)
        raise _refusal(standing, "More than {} attempts in a {} have failed from this address")


def counts_are_shared() -> bool:
    """False while each process counts for itself: by setting, or because the storage is broken."""
    return _limits().storage.is_shared


def client_address() -> str:
    """What a client without a key is counted by; of IPv6 the /64 that one customer gets."""
    text = request.remote_addr or "unknown"
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text[:MAX_ADDRESS_LENGTH]
    if isinstance(address, ipaddress.IPv4Address):
        return text
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _limits() -> RateLimits:
    found: RateLimits = current_app.extensions[_EXTENSION]
    return found


def _rate_of(caller: Caller, limits: RateLimits) -> Rate:
    if caller.rate_limit is not None:
        try:
            return parse_rate(caller.rate_limit)
        except ValueError:
            pass  # written into the table by hand: the setting holds
    return limits.per_key


def _hit(limits: RateLimits, policy: str, who: str, rate: Rate) -> Standing:
    count, resets_at = limits.storage.hit(f"{policy}/{who}/{rate}", rate.seconds, rate.amount)
    return Standing(policy, rate, rate.amount - count, resets_at)


def _refusal(standing: Standing, sentence: str) -> RateLimited:
    reason = sentence.format(standing.rate.amount, standing.rate.unit)
    return RateLimited(
        f"{reason}; try again in {standing.resets_in} seconds.",
        retry_after_seconds=standing.resets_in,
    )


def _refuse(limit: "RequestLimit") -> None:
    """What Flask-Limiter calls for a route without a key. Raises RateLimited."""
    standing = _standing_without_key(limit)
    _tell(standing)
    raise _refusal(standing, "Without a key, an address may make {} requests a {}")


def _standing_without_key(limit: "RequestLimit") -> Standing:
    return Standing("address", WITHOUT_KEY, limit.remaining, limit.window.reset_time)


def _tell(standing: Standing) -> None:
    policy, rate, remaining = standing.policy, standing.rate, max(0, standing.remaining)
    answer_headers().extend(
        [
            ("RateLimit-Policy", f'"{policy}";q={rate.amount};w={rate.seconds}'),
            ("RateLimit", f'"{policy}";r={remaining};t={standing.resets_in}'),
            ("X-RateLimit-Limit", str(rate.amount)),
            ("X-RateLimit-Remaining", str(remaining)),
            ("X-RateLimit-Reset", str(math.ceil(standing.resets_at))),
        ]
    )
