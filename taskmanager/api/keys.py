"""/api/admin/keys: making, listing and revoking API keys."""

from flask import Blueprint, Response, g

from taskmanager.api import request_schemas
from taskmanager.api.auth import requires
from taskmanager.api.requests import MAX_INTEGER, QueryParameters, read_time
from taskmanager.api.responses import success
from taskmanager.api.serializers import key_json
from taskmanager.clock import utc_now
from taskmanager.exceptions import InvalidRequest
from taskmanager.services import keys

blueprint = Blueprint("keys", __name__, url_prefix="/admin/keys")

KEY = f"/<int(max={MAX_INTEGER}):key_id>"


@blueprint.post("")
@requires("admin")
def create() -> Response:
    """POST /api/admin/keys: `name`; `role` or `scopes`; `task_types`, `rate_limit`, `expires_at`.

    201 with the `key`, which no other answer ever shows; 400.
    """
    body = request_schemas.CREATE_KEY.read()
    if ("role" in body) == ("scopes" in body):
        raise InvalidRequest("Send either role or scopes.")
    expires_at = body.get("expires_at")
    row, key = keys.create_key(
        name=body["name"],
        scopes=body.get("scopes") or keys.ROLES[body["role"]],
        task_types=body.get("task_types"),
        rate_limit=body.get("rate_limit"),
        expires_at=None if expires_at is None else read_time("expires_at", expires_at),
        now=utc_now(),
        caller=g.caller,
    )
    return success({**key_json(row), "key": key}, "Key created; it is not shown again", 201)


@blueprint.get("")
@requires("admin")
def list_all() -> Response:
    """GET /api/admin/keys: every key, revoked ones included, oldest first. 200."""
    QueryParameters()
    rows = keys.list_keys()
    return success({"keys": [key_json(row) for row in rows], "count": len(rows)})


@blueprint.get(KEY)
@requires("admin")
def get(key_id: int) -> Response:
    """GET /api/admin/keys/{id}: one key. 200; 404."""
    QueryParameters()
    return success(key_json(keys.get_key(key_id=key_id)))


@blueprint.delete(KEY)
@requires("admin")
def revoke(key_id: int) -> Response:
    """DELETE /api/admin/keys/{id}: revokes it; every process refuses it within 5 seconds. 200; 404."""
    row = keys.revoke_key(key_id=key_id, caller=g.caller, now=utc_now())
    return success(key_json(row), "Key revoked")
