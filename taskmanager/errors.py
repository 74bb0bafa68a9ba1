"""Every error that a caller can be told about, each with its stable `code`.

Knows nothing of HTTP: `api/errors.py` gives each class its status. The message
is written for the person who reads it in a terminal: what was wrong, what was
expected, what to do.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

Details = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class TaskManagerError(Exception):
    """The root. `code` is what programs branch on; `details` is JSON-ready or None."""

    code = "error"
    retry_after_seconds: int | None = None

    def __init__(
        self, message: str, *, code: str | None = None, details: Details | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        if code is not None:
            self.code = code


class InvalidRequest(TaskManagerError):
    """A field is missing, unknown or of the wrong kind."""

    code = "invalid_request"


class ValidationFailed(InvalidRequest):
    """Values that break a schema; `details` lists every problem as {path, message, keyword}."""

    code = "validation_failed"


class NotAuthenticated(TaskManagerError):
    """No key, or none that is valid."""

    code = "not_authenticated"


class NotAllowed(TaskManagerError):
    """The key is valid but may not do this."""

    code = "not_allowed"


class NotFound(TaskManagerError):
    """No such thing."""

    code = "not_found"


class NoTaskAvailable(NotFound):
    """A claim found nothing to hand out; `details.poll_after_seconds` says when to ask again.

    When one of `topics` is announced (see wakeups/topics.py), there may be something.
    """

    code = "no_task_available"

    def __init__(self, message: str, *, poll_after_seconds: int, topics: Collection[str]) -> None:
        super().__init__(message, details={"poll_after_seconds": poll_after_seconds})
        self.topics = topics


class Conflict(TaskManagerError):
    """The state forbids it."""

    code = "conflict"


class ChangedMeanwhile(Conflict):
    """Somebody has changed the row since the caller read it, so it was left as it is."""

    code = "changed_meanwhile"


class TaskNotClaimed(Conflict):
    """Nobody holds the task, so there is nothing to report on."""

    code = "task_not_claimed"


class ClaimLost(Conflict):
    """The lease ran out and another attempt has begun."""

    code = "claim_lost"


class TaskFinished(Conflict):
    """The task is completed, failed or cancelled and stays so."""

    code = "task_finished"


class RateLimited(TaskManagerError):
    """Too many requests, or too many failed attempts, in the present window."""

    code = "rate_limited"

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        super().__init__(message, details={"retry_after_seconds": retry_after_seconds})
        self.retry_after_seconds = retry_after_seconds


class QueueFull(TaskManagerError):
    """As many tasks of the type, or of the group, are open as may be: see queue/flow/backlog.py.

    `refused` has the error of each task of the call for which there is no room, by its index.
    """

    code = "queue_full"
    retry_after_seconds = 10  # nobody knows when a task ends

    def __init__(self, message: str, *, details: Details) -> None:
        super().__init__(message, details=details)
        self.refused: dict[int, QueueFull] = {}


class DatabaseUnavailable(TaskManagerError):
    """The database cannot be reached or stayed locked; nothing was done by halves.

    Where it is known why, `cause` is a clause that begins a sentence and `remedy` says what to do;
    neither holds a secret. `retry_after_seconds` is None where trying again cannot help.
    """

    code = "database_unavailable"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retry_after_seconds: int | None = 2,
        cause: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.retry_after_seconds = retry_after_seconds
        self.cause = cause
        self.remedy = remedy


class DatabaseRefused(DatabaseUnavailable):
    """The database answers, and will refuse the same until somebody changes something."""

    code = "database_refused"

    def __init__(
        self, message: str, *, cause: str, remedy: str | None, code: str | None = None
    ) -> None:
        super().__init__(message, code=code, retry_after_seconds=None, cause=cause, remedy=remedy)


class TooLarge(TaskManagerError):
    """The database server takes no statement that is large enough for these values."""

    code = "too_large_for_database"

    def __init__(
        self,
        message: str = "The values are larger than the database server takes "
        "(max_allowed_packet). Nothing was changed. Send less, or ask the host to raise "
        "max_allowed_packet.",
        *,
        details: Details | None = None,
    ) -> None:
        super().__init__(message, details=details)


class ResultTooLarge(TooLarge):
    """The result of a task cannot be stored; the task has failed."""

    code = "result_too_large"


class PayloadUnreadable(TaskManagerError):
    """An encrypted text cannot be decrypted; only the owner of the host can change that."""

    code = "payload_unreadable"


class ConfigurationError(TaskManagerError):
    """The settings or the installation stop the start; the message says what to write."""

    code = "configuration_error"


class TransferFailed(TaskManagerError):
    """A queue could not be written to a file, or what is in a file is not taken as a queue."""

    code = "transfer_failed"
