"""What a view answers with: a page, or the way to another one after a form was taken."""

from typing import Any

from flask import Response, make_response, redirect, render_template, session, url_for


def page(template: str, status: int = 200, **values: Any) -> Response:
    """The page that `template` makes of `values`."""
    return make_response(render_template(template, **values), status)


def lead_to(endpoint: str, *, said: str = "", **values: Any) -> Response:
    """Leads the browser to a page, which shows at its top what was `said`."""
    if said:
        session["done"] = said
    return make_response(redirect(url_for(endpoint, **values), 303))
