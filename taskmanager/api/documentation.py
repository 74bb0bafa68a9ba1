"""/api/openapi.json and /api/docs: the OpenAPI document, and a page to try the API."""

import html
import json
import secrets
from pathlib import Path

from flask import Blueprint, Flask, Response, current_app, make_response, redirect, request, url_for
from werkzeug.exceptions import NotFound

from taskmanager import __version__
from taskmanager.api.auth import PUBLIC, requires

blueprint = Blueprint("documentation", __name__)

_EXTENSION = "taskmanager.openapi"


def document_text(app: Flask, *, root: str = "", indent: int | None = None) -> str:
    """The OpenAPI document of `app` as JSON; `root` is the path under which it is mounted.

    Built at the first call and kept for the last `root`.
    """
    kept: tuple[str, int | None, str] | None = app.extensions.get(_EXTENSION)
    if kept is not None and kept[:2] == (root, indent):
        return kept[2]
    from taskmanager.api.openapi.document import (
        build_document,  # most processes are never asked for it
    )

    document = {**build_document(app), "servers": [{"url": root or "/"}]}
    text = json.dumps(document, ensure_ascii=False, indent=indent)
    app.extensions[_EXTENSION] = (root, indent, text)
    return text


@blueprint.get("/openapi.json")
@requires(PUBLIC)
def document() -> Response:
    """GET /api/openapi.json: this API as an OpenAPI 3.1 document. 200."""
    return Response(
        document_text(current_app, root=request.script_root) + "\n", mimetype="application/json"
    )


@blueprint.get("/docs")
@requires(PUBLIC)
def page() -> Response:
    """GET /api/docs: a page that shows every call and sends it. 200.

    It loads the document above and the stylesheet of the dashboard. The key stays in the tab.
    """
    nonce = secrets.token_urlsafe(16)
    text = Path(__file__).with_name("docs.html").read_text(encoding="utf-8")
    text = text.replace("NONCE", nonce)
    root = html.escape(request.script_root)
    text = text.replace("DOCUMENT_URL", html.escape(url_for("api.documentation.document")))
    text = text.replace("ASSETS", f"{root}/dashboard/static/{__version__}").replace("ROOT", root)
    response = Response(text, mimetype="text/html")
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; "
        f"style-src 'self' 'nonce-{nonce}'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return response


@requires(PUBLIC)
def start() -> Response:
    """GET /: leads a browser to the dashboard; for a program there is nothing at this address."""
    if "text/html" not in request.headers.get("Accept", ""):
        raise NotFound
    return make_response(redirect(f"{request.script_root}/dashboard", 303))
