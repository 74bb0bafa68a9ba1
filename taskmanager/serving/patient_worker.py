"""A gunicorn worker whose threads never wait for a client to begin or end a request.

gunicorn's own `gthread` gives each new connection a thread, which then waits for the request: as
many silent connections as there are threads, and nobody is answered. Here the loop that accepts
connections also receives the requests, and a thread gets one that is complete. What a thread still
has to wait for has a deadline: see docs/decisions/0016.
"""

import errno
import selectors
import socket
import struct
import time
from collections import deque
from concurrent.futures import Future
from functools import partial
from typing import Any

from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn, ThreadWorker

from taskmanager.serving.incoming import Incoming
from taskmanager.serving.threads import Threads

REQUEST_SECONDS = 30  # from the connection, or the end of the previous request, to a whole request
READ_SECONDS = 10  # what a thread waits for the rest of a body altogether
SEND_SECONDS = 20  # what a thread waits for a client to take one piece of an answer
LINGER_SECONDS = 2  # how long the client's own end is awaited before a connection is closed
RECEIVED_AT_ONCE = 65_536
MAX_RECEIVED_BYTES = 33_554_432  # of unfinished requests, in one process


class _Unreader(SocketUnreader):
    """What a thread reads from. A client that is too slow counts as gone."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.deadline = 0.0
        self.gave_up = False

    def chunk(self, *size_hint: Any) -> bytes:
        try:
            self.sock.settimeout(max(self.deadline - time.monotonic(), 0.001))
            return super().chunk(*size_hint)
        except TimeoutError:
            self.gave_up = True
            return b""
        finally:
            self.sock.settimeout(None)


class _Connection(TConn):
    """A connection with the request that it is sending."""

    incoming: Incoming
    parser: Any
    timeout: float

    def hand_over(self) -> None:
        """Gives the thread what was received."""
        self.init()
        if not isinstance(self.parser.unreader, _Unreader):
            self.parser.unreader = _Unreader(self.sock)
        self.parser.unreader.unread(bytes(self.incoming.received))
        self.parser.unreader.deadline = time.monotonic() + READ_SECONDS


class PatientWorker(ThreadWorker):
    """`pending_conns` are those that the loop receives from, the one that waits longest first."""

    pending_conns: deque[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lingering: deque[_Connection] = deque()
        self._received_bytes = 0

    def get_thread_pool(self) -> Any:
        self.threads = Threads(self.cfg.threads, at_end=self.at_end_of_thread)
        return self.threads

    def at_end_of_thread(self) -> None:
        """What a thread does last."""

    def accept(self, listener: Any) -> None:
        try:
            sock, address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK):
                return
            raise
        # The system's own timeout: with Python's, a request takes three more system calls, and
        # each of them lets another thread have the interpreter (docs/decisions/0016).
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_SECONDS, 0))
        self.nr_conns += 1
        if self.nr_conns >= self.worker_connections:
            self._drop_longest_waiting()
        self._receive(_Connection(self.cfg, sock, address, listener.getsockname()))

    def on_client_socket_readable(self, conn: Any, client: Any) -> None:
        """The next request of a connection that was kept."""
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        data = _received(conn.sock)
        if data == b"":
            self._close(conn)
        else:
            self._receive(conn, data or b"")

    def _receive(self, conn: _Connection, data: bytes = b"") -> None:
        """Waits without a thread for a request that begins with `data`, unless it is complete."""
        conn.incoming = Incoming()
        if data and conn.incoming.add(data):
            self._hand_over(conn)
            return
        conn.timeout = time.monotonic() + REQUEST_SECONDS
        self.pending_conns.append(conn)
        self._watch(conn, self._on_readable)
        self._received_bytes += len(data)
        self._keep_within_bound()

    def _hand_over(self, conn: _Connection) -> None:
        conn.hand_over()
        self.enqueue_req(conn)

    def _keep_within_bound(self) -> None:
        while self._received_bytes > MAX_RECEIVED_BYTES and self.pending_conns:
            self._drop_longest_waiting()

    def _watch(self, conn: _Connection, on_readable: Any) -> None:
        conn.sock.setblocking(False)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(on_readable, conn))

    def _on_readable(self, conn: _Connection, client: Any) -> None:
        data = _received(conn.sock)
        if data == b"":
            self._forget(conn)
            self._close(conn)
        elif data is not None:
            self._add(conn, data)

    def _add(self, conn: _Connection, data: bytes) -> None:
        self._received_bytes += len(data)
        if conn.incoming.add(data):
            self._forget(conn)
            self._hand_over(conn)
        self._keep_within_bound()

    def _forget(self, conn: _Connection) -> None:
        """Receives from it no longer."""
        self.poller.unregister(conn.sock)
        self.pending_conns.remove(conn)
        self._received_bytes -= len(conn.incoming.received)

    def _drop_longest_waiting(self) -> None:
        if self.pending_conns:
            conn = self.pending_conns[0]
            self._forget(conn)
            self._close(conn)

    def _close(self, conn: _Connection) -> None:
        self.nr_conns -= 1
        conn.close()

    def handle_request(self, req: Any, conn: Any) -> bool:
        """Answers, unless the client does not take the answer."""
        try:
            return bool(super().handle_request(req, conn))
        except BlockingIOError:  # SO_SNDTIMEO is over
            self.log.debug("Closing a connection whose client takes no answer.")
            return False

    def finish_request(self, conn: Any, fs: "Future[Any]") -> None:
        """Keeps the connection, or ends it without waiting: this is the loop's own thread."""
        keeps = not fs.cancelled() and fs.exception() is None and fs.result()
        if not keeps or conn.parser.unreader.gave_up:  # else the rest would be read as a request
            self._linger(conn)
        elif following := conn.parser.unreader.take_buffered():
            self._receive(conn, following)
        else:
            super().finish_request(conn, fs)

    def _linger(self, conn: _Connection) -> None:
        """Ends our side, and closes once the client has ended its own.

        Closed with something unread, the connection would be reset, and the client would lose
        the answer (RFC 9112, section 9.6). gunicorn's own close waits for that.
        """
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(conn)
            return
        conn.timeout = time.monotonic() + LINGER_SECONDS
        self._lingering.append(conn)
        self._watch(conn, self._on_lingering)

    def _on_lingering(self, conn: _Connection, client: Any) -> None:
        if _received(conn.sock) == b"":
            self.poller.unregister(client)
            self._lingering.remove(conn)
            self._close(conn)

    def murder_pending(self) -> None:
        """Closes the connections whose time is over."""
        now = time.monotonic()
        while self.pending_conns and self.pending_conns[0].timeout <= now:
            self._drop_longest_waiting()
        while self._lingering and self._lingering[0].timeout <= now:
            conn = self._lingering.popleft()
            self.poller.unregister(conn.sock)
            self._close(conn)
        if not self.alive:  # a process that stops does not wait for clients that say nothing
            for conn in [one for one in self.pending_conns if not one.incoming.received]:
                self._forget(conn)
                self._close(conn)


def _received(sock: socket.socket) -> bytes | None:
    """What has arrived; empty where the client has gone, None where nothing has."""
    try:
        return sock.recv(RECEIVED_AT_ONCE)
    except (BlockingIOError, InterruptedError):
        return None
    except OSError:
        return b""
