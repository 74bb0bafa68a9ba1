"""One POST to an address that was checked. Owns no retries and no rules about when to send.

Uses `http.client` on a socket of its own: the connection goes to the very address that was
checked, so a name server that changes its answer is never asked again. Redirects and proxies
of the environment do not exist at this level.
"""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from taskmanager.notify.addresses import (
    Address,
    AddressRefused,
    Network,
    Resolver,
    permitted_addresses,
    resolve,
)

MAX_ANSWER_BYTES = 64 * 1024
SECONDS = 10.0


class NotSent(Exception):
    """No complete answer came. The receiver may have the message nevertheless."""


class Answer(NamedTuple):
    """`body` is cut at MAX_ANSWER_BYTES."""

    status: int
    body: bytes


class Rules(NamedTuple):
    """What may be reached. `context` is how TLS certificates are verified; None: as usual."""

    is_http_allowed: bool = False
    allowed_networks: Sequence[Network] = ()
    resolver: Resolver = resolve
    context: ssl.SSLContext | None = None


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    rules: Rules,
    seconds: float = SECONDS,
) -> Answer:
    """Posts `body` and returns the answer, a redirect included.

    `seconds` bounds everything after the name is resolved. Raises AddressRefused before anything
    is sent, and NotSent.
    """
    parts, host, port = check_url(url, rules)
    addresses = permitted_addresses(host, allowed=rules.allowed_networks, resolver=rules.resolver)
    deadline = time.monotonic() + seconds
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    context = rules.context or ssl.create_default_context()
    try:
        with _connect(addresses, port, deadline) as connected:
            if parts.scheme == "https":
                connected = context.wrap_socket(
                    connected, server_hostname=host, do_handshake_on_connect=False
                )
            with connected, _Cutoff(connected, deadline) as cutoff:
                if isinstance(connected, ssl.SSLSocket):
                    connected.do_handshake()
                connection = http.client.HTTPConnection(host, port)
                connection.sock = connected
                connection.request("POST", path, body, dict(headers))
                with connection.getresponse() as response:
                    answer = Answer(response.status, response.read(MAX_ANSWER_BYTES))
                if cutoff.is_cut:  # looks like the end of an answer without a length
                    raise TimeoutError
                return answer
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotSent(f"No answer from {host}: {type(error).__name__}.") from error


def check_url(url: str, rules: Rules) -> tuple[SplitResult, str, int]:
    """The parts of `url`, its host and port. Raises AddressRefused; resolves nothing."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise AddressRefused("The address cannot be read.") from None
    schemes = ("https", "http") if rules.is_http_allowed else ("https",)
    if parts.scheme not in schemes:
        raise AddressRefused(f"Only {' and '.join(schemes)} addresses are allowed.")
    if not parts.hostname or parts.username is not None:
        raise AddressRefused("The address needs a host, and no user name or password.")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise AddressRefused("The address has characters that must be percent-encoded.")
    return parts, parts.hostname, port


def _connect(addresses: Sequence[Address], port: int, deadline: float) -> socket.socket:
    """A connection to the first address that accepts one; raises OSError of the last."""
    for left, address in zip(range(len(addresses) - 1, -1, -1), addresses, strict=True):
        seconds = max(deadline - time.monotonic(), 0.001)
        try:
            return socket.create_connection((str(address), port), timeout=seconds)
        except OSError:
            if not left:
                raise
    raise OSError("no address")


class _Cutoff:
    """Shuts the connection down at `deadline`: a timeout of the socket counts each read anew."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._connected = connected
        self._timer = threading.Timer(max(deadline - time.monotonic(), 0), self._cut)
        self._timer.daemon = True
        self.is_cut = False

    def __enter__(self) -> "_Cutoff":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()

    def _cut(self) -> None:
        self.is_cut = True
        try:
            # The socket's own method: that of SSLSocket takes its TLS away under a reader.
            socket.socket.shutdown(self._connected, socket.SHUT_RDWR)
        except OSError:
            return  # the receiver has closed it already
