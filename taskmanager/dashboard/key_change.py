"""/dashboard/admin/keys/{id}/change: a form for what a key may do, how often and until when."""

import json
from typing import Any

from flask import Blueprint, Response, g, request

from taskmanager.access import key_changes, keys
from taskmanager.api import request_schemas
from taskmanager.api.keys import KEY_PATH, manages_keys
from taskmanager.clock import format_time
from taskmanager.dashboard.answers import lead_to, page
from taskmanager.dashboard.form_fields import Field, last_seen, say_beside, say_changed
from taskmanager.db.statements import Row
from taskmanager.errors import ChangedMeanwhile, Conflict, InvalidRequest

blueprint = Blueprint("key_change", __name__)

LISTS = ("scopes", "task_types")
NULLABLE = ("task_types", "rate_limit", "expires_at")


@blueprint.get(f"/admin/keys{KEY_PATH}/change")
@manages_keys()
def show(key_id: int) -> Response:
    """GET /dashboard/admin/keys/{id}/change: the form."""
    row = keys.get_key(key_id=key_id)
    return _page(row, fields_of(row))


@blueprint.post(f"/admin/keys{KEY_PATH}/change")
@manages_keys()
def save(key_id: int) -> Response:
    """POST /dashboard/admin/keys/{id}/change: changes it, or shows what is wrong in the form."""
    row = keys.get_key(key_id=key_id)
    fields = fields_of(row)
    for field in fields:
        field.text = request.form.get(field.name, "").strip()
    try:
        if changes := read_changes(fields, row):
            key_changes.change_key(
                key_id=key_id,
                changes=changes,
                force=False,
                caller=g.caller,
                now=g.now,
                updated_at=last_seen(),
            )
    except InvalidRequest as error:
        problem = say_beside({field.name: field for field in fields}, error)
        return _page(row, fields, 400, problem)
    except ChangedMeanwhile:
        row = keys.get_key(key_id=key_id)
        problem = say_changed(f"The key {row['name']}", fields, fields_of(row))
        return _page(row, fields, 409, problem)
    except Conflict as error:
        return _page(row, fields, 409, error.message)
    said = "is changed" if changes else "was not changed"
    return lead_to("administration.show_keys", said=f"The key {row['name']} {said}.")


def fields_of(row: Row) -> list[Field]:
    """The fields with what the key has."""
    return [
        Field(
            "name", "text", "Name", "Who uses it: it is shown in the audit trail.", text=row["name"]
        ),
        Field("scopes", "long", "May", f"Of {', '.join(keys.SCOPES)}.", text=_words(row["scopes"])),
        Field(
            "task_types",
            "text",
            "Task types",
            "Names or patterns such as mail.%, with spaces between. Empty: every type.",
            text=_words(row["task_types"]),
        ),
        Field(
            "rate_limit",
            "text",
            "Rate limit",
            "Such as 100/minute; 0 is no limit. Empty: that of the settings.",
            text=row["rate_limit"] or "",
        ),
        Field(
            "expires_at",
            "text",
            "Expires at",
            "Such as 2030-01-31T12:00:00Z. Empty: never.",
            text=format_time(row["expires_at"]) or "",
        ),
    ]


def _words(stored: str | None) -> str:
    return " ".join(json.loads(stored or "[]"))


def read_changes(fields: list[Field], row: Row) -> dict[str, Any]:
    """The request that the form stands for: what differs from the key; an empty field is null."""
    changes: dict[str, Any] = {}
    for field, present in zip(fields, fields_of(row), strict=True):
        if field.text == present.text:
            continue
        value: Any = field.text
        if field.name in LISTS:
            value = value.replace(",", " ").split()
        changes[field.name] = value or (None if field.name in NULLABLE else value)
    return request_schemas.CHANGE_KEY.check(changes)


def _page(row: Row, fields: list[Field], status: int = 200, problem: str = "") -> Response:
    return page("change_key.html", status, key=row, fields=fields, problem=problem)
