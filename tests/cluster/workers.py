"""Workers that claim and report while nodes of the database come and go."""

import http.client
import itertools
import json
import threading
import time
from collections.abc import Sequence
from typing import Any

from tests.cluster.work import HELD_FOR_A_WHILE, TYPES, Done
from tests.support.server import Server

PATIENCE_SECONDS = 300
WORK_SECONDS = 0.02
TURN_SECONDS = 0.5  # for so long all ask for tasks of the same type
EXPECTED = {200, 201, 404, 409}


class Crew:
    """Threads that work on tasks of `types` until all are done; `wrong` has what nobody may see.

    An answer of 503 must say when to come back. The same call is then repeated, as a client does.
    """

    def __init__(
        self, servers: Sequence[Server], count: int, total: int, types: Sequence[str] = tuple(TYPES)
    ) -> None:
        self.done: list[Done] = []
        self.wrong: list[Any] = []
        self.unavailable = 0
        self._servers = servers
        self._total = total
        self._types = types
        self._end = time.monotonic() + PATIENCE_SECONDS
        self._threads = [
            threading.Thread(target=self._work, args=(servers[n % len(servers)], n), daemon=True)
            for n in range(count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait_for(self, share: float) -> None:
        """Until this share of the tasks is done."""
        while len(self.done) < share * self._total and time.monotonic() < self._end:
            self.require_well()
            time.sleep(0.05)

    def require_well(self) -> None:
        """Fails with what a worker has seen and what the servers say of it."""
        logs = [server.log()[-6_000:] for server in self._servers if self.wrong]
        assert not self.wrong, "\n".join([str(self.wrong[:3]), *logs])

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _work(self, server: Server, number: int) -> None:
        worker, types, is_busy = f"worker-{number}", self._types, True
        try:
            for turn in itertools.count():
                if len(self.done) >= self._total or time.monotonic() > self._end:
                    return
                asked = {"worker_id": worker, "request_id": f"{worker}-{turn}"}
                if is_busy:  # who has found none asks for a task of any type
                    asked["type"] = types[int(time.monotonic() / TURN_SECONDS) % len(types)]
                status, task = self._call(server, "/api/tasks/claim", asked)
                is_busy = status == 200 or not is_busy
                if status != 200:
                    time.sleep(0.02)
                    continue
                begun_at = time.monotonic()
                if task["type"] in HELD_FOR_A_WHILE:
                    time.sleep(WORK_SECONDS)
                fails = task["params"].get("fails", False)
                report = {
                    "worker_id": worker,
                    "claim_token": task["claim_token"],
                    "success": not fails,
                    **({"is_retryable": False} if fails else {"result": task["attempts"]}),
                }
                ended_at = time.monotonic()
                status, _ = self._call(server, f"/api/tasks/{task['id']}/complete", report)
                if status == 200:
                    self.done.append(
                        Done(
                            *(task[name] for name in ("id", "type", "attempts")),
                            *(task[name] for name in ("concurrency_key", "group_key")),
                            fails,
                            begun_at,
                            ended_at,
                        )
                    )
        except Exception as error:  # noqa: BLE001 - shown by the test
            self.wrong.append(repr(error))

    def _call(self, server: Server, path: str, body: Any) -> tuple[int, Any]:
        while time.monotonic() < self._end:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            headers = {"Content-Type": "application/json", "X-API-Key": server.key}
            connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
            content = json.loads(answer.read())
            connection.close()
            if answer.status in EXPECTED:
                return answer.status, content.get("data")
            if answer.status != 503 or answer.headers["Retry-After"] is None:
                self.wrong.append([path, answer.status, content])
                return answer.status, None
            self.unavailable += 1
            time.sleep(0.2)
        return 0, None
