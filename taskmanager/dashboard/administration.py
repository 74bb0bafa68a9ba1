"""/dashboard/admin: keys, alerts, the audit trail, what the doctor finds, and the settings."""

import functools
from dataclasses import fields
from typing import Any

from flask import Blueprint, Response, g, request

from taskmanager.access import audit, key_changes, keys
from taskmanager.alert_rules import RULES
from taskmanager.alerts import channels, messages, state
from taskmanager.api import request_schemas
from taskmanager.api.auth import requires
from taskmanager.api.keys import KEY_PATH
from taskmanager.api.rate_limits import counts_are_shared
from taskmanager.api.requests import settings
from taskmanager.config import HOLDING_SECRETS, PREFIX, env_file
from taskmanager.dashboard.answers import lead_to, page
from taskmanager.errors import InvalidRequest

blueprint = Blueprint("administration", __name__)

EVENTS_SHOWN = 100
DAY_MS = 86_400_000
ALERTS_SHOWN_MS = 7 * DAY_MS
MAX_DAYS = 3_650

manages_keys = functools.partial(requires, "admin", every_type="manage keys")


@blueprint.get("/admin")
@manages_keys()
def show_keys() -> Response:
    """GET /dashboard/admin: the keys, valid ones first, and the form that creates one."""
    return _keys_page()


def _keys_page(status: int = 200, **more: Any) -> Response:
    rows = sorted(keys.list_keys(), key=lambda row: (not _is_valid(row), -row["id"]))
    return page(
        "keys.html",
        status,
        rows=[{**row, "is_valid": _is_valid(row)} for row in rows],
        roles=keys.ROLES,
        form=request.form,
        **more,
    )


def _is_valid(row: dict[str, Any]) -> bool:
    expires_at = row["expires_at"]
    return row["revoked_at"] is None and (expires_at is None or expires_at > g.now)


@blueprint.post("/admin/keys")
@manages_keys()
def create_key() -> Response:
    """POST /dashboard/admin/keys: creates a key and shows it, this once.

    `name`, `role`; optionally `task_types` (patterns with spaces or commas between), `rate_limit`
    and `days` until it expires.
    """
    try:
        row, key = keys.create_key(**_key_fields(), caller=g.caller, now=g.now)
    except InvalidRequest as error:
        return _keys_page(400, problem=error.message)
    return _keys_page(made=row, key=key)


def _key_fields() -> dict[str, Any]:
    """What the form says of a key. Raises InvalidRequest."""
    patterns = request.form.get("task_types", "").replace(",", " ").split() or None
    role, days = request.form.get("role", ""), request.form.get("days", "").strip()
    if role not in keys.ROLES:
        raise InvalidRequest("Choose a role.")
    if days and not (days.isdecimal() and len(days) <= 4 and 1 <= int(days) <= MAX_DAYS):
        raise InvalidRequest(f"A key is valid for 1 to {MAX_DAYS:,} days, or for ever.")
    request_schemas.CREATE_KEY.check({"name": request.form.get("name", "").strip()})
    return {
        "name": request.form["name"].strip(),
        "scopes": keys.scopes_of_role(role, task_types=patterns),
        "task_types": patterns,
        "rate_limit": request.form.get("rate_limit", "").strip() or None,
        "expires_at": g.now + int(days) * DAY_MS if days else None,
    }


@blueprint.post(f"/admin/keys{KEY_PATH}/rotate")
@manages_keys()
def rotate_key(key_id: int) -> Response:
    """POST /dashboard/admin/keys/{id}/rotate: replaces a key; the old one works for another day."""
    row, key = key_changes.rotate_key(
        key_id=key_id,
        overlap_seconds=key_changes.DEFAULT_OVERLAP_SECONDS,
        caller=g.caller,
        now=g.now,
    )
    return _keys_page(made=row, key=key)


@blueprint.post(f"/admin/keys{KEY_PATH}/revoke")
@manages_keys()
def revoke_key(key_id: int) -> Response:
    """POST /dashboard/admin/keys/{id}/revoke: asks, and with `confirmed` revokes it for good."""
    row = keys.get_key(key_id=key_id)
    if not request.form.get("confirmed"):
        return page("revoke.html", key=row)
    key_changes.revoke_key(key_id=key_id, force=False, caller=g.caller, now=g.now)
    return lead_to("administration.show_keys", said=f"The key {row['name']} is revoked.")


@blueprint.get("/alerts")
@requires("admin", every_type="see alerts, which are about all types")
def show_alerts() -> Response:
    """GET /dashboard/alerts: what is wrong, what was wrong lately, who is told, and the rules."""
    rows = [
        {
            **row,
            "remedy": messages.remedy_of(row),
            "is_grave": row["rule"] in RULES and RULES[row["rule"]].is_grave,
        }
        for row in state.list_alerts(ended_since=g.now - ALERTS_SHOWN_MS)
    ]
    rows.sort(key=lambda row: not row["is_grave"])
    used = state.channels()
    thresholds = settings().alert_rules
    return page(
        "alerts.html",
        groups=[
            ("Open", [row for row in rows if row["ended_at"] is None]),
            ("Ended in the last 7 days", [row for row in rows if row["ended_at"] is not None]),
        ],
        looked_at=state.looked_at(),
        channels=[
            used.get(one.name, {"name": one.name}) for one in channels.configured(settings())
        ],
        rules=[(rule, thresholds.text_of(name)) for name, rule in RULES.items()],
    )


@blueprint.get("/admin/audit")
@requires("admin", every_type="read the audit trail")
def show_audit() -> Response:
    """GET /dashboard/admin/audit: who did what, the newest first."""
    cursor = request.args.get("cursor", "")
    before_id = int(cursor) if cursor.isdecimal() and len(cursor) <= 18 else None
    rows = audit.list_events(limit=EVENTS_SHOWN + 1, before_id=before_id)
    return page("audit.html", rows=rows[:EVENTS_SHOWN], has_more=len(rows) > EVENTS_SHOWN)


@blueprint.get("/admin/doctor")
@requires("admin", every_type="examine the host")
def show_doctor() -> Response:
    """GET /dashboard/admin/doctor: what is wrong with the host, and what to do about it."""
    from taskmanager.doctor.case import Case
    from taskmanager.doctor.checks import CHECKS, examine
    from taskmanager.doctor.report import summary

    case = Case(
        settings=settings(),
        env_file=env_file(),
        call=request.environ,
        counts_are_shared=counts_are_shared(),
    )
    findings = list(examine(case))
    return page(
        "doctor.html",
        groups={one: [it for it in findings if it.group == one] for one in CHECKS},
        summary=summary(findings),
    )


@blueprint.get("/admin/settings")
@requires("admin", every_type="see the settings")
def show_settings() -> Response:
    """GET /dashboard/admin/settings: each setting, its value and what it does; no secret."""
    current = settings()
    rows = []
    for item in fields(current):
        value, default = getattr(current, item.name), item.metadata["default"]
        shown = ",".join(map(str, value)) if type(value) is tuple else str(value)
        if value is None:
            shown = ""
        if item.name in HOLDING_SECRETS:
            shown = "" if value == item.metadata["parse"](default) else "set"
        if item.name == "database_url" and shown:
            shown = current.database_place
        rows.append(
            {
                "name": PREFIX + item.name.upper(),
                "value": shown,
                "is_default": value == item.metadata["parse"](default),
                "help": item.metadata["help"],
            }
        )
    return page("settings.html", rows=rows)
