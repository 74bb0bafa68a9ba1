"""/api/admin/doctor: tests the host, where there is no shell."""

from flask import Blueprint, Response, request

from taskmanager.api import request_schemas
from taskmanager.api.auth import requires
from taskmanager.api.rate_limits import counts_are_shared
from taskmanager.api.requests import settings
from taskmanager.api.responses import success
from taskmanager.config import env_file

blueprint = Blueprint("doctor", __name__, url_prefix="/admin/doctor")


@blueprint.get("")
@requires("admin", every_type="examine the host", query=request_schemas.NO_PARAMETERS)
def examine_host() -> Response:
    """GET /api/admin/doctor: what is wrong with the host, and how to fix it. Changes nothing.

    200 whatever is found; 403 for a key that is limited to task types. While the
    database cannot be reached the answer is 503, since keys are stored there;
    the command `taskmanager doctor` still works. It does not test from outside
    which files are served: the command does, with `--url`.
    """
    # Imported by this call alone: a start is spared it.
    from taskmanager.doctor.case import Case
    from taskmanager.doctor.checks import examine
    from taskmanager.doctor.report import report_json, summary

    case = Case(
        settings=settings(),
        env_file=env_file(),
        call=request.environ,
        counts_are_shared=counts_are_shared(),
    )
    findings = list(examine(case))
    return success(report_json(findings), summary(findings))
