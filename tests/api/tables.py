"""What the database holds, so that a test can say that nothing was written."""

import json
from typing import Any

from taskmanager.db.models import MODELS
from tests.conftest import Api

Tables = dict[str, list[dict[str, Any]]]


def dump_tables() -> Tables:
    """Every row of every table."""
    return {
        model._meta.table_name: [dict(row) for row in model.select().order_by(*keys).dicts()]
        for model in MODELS
        for keys in [model._meta.get_primary_keys()]
    }


def send(api: Api, path: str, body: bytes | str, method: str = "POST", **headers: str) -> Any:
    """A request whose body is given byte by byte; returns the response."""
    raw = body.encode() if isinstance(body, str) else body
    return api.client.open(
        path,
        method=method,
        data=raw,
        headers={
            "X-API-Key": api.key,
            "Content-Type": "application/json",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        },
    )


def sent_json(value: Any) -> str:
    """JSON with every character written as itself."""
    return json.dumps(value, ensure_ascii=False)
