"""Ending an attempt: a worker reports success or failure, once, or again after a lost answer."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from taskmanager.access.caller import Caller
from taskmanager.db.connection import takes
from taskmanager.db.statements import Row, fetch_one
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import InvalidRequest, ResultTooLarge, TaskManagerError
from taskmanager.payloads.sealing import as_long, with_opened
from taskmanager.queue import dedupe, endings, history, retry, task_types, workers
from taskmanager.queue.holder import (
    Holder,
    finished,
    lock_tasks,
    require_holder,
    update_held,
    waiting_again,
)
from taskmanager.queue.read import FINISHED_STATUSES

MAX_ERROR_CHARACTERS = 10_000
# Of a task whose worker succeeded.
NOT_STORED = "The result is larger than the database server takes (max_allowed_packet)."

# A task as it was locked, the columns that its report changes, and the row of its history.
Report = tuple[Row, Row, Row]


class Completion(NamedTuple):
    """What a worker reports of one attempt. `result` is any JSON value."""

    task_id: int
    success: bool
    claim_token: str | None = None
    result: Any = None
    error_message: str | None = None
    error_code: str | None = None
    is_retryable: bool = True
    retry_after_seconds: float | None = None

    @property
    def message(self) -> str | None:
        """The error message as it is stored."""
        return (self.error_message or "")[:MAX_ERROR_CHARACTERS] or None


class CompletionOutcome(NamedTuple):
    """What became of one report: `task` with `will_retry` and `replayed`, or `error`."""

    task: Row | None = None
    will_retry: bool = False
    replayed: bool = False
    error: TaskManagerError | None = None


def complete_task(
    completion: Completion, *, worker_id: str, caller: Caller, now: int
) -> CompletionOutcome:
    """Reports on one attempt.

    Transition: claimed → completed, or on failure → pending or scheduled while
    attempts remain, else → failed. The same from pending or failed, if the lease of
    this attempt expired and no other attempt has begun.
    A success whose result the database server cannot take → failed, without a retry.
    Commits together: status, result or error, the retry decision, the history
    row, the delivery to a webhook and the worker's figures.
    Raises NotFound, NotAllowed, TaskFinished, ClaimLost, TaskNotClaimed, and
    ResultTooLarge once the task has failed for it.
    A crash before the commit leaves the task claimed. The same report sent again
    after the commit is recognised and answered the same.
    """
    outcome = complete_tasks([completion], worker_id=worker_id, caller=caller, now=now)[0]
    if outcome.error is not None:
        raise outcome.error
    return outcome


@write_transaction
def complete_tasks(
    completions: Sequence[Completion], *, worker_id: str, caller: Caller, now: int
) -> list[CompletionOutcome]:
    """Reports on many attempts of one worker in one transaction; an outcome per report, in order.

    A report that is refused changes nothing and does not keep the others from counting.
    """
    tasks = lock_tasks([completion.task_id for completion in completions], caller)
    policies = _retry_policies(completions, tasks)
    outcomes: list[CompletionOutcome] = []
    unwritten: dict[int, Report] = {}
    events: list[str] = []
    for completion in completions:
        if completion.task_id in unwritten:  # a second report is judged by what the first has left
            _write(unwritten, now)
        task = tasks.get(completion.task_id)
        holder = Holder(worker_id, completion.claim_token)
        try:
            held = require_holder(task, completion.task_id, holder, reports_end=True)
            changes = _decide(held, completion, policies, now)
        except TaskManagerError as error:
            outcomes.append(_replay(task, completion, holder) or CompletionOutcome(error=error))
            continue
        event = _event_row(held, changes, completion, caller, now)
        unwritten[completion.task_id] = held, changes, event
        events.append(event["event"])
        tasks[completion.task_id] = done = {**held, **changes}
        if completion.success and changes["status"] == "failed":
            outcomes.append(CompletionOutcome(error=_result_too_large(completion)))
        else:
            outcomes.append(CompletionOutcome(done, will_retry=events[-1] == "retry_scheduled"))
    _write(unwritten, now)
    if events:
        completed = events.count("completed")
        workers.record_sign_of_life(
            worker_id, now=now, completed=completed, failed=len(events) - completed
        )
    return outcomes


def _write(unwritten: dict[int, Report], now: int) -> None:
    """Stores these reports and takes them out."""
    tasks = update_held([(task, changes) for task, changes, _ in unwritten.values()])
    history.record_rows(
        [event for _, _, event in unwritten.values()],
        of=[task for task, _, _ in unwritten.values()],
    )
    # Late reports on tasks that failed for their leases.
    ended_before = [task for task, _, _ in unwritten.values() if task["status"] == "failed"]
    endings.record_late_reports(ended_before, now=now)
    endings.record(tasks, now=now)
    unwritten.clear()


def _event_row(held: Row, changes: Row, completion: Completion, caller: Caller, now: int) -> Row:
    status, failure = changes["status"], None
    if status != "completed":
        failure = {
            "error_code": changes["error_code"],
            "is_retryable": completion.is_retryable and not completion.success,
            "available_at": changes.get("available_at"),
        }
    return history.event_row(
        held,
        status if status in FINISHED_STATUSES else "retry_scheduled",
        status=status,
        message=changes["error_message"],
        metadata=failure,
        caller=caller,
        now=now,
    )


def _retry_policies(completions: Sequence[Completion], tasks: Mapping[int, Row]) -> dict[int, Any]:
    """The retry policy of each task type of which a task has failed, by the type's id."""
    failed = {completion.task_id for completion in completions if not completion.success}
    type_ids = {task["task_type_id"] for task in tasks.values() if task["id"] in failed}
    return task_types.retry_policies(type_ids)


def _decide(task: Row, completion: Completion, policies: dict[int, Any], now: int) -> Row:
    """The columns that change."""
    if completion.success:
        if completion.error_message or completion.error_code:
            raise InvalidRequest("A successful completion carries no error.")
        result = None
        if completion.result is not None:
            result = json.dumps(completion.result, ensure_ascii=False, separators=(",", ":"))
            if not takes(as_long(result, of=task)):
                not_stored = {"error_message": NOT_STORED, "error_code": ResultTooLarge.code}
                return {**finished("failed", now), **not_stored}
        no_error = {"error_message": None, "error_code": None}
        return {**finished("completed", now), **no_error, "result": result, "progress": 100}
    error = {"error_message": completion.message, "error_code": completion.error_code}
    delay = retry.retry_delay(
        policy=policies[task["task_type_id"]],
        attempts=task["attempts"],
        max_attempts=task["max_attempts"],
        is_retryable=completion.is_retryable,
        retry_after_seconds=completion.retry_after_seconds,
    )
    if delay is None:
        return {**finished("failed", now), **error}
    return {**waiting_again(delay, now), **error}


def _replay(task: Row | None, completion: Completion, holder: Holder) -> CompletionOutcome | None:
    """The first answer again, where this same report was accepted before; else None.

    The history has it: with a token as the last event of the attempt that the token
    names, without one as that of the latest attempt.
    """
    if task is None:
        return None
    of_attempt = "AND claim_token = ? " if holder.claim_token else ""
    found = fetch_one(
        "SELECT task_id, event, attempt, message, metadata, worker_id, created_at, payload_key "
        "FROM {task_logs} WHERE task_id = ? "
        f"{of_attempt}AND event IN ('claimed', 'completed', 'failed', 'retry_scheduled') "
        "ORDER BY id DESC LIMIT 1",
        (task["id"], holder.claim_token) if holder.claim_token else (task["id"],),
    )
    if found is None or found["event"] == "claimed" or found["worker_id"] != holder.worker_id:
        return None
    event = with_opened(found, "task_logs")
    if completion.success and event["message"] == NOT_STORED:
        return CompletionOutcome(error=_result_too_large(completion))
    row = fetch_one("SELECT id, result, payload_key FROM {tasks} WHERE id = ?", (task["id"],))
    result = with_opened(row or {"result": None})["result"]
    if not _is_same_report(completion, event, result):
        return None
    will_retry = event["event"] == "retry_scheduled"
    return CompletionOutcome({**task, "result": result}, will_retry=will_retry, replayed=True)


def _result_too_large(completion: Completion) -> ResultTooLarge:
    return ResultTooLarge(
        f"Task {completion.task_id} has failed and is not tried again: its result is larger than "
        "the database server takes (max_allowed_packet). Store the result elsewhere and report "
        "where it is, or ask the host to raise max_allowed_packet.",
        details={"status": "failed"},
    )


def _is_same_report(completion: Completion, event: Row, result: str | None) -> bool:
    """Whether the history's `event` and the stored result came from such a report."""
    if completion.success != (event["event"] == "completed"):
        return False
    if completion.success:  # the order of keys does not matter
        stored = None if result is None else json.loads(result)
        return dedupe.canonical_json(completion.result) == dedupe.canonical_json(stored)
    stored = json.loads(event["metadata"])
    error = (event["message"], stored["error_code"], stored["is_retryable"])
    return error == (completion.message, completion.error_code, completion.is_retryable)
