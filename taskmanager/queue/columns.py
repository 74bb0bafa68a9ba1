"""How the fields of a request become the columns of a task, where it is created and changed."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from taskmanager.db.statements import Row
from taskmanager.errors import InvalidRequest

MAX_DELAY_SECONDS = 10 * 366 * 86_400


def params_text(params: Mapping[str, Any]) -> str:
    """Params as they are stored: key order kept, no needless spaces."""
    return json.dumps(params, ensure_ascii=False, separators=(",", ":"))


def tags_text(tags: Sequence[str] | None) -> str | None:
    """Tags as they are stored, each once."""
    return json.dumps(list(dict.fromkeys(tags)), ensure_ascii=False) if tags else None


def available_from(request: Mapping[str, Any], now: int) -> int:
    """When a task is available: at once, unless the request delays it. Raises InvalidRequest."""
    delay, moment = request.get("delay_seconds"), request.get("available_at")
    if delay is not None and moment is not None:
        raise InvalidRequest("Send delay_seconds or available_at, not both.")
    if moment is not None and moment > now + MAX_DELAY_SECONDS * 1000:
        raise InvalidRequest("available_at is more than ten years away.")
    return round(now + delay * 1000) if delay is not None else (moment or now)


def when_available(available_at: int, now: int, *, of: Row | None = None) -> Row:
    """The columns of a waiting task that nobody gets before this time.

    With `of`, those of a task that waits already: one that is blocked stays so.
    """
    status = "scheduled" if available_at > now else "pending"
    if of is not None and of["status"] == "blocked":
        status = "blocked"
    return {"status": status, "available_at": available_at}
