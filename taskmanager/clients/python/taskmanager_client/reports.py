"""How the ends of attempts are reported: repeated until answered, together where there are many."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable

from taskmanager_client.errors import ApiError, ClientError
from taskmanager_client.held import Held
from taskmanager_client.task import failure, is_release
from taskmanager_client.transport import backoff, delay_after, is_for_good

if TYPE_CHECKING:
    from taskmanager_client.worker import Worker

MAX_SERVER_ERRORS = 10  # of one report, before it is given up
REFUSED = "result_refused"  # the code of an attempt whose report the server did not take


class Reporter:
    """Sends the reports of one run, in the thread that calls it."""

    def __init__(
        self,
        worker: Worker,
        send: Callable[[str, Mapping[str, Any]], Any],
        may_go_on: Callable[[], bool],
    ) -> None:
        self._worker_id, self._log = worker.id, worker.log
        self._send, self._may_go_on = send, may_go_on

    def send(self, together: Sequence[Held]) -> None:
        """Returns once each of them is answered, or the run gives up."""
        ends = [held for held in together if not is_release(held.report or {})]
        for held in together:
            if is_release(held.report or {}):
                self._report_one(held)
        if len(ends) == 1:
            self._report_one(ends[0])
        elif ends and not self._report_many(ends):
            for held in ends:
                self._report_one(held)

    def _report_many(self, ends: Sequence[Held]) -> bool:
        """All of them in one call; False if each has to be sent by itself."""
        completions = [{**held.claim, **(held.report or {})} for held in ends]
        # The tasks themselves would be the largest part of the answer, and nobody reads them.
        body = {"worker_id": self._worker_id, "completions": completions, "with_tasks": False}
        tries = 0
        while self._may_go_on():
            tries += 1
            try:
                results = self._send("/tasks/complete", body)["results"]
            except ClientError as error:
                self._log(f"cannot report {len(ends)} tasks: {error}")
                if is_for_good(error) or tries > MAX_SERVER_ERRORS:
                    return False
                time.sleep(delay_after(error, tries) or backoff(tries))
                continue
            for held, result in zip(ends, results):
                if result["outcome"] == "error":
                    message = result["error"]["message"]
                    self._log(f"cannot report task {held.id}: {message}")
            return True
        return True

    def _report_one(self, held: Held) -> None:
        """Sends a report until it is answered; if it is refused, a report of that instead."""
        tries = 0
        while self._may_go_on():
            tries += 1
            report = held.report or {}
            end = "release" if is_release(report) else "complete"
            fields = {
                "worker_id": self._worker_id,
                "claim_token": held.task["claim_token"],
                **report,
            }
            try:
                self._send(f"/tasks/{held.id}/{end}", fields)
                return
            except ClientError as error:
                self._log(f"cannot report task {held.id}: {error}")
                status = error.status if isinstance(error, ApiError) else 0
                if status in (400, 413) and report.get("error_code") != REFUSED:
                    refusal = failure(f"The server refused the result: {error}", REFUSED)
                    held.report = {**refusal, "is_retryable": False}
                    continue
                if is_for_good(error) or (status == 500 and tries > MAX_SERVER_ERRORS):
                    return
                time.sleep(delay_after(error, tries) or backoff(tries))
