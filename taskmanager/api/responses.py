"""The envelope around every JSON answer."""

import json
from collections.abc import Mapping
from typing import Any

from flask import Response

from taskmanager.clock import utc_now

JSON = "application/json"

# Made once: json.dumps() with options makes an encoder for every call.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def success(data: Any, message: str = "OK", status: int = 200) -> Response:
    """`{"success": true, "message", "data", "timestamp"}`; timestamp in Unix seconds."""
    return json_response(
        {"success": True, "message": message, "data": data, "timestamp": utc_now() // 1000}, status
    )


def failure(message: str, *, code: str, status: int, details: Any = None) -> Response:
    """`{"success": false, "error", "message", "code", "timestamp"}` and `details` where given."""
    envelope = {"success": False, "error": message, "message": message, "code": code}
    if details is not None:
        envelope["details"] = details
    return json_response({**envelope, "timestamp": utc_now() // 1000}, status)


def json_response(content: Mapping[str, Any], status: int) -> Response:
    """`content` as UTF-8 JSON without needless spaces, ended by a newline for terminals."""
    return Response(f"{_encode(content)}\n".encode(), status, content_type=JSON)
