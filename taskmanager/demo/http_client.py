"""A client of the API on one kept-alive connection, which retries while the server is busy."""

import http.client
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

PATIENCE_SECONDS = 60.0
TIMEOUT_SECONDS = 30.0
IDLE_SECONDS = 1.0  # the server closes connections that are idle for two seconds
RETRY_SECONDS = 0.2  # if the server does not say when
RETRIED_STATUSES = frozenset({429, 502, 503, 504})


class ServiceError(Exception):
    """The service rejected a call that should have worked, or did not answer."""


@dataclass(frozen=True)
class Answer:
    """`seconds` is how long the caller waited. `repeated`: an earlier try may have taken effect."""

    status: int
    body: dict[str, Any]
    seconds: float
    repeated: bool
    retry_after_seconds: float

    @property
    def data(self) -> Any:
        return self.body["data"]


class HttpClient:
    """Calls the API with one key. All calls of the demo are safe to repeat."""

    def __init__(
        self, url: str, key: str, *, keep_trying: Callable[[], bool] = lambda: True
    ) -> None:
        # It connects by itself when it sends a request while closed.
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_SECONDS)
        self._headers = {"X-API-Key": key, "Content-Type": "application/json"}
        self._keep_trying = keep_trying
        self._last_used = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(
        self, method: str, path: str, body: Any = None, *, expected: Sequence[int] = (200, 201)
    ) -> Answer:
        """The answer, whose status is one of `expected`.

        Retries lost connections and the statuses 429, 502, 503 and 504 for a
        minute. Raises ServiceError.
        """
        content = None if body is None else json.dumps(body).encode()
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        repeated = False
        while True:
            wait = RETRY_SECONDS
            try:
                answer = self._exchange(method, path, content, repeated)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.close()
                why = f"no answer ({error or type(error).__name__})"
            else:
                if answer.status in expected:
                    return answer
                why = f"{answer.status} {answer.body.get('message', '')}"
                if answer.status not in RETRIED_STATUSES:
                    raise ServiceError(f"{method} {path} was rejected: {why}")
                wait = answer.retry_after_seconds
            if time.monotonic() > give_up_at or not self._keep_trying():
                raise ServiceError(f"{method} {path} failed: {why}")
            time.sleep(wait)
            repeated = True

    def _exchange(self, method: str, path: str, content: bytes | None, repeated: bool) -> Answer:
        if time.monotonic() - self._last_used > IDLE_SECONDS:
            self.close()
        started = time.perf_counter()
        self._connection.request(method, path, content, self._headers)
        # Closed here, since the destructor would swallow the KeyboardInterrupt of a signal.
        with self._connection.getresponse() as response:
            text = response.read()
        seconds = time.perf_counter() - started
        self._last_used = time.monotonic()
        body = json.loads(text)
        if not isinstance(body, dict):
            raise ValueError("the answer is not a JSON object")
        retry_after = float(response.headers.get("Retry-After", RETRY_SECONDS))
        return Answer(response.status, body, seconds, repeated, retry_after)

    def close(self) -> None:
        self._connection.close()
