"""A worker process: polls, claims, computes fingerprints and reports. It uses only the API.

`URL=… KEY=… python -m taskmanager.demo.worker ID` works until SIGTERM, and then prints a JSON
report on stdout.
"""

import errno
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from itertools import takewhile
from typing import Any
from urllib.parse import quote

from taskmanager.demo.files import fingerprint
from taskmanager.demo.http_client import HttpClient, ServiceError
from taskmanager.demo.producer import TASK_TYPE

TASKS_PER_CLAIM = 10
# Short, so that the other worker takes over soon if one is killed.
LEASE_SECONDS = 30
HEARTBEAT_SECONDS = 10
CLAIM_LOST_STATUSES = (403, 409)


class Worker:
    """Claims and completes tasks, and counts the answers and their duration in `report`."""

    def __init__(self, worker_id: str, url: str, key: str) -> None:
        self.worker_id = worker_id
        self.is_stopping = False
        self.http = HttpClient(url, key, keep_trying=lambda: not self.is_stopping)
        self.last_contact_at = time.monotonic()
        self.report: dict[str, Any] = {
            "completed": 0,
            "failed": 0,
            "retried": 0,
            "claim_seconds": [],
            "complete_seconds": [],
        }

    def run(self) -> None:
        """Works until stop() is called, then releases the tasks that it still holds."""
        while not self.is_stopping:
            for task in takewhile(lambda _: not self.is_stopping, self.claim()):
                self.finish(task, self.attempt(task))
        self.http.call("POST", f"/api/workers/{quote(self.worker_id)}/shutdown", {})

    def claim(self) -> Iterator[dict[str, Any]]:
        """Claims the next tasks. If there are none, waits as long as the service asks."""
        answer = self.http.call(
            "POST",
            "/api/tasks/claim",
            {
                "worker_id": self.worker_id,
                "type": TASK_TYPE["name"],
                "limit": TASKS_PER_CLAIM,
                "lease_seconds": LEASE_SECONDS,
                # If the answer is lost, a retry with the same id returns the same tasks.
                "request_id": uuid.uuid4().hex,
            },
            expected=(200, 404),
        )
        self.last_contact_at = time.monotonic()
        if answer.status == 404:
            self.pause(answer.body["details"]["poll_after_seconds"])
        else:
            self.report["claim_seconds"].append(answer.seconds)
            yield from answer.data["tasks"]

    def attempt(self, task: dict[str, Any]) -> dict[str, Any]:
        """Computes the fingerprint. Returns the fields of the completion, success or failure."""
        try:
            result = fingerprint(task["params"]["path"], while_reading=self.keep_leases)
        except OSError as error:
            return {
                "success": False,
                "error": f"The file cannot be read: {error.strerror}",
                "error_code": errno.errorcode.get(error.errno or 0, "EIO"),
            }
        return {"success": True, "result": result}

    def finish(self, task: dict[str, Any], outcome: dict[str, Any]) -> None:
        """Reports the outcome, unless another attempt has begun."""
        answer = self.http.call(
            "POST",
            f"/api/tasks/{task['id']}/complete",
            {"worker_id": self.worker_id, "claim_token": task["claim_token"], **outcome},
            expected=(200, *CLAIM_LOST_STATUSES),
        )
        if answer.status in CLAIM_LOST_STATUSES:
            return  # another attempt has begun and will report
        self.report["complete_seconds"].append(answer.seconds)
        self.report["retried" if answer.data["will_retry"] else answer.data["status"]] += 1

    def keep_leases(self) -> None:
        """Sends a heartbeat if one is due: a large file can take longer than a lease."""
        if time.monotonic() - self.last_contact_at > HEARTBEAT_SECONDS:
            self.http.call("POST", "/api/workers/heartbeat", {"worker_id": self.worker_id})
            self.last_contact_at = time.monotonic()

    def pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self.is_stopping and time.monotonic() < until:
            time.sleep(0.05)

    def stop(self, *_: object) -> None:
        self.is_stopping = True


def main() -> None:
    worker = Worker(sys.argv[1], os.environ["URL"], os.environ["KEY"])
    signal.signal(signal.SIGTERM, worker.stop)
    try:
        with worker.http:
            worker.run()
    except ServiceError as error:
        sys.exit(f"{worker.worker_id}: {error}")
    json.dump(worker.report, sys.stdout)


if __name__ == "__main__":
    main()
