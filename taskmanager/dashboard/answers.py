"""What a view answers with: a page, or the way to another one after a form was taken."""

import gzip
from typing import Any

from flask import Response, make_response, redirect, render_template, request, session, url_for

# Below this a page fits into one packet anyway.
COMPRESSED_BYTES = 1_000
# Higher levels take longer and save hardly anything of a page.
GZIP_LEVEL = 5


def page(template: str, status: int = 200, **values: Any) -> Response:
    """The page that `template` makes of `values`."""
    return make_response(render_template(template, **values), status)


def lead_to(endpoint: str, *, said: str = "", **values: Any) -> Response:
    """Leads the browser to a page, which shows at its top what was `said`."""
    if said:
        session["done"] = said
    return make_response(redirect(url_for(endpoint, **values), 303))


def compressed(response: Response) -> Response:
    """The answer in about a third of its bytes, for a browser that takes gzip.

    BREACH: who sees the sizes of many compressed pages, and can make the browser request them, can
    guess what is in them. The session's cookie has SameSite, so another site can only lead the
    person to a page; and the signature in each form changes every second.
    """
    response.vary.add("Accept-Encoding")
    content = b"" if response.is_streamed else response.get_data()
    if request.accept_encodings.quality("gzip") and len(content) > COMPRESSED_BYTES:
        response.set_data(gzip.compress(content, GZIP_LEVEL, mtime=0))
        response.content_encoding = "gzip"
    return response
