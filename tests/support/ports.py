"""Ports for the servers that tests start."""

import contextlib
import itertools
import os
import socket

# Below 32768, where Linux begins to take ports for the near end of connections. Each process
# of pytest has its own range, so none takes the port of another's server while that restarts.
_FIRST, _RANGE, _RANGES = 10_000, 1_400, 16
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_first = _FIRST + _worker % _RANGES * _RANGE
_candidates = itertools.cycle(range(_first, _first + _RANGE))


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on; it comes again after all others of the range."""
    while True:
        port = next(_candidates)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
