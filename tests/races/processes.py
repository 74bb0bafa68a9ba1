"""Several processes that do the same at the same moment, each with its own connection to a server.

Imports nothing of the product: what runs here stands for a worker's machine.
"""

import http.client
import json
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.support.processes import CONTEXT

IDLE_SECONDS = 1.0  # the server closes a connection that was idle for two
PATIENCE_SECONDS = 200


class Reply(NamedTuple):
    status: int
    body: Any

    @property
    def data(self) -> Any:
        return self.body["data"]


class Connection:
    """One kept-alive connection. Remembers every answer that no client should ever see."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._headers = {"Content-Type": "application/json", "X-API-Key": key}
        self._http: http.client.HTTPConnection | None = None
        self._used_at = 0.0
        self.server_errors: list[Any] = []

    def call(self, method: str, path: str, body: Any = None) -> Reply:
        if self._http is None or time.monotonic() - self._used_at > IDLE_SECONDS:
            self.close()
            self._http = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        text = None if body is None else json.dumps(body)
        self._http.request(method, path, text, self._headers)
        response = self._http.getresponse()
        reply = Reply(response.status, json.loads(response.read()))
        self._used_at = time.monotonic()
        if reply.status >= 500 or "deadlock" in str(reply.body).lower():
            self.server_errors.append([method, path, reply.status, reply.body])
        return reply

    def post(self, path: str, body: Any) -> Reply:
        return self.call("POST", path, body)

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None


class Shared(NamedTuple):
    """What the processes of one run have in common."""

    port: int
    key: str
    barrier: Any  # of multiprocessing: wait() until all processes are there
    done: Any  # a shared whole number, for work that ends when all of it is done
    failed: Any  # an event: one of the processes has failed, so the others may stop


def run_processes(
    work: Callable[..., Any], count: int, *, port: int, key: str, arguments: Any = None
) -> list[Any]:
    """Runs `work(connection, shared, number, arguments)` in `count` processes; their results.

    Raises AssertionError with the traceback of a process that failed, and with
    the answers that were the server's fault.
    """
    shared = Shared(port, key, CONTEXT.Barrier(count), CONTEXT.Value("q", 0), CONTEXT.Event())
    pipes = []
    for number in range(count):
        ours, theirs = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(
            target=_run_one, args=(work, shared, number, arguments, theirs), daemon=True
        )
        process.start()
        theirs.close()
        pipes.append((process, ours))
    deadline = time.monotonic() + PATIENCE_SECONDS
    results, problems = [], []
    for process, pipe in pipes:
        if not pipe.poll(max(0.0, deadline - time.monotonic())):
            problems.append("a process did not come to an end")
            process.kill()
        else:
            result, problem = pipe.recv()
            results.append(result)
            problems += problem
        process.join()
        pipe.close()
    assert not problems, "\n".join(map(str, problems[:5]))
    return results


def _run_one(
    work: Callable[..., Any], shared: Shared, number: int, arguments: Any, pipe: Any
) -> None:
    connection = Connection(shared.port, shared.key)
    try:
        result = work(connection, shared, number, arguments)
        pipe.send((result, connection.server_errors))
    except BaseException:  # noqa: BLE001 - reported by the process that waits for this one
        shared.failed.set()
        shared.barrier.abort()
        pipe.send((None, [*connection.server_errors, traceback.format_exc()]))
    finally:
        connection.close()
