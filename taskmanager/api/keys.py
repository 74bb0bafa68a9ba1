"""/api/admin/keys: creating, listing, changing, rotating and revoking API keys."""

import functools

from flask import Blueprint, Response, g

from taskmanager.access import key_changes, keys
from taskmanager.api import request_schemas
from taskmanager.api.auth import requires
from taskmanager.api.requests import MAX_INTEGER, Values
from taskmanager.api.responses import success
from taskmanager.api.serializers import KEY
from taskmanager.errors import InvalidRequest

blueprint = Blueprint("keys", __name__, url_prefix="/admin/keys")

KEY_PATH = f"/<int(max={MAX_INTEGER}):key_id>"


# A key limited to some task types could otherwise create one for all of them.
manages_keys = functools.partial(requires, "admin", every_type="manage keys")


@blueprint.post("")
@manages_keys(body=request_schemas.CREATE_KEY)
def create(body: Values) -> Response:
    """POST /api/admin/keys: `name`; `role` or `scopes`; `task_types`, `rate_limit`, `expires_at`.

    `rate_limit` is `100/minute` (second, hour, day), 100 (a minute) or 0 (no
    limit). 201 with the `key`, which no other answer ever shows; 400.
    """
    if ("role" in body) == ("scopes" in body):
        raise InvalidRequest("Send either role or scopes.")
    if "expires_at" in body and body["expires_at"] <= g.now:
        raise InvalidRequest("expires_at must be a time to come: the key would never be valid.")
    if "role" in body:
        role, task_types = body.pop("role"), body.get("task_types")
        body["scopes"] = keys.scopes_of_role(role, task_types=task_types)
    row, key = keys.create_key(**_with_rate(body), now=g.now, caller=g.caller)
    return success({**KEY.of(row), "key": key}, "Key created; it is not shown again", 201)


def _with_rate(body: Values) -> Values:
    if body.get("rate_limit") is not None:
        body["rate_limit"] = str(body["rate_limit"])
    return body


@blueprint.get("")
@manages_keys(query=request_schemas.NO_PARAMETERS)
def list_all() -> Response:
    """GET /api/admin/keys: every key, revoked ones included, oldest first. 200."""
    rows = keys.list_keys()
    return success({"keys": [KEY.of(row) for row in rows], "count": len(rows)})


@blueprint.get(KEY_PATH)
@manages_keys(query=request_schemas.NO_PARAMETERS)
def get(key_id: int) -> Response:
    """GET /api/admin/keys/{id}: one key. 200; 404."""
    return success(KEY.of(keys.get_key(key_id=key_id)))


@blueprint.patch(KEY_PATH)
@manages_keys(body=request_schemas.CHANGE_KEY, query=request_schemas.FORCE)
def change(key_id: int, body: Values, query: Values) -> Response:
    """PATCH /api/admin/keys/{id}: `name`, `scopes`, `task_types`, `rate_limit`, `expires_at`.

    null removes the limit to task types, the key's own rate limit or the expiry.
    In force in every process within 5 seconds. 200; 400; 404; 409
    `key_revoked`, or `last_admin_key`, which `?force=true` overrides.
    """
    if not body:
        raise InvalidRequest(
            "Send what to change: name, scopes, task_types, rate_limit or expires_at."
        )
    row = key_changes.change_key(
        key_id=key_id, changes=_with_rate(body), force=query["force"], caller=g.caller, now=g.now
    )
    return success(KEY.of(row), "Key changed")


@blueprint.post(f"{KEY_PATH}/rotate")
@manages_keys(body=request_schemas.ROTATE_KEY)
def rotate(key_id: int, body: Values) -> Response:
    """POST /api/admin/keys/{id}/rotate: `overlap_seconds` (86,400; 0 to 2,592,000).

    Creates a key with the same name and rights; the old one expires after the
    overlap. A key that was valid for a number of days is replaced by one valid
    for as many. 201 with the new `key`, which no other answer ever shows, and
    `replaces`, the old one; 404; 409 `key_revoked`, `key_expired`.
    """
    row, key = key_changes.rotate_key(
        key_id=key_id,
        overlap_seconds=body.get("overlap_seconds", key_changes.DEFAULT_OVERLAP_SECONDS),
        caller=g.caller,
        now=g.now,
    )
    replaced = KEY.of(keys.get_key(key_id=key_id))
    return success(
        {**KEY.of(row), "key": key, "replaces": replaced},
        "Key rotated; the new one is not shown again",
        201,
    )


@blueprint.delete(KEY_PATH)
@manages_keys(query=request_schemas.FORCE)
def revoke(key_id: int, query: Values) -> Response:
    """DELETE /api/admin/keys/{id}: revokes it; every process refuses it within 5 seconds.

    200, also if it was revoked before; 404; 409 `last_admin_key`, which
    `?force=true` overrides.
    """
    row = key_changes.revoke_key(key_id=key_id, force=query["force"], caller=g.caller, now=g.now)
    return success(KEY.of(row), "Key revoked")
