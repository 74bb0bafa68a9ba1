"""Logs as JSON lines: what a log system can search for, and nothing that is nobody's business."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from taskmanager.logs import write_json_lines
from taskmanager.queue.figures import statistics
from tests.conftest import Api, make_key

SECRET = "what-nobody-may-read"


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"log_format": "json"}


class Log:
    """The lines that were logged since the last look."""

    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream
        self.text = ""

    def read(self) -> list[dict[str, Any]]:
        new = self._stream.getvalue()[len(self.text) :]
        self.text += new
        return [json.loads(line) for line in new.splitlines()]


@pytest.fixture
def log(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    handler = write_json_lines()
    assert isinstance(handler, logging.StreamHandler)
    stream = io.StringIO()
    monkeypatch.setattr(handler, "stream", stream)
    yield Log(stream)
    logging.getLogger().removeHandler(handler)
    logging.getLogger("taskmanager").setLevel(logging.NOTSET)


def test_every_request_has_a_line_with_its_key_route_worker_and_task(api: Api, log: Log) -> None:
    api.register()
    task = api.create(params={"secret": SECRET})
    log.read()
    headers = {"X-API-Key": api.key, "X-Request-ID": "mine"}
    body = {"worker_id": "w1", "type": "job"}
    assert api.call("POST", "/api/tasks/claim", body, headers=headers).status_code == 200
    [line] = log.read()
    assert line.pop("time").endswith("Z")
    assert line.pop("duration_ms") >= 0
    assert line.pop("key_id") > 0
    assert line == {
        "level": "info",
        "logger": "taskmanager.api.request_logs",
        "message": "POST /api/tasks/claim: 200",
        "request_id": "mine",
        "method": "POST",
        "route": "/api/tasks/claim",
        "key": "admin",
        "worker_id": "w1",
        "task_id": task["id"],
        "status": 200,
    }
    api.get(f"/api/tasks/{task['id']}?{SECRET}=1", 400)
    [line] = log.read()
    assert (line["route"], line["task_id"], line["status"]) == ("/api/tasks/{id}", task["id"], 400)
    api.get("/api/workers/w1")
    [line] = log.read()
    assert (line["route"], line["worker_id"]) == ("/api/workers/{id}", "w1")

    for _ in range(2):
        api.create(params={"secret": SECRET})
    api.claim("w2", limit=5)
    assert len(log.read()[-1]["task_ids"]) == 2
    assert SECRET not in log.text
    assert api.key not in log.text


def test_refused_requests_are_logged_too(api: Api, log: Log) -> None:
    nobody = api.with_key(SECRET)
    nobody.get("/api/stats", 401)
    api.get(f"/api/{SECRET}", 404)
    viewer = api.with_key(make_key("viewer"))
    viewer.post("/api/tasks", {"type": "job", "params": {}}, 403)
    unknown, missing, forbidden = (line for line in log.read() if "status" in line)
    assert (unknown["status"], "key" in unknown) == (401, False)
    assert (missing["status"], "route" in missing) == (404, False)
    assert (forbidden["status"], forbidden["key"], forbidden["route"]) == (
        *(403, "viewer", "/api/tasks"),
    )
    assert SECRET not in log.text


def test_a_fault_is_one_line_with_its_traceback_and_its_request(
    api: Api, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: Any) -> None:
        raise ValueError("two\nlines")

    monkeypatch.setattr(statistics, "queue_statistics", fail)
    response = api.call("GET", "/api/stats")
    assert response.status_code == 500
    fault, request = log.read()
    assert fault["level"] == "error"
    assert fault["exception"].endswith("ValueError: two\nlines")
    assert fault["route"] == request["route"] == "/api/stats"
    assert fault["request_id"] == request["request_id"] == response.headers["X-Request-ID"]
