"""Who may ask how often: a key, an address that needs no key, an address that fails.

Owns which limit a request counts against, the refusal and the headers that tell a
client what is left. Does not count itself: Flask-Limiter counts the requests that need no
key, by address. Its strategy counts those of a key and failed attempts, which are
known only while a request is answered. Both count in the storage that
taskmanager.ratelimits defines.

Windows are fixed: the first request begins one, and when it is over the count starts anew.
"""

import functools
import ipaddress
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import taskmanager.ratelimits  # noqa: F401 - imports limits without what it does not need

# isort: split
import limits
from flask import Flask, Response, current_app, g, request
from flask_limiter import Limiter, RequestLimit
from limits.errors import ConfigurationError as StorageRefused

from taskmanager.access.audit import MAX_ADDRESS_LENGTH
from taskmanager.access.caller import Caller
from taskmanager.api.errors import error_response
from taskmanager.clock import utc_now
from taskmanager.config import Settings
from taskmanager.errors import ConfigurationError, RateLimited
from taskmanager.ratelimits.storage import GUARDED, SHARED_FILE, GuardedStorage
from taskmanager.rates import Rate, parse_rate

# What ends or keeps a lease, and what an operator does, has a generous limit of its own: a worker
# that has used up its requests still reports on what it holds.
GENEROUS = Rate(10_000, "minute")  # per key and policy
WITHOUT_KEY = Rate(600, "minute")  # per address, all routes that take no key together
FAILURES = Rate(30, "minute")  # per address and purpose

# Which limit of a key a request counts against. All its requests but those of the others are "key".
Policy = Literal["key", "leases", "operator"]
_COUNTED = {
    "key": "requests",
    "leases": "heartbeats and reports",
    "operator": "requests of an operator",
}

_EXTENSION = "taskmanager.rate_limits"


class Quota(NamedTuple):
    """What a limit leaves after the present request; `resets_at` in seconds since the epoch."""

    policy: str
    rate: Rate
    is_exceeded: bool
    remaining: int
    resets_at: float

    @property
    def resets_in(self) -> int:
        """Whole seconds until the window ends, at least 1."""
        return max(1, math.ceil(self.resets_at - utc_now() / 1000))


class RateLimits(NamedTuple):
    """The limits of one application."""

    per_key: Rate
    limiter: Limiter
    storage: GuardedStorage
    hooks: "_Hooks"


def register_rate_limits(app: Flask, settings: Settings) -> None:
    """Lets the functions of this module count the requests of `app`.

    Raises ConfigurationError for a storage that cannot be used.
    """
    uri = settings.rate_limit_storage_uri
    own = f"{SHARED_FILE}{settings.instance_path / 'rate_limits.counters'}"
    limiter = Limiter(
        client_address,
        application_limits=[str(WITHOUT_KEY)],
        storage_uri=GUARDED + (uri or own),
        storage_options=_storage_options(uri),
        strategy="fixed-window",
        on_breach=_refuse_address,
    )
    hooks = _Hooks(app)
    try:
        limiter.init_app(hooks)  # type: ignore[arg-type]
    except (StorageRefused, ValueError) as error:
        reason = str(error).replace(uri, uri.partition(":")[0])  # it may hold a password
        raise ConfigurationError(
            f"TASKMANAGER_RATE_LIMIT_STORAGE_URI cannot be used: {reason}. Leave it empty to count "
            "in a file that all processes of the host share, or write redis://host:6379 and "
            "install the package redis."
        ) from None
    if not isinstance(limiter.storage, GuardedStorage):
        raise AssertionError("the storage of the rate limits is not guarded")
    app.extensions[_EXTENSION] = RateLimits(settings.rate_limit, limiter, limiter.storage, hooks)


class _Hooks:
    """The application as Flask-Limiter sees it: keeps its hooks, for requests without a key alone.

    It has nothing to count of any other request, and yet would take a tenth of an
    empty poll's time to find that out (docs/decisions/0015).
    """

    def __init__(self, app: Flask) -> None:
        self._app = app

    def __getattr__(self, name: str) -> Any:
        return getattr(self._app, name)

    def before_request(self, hook: Callable[[], Any]) -> None:
        self.before = hook

    def after_request(self, hook: Callable[[Response], Response]) -> None:
        self.after = hook

    def teardown_request(self, hook: Callable[[], None]) -> None:
        self.teardown = hook


def count_address() -> Any:
    """Counts the present request, which needs no key, by its address; returns a refusal, or None.

    Flask-Limiter does it, in what would be its own hook. Raises its RateLimitExceeded.
    """
    return _limits().hooks.before()


def finish_count_of_address(response: Response) -> None:
    """Ends what `count_address` has begun, with the answer to that request."""
    limits = _limits()
    limits.hooks.after(response)
    if limit := limits.limiter.current_limit:
        g.quota = _quota_of_address(limit)
    limits.hooks.teardown()


def _storage_options(uri: str) -> dict[str, str | int]:
    """A server that does not answer must not hold a request up for minutes."""
    if uri.startswith(("redis", "valkey")):
        return {"socket_connect_timeout": 1, "socket_timeout": 1}
    return {}


def count_request(caller: Caller, policy: Policy) -> None:
    """Counts the present request against that limit of its key. Raises RateLimited."""
    rate = _rate_of(caller)
    if rate.is_unlimited:
        return
    if policy != "key":
        rate = max(rate, GENEROUS, key=lambda one: one.amount / one.seconds)
    g.quota = quota = _hit(policy, str(caller.key_id), rate)
    if quota.is_exceeded:
        raise _refusal(quota, f"This key may make {{}} {_COUNTED[policy]} a {{}}")


def count_failure(purpose: str) -> None:
    """Counts a failed attempt (a wrong key, a wrong password) against the client's address.

    Raises RateLimited once there have been more than FAILURES. A right key or
    password is never refused for the failures of others behind the same
    address: call this only when an attempt has failed.
    """
    quota = _hit(purpose, client_address(), FAILURES)
    if quota.is_exceeded:
        g.quota = quota
        raise _refusal(quota, "More than {} attempts in a {} have failed from this address")


def count_without_key() -> None:
    """Counts a request for a page by somebody who has not signed in. Raises RateLimited.

    The application of the pages is not the one whose requests Flask-Limiter counts.
    """
    quota = _hit("address", client_address(), WITHOUT_KEY)
    if quota.is_exceeded:
        g.quota = quota
        raise _refusal(quota, "Without a key, an address may make {} requests a {}")


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


def _rate_of(caller: Caller) -> Rate:
    if caller.rate_limit is not None:
        try:
            return parse_rate(caller.rate_limit)
        except ValueError:
            pass  # written into the table by hand: the setting holds
    return _limits().per_key


@functools.lru_cache(maxsize=256)
def _item(rate: Rate) -> limits.RateLimitItem:
    return limits.parse(str(rate))


def _hit(policy: str, who: str, rate: Rate) -> Quota:
    strategy = _limits().limiter.limiter
    item = _item(rate)
    is_allowed = strategy.hit(item, policy, who)
    window = strategy.get_window_stats(item, policy, who)
    return Quota(policy, rate, not is_allowed, window.remaining, window.reset_time)


def _refusal(quota: Quota, sentence: str) -> RateLimited:
    reason = sentence.format(quota.rate.amount, quota.rate.unit)
    return RateLimited(
        f"{reason}; try again in {quota.resets_in} seconds.",
        retry_after_seconds=quota.resets_in,
    )


def _refuse_address(limit: RequestLimit) -> Response:
    g.quota = quota = _quota_of_address(limit)
    return error_response(_refusal(quota, "Without a key, an address may make {} requests a {}"))


def _quota_of_address(limit: RequestLimit) -> Quota:
    window = limit.window
    return Quota("address", WITHOUT_KEY, limit.breached, window.remaining, window.reset_time)


def quota_headers() -> dict[str, str]:
    """The headers that tell a client what its limit leaves, where the present request counts."""
    quota: Quota | None = g.get("quota")
    if quota is None:
        return {}
    policy, rate = quota.policy, quota.rate
    return {
        "RateLimit-Policy": f'"{policy}";q={rate.amount};w={rate.seconds}',
        "RateLimit": f'"{policy}";r={quota.remaining};t={quota.resets_in}',
        "X-RateLimit-Limit": str(rate.amount),
        "X-RateLimit-Remaining": str(quota.remaining),
        "X-RateLimit-Reset": str(math.ceil(quota.resets_at)),
    }
