"""/dashboard/webhooks: who is sent a message when tasks end, and what was sent."""

from typing import Any

from flask import Blueprint, Response, g, request

from taskmanager.api import request_schemas
from taskmanager.api.requests import settings
from taskmanager.api.webhooks import DELIVERY_PATH, WEBHOOK_PATH, manages_webhooks
from taskmanager.dashboard.answers import lead_to, page
from taskmanager.dashboard.form_fields import Field, last_seen, say_changed
from taskmanager.errors import ChangedMeanwhile, Conflict, InvalidRequest
from taskmanager.notify import endpoints
from taskmanager.notify.deliveries import rules_of

blueprint = Blueprint("webhooks", __name__)

DELIVERIES_SHOWN = 50


@blueprint.get("/webhooks")
@manages_webhooks()
def show_all() -> Response:
    """GET /dashboard/webhooks: the endpoints by name, and the form that creates one."""
    return _list_page()


def _list_page(status: int = 200, **more: Any) -> Response:
    rows = endpoints.list_webhooks()
    return page("webhooks.html", status, rows=rows, form=request.form, **more)


@blueprint.post("/webhooks")
@manages_webhooks()
def create() -> Response:
    """POST /dashboard/webhooks: creates one from `name` and `url`, and shows its secret once."""
    fields = {name: request.form.get(name, "").strip() for name in ("name", "url")}
    try:
        request_schemas.CREATE_WEBHOOK.check(fields)
        row, secret = endpoints.create_webhook(
            fields, rules=rules_of(settings()), caller=g.caller, now=g.now
        )
    except (InvalidRequest, Conflict) as error:
        return _list_page(400, problem=error.message)
    return _list_page(made=row, secret=secret)


@blueprint.get(f"/webhooks{WEBHOOK_PATH}")
@manages_webhooks()
def show(webhook_id: int) -> Response:
    """GET /dashboard/webhooks/{id}: its state and its deliveries, the newest first; `cursor`."""
    return _page(webhook_id)


def _page(webhook_id: int, status: int = 200, **more: Any) -> Response:
    cursor = request.args.get("cursor", "")
    before_id = int(cursor) if cursor.isdecimal() and len(cursor) <= 18 else None
    row = endpoints.get_webhook(webhook_id=webhook_id)
    rows = endpoints.list_deliveries(
        webhook_id=webhook_id, limit=DELIVERIES_SHOWN + 1, before_id=before_id
    )
    return page(
        "webhook.html",
        status,
        webhook=row,
        deliveries=rows[:DELIVERIES_SHOWN],
        has_more=len(rows) > DELIVERIES_SHOWN,
        **{"address": _address(row["url"]), **more},
    )


def _address(url: str) -> Field:
    return Field("url", "text", "Address", text=url)


@blueprint.post(f"/webhooks{WEBHOOK_PATH}/change")
@manages_webhooks()
def change(webhook_id: int) -> Response:
    """POST /dashboard/webhooks/{id}/change: sends to another `url` from now on."""
    changes = {"url": request.form.get("url", "").strip()}
    address = _address(changes["url"])
    try:
        request_schemas.CHANGE_WEBHOOK.check(changes)
        _change(webhook_id, changes, updated_at=last_seen())
    except InvalidRequest as error:
        address.problem = error.message
        return _page(webhook_id, 400, address=address)
    except ChangedMeanwhile:
        row = endpoints.get_webhook(webhook_id=webhook_id)
        problem = say_changed(row["name"], [address], [_address(row["url"])])
        return _page(webhook_id, 409, address=address, problem=problem)
    return _back_to(webhook_id, "The address is changed.")


@blueprint.post(f"/webhooks{WEBHOOK_PATH}/switch-<any(on, off):switch>")
@manages_webhooks()
def switch(webhook_id: int, switch: str) -> Response:
    """POST /dashboard/webhooks/{id}/switch-on or switch-off."""
    row = _change(webhook_id, {"is_active": switch == "on"})
    said = "is on. It is sent what waits for it" if switch == "on" else "is off"
    return _back_to(webhook_id, f"{row['name']} {said}.")


def _change(
    webhook_id: int, changes: dict[str, Any], updated_at: int | None = None
) -> dict[str, Any]:
    return endpoints.change_webhook(
        webhook_id=webhook_id,
        changes=changes,
        rules=rules_of(settings()),
        caller=g.caller,
        now=g.now,
        updated_at=updated_at,
    )


def _back_to(webhook_id: int, said: str) -> Response:
    return lead_to("webhooks.show", webhook_id=webhook_id, said=said)


@blueprint.post(f"/webhooks{WEBHOOK_PATH}/rotate")
@manages_webhooks()
def rotate(webhook_id: int) -> Response:
    """POST /dashboard/webhooks/{id}/rotate: a new secret, which is shown once."""
    _, secret = endpoints.rotate_secret(
        webhook_id=webhook_id,
        overlap_seconds=endpoints.DEFAULT_OVERLAP_SECONDS,
        caller=g.caller,
        now=g.now,
    )
    return _page(webhook_id, secret=secret)


@blueprint.post(f"/webhooks{WEBHOOK_PATH}/delete")
@manages_webhooks()
def delete(webhook_id: int) -> Response:
    """POST /dashboard/webhooks/{id}/delete: asks, and with `confirmed` deletes it."""
    if not request.form.get("confirmed"):
        row = endpoints.get_webhook(webhook_id=webhook_id)
        return page("delete_webhook.html", webhook=row)
    row = endpoints.delete_webhook(webhook_id=webhook_id, caller=g.caller, now=g.now)
    return lead_to("webhooks.show_all", said=f"The webhook {row['name']} is deleted.")


@blueprint.post(f"/webhooks{DELIVERY_PATH}/resend")
@manages_webhooks()
def resend(webhook_id: int, delivery: int) -> Response:
    """POST /dashboard/webhooks/{id}/deliveries/{delivery}/resend: sends it again."""
    endpoints.resend(webhook_id=webhook_id, delivery_id=delivery, caller=g.caller, now=g.now)
    return _back_to(webhook_id, f"Delivery {delivery} is due again.")
