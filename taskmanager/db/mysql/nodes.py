"""Which of several database servers a connection goes to: nodes of a cluster, or a primary and its
replica.

Owns the order in which they are tried and for how long a failed one is left alone. A process keeps
to one of them while it can, and different processes begin with different ones.
"""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from pymysql.cursors import Cursor

DEFAULT_PORT = 3306
# For how long nobody tries a server that has failed. So one that is back is in use again after
# this time, and one that hangs costs a process one connect timeout in it.
AVOID_SECONDS = 10.0
SYNCED = "4"  # wsrep_local_state: the node has all that the cluster has
STATUS = (
    "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_ready', 'wsrep_local_state', "
    "'wsrep_flow_control_paused_ns', 'wsrep_local_bf_aborts', 'wsrep_local_cert_failures')"
)


class Node(NamedTuple):
    host: str
    port: int


class Galera(NamedTuple):
    """What a node of a cluster has counted since it was started.

    `paused_seconds`: for how long all nodes have waited for the slowest one (flow control).
    The others are transactions that it has undone, since another node had committed first what
    they changed: before their COMMIT, or at it, in certification.
    """

    paused_seconds: float
    undone_before_commit: int
    undone_at_commit: int


class State(NamedTuple):
    """What a server says of itself; of a server without Galera only `is_writable`."""

    is_writable: bool
    is_ready: bool = True
    is_synced: bool = True
    galera: Galera | None = None

    @property
    def is_usable(self) -> bool:
        return self.is_writable and self.is_ready


def read_nodes(hosts: str) -> list[Node]:
    """The servers of `node1,node2:3307,[::1]`. Raises ValueError for a port that is no number."""
    parts = [urlsplit(f"//{host}") for host in hosts.split(",")]
    return [Node(part.hostname or "localhost", part.port or DEFAULT_PORT) for part in parts]


def ask_state(cursor: Cursor) -> State:
    """Whether a server may be used at this moment; two statements."""
    cursor.execute("SHOW GLOBAL VARIABLES WHERE Variable_name IN ('read_only', 'wsrep_on')")
    found = dict(cursor.fetchall())
    is_writable = found.get("read_only") == "OFF"
    if found.get("wsrep_on") != "ON":
        return State(is_writable)
    cursor.execute(STATUS)
    found = dict(cursor.fetchall())
    galera = Galera(
        paused_seconds=int(found.get("wsrep_flow_control_paused_ns", 0)) / 1e9,
        undone_before_commit=int(found.get("wsrep_local_bf_aborts", 0)),
        undone_at_commit=int(found.get("wsrep_local_cert_failures", 0)),
    )
    is_synced = found["wsrep_local_state"] == SYNCED
    return State(is_writable, found["wsrep_ready"] == "ON", is_synced, galera)


class Nodes:
    """The servers that a URL names, and when each may be tried again. Safe between threads."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = list(nodes)
        self._avoided_until: dict[Node, float] = {}
        self._lock = threading.Lock()

    def forget_parent(self) -> None:
        """In a forked child: a thread of the parent may have held the lock."""
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes)

    @property
    def are_several(self) -> bool:
        return len(self._nodes) > 1

    @property
    def first(self) -> Node:
        return self._nodes[0]

    def to_try(self) -> Iterator[Node]:
        """The servers in the order in which to try them; those that have failed lately come last.

        Each process begins with another one.
        """
        begin = os.getpid() % len(self._nodes)
        in_turn = self._nodes[begin:] + self._nodes[:begin]
        avoided = []
        for node in in_turn:
            if self._may_be_tried(node):
                yield node
            else:
                avoided.append(node)
        yield from avoided

    def avoid(self, node: Node) -> None:
        """Tries the others first for a while."""
        with self._lock:
            self._avoided_until[node] = time.monotonic() + AVOID_SECONDS

    def use(self, node: Node) -> None:
        """Notes that the server works."""
        with self._lock:
            self._avoided_until.pop(node, None)

    def has_better_than(self, node: Node) -> bool:
        """Whether a server that this process prefers may be tried by now."""
        if not self.are_several:
            return False
        preferred = self._nodes[os.getpid() % len(self._nodes)]
        return node != preferred and self._avoided_until.get(preferred, 0) <= time.monotonic()

    def _may_be_tried(self, node: Node) -> bool:
        """True for one thread alone where the server had failed: it may hang again."""
        with self._lock:
            until = self._avoided_until.get(node)
            if until is None:
                return True
            now = time.monotonic()
            if until > now:
                return False
            self._avoided_until[node] = now + AVOID_SECONDS
            return True
