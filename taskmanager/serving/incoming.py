"""The bytes of a request until a thread can answer it without waiting for the client.

Reads only as much of HTTP as says where a request ends. Whether the request is right is decided
by gunicorn, which reads the same bytes again.
"""

import re

MAX_HEAD_BYTES = 65_536
MAX_BODY_BYTES = 1_048_576  # a larger body is read by the thread that answers

_CONTENT_LENGTH = re.compile(rb"(?i)\r\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*\r\n")
# Bodies whose end the head does not say, or that are sent only after an answer.
_READ_BY_THREAD = re.compile(rb"(?i)\r\n(transfer-encoding|expect):")
_END_OF_HEAD = b"\r\n\r\n"


class Incoming:
    """One request while it arrives."""

    def __init__(self) -> None:
        self.received = bytearray()
        self._expected: int | None = None  # bytes, known once the head is there

    def add(self, data: bytes) -> bool:
        """Adds what was received; True once a thread can take the request over."""
        searched = max(0, len(self.received) - len(_END_OF_HEAD) + 1)
        self.received += data
        if self._expected is None:
            end = self.received.find(_END_OF_HEAD, searched)
            if end < 0:
                return len(self.received) > MAX_HEAD_BYTES
            head = bytes(self.received[: end + len(_END_OF_HEAD)])
            self._expected = len(head) + _body_length(head)
        return len(self.received) >= self._expected


def _body_length(head: bytes) -> int:
    """How many bytes of the body to wait for; 0 where the thread reads the body."""
    found = _CONTENT_LENGTH.search(head)
    if found is None or _READ_BY_THREAD.search(head):
        return 0
    length = int(found[1])
    return length if length <= MAX_BODY_BYTES else 0
