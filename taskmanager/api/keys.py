"""/api/admin/keys: creating, listing, changing, rotating and revoking API keys."""

from typing import Any

from flask import Blueprint, Response, g

from taskmanager.access import key_changes, keys
from taskmanager.api import request_schemas
from taskmanager.api.auth import requires
from taskmanager.api.requests import MAX_INTEGER, read_time
from taskmanager.api.responses import success
from taskmanager.api.serializers import key_json
from taskmanager.errors import InvalidRequest

blueprint = Blueprint("keys", __name__, url_prefix="/admin/keys")

KEY = f"/<int(max={MAX_INTEGER}):key_id>"


@blueprint.before_request
def require_key_for_every_type() -> None:
    """Otherwise a key limited to some task types could create one for all of them."""
    if "caller" in g:
        g.caller.require_every_type("manage keys")


@blueprint.post("")
@requires("admin")
def create() -> Response:
    """POST /api/admin/keys: `name`; `role` or `scopes`; `task_types`, `rate_limit`, `expires_at`.

    `rate_limit` is `100/minute` (second, hour, day), 100 (a minute) or 0 (no
    limit). 201 with the `key`, which no other answer ever shows; 400.
    """
    body = request_schemas.CREATE_KEY.read()
    if ("role" in body) == ("scopes" in body):
        raise InvalidRequest("Send either role or scopes.")
    fields = _fields(body)
    if "role" in fields:
        fields["scopes"] = keys.ROLES[fields.pop("role")]
    row, key = keys.create_key(**fields, now=g.now, caller=g.caller)
    return success({**key_json(row), "key": key}, "Key created; it is not shown again", 201)


def _fields(body: dict[str, Any]) -> dict[str, Any]:
    """The fields of a key as the service takes them."""
    fields = dict(body)
    if fields.get("rate_limit") is not None:
        fields["rate_limit"] = str(fields["rate_limit"])
    if fields.get("expires_at") is not None:
        fields["expires_at"] = read_time("expires_at", fields["expires_at"])
    return fields


@blueprint.get("")
@requires("admin")
def list_all() -> Response:
    """GET /api/admin/keys: every key, revoked ones included, oldest first. 200."""
    request_schemas.NO_PARAMETERS.read()
    rows = keys.list_keys()
    return success({"keys": [key_json(row) for row in rows], "count": len(rows)})


@blueprint.get(KEY)
@requires("admin")
def get(key_id: int) -> Response:
    """GET /api/admin/keys/{id}: one key. 200; 404."""
    request_schemas.NO_PARAMETERS.read()
    return success(key_json(keys.get_key(key_id=key_id)))


@blueprint.patch(KEY)
@requires("admin")
def change(key_id: int) -> Response:
    """PATCH /api/admin/keys/{id}: `name`, `scopes`, `task_types`, `rate_limit`, `expires_at`.

    null removes the limit to task types, the key's own rate limit or the expiry.
    In force in every process within 5 seconds. 200; 400; 404; 409
    `key_revoked`, or `last_admin_key`, which `?force=true` overrides.
    """
    force = request_schemas.FORCE.read()["force"]
    body = request_schemas.CHANGE_KEY.read()
    if not body:
        raise InvalidRequest(
            "Send what to change: name, scopes, task_types, rate_limit or expires_at."
        )
    row = key_changes.change_key(
        key_id=key_id, changes=_fields(body), force=force, caller=g.caller, now=g.now
    )
    return success(key_json(row), "Key changed")


@blueprint.post(f"{KEY}/rotate")
@requires("admin")
def rotate(key_id: int) -> Response:
    """POST /api/admin/keys/{id}/rotate: `overlap_seconds` (86,400; 0 to 2,592,000).

    Creates a key with the same name and rights; the old one expires after the
    overlap. A key that was valid for a number of days is replaced by one valid
    for as many. 201 with the new `key`, which no other answer ever shows, and
    `replaces`, the old one; 404; 409 `key_revoked`, `key_expired`.
    """
    body = request_schemas.ROTATE_KEY.read()
    row, key = key_changes.rotate_key(
        key_id=key_id,
        overlap_seconds=body.get("overlap_seconds", key_changes.DEFAULT_OVERLAP_SECONDS),
        caller=g.caller,
        now=g.now,
    )
    replaced = key_json(keys.get_key(key_id=key_id))
    return success(
        {**key_json(row), "key": key, "replaces": replaced},
        "Key rotated; the new one is not shown again",
        201,
    )


@blueprint.delete(KEY)
@requires("admin")
def revoke(key_id: int) -> Response:
    """DELETE /api/admin/keys/{id}: revokes it; every process refuses it within 5 seconds.

    200, also if it was revoked before; 404; 409 `last_admin_key`, which
    `?force=true` overrides.
    """
    force = request_schemas.FORCE.read()["force"]
    row = key_changes.revoke_key(key_id=key_id, force=force, caller=g.caller, now=g.now)
    return success(key_json(row), "Key revoked")
