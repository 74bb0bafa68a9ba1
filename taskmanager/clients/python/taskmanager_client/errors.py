"""What a call can end with, and what a handler can say about its task."""

from __future__ import annotations

from typing import Any


class ClientError(Exception):
    """The root of what a call raises."""


class ApiError(ClientError):
    """The server refused a call.

    `code` does not change between versions, so programs can rely on it: "task_not_found". It is
    "http_502" and the like where something other than TaskManager has answered. `details` is what
    the answer has of them, or None. `request_id` names the call in the server's log.
    `retry_after` is in seconds, or None where the answer has none.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int,
        details: Any = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.details = details
        self.request_id = request_id
        self.retry_after = retry_after


class NoAnswer(ClientError):
    """No whole answer arrived. `sent` is False if the server cannot have seen the call."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class WaitTimeout(ClientError):
    """A task was not finished within the time that `Client.wait` had."""


class Retry(Exception):
    """Raised by a handler: the attempt failed and another one may succeed.

    `after` is in seconds; without it the retry policy of the task type decides. `code` is the
    error code of the attempt.
    """

    def __init__(
        self,
        message: str = "The handler asks for another attempt.",
        *,
        after: float | None = None,
        code: str = "retry",
    ) -> None:
        super().__init__(message)
        self.after = None if after is None else float(after)
        self.code = code


class Fail(Exception):
    """Raised by a handler: the task failed, and no other attempt would help.

    `code` is for programs ("no_such_video"), `message` for people.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Release(Exception):
    """Raised by a handler: puts the task back without counting the attempt.

    It is handed out again after `delay` seconds.
    """

    def __init__(self, *, delay: float = 0) -> None:
        super().__init__("The handler releases the task.")
        self.delay = float(delay)


class Stopped(BaseException):
    """Raised in a handler that has not ended some seconds after its `task.stopping` was set.

    Like KeyboardInterrupt it is no Exception, so that a handler does not catch it by accident.
    """
