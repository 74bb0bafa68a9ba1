"""A proxy between a client and the server that loses, delays and cuts answers, or refuses requests.

It passes on one request per connection to the server and keeps a list of all that it has seen.
"""

import http.client
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

HTML = b"<html><body>Please come back later</body></html>"


@dataclass(frozen=True)
class Fault:
    """What happens to the first `times` requests whose path ends with `path`.

    `lose_request`: the server never sees it. `lose_answer`: the server acts, its answer is lost.
    `cut_answer`: half of the answer arrives. `delay`: the answer comes `seconds` later.
    `refuse`: the proxy answers with `status`, `Retry-After: 1` and a page of HTML.
    """

    path: str
    kind: str
    times: int = 1
    status: int = 503
    seconds: float = 0


class Seen(NamedTuple):
    """One request: when it came in seconds, and the kind of fault, or the status of the answer."""

    method: str
    path: str
    at: float
    outcome: str


class Proxy:
    """Listens on a free port of 127.0.0.1 from `with` on."""

    def __init__(self, server_url: str, *, lose_one_in: int = 0) -> None:
        """With `lose_one_in` one answer in so many is lost, at random."""
        self._lose_one_in = lose_one_in
        self.server_url = server_url
        self.seen: list[Seen] = []
        self._faults: list[list[Any]] = []
        self._lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def spoil(self, faults: Sequence[Fault]) -> None:
        with self._lock:
            self._faults = [[fault, fault.times] for fault in faults]

    def requests(self, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.path.endswith(path)]

    def next_fault(self, path: str) -> Fault | None:
        if self._lose_one_in and random.randrange(self._lose_one_in) == 0:
            return Fault(path, "lose_answer")
        with self._lock:
            for entry in self._faults:
                if path.endswith(entry[0].path) and entry[1] > 0:
                    entry[1] -= 1
                    return entry[0]  # type: ignore[no-any-return]
        return None


class _Handler(BaseHTTPRequestHandler):
    owner: Proxy
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the client is gone

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        at = time.monotonic()
        fault = self.owner.next_fault(path)
        kind = fault.kind if fault else ""
        if kind == "lose_request":
            answer = None
        elif fault and kind == "refuse":
            answer = (fault.status, {"Retry-After": "1", "Content-Type": "text/html"}, HTML)
        else:
            answer = self._ask_server(body)
        self.owner.seen.append(
            Seen(self.command, path, at, kind or str(answer[0] if answer else ""))
        )
        if fault and kind == "delay":
            time.sleep(fault.seconds)
        if answer is None or kind == "lose_answer":
            self.close_connection = True
            return
        self._answer(*answer, cut=kind == "cut_answer")

    do_POST = do_PATCH = do_DELETE = do_GET

    def _ask_server(self, body: bytes) -> tuple[int, dict[str, str], bytes] | None:
        """None where the server does not answer."""
        names = ("Content-Type", "X-API-Key", "X-Request-ID")
        request = urllib.request.Request(
            self.owner.server_url + self.path,
            method=self.command,
            data=body or None,
            headers={name: self.headers[name] for name in names if self.headers[name]},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, dict(response.headers), response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()
        except (OSError, http.client.HTTPException):
            return None

    def _answer(self, status: int, headers: dict[str, str], content: bytes, *, cut: bool) -> None:
        self.send_response(status)
        for name in ("Content-Type", "Retry-After", "X-Request-ID"):
            if name in headers:
                self.send_header(name, headers[name])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = self.close_connection or cut

    def log_message(self, *_: object) -> None:
        pass
