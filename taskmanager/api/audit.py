"""/api/admin/audit: the audit trail, for hosts without a shell."""

from flask import Blueprint, Response

from taskmanager.access import audit
from taskmanager.api import request_schemas
from taskmanager.api.auth import requires
from taskmanager.api.requests import Values
from taskmanager.api.responses import success
from taskmanager.api.serializers import AUDIT_EVENT

blueprint = Blueprint("audit", __name__, url_prefix="/admin/audit")


@blueprint.get("")
@requires("admin", every_type="read the audit trail", query=request_schemas.AUDIT_PAGE)
def list_all(query: Values) -> Response:
    """GET /api/admin/audit: operator actions, key changes, failed authentication, newest first.

    `limit` (50, at most 100); `cursor` from `next_cursor`, which is null on the
    last page. 200; 400; 403 for a key that is limited to task types.
    """
    limit = query["limit"]
    rows = audit.list_events(limit=limit + 1, before_id=query["cursor"])
    page = rows[:limit]
    return success(
        {
            "events": [AUDIT_EVENT.of(row) for row in page],
            "count": len(page),
            "next_cursor": str(page[-1]["id"]) if len(rows) > limit else None,
        }
    )
