"""A task in the hands of its handler, and what the handler's end means for it."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
import traceback
from collections.abc import Mapping
from typing import Any, Callable

from taskmanager_client.errors import Fail, Release, Retry, Stopped

MAX_MESSAGE = 10_000  # characters of an error that the server keeps
MAX_CODE = 100

# The fields of POST /api/tasks/{id}/complete, or of /release: see is_release().
Report = dict[str, Any]
Handler = Callable[["HeldTask"], Any]
# What a HeldTask is made from, of the fields of a claimed task.
SHOWN = ("id", "type", "params", "attempts", "max_attempts", "lease_seconds")
# Made once: json.dumps() with options makes an encoder for every call.
_encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False).encode


class HeldTask:
    """What a handler gets. `attempt` counts from 1; `lease_seconds` is how long a lease lasts."""

    def __init__(
        self,
        task: Mapping[str, Any],
        send_progress: Callable[[int, str | None], None],
        stopping: threading.Event,
        ending: threading.Event | None = None,
    ) -> None:
        self.id: int = task["id"]
        self.type: str = task["type"]
        self.params: dict[str, Any] = task["params"]
        self.attempt: int = task["attempts"]
        self.max_attempts: int = task["max_attempts"]
        self.lease_seconds: int = task["lease_seconds"]
        self._send_progress = send_progress
        self._stopping = stopping
        self._ending = ending

    @property
    def stopping(self) -> bool:
        """Whether the handler should end: the worker stops, or the task is no longer its own."""
        return self._stopping.is_set()

    @property
    def must_end(self) -> bool:
        """In a thread, where Stopped cannot be raised: whether it would be raised by now."""
        return self._ending is not None and self._ending.is_set()

    def wait_stopping(self, seconds: float) -> bool:
        """Waits at most so long until the handler should end; returns whether it should."""
        return self._stopping.wait(seconds)

    def progress(self, percent: int, message: str | None = None) -> None:
        """Reports progress from 0 to 100. It is sent at most once a second, the latest one."""
        self._send_progress(int(percent), None if message is None else storable(message))


def run_handler(handler: Handler, task: HeldTask) -> Report:
    """Runs the handler, a function or a coroutine function; returns the report of the attempt."""
    try:
        result = handler(task)
        if inspect.isawaitable(result):
            result = asyncio.run(_awaited(result))
    except Release as release:
        return {"delay_seconds": release.delay}
    except Retry as retry:
        return {**failure(str(retry), retry.code), "retry_after_seconds": retry.after}
    except Fail as fail:
        return {**failure(str(fail), fail.code), "is_retryable": False}
    except Stopped:
        return failure("The handler was stopped.", "stopped")
    except KeyboardInterrupt:  # of a test that runs handlers in its own thread
        raise
    except BaseException as error:  # noqa: BLE001 - SystemExit, too, fails its attempt, not the worker
        summary = traceback.format_exception_only(type(error), error)[-1].strip()
        lines = traceback.format_exc(limit=-20)
        return failure(f"{summary}\n\n{lines}", "exception")
    try:
        _encode(result).encode()
    except (TypeError, ValueError, RecursionError) as error:
        message = f"The handler's result cannot be written as JSON: {error}"
        return {**failure(message, "invalid_result"), "is_retryable": False}
    return {"success": True, "result": result}


async def _awaited(result: Any) -> Any:
    return await result


def failure(message: str, code: str) -> Report:
    """The report of an attempt that failed and may be tried again."""
    return {
        "success": False,
        "error": storable(message)[:MAX_MESSAGE],
        "error_code": storable(code)[:MAX_CODE],
    }


def storable(text: object) -> str:
    """As a string without what the server refuses: half surrogate pairs and U+0000."""
    return str(text).encode(errors="replace").decode().replace("\0", "\ufffd")


def is_release(report: Report) -> bool:
    """Whether a report puts the task back instead of ending its attempt."""
    return "success" not in report
