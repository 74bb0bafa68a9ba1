"""/api/webhooks: endpoints that are notified when tasks end, and what was sent to them."""

import functools

from flask import Blueprint, Response, g

from taskmanager.api import request_schemas
from taskmanager.api.auth import requires
from taskmanager.api.requests import MAX_INTEGER, Values, settings
from taskmanager.api.responses import success
from taskmanager.api.serializers import DELIVERY, WEBHOOK
from taskmanager.errors import InvalidRequest
from taskmanager.notify import endpoints
from taskmanager.notify.deliveries import rules_of

blueprint = Blueprint("webhooks", __name__, url_prefix="/webhooks")

WEBHOOK_PATH = f"/<int(max={MAX_INTEGER}):webhook_id>"
DELIVERY_PATH = f"{WEBHOOK_PATH}/deliveries/<int(max={MAX_INTEGER}):delivery>"

manages_webhooks = functools.partial(
    requires, "admin", every_type="manage webhooks, which are for the tasks of all types"
)


@blueprint.post("")
@manages_webhooks(body=request_schemas.CREATE_WEBHOOK)
def create(body: Values) -> Response:
    """POST /api/webhooks: creates an endpoint; `name` (unique), `url` (https), `is_active`.

    201 with the `secret`, which no other answer shows; 400; 409 `webhook_exists`.
    """
    rules = rules_of(settings())
    row, secret = endpoints.create_webhook(body, rules=rules, caller=g.caller, now=g.now)
    data = {**WEBHOOK.of(row), "secret": secret}
    return success(data, "Webhook created; its secret is not shown again", 201)


@blueprint.get("")
@manages_webhooks(query=request_schemas.NO_PARAMETERS)
def list_all() -> Response:
    """GET /api/webhooks: every endpoint by name. 200."""
    rows = endpoints.list_webhooks()
    return success({"webhooks": [WEBHOOK.of(row) for row in rows], "count": len(rows)})


@blueprint.get(WEBHOOK_PATH)
@manages_webhooks(query=request_schemas.NO_PARAMETERS)
def get(webhook_id: int) -> Response:
    """GET /api/webhooks/{id}: one endpoint. 200; 404."""
    return success(WEBHOOK.of(endpoints.get_webhook(webhook_id=webhook_id)))


@blueprint.patch(WEBHOOK_PATH)
@manages_webhooks(body=request_schemas.CHANGE_WEBHOOK)
def change(webhook_id: int, body: Values) -> Response:
    """PATCH /api/webhooks/{id}: `url`, `is_active`.

    `is_active` false: nothing is recorded or sent for it. 200; 400; 404.
    """
    if not body:
        raise InvalidRequest("Send what to change: url or is_active.")
    row = endpoints.change_webhook(
        webhook_id=webhook_id,
        changes=body,
        rules=rules_of(settings()),
        caller=g.caller,
        now=g.now,
    )
    return success(WEBHOOK.of(row), "Webhook changed")


@blueprint.delete(WEBHOOK_PATH)
@manages_webhooks()
def delete(webhook_id: int) -> Response:
    """DELETE /api/webhooks/{id}: deletes it and its deliveries. 200; 404; 409 `webhook_in_use`."""
    row = endpoints.delete_webhook(webhook_id=webhook_id, caller=g.caller, now=g.now)
    return success(WEBHOOK.of(row), "Webhook deleted")


@blueprint.post(f"{WEBHOOK_PATH}/rotate")
@manages_webhooks(body=request_schemas.ROTATE_WEBHOOK)
def rotate(webhook_id: int, body: Values) -> Response:
    """POST /api/webhooks/{id}/rotate: `overlap_seconds` (86,400; 0 to 2,592,000).

    Until then messages are signed with both secrets. 200 with the new `secret`; 404.
    """
    row, secret = endpoints.rotate_secret(
        webhook_id=webhook_id,
        overlap_seconds=body.get("overlap_seconds", endpoints.DEFAULT_OVERLAP_SECONDS),
        caller=g.caller,
        now=g.now,
    )
    data = {**WEBHOOK.of(row), "secret": secret}
    return success(data, "Secret rotated; the new one is not shown again")


@blueprint.get(f"{WEBHOOK_PATH}/deliveries")
@manages_webhooks(query=request_schemas.AUDIT_PAGE)
def deliveries(webhook_id: int, query: Values) -> Response:
    """GET /api/webhooks/{id}/deliveries: the newest first; `limit` (50, at most 100), `cursor`.

    200; 400; 404.
    """
    limit = query["limit"]
    rows = endpoints.list_deliveries(
        webhook_id=webhook_id, limit=limit + 1, before_id=query["cursor"]
    )
    shown = rows[:limit]
    more = str(shown[-1]["id"]) if len(rows) > limit else None
    found = [DELIVERY.of(row) for row in shown]
    return success({"deliveries": found, "count": len(found), "next_cursor": more})


@blueprint.post(f"{DELIVERY_PATH}/resend")
@manages_webhooks(body=request_schemas.NOTHING)
def resend(webhook_id: int, delivery: int) -> Response:
    """POST /api/webhooks/{id}/deliveries/{delivery}/resend: makes a delivery due again.

    It keeps its `message_id`. 200; 404.
    """
    row = endpoints.resend(webhook_id=webhook_id, delivery_id=delivery, caller=g.caller, now=g.now)
    return success(DELIVERY.of(row), "The delivery is due again")
