"""One run of a worker: claims tasks, runs their handlers, keeps their leases, reports how they end.

Four threads share the tasks that are held, under one lock: one claims, one reports, one renews
leases, and one enforces deadlines. The thread that called Worker.run() waits for signals. All times
are of the monotonic clock of this machine; the server only tells durations.
"""

from __future__ import annotations

import functools
import math
import os
import signal
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable
from urllib.parse import quote

from taskmanager_client.errors import ApiError, ClientError
from taskmanager_client.held import DROPPED, KILL_SECONDS, RELEASED, Held, now
from taskmanager_client.reports import Reporter
from taskmanager_client.slots import ProcessSlot, Slot, ThreadSlot
from taskmanager_client.task import SHOWN, Report, is_release
from taskmanager_client.transport import backoff, call_once, delay_after, is_for_good, jitter

if TYPE_CHECKING:
    from taskmanager_client.worker import Worker

TICK_SECONDS = 0.1
MAX_REQUEST_SECONDS = 30.0
# Where handlers are shorter than this, up to a second's work is held, more is claimed while half of
# that still waits, and reports travel together.
SHORT_HANDLER_SECONDS = 0.05
MAX_HELD_AHEAD = 200
MAX_PER_CALL = 100  # tasks that the server takes in one claim or one call with reports
REPORT_WAIT_SECONDS = 0.05
SIGN_OFF_SECONDS = 5.0
# How long the server may wait for a task before it answers a claim. A lease may have begun when its
# claim was sent, as far as is known here, so a claim waits for a quarter of the shortest lease.
MAX_WAIT_SECONDS = 20
LEASE_SECONDS_UNKNOWN = 20.0


class Run:
    """One run of a worker: what it holds, and its threads."""

    def __init__(
        self, worker: Worker, burst: bool, max_tasks: int | None, max_runtime: float | None
    ) -> None:
        self._worker = worker
        self._transport = worker.client.transport
        self._burst = burst
        self._tasks_left = math.inf if max_tasks is None else max_tasks
        self._claims_until = math.inf if max_runtime is None else now() + max_runtime
        # One lock guards everything below. Each thread waits for what concerns it alone: to wake
        # all of them at the end of a short handler would take longer than the handler.
        self._lock = threading.RLock()
        self._over = threading.Condition(self._lock)  # for the thread that called run()
        self._wants = threading.Condition(self._lock)  # for the one that claims
        self._reported = threading.Condition(self._lock)  # for the one that reports
        self._held: dict[int, Held] = {}
        self._waiting: deque[Held] = deque()  # held, and not yet started
        self._reports: deque[Held] = deque()  # ended, and not yet reported
        self._open = 0  # how many of those that are held have not ended
        self._collects = False  # whether the thread that reports waits for more
        self._reporter = Reporter(worker, self._send, lambda: now() < self._gives_up_at)
        self._slots: list[Slot] = [self._new_slot() for _ in range(worker.concurrency)]
        self._idle = list(self._slots)
        self._turns = deque(worker.turns())
        self._is_claiming = True
        self._stops = 0  # how often the run was asked to stop
        self._stops_seen = 0
        self._gives_up_at = math.inf
        self._fault: BaseException | None = None  # what run() raises in the end
        self._has_been_answered = False
        self._heartbeat_at = math.inf
        self._failed_heartbeats = 0
        self._handler_seconds = math.inf  # a moving average
        self._shortest_lease: float | None = None  # that was seen

    def _new_slot(self) -> Slot:
        if self._worker.processes:
            return ProcessSlot(self._worker.limits, self._worker.log)
        return ThreadSlot()

    # The thread that called run()

    def until_end(self) -> None:
        previous = self._listen_to_signals()
        types = ", ".join(self._worker.types)
        self._worker.log(f"started, for {types}")
        threads = [
            threading.Thread(target=self._guarded, args=(work,), daemon=True)
            for work in (
                self._claim_until_end,
                self._report_until_end,
                self._renew_until_end,
                self._enforce_until_end,
            )
        ]
        try:
            for thread in threads:
                thread.start()
            # Condition.wait() without a timeout would keep signal handlers from running.
            while not self._is_over():
                self._follow_stops()
                with self._lock:
                    self._over.wait(TICK_SECONDS)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        self._end()

    def _guarded(self, work: Callable[[], None]) -> None:
        """A thread that fails ends the run: the others would go on without its work."""
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - run() raises it
            with self._lock:
                self._fault, self._gives_up_at = error, 0
                self._wake_all()

    def _wake_all(self) -> None:
        for condition in (self._over, self._wants, self._reported):
            condition.notify_all()

    def _listen_to_signals(self) -> dict[int, Any]:
        if threading.current_thread() is not threading.main_thread():
            return {}

        def note(*_: Any) -> None:
            self._stops += 1

        return {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}

    def stop(self) -> None:
        """Does what SIGTERM does."""
        self._stops += 1

    def count_held(self) -> int:
        """How many tasks are held."""
        return len(self._held)

    def _follow_stops(self) -> None:
        """Does what SIGTERM asks for. Not in its handler, which may interrupt who has the lock."""
        while self._stops_seen < min(self._stops, 2):
            self._stops_seen += 1
            grace = self._worker.grace if self._stops_seen == 1 else 0
            with self._lock:
                self._is_claiming = False
                count = len(self._held)
                self._gives_up_at = now() + grace + KILL_SECONDS + 2
                for held in list(self._held.values()):
                    if held.report is not None:
                        continue
                    if held.slot is None:
                        self._finish(held, RELEASED)
                    else:
                        held.stop(RELEASED, grace)
                self._waiting.clear()
                self._wake_all()
            self._worker.log(f"stopping; {count} tasks are still held")

    def _is_over(self) -> bool:
        with self._lock:
            return (not self._is_claiming and not self._held) or now() > self._gives_up_at

    def _end(self) -> None:
        with self._lock:
            self._is_claiming = False
            still_running = [held for held in self._held.values() if held.report is None]
            self._gives_up_at = 0
            self._wake_all()
        for slot in self._slots:
            if slot not in self._idle:
                slot.kill()
            slot.close()
        self._sign_off()
        self._worker.log("stopped")
        if still_running and not self._worker.processes and self._stops:
            os._exit(1)  # a handler that goes on would do the work of a task that was put back
        if self._fault is not None:
            raise self._fault

    def _sign_off(self) -> None:
        """Puts back what a claim that was not answered may have got."""
        path = f"/workers/{quote(self._worker.id, safe='')}/shutdown"
        for tries in (1, 2, 3):
            try:
                call_once(self._transport, "POST", path, {}, SIGN_OFF_SECONDS)
                return
            except ClientError as error:
                if isinstance(error, ApiError) and is_for_good(error):
                    return  # such a worker was never seen
                self._worker.log(f"cannot sign off: {error}")
                time.sleep(backoff(tries))

    # The thread that claims

    def _claim_until_end(self) -> None:
        self._pause(jitter(0.5) if not self._burst else 0)  # workers do not ask all at once
        empty_turns = 0
        was_idle = False  # when the present round of turns began
        while self._may_claim():
            wanted = self._wanted()
            if wanted < 1:
                self._pause(1)
                continue
            if empty_turns == 0:
                with self._lock:
                    was_idle = not self._held
            found, hint = self._claim(wanted)
            empty_turns = 0 if found else empty_turns + 1
            if empty_turns == len(self._turns):
                empty_turns = 0
                with self._lock:
                    # Otherwise a task that was held may wait for its next attempt by now.
                    if self._burst and was_idle:
                        self._is_claiming = False
                self._pause(jitter(hint))
        with self._lock:
            self._is_claiming = False
            self._wake_all()

    def _may_claim(self) -> bool:
        with self._lock:
            if now() > self._claims_until or self._tasks_left < 1:
                self._is_claiming = False
            return self._is_claiming

    def _wanted(self) -> int:
        """How many tasks to claim: as many as there are free slots, or ahead of short handlers."""
        with self._lock:
            capacity = self._worker.concurrency
            if self._handler_seconds < SHORT_HANDLER_SECONDS:
                a_second = capacity / max(self._handler_seconds, 1e-6)
                capacity = max(capacity, int(min(a_second, MAX_HELD_AHEAD)))
                if len(self._waiting) > capacity // 2:
                    return 0
            return int(min(capacity - self._open, self._tasks_left, MAX_PER_CALL))

    def _claim(self, limit: int) -> tuple[bool, float]:
        """Claims until it is answered; whether there were tasks, and when to ask again."""
        turn = self._turns[0]
        self._turns.rotate(-1)
        wait = self._wait_seconds(turn)
        # The same request until it is answered: if an answer is lost, the next one has its tasks.
        request = {
            "worker_id": self._worker.id,
            "limit": limit,
            "request_id": uuid.uuid4().hex,
            "fields": SHOWN,
            **({"wait_seconds": wait} if wait else {}),
            **turn,
        }
        tries = 0
        while self._may_claim() or tries:
            tries += 1
            sent_at = now()
            try:
                tasks = self._send("/tasks/claim", request, wait)["tasks"]
                self._has_been_answered = True
            except ClientError as error:
                if isinstance(error, ApiError) and error.code == "no_task_available":
                    self._has_been_answered = True
                    if wait and now() - sent_at >= wait:
                        return False, 0
                    # The server does not wait: it cannot, or as many as may wait there already.
                    return False, float((error.details or {}).get("poll_after_seconds", 5))
                self._worker.log(f"cannot claim: {error}")
                if is_for_good(error) or self._is_at_wrong_address(error):
                    with self._lock:
                        self._fault, self._is_claiming = error, False
                    self.stop()
                    return False, 1
                if not self._may_claim():
                    return False, 1  # signing off puts back what the claim may have got
                self._pause(delay_after(error, tries) or backoff(tries))
                continue
            self._take(tasks, sent_at, is_repeated=tries > 1)
            return True, 0
        return False, 1

    def _wait_seconds(self, turn: Mapping[str, Any]) -> int:
        """How long the server may wait for a task; 0 if other claims would be late meanwhile."""
        if self._burst or len(self._turns) > 1:
            return 0
        lease = turn.get("lease_seconds") or self._shortest_lease or LEASE_SECONDS_UNKNOWN
        seconds = min(MAX_WAIT_SECONDS, lease / 4, self._claims_until - now())
        return max(0, int(seconds))

    def _is_at_wrong_address(self, error: ClientError) -> bool:
        """Whether something else answers there, and not only while the server is being replaced."""
        has_refused = isinstance(error, ApiError) and error.status < 500 and error.status != 429
        return has_refused and not self._has_been_answered

    def _take(self, tasks: Sequence[Mapping[str, Any]], sent_at: float, is_repeated: bool) -> None:
        with self._lock:
            self._tasks_left -= len(tasks)
            for task in tasks:
                lease = task["lease_seconds"]
                self._shortest_lease = min(lease, self._shortest_lease or lease)
                held = Held(task, sent_at, self._worker.types[task["type"]].timeout)
                self._held[held.id] = held
                self._open += 1
                heartbeat_at = sent_at + task["next_heartbeat_in"]
                if is_repeated:
                    # It may have begun earlier: at least this much of the lease is left.
                    held.lease_lasts(sent_at, 3 * task["next_heartbeat_in"])
                    heartbeat_at = sent_at
                self._heartbeat_at = min(self._heartbeat_at, heartbeat_at)
                if self._stops:
                    self._finish(held, RELEASED)
                else:
                    self._waiting.append(held)
            self._start_waiting()

    # Starting and ending; with the lock

    def _start_waiting(self) -> None:
        while self._waiting and self._idle:
            held = self._waiting.popleft()
            handler = self._worker.types[held.task["type"]].handler
            held.start(self._idle.pop(), handler, functools.partial(self._handler_ended, held))

    def _handler_ended(self, held: Held, report: Report) -> None:
        with self._lock:
            if held.slot is not None:
                self._idle.append(held.slot)
            self._handler_seconds = _average(self._handler_seconds, held.seconds)
            if held.report is None:
                self._finish(held, held.judge(report))
            self._start_waiting()

    def _finish(self, held: Held, report: Report) -> None:
        held.report = report
        self._open -= 1
        if report is DROPPED:
            self._held.pop(held.id, None)
            self._worker.log(f"task {held.id} is not this worker's any more")
        else:
            self._reports.append(held)
        if not self._collects or self._has_enough_reports():
            self._reported.notify()
        if self._wanted() > 0:
            self._wants.notify()

    def _count(self, held: Held, report: Report) -> None:
        if is_release(report):
            return
        if report["success"]:
            self._worker.completed += 1
            return
        self._worker.failed += 1
        reason = report["error"].partition("\n")[0][:200]
        self._worker.log(f"task {held.id} failed ({report['error_code']}): {reason}")

    # The thread that reports

    def _report_until_end(self) -> None:
        while True:
            with self._lock:
                while not self._reports:
                    if self._gives_up_at == 0:
                        return
                    self._reported.wait(1)
                if self._handler_seconds < SHORT_HANDLER_SECONDS:
                    self._wait_for_more_reports()
                together = [
                    self._reports.popleft() for _ in range(min(len(self._reports), MAX_PER_CALL))
                ]
            self._reporter.send(together)
            with self._lock:
                for held in together:
                    self._held.pop(held.id, None)
                    self._count(held, held.report or {})
                if not self._held:
                    self._over.notify()
                    self._wants.notify()

    def _wait_for_more_reports(self) -> None:
        """A report waits a moment for others, while handlers are running that may end in it."""
        ends_at = now() + REPORT_WAIT_SECONDS
        self._collects = True
        while not self._has_enough_reports() and (left := ends_at - now()) > 0:
            self._reported.wait(left)
        self._collects = False

    def _has_enough_reports(self) -> bool:
        return len(self._reports) >= min(len(self._held), MAX_PER_CALL)

    # The thread that enforces deadlines. It sends nothing, so no server can make it late.

    def _enforce_until_end(self) -> None:
        while self._gives_up_at != 0:
            time.sleep(TICK_SECONDS)
            with self._lock:
                for held in list(self._held.values()):
                    given_up = held.enforce_deadlines()
                    if given_up is not None:
                        self._give_up(held, given_up)

    def _give_up(self, held: Held, report: Report) -> None:
        """The handler's thread goes on, but nobody waits for it; another one takes its place."""
        slot = held.slot
        held.slot = None
        if slot in self._slots:
            self._slots.remove(slot)
        self._slots.append(self._new_slot())
        self._idle.append(self._slots[-1])
        self._finish(held, report)

    # The thread that renews leases and sends progress

    def _renew_until_end(self) -> None:
        while self._gives_up_at != 0:
            time.sleep(TICK_SECONDS)
            self._renew_leases_if_due()
            with self._lock:
                progress = [(held, held.due_progress()) for held in self._held.values()]
            for held, fields in progress:
                if fields is not None:
                    self._send_progress(held, fields)
                    self._renew_leases_if_due()

    def _renew_leases_if_due(self) -> None:
        if now() >= self._heartbeat_at:
            self._renew_leases()

    def _renew_leases(self) -> None:
        with self._lock:
            claims = [held.claim for held in self._held.values()]
            if not claims:
                self._heartbeat_at = math.inf
                return
        sent_at = now()
        body = {"worker_id": self._worker.id, "tasks": claims}
        try:
            answer = self._send("/workers/heartbeat", body)
        except ClientError as error:
            self._worker.log(f"cannot renew leases: {error}")
            self._failed_heartbeats += 1
            tries = self._failed_heartbeats
            self._heartbeat_at = now() + (delay_after(error, tries) or backoff(tries))
            return
        self._failed_heartbeats = 0
        with self._lock:
            self._heartbeat_at = sent_at + answer["next_heartbeat_in"]
            for task_id in answer["renewed"]:
                if task_id in self._held:
                    self._held[task_id].renewed(sent_at)
            for task_id in (*answer["lost"], *answer["cancelled"]):
                self._drop(task_id)

    def _drop(self, task_id: int) -> None:
        held = self._held.get(task_id)
        if held is None or held.report is not None:
            return
        if held.slot is None:
            self._waiting.remove(held)
            self._finish(held, DROPPED)
        else:
            held.stop(DROPPED)

    def _send_progress(self, held: Held, progress: Mapping[str, Any]) -> None:
        sent_at = now()
        fields = {
            "worker_id": self._worker.id,
            "claim_token": held.task["claim_token"],
            **progress,
        }
        try:
            answer = self._send(f"/tasks/{held.id}/progress", fields)
        except ClientError as error:
            if isinstance(error, ApiError) and error.status in (403, 404, 409):
                with self._lock:
                    self._drop(held.id)
            return
        with self._lock:
            held.renewed(sent_at)
            if answer.get("cancelled"):
                self._drop(held.id)

    # For all threads

    def _send(self, path: str, body: Mapping[str, Any], wait: float = 0) -> Any:
        """One request, which does not take so long that the leases end meanwhile.

        The server may `wait` for that many seconds before it answers.
        """
        with self._lock:
            leases = [held.task["lease_seconds"] / 4 for held in self._held.values()]
        seconds = max(1.0, min([MAX_REQUEST_SECONDS, *leases]))
        return call_once(self._transport, "POST", path, body, seconds + wait)

    def _pause(self, seconds: float) -> None:
        """Sleeps until the time is over or something has changed."""
        with self._lock:
            if self._is_claiming:
                self._wants.wait(min(seconds, max(0.0, self._claims_until - now())))


def _average(average: float, seconds: float) -> float:
    return seconds if average == math.inf else 0.8 * average + 0.2 * seconds
