"""The stylesheet, the script and the icon: each with an address that changes with its content."""

import functools
import hashlib
from pathlib import Path

from flask import Blueprint, Response, url_for
from werkzeug.exceptions import NotFound

from taskmanager.api.auth import PUBLIC, requires

blueprint = Blueprint("assets", __name__)

_FOLDER = Path(__file__).with_name("static")
_KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@functools.lru_cache(maxsize=16)
def _content(name: str) -> tuple[bytes, str]:
    """The bytes of a file and a digest of them. Raises NotFound."""
    path = _FOLDER / name
    if path.suffix not in _KINDS or path.parent != _FOLDER or not path.is_file():
        raise NotFound
    content = path.read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:12]


def address_of(name: str) -> str:
    """The address of a file, which browsers may keep for good."""
    return url_for("assets.show", digest=_content(name)[1], name=name)


@blueprint.get("/static/<digest>/<name>")
@requires(PUBLIC)
def show(digest: str, name: str) -> Response:
    """GET /dashboard/static/{digest}/{name}: one of the files."""
    content, current = _content(name)
    response = Response(content, mimetype=_KINDS[Path(name).suffix])
    keep = "public, max-age=31536000, immutable" if digest == current else "no-store"
    response.headers["Cache-Control"] = keep
    return response
