"""A person in front of the dashboard, without a browser: cookies, forms and their tokens."""

import html
import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from taskmanager.access import keys
from taskmanager.access.caller import OPERATOR
from taskmanager.clock import utc_now
from taskmanager.db.statements import insert


class Person:
    """Opens pages and sends forms. `root` is where the application is mounted."""

    def __init__(self, client: FlaskClient, root: str = "http://localhost") -> None:
        self.client, self.root = client, root
        self.token = ""

    def get(self, path: str, **options: Any) -> TestResponse:
        options.setdefault("base_url", self.root)
        answer = self.client.get(path, **options)
        self._read_token(answer)
        return answer

    def post(self, path: str, form: Any = None, **options: Any) -> TestResponse:
        """Sends a form with the token of the page that was opened last."""
        options.setdefault("base_url", self.root)
        options.setdefault("headers", {"Referer": f"{self.root}/dashboard"})
        data = {"csrf_token": self.token, **(form or {})}
        answer = self.client.post(path, data=data, **options)
        self._read_token(answer)
        return answer

    def sign_in(self, key: str, **form: str) -> TestResponse:
        self.get("/dashboard/sign-in")
        answer = self.post("/dashboard/sign-in", {"key": key, **form})
        if answer.status_code == 303:
            self.get("/dashboard")
        return answer

    def page(self, path: str, status: int = 200) -> str:
        """The text of a page as a reader sees it, tags left out."""
        answer = self.get(path)
        assert answer.status_code == status, answer.text
        return text_of(answer)

    def _read_token(self, answer: TestResponse) -> None:
        found = re.search(r'name="csrf_token" value="([^"]+)"', answer.text)
        if found:
            self.token = found[1]


def text_of(answer: TestResponse) -> str:
    inside = re.sub(r"(?s)<head>.*?</head>", "", answer.text)
    inside = inside.replace("<wbr>", "")
    inside = re.sub(r'</?span(?: class="(?:key|text|value)")?>', "", inside)  # parts of JSON
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", inside)).split())


def form_on(page: str, action: str) -> dict[str, str]:
    """What a browser sends of the form with this address, as the page shows it."""
    start = page.index(f'action="{action}')
    form = page[start : page.index("</form>", start)]
    found = re.findall(r'<input [^>]*name="([\w.]+)"[^>]* value="([^"]*)"', form)
    found += re.findall(r'<textarea [^>]*name="([\w.]+)"[^>]*>([^<]*)</textarea>', form)
    for select in re.finditer(r'<select [^>]*name="([\w.]+)".*?</select>', form):
        found += [(select[1], one) for one in re.findall('value="([^"]*)" selected', select[0])]
    return {name: html.unescape(value) for name, value in found if name != "csrf_token"}


def key_with(scopes: Any, **options: Any) -> str:
    """A key with exactly these scopes."""
    _, key = keys.create_key(
        name="somebody", scopes=scopes, now=utc_now(), caller=OPERATOR, **options
    )
    return key


def store_delivery(webhook_id: int, task_id: int, **fields: Any) -> int:
    """A message to an endpoint, delivered unless told otherwise; returns its id."""
    now = utc_now()
    row = {"webhook_id": webhook_id, "task_id": task_id, "event": "task.completed", "body": "{}"}
    row |= {"message_id": "msg_1", "status": "delivered", "attempts": 1, "response_status": 204}
    times = {"next_attempt_at": now, "give_up_at": now, "created_at": now}
    return insert("webhook_deliveries", {**row, **times, **fields})


@pytest.fixture
def person(app: Flask) -> Callable[..., Person]:
    """Signs somebody in: `person()` with an admin's key, `person(scopes, …)` with another."""

    def sign_in(scopes: Any = ("admin",), **options: Any) -> Person:
        somebody = Person(app.test_client())
        assert somebody.sign_in(key_with(scopes, **options)).status_code == 303
        return somebody

    return sign_in
