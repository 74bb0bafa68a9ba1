"""/api/clients: the clients of this very version, for whoever writes a producer or a worker."""

from flask import Blueprint, Response, request, url_for

from taskmanager import __version__
from taskmanager.api import request_schemas
from taskmanager.api.auth import PUBLIC, requires
from taskmanager.api.responses import success
from taskmanager.clients import client_files
from taskmanager.errors import NotFound

blueprint = Blueprint("clients", __name__, url_prefix="/clients")

ONE_DAY = 86_400
_TYPES = {".whl": "application/zip", ".php": "text/plain", ".mjs": "text/javascript"}


@blueprint.get("")
@requires(PUBLIC, query=request_schemas.NO_PARAMETERS)
def list_all() -> Response:
    """GET /api/clients: the files of the clients for Python, PHP and JavaScript.

    Each with `name`, `language`, `size`, `sha256`, `url` and the line that installs it. 200.
    """
    files = []
    for file in client_files().values():
        url = url_for(".get", file=file.name, _external=True)
        files.append(
            {
                "name": file.name,
                "language": file.language,
                "size": len(file.content),
                "sha256": file.sha256,
                "url": url,
                "install": file.install.format(url=url),
            }
        )
    return success({"version": __version__, "clients": files, "count": len(files)})


@blueprint.get("/<file>")
@requires(PUBLIC, query=request_schemas.NO_PARAMETERS)
def get(file: str) -> Response:
    """GET /api/clients/{file}: one file, which may be kept for a day. 200; 404."""
    found = client_files().get(file)
    if found is None:
        known = ", ".join(client_files())
        raise NotFound(f"There is no client '{file}'; there are: {known}.")
    suffix = file[file.rindex(".") :]
    response = Response(found.content, content_type=_TYPES.get(suffix, "text/plain"))
    response.cache_control.max_age = ONE_DAY
    response.cache_control.public = True
    response.set_etag(found.sha256)
    # Pages of other origins may import the module: anybody may read it.
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.make_conditional(request)
    return response
