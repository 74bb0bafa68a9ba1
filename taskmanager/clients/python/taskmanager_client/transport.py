"""One request over HTTP, and how long to wait before the next try."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import urllib3

from taskmanager_client.errors import ApiError, ClientError, NoAnswer

JITTER = 0.2
_CONNECTIONS = 16


class Response(NamedTuple):
    """`headers` by their names in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Transport(Protocol):
    """What carries a request to the server. `path` begins below /api."""

    url: str

    def send(self, method: str, path: str, content: bytes | None, timeout: float) -> Response:
        """Raises NoAnswer."""


class HttpTransport:
    """Kept connections to one server. Threads may share it."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(
                f"The address of the server must begin with http:// or https://, not: {url!r}"
            )
        base = url.rstrip("/")
        self.url = (base[: -len("/api")] if base.endswith("/api") else base) + "/api"
        self._headers = {"X-API-Key": key, "Content-Type": "application/json"}
        self._pool: Any = urllib3.PoolManager(maxsize=_CONNECTIONS)
        proxies = _proxies_of_environment(parts.scheme, parts.hostname or "")
        if proxies is not None:
            self._pool = urllib3.ProxyManager(proxies, maxsize=_CONNECTIONS)

    def send(self, method: str, path: str, content: bytes | None, timeout: float) -> Response:
        try:
            answer = self._pool.request(
                method,
                self.url + path,
                body=content,
                headers=self._headers,
                timeout=timeout,
                retries=False,  # whether a call may be repeated, Client and Worker know
                redirect=False,
            )
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError) as e:
            raise NoAnswer(f"No answer from {self.url}: {_reason(e)}", sent=False) from e
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise NoAnswer(f"No answer from {self.url}: {_reason(error)}", sent=True) from error
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Response(answer.status, headers, answer.data)


def _proxies_of_environment(scheme: str, host: str) -> str | None:
    """The proxy that http_proxy, https_proxy and no_proxy name for this host, or None."""
    from urllib.request import getproxies, proxy_bypass

    if proxy_bypass(host):
        return None
    proxy: str | None = getproxies().get(scheme)
    return proxy


def _reason(error: BaseException) -> str:
    return str(error).rpartition(">: ")[2] or type(error).__name__


def call_once(transport: Transport, method: str, path: str, body: Any, timeout: float) -> Any:
    """`data` of the answer. Raises ApiError, NoAnswer."""
    content = None
    if body is not None:
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    response = transport.send(method, path, content, timeout)
    answer = _envelope(response)
    if answer.get("success") is True:
        return answer["data"]
    if response.status < 300:
        raise NoAnswer(
            f"The answer from {transport.url} is cut off, or not TaskManager's.", sent=True
        )
    raise _error_of(transport.url, response, answer)


def text_once(transport: Transport, path: str, timeout: float) -> str:
    """The text of an answer that is no JSON. Raises ApiError, NoAnswer."""
    response = transport.send("GET", path, None, timeout)
    if response.status != 200:
        raise _error_of(transport.url, response, _envelope(response))
    return response.content.decode()


def _envelope(response: Response) -> dict[str, Any]:
    """The JSON object of an answer; empty where there is none."""
    try:
        answer = json.loads(response.content)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _error_of(url: str, response: Response, answer: Mapping[str, Any]) -> ApiError:
    location = response.headers.get("location")
    where = f"; it leads to {location}" if location else ""
    try:
        retry_after: float | None = float(response.headers["retry-after"])
    except (KeyError, ValueError):
        retry_after = None
    return ApiError(
        answer.get("message")
        or f"{url} answered {response.status}, and it is not TaskManager that answered{where}.",
        code=answer.get("code") or f"http_{response.status}",
        status=response.status,
        details=answer.get("details"),
        request_id=response.headers.get("x-request-id"),
        retry_after=retry_after,
    )


def delay_after(error: ClientError, tries: int) -> float | None:
    """Seconds until a failed call is worth another try; None if it is not."""
    if isinstance(error, NoAnswer):
        return backoff(tries)
    if isinstance(error, ApiError):
        if error.code == "queue_full":  # the producer decides whether to wait for that
            return None
        if error.retry_after is not None:
            return float(error.retry_after)
        if error.code in ("http_429", "http_502", "http_503", "http_504"):
            return backoff(tries)
    return None


def is_for_good(error: ClientError) -> bool:
    """Whether TaskManager itself refused, and would refuse the same again."""
    return (
        isinstance(error, ApiError)
        and error.status < 500
        and error.status != 429
        and error.code != f"http_{error.status}"
    )


def backoff(tries: int) -> float:
    """Seconds to wait after a number of failures: 0.4, 0.8, … 5, a fifth more or less."""
    return jitter(min(0.2 * 2 ** min(tries, 5), 5))


def jitter(seconds: float) -> float:
    """A fifth more or less, so that many clients do not come at once."""
    return seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret
