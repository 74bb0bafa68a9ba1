"""Runs the application under gunicorn, for a machine of one's own."""

import mmap
import os
import select
import socket
import time
from typing import Any, cast

from gunicorn.app.base import BaseApplication
from gunicorn.workers.gthread import TConn, ThreadWorker

from taskmanager.errors import ConfigurationError

# So long a process waits before it takes a connection that another one, with fewer, may want.
HEAD_START_SECONDS = 0.0005
# A worker on the same machine sends its next request that soon.
LINGER_MS = 1
# While each thread has so many requests before it, new ones are fetched only every so often.
ENOUGH_PER_THREAD = 4
REST_SECONDS = 0.004


class _Answer:
    """A client's socket that holds back the first thing sent, the head, until more is sent."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._head: bytes | None = None

    def sendall(self, data: bytes) -> None:
        if self._head is None:
            self._head = data
        else:
            self._client.sendall(self._head + data)
            self._head = b""

    def flush(self) -> None:
        if self._head:
            self.sendall(b"")

    def __getattr__(self, name: str) -> Any:
        self.flush()  # nothing else may overtake it: a file, the end of the connection
        return getattr(self._client, name)


class ServingProcess(ThreadWorker):
    """gunicorn's process with threads, but the load is spread, and a thread stays with its client.

    By itself the process that looks first takes every connection of a burst, and has them for as
    long as they are kept alive, while others have none. And each request goes from the thread that
    reads the network to one that answers, and back, which costs more than routing it. And an answer
    goes out in two pieces, its head first, for which the system and the client are woken twice.
    """

    # Of each process, at its number modulo the length: its connections and one more; 0: no process.
    loads = mmap.mmap(-1, 256)

    def init_process(self) -> None:
        # Holds a byte for each connection that waits for a thread.
        self._waiting, self._wait = os.pipe()
        super().init_process()

    def notify(self) -> None:
        super().notify()
        self.loads[os.getpid() % len(self.loads)] = self._load()

    def _load(self) -> int:
        # gunicorn takes a connection off twice where an answer breaks off half way.
        return min(max(self.nr_conns, 0) + 1, 255)

    def accept(self, listener: socket.socket) -> None:
        if self._load() > min(filter(None, self.loads[:]), default=255):
            time.sleep(HEAD_START_SECONDS)
        super().accept(listener)

    def enqueue_req(self, conn: TConn) -> None:
        os.write(self._wait, b".")
        super().enqueue_req(conn)

    def wait_for_and_dispatch_events(self, timeout: float | None) -> None:
        """Several at once while the threads have enough to do, for they wait meanwhile."""
        silent = len(self.keepalived_conns) + len(self.pending_conns)
        if self.nr_conns - silent > ENOUGH_PER_THREAD * self.cfg.threads:
            time.sleep(REST_SECONDS)
        super().wait_for_and_dispatch_events(timeout)

    def handle(self, conn: TConn) -> Any:
        """Answers requests of one connection as long as they come and nobody waits for a thread."""
        os.read(self._waiting, 1)
        more = select.poll()
        more.register(self._waiting, select.POLLIN)
        more.register(conn.sock, select.POLLIN)
        while True:
            outcome = super().handle(conn)
            if outcome is not True or not self.alive:
                return outcome
            ready = [descriptor for descriptor, _ in more.poll(LINGER_MS)]
            if not ready or self._waiting in ready:
                return outcome

    def handle_request(self, req: Any, conn: TConn) -> Any:
        client = conn.sock
        answer = _Answer(client)
        conn.sock = cast(socket.socket, answer)
        try:
            outcome = super().handle_request(req, conn)
            answer.flush()
        finally:
            conn.sock = client
        return outcome


def _forget_load(_: Any, process: ServingProcess) -> None:
    process.loads[int(process.pid) % len(process.loads)] = 0


class _Server(BaseApplication):
    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        from taskmanager.app import create_app

        return create_app()


def require_free_address(host: str, port: int) -> None:
    """Raises ConfigurationError where the address cannot be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ConfigurationError(
            f"Cannot listen on {host}:{port}: {error.strerror}. "
            "Choose another address or port with --host and --port."
        ) from None


def run_server(*, host: str, port: int, workers: int, threads: int) -> None:
    """Serves until it is told to stop; `workers` processes of `threads` threads each."""
    _Server(
        {
            "bind": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            "workers": workers,
            "threads": threads,
            "worker_class": ServingProcess,
            "child_exit": _forget_load,
            "loglevel": "warning",
            # gunicorn would otherwise open a control socket in the home directory.
            "control_socket_disable": True,
            "graceful_timeout": 10,
            # By itself gunicorn believes X-Forwarded-Proto, SCRIPT_NAME and the like of whoever
            # calls from this machine, which is every proxy's visitor; http_rules decides that.
            "secure_scheme_headers": {},
            "forwarder_headers": "",
            "forwarded_allow_ips": "",
        }
    ).run()
