"""A queue as a small business might have it: a day of tasks, some failed, some forgotten.

Built over the API with a clock that moves, so that every page of the dashboard has something real
to show.
"""

import json
import math
import random
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from taskmanager import clock
from taskmanager.access import keys
from taskmanager.access.caller import OPERATOR
from taskmanager.app import close_app, create_app
from taskmanager.db.statements import fetch_all, update

STEPS = 72  # of twenty minutes
STEP_MS = 20 * 60_000
MAIL = {
    "type": "object",
    "properties": {
        "to": {"type": "string", "format": "email", "description": "Whom it goes to."},
        "template": {"enum": ["welcome", "invoice", "reminder"]},
        "subject": {"type": "string"},
        "copies": {"type": "integer", "minimum": 0},
        "html": {"type": "boolean", "default": True},
        "data": {"type": "object", "description": "What the template fills in."},
    },
    "required": ["to", "template"],
    "additionalProperties": False,
}
# Type → tasks a step, workers and how many each claims, share that fails.
WORK = {
    "mail.send": (9, {"mailer-1": 6, "mailer-2": 5}, 0.02),
    "video.transcode": (3, {"transcoder-1": 3}, 0.05),
    "image.resize": (6, {"pixel-3": 6}, 0.01),
    "feed.poll": (4, {"poller-1": 4}, 0.2),
}
RENDER = {"name": "invoice.render", "version": "1.0", "param_schema": {"type": "object"}}
REPORT = {"type": "report.monthly", "params": {"batch": {"$batch": "id"}}}
REMINDER = {"type": "mail.send", "params": {"to": "me@example.org", "template": "reminder"}}
# Step → name, number of tasks and what else the batch has.
BATCHES: dict[int, tuple[str, int, dict[str, Any]]] = {
    30: ("invoices of October", 60, {"on_completed": REPORT}),
    62: ("orders of today", 12, {"is_open": True}),
    66: ("invoices of November", 300, {"on_completed": REPORT, "on_failed": REMINDER}),
}
RECENT_MINUTES = 12
LAST_DELIVERIES = "SELECT id FROM {webhook_deliveries} ORDER BY id DESC LIMIT 2"
RECENT_WORK = (
    ("mailer-1", "mail.send"),
    ("transcoder-1", "video.transcode"),
    ("poller-1", "feed.poll"),
)
ERRORS = {
    "timeout": "No answer from the feed within {} s",
    "refused": "The server at 10.0.3.{} refused the connection",
    "not_found": "There is no file {}.xml any more",
}


class _Api:
    def __init__(self, folder: Path, now: int) -> None:
        self.started, self.shift = now, 0
        clock.time = SimpleNamespace(time_ns=self._time_ns)  # type: ignore[assignment]
        self.app = create_app({"instance_path": folder, "sqlite_synchronous": "NORMAL"})
        self.client = self.app.test_client()
        _, self.key = keys.create_key(
            name="owner",
            scopes=keys.ROLES["admin"],
            rate_limit="0",
            now=clock.utc_now(),
            caller=OPERATOR,
        )

    def _time_ns(self) -> int:
        return (self.started + self.shift) * 1_000_000

    def post(self, path: str, body: Any, *, method: str = "POST") -> Any:
        headers = {"X-API-Key": self.key}
        text = json.dumps(body)  # Flask's client would sort the names
        options: Any = {"method": method, "headers": headers, "content_type": "application/json"}
        answer = self.client.open(f"/api/{path}", data=text, **options)
        return answer.get_json().get("data")


def build(folder: Path) -> str:
    """Fills a new queue in `folder`; returns an admin key. The day ends now."""
    random.seed(7)
    api = _Api(folder, time.time_ns() // 1_000_000)
    try:
        _fill(api)
    finally:
        clock.time = time
        close_app(api.app)
    return api.key


def _fill(api: _Api) -> None:
    api.shift = -(STEPS + 1) * STEP_MS
    for name in (*WORK, "report.monthly"):
        schema = MAIL if name == "mail.send" else {"type": "object"}
        body = {"name": name, "version": "2.1", "param_schema": schema}
        if name == "mail.send":
            body |= {"max_run_seconds": 120, "retention_days": 90}
        api.post("task-types/register", body)
    api.post("task-types/register", RENDER)
    for name, fields in {
        "nightly report": {"type": "report.monthly", "cron": "0 3 * * *"},
        "poll feeds": {"type": "feed.poll", "cron": "*/5 8-18 * * 1-5"},
        "warm thumbnails": {"type": "image.resize", "interval_seconds": 900},
    }.items():
        zone = {"timezone": "Europe/Prague"} if "cron" in fields else {}
        api.post("schedules", {"name": name, "params": {}, **fields, **zone})
    for name, role in (("wallboard", "viewer"), ("shop", "producer"), ("render farm", "worker")):
        body = {"name": name, "role": role}
        if name == "shop":
            body["task_types"] = ["mail.%"]
        api.post("admin/keys", body)
    for name in ("billing", "warehouse"):
        api.post("webhooks", {"name": name, "url": f"https://hooks.invalid/{name}"})
    for step in range(STEPS):
        api.shift = (step - STEPS) * STEP_MS
        _step(api, step)
        _show_batches(api, step)
    api.shift = 0
    _present(api)


def _step(api: _Api, step: int) -> None:
    tasks = []
    busy = 0.6 + 0.4 * math.sin(2 * math.pi * (step / STEPS - 0.3))  # less at one time of the day
    for name, (count, _, _) in WORK.items():
        many = round(count * busy) + random.randint(-1, 1)
        tasks += [_task(name, step * 100 + n) for n in range(max(many, 1))]
    if step == 50:
        tasks += [_task("report.monthly", n) for n in range(4)]
    api.post("tasks/batch", {"tasks": tasks})
    for name, (_, workers, fails) in WORK.items():
        for worker, limit in workers.items():
            claim = {"worker_id": worker, "type": name, "limit": limit}
            held = (api.post("tasks/claim", claim) or {}).get("tasks", [])
            api.shift += random.choice((400, 1_900, 9_000, 38_000))
            share = 0.6 if name == "feed.poll" and step > STEPS - 6 else fails
            completions = [_report(task, share) for task in held]
            if completions:
                api.post("tasks/complete", {"worker_id": worker, "completions": completions})


def _task(name: str, number: int) -> dict[str, Any]:
    params: dict[str, Any] = {"source": f"https://example.org/{number}.xml", "since": 2**53 + 1}
    if name == "mail.send":
        params = {"to": f"user{number}@example.org", "template": "invoice", "data": {"no": number}}
    priority = random.choice((0, 0, 5))
    tags = {"tags": ["customer-17"]} if number % 9 == 0 else {}
    return {"type": name, "params": params, "dedupe": "none", "priority": priority, **tags}


def _report(task: Any, fails: float) -> dict[str, Any]:
    report = {"id": task["id"], "claim_token": task["claim_token"]}
    if random.random() >= fails:
        return {**report, "success": True, "result": {"bytes": random.randint(10**4, 10**7)}}
    code = random.choice(list(ERRORS))
    said = ERRORS[code].format(random.randint(2, 60))
    again = random.random() < 0.3
    return {**report, "success": False, "error": said, "error_code": code, "is_retryable": again}


def _present(api: _Api) -> None:
    api.shift = -RECENT_MINUTES * 60_000
    for name, count in (("video.transcode", 40), ("feed.poll", 30)):
        api.post("tasks/batch", {"tasks": [_task(name, n) for n in range(count)]})
    for minute in range(RECENT_MINUTES, 0, -1):
        api.shift = -minute * 60_000
        api.post(
            "tasks/batch", {"tasks": [{**_task("mail.send", 10**4 + minute), "notify": "billing"}]}
        )
        for worker, name in RECENT_WORK:
            claim = {"worker_id": worker, "type": name, "limit": 2}
            held = (api.post("tasks/claim", claim) or {}).get("tasks", [])
            api.shift += random.choice((400, 1_900, 9_000, 20_000))
            completions = [_report(task, 0.1) for task in held]
            if completions:
                api.post("tasks/complete", {"worker_id": worker, "completions": completions})
    api.shift = 0
    for worker, name in (("transcoder-1", "video.transcode"), ("mailer-2", "mail.send")):
        task = api.post("tasks/claim", {"worker_id": worker, "type": name})
        if task:
            body = {"worker_id": worker, "progress": 62, "message": "second pass"}
            api.post(f"tasks/{task['id']}/progress", body)
    api.post("task-types/image.resize", {"is_paused": True}, method="PATCH")
    api.post("tasks", {**_task("mail.send", 20_000), "delay_seconds": 3_600})
    _show_webhooks()
    api.post("maintenance/run", {})


def _show_batches(api: _Api, step: int) -> None:
    """One that is finished, one that takes more tasks, and one that is on its way."""
    if step in BATCHES:
        name, size, more = BATCHES[step]
        tasks = [{**_task("invoice.render", 10**5 + n), "priority": 0} for n in range(size)]
        metadata = {"requested_by": "billing", "period": "2026-11"}
        api.post("batches", {"name": name, "tasks": tasks, "metadata": metadata, **more})
    claim = {"worker_id": "printer-1", "type": "invoice.render", "limit": 31}
    held = (api.post("tasks/claim", claim) or {}).get("tasks", [])
    api.shift += 2_600
    completions = [_report(task, 0.04 if step > max(BATCHES) - 3 else 0.0) for task in held]
    if completions:
        api.post("tasks/complete", {"worker_id": "printer-1", "completions": completions})


def _show_webhooks() -> None:
    """Answers of receivers that do not exist: most are good, the last two are not."""
    now, day = clock.utc_now(), 86_400_000
    sent = {"status": "delivered", "attempts": 1, "response_status": 200, "finished_at": now}
    update("webhook_deliveries", sent, "status = 'pending'")
    last, before = [row["id"] for row in fetch_all(LAST_DELIVERIES)]
    refused = {"error": "The receiver answered 503.", "response_status": 503}
    later = {"status": "pending", "attempts": 2, "next_attempt_at": now + 4 * 60_000}
    update("webhook_deliveries", {**refused, **later}, "id = ?", [last])
    update("webhook_deliveries", {**refused, "status": "failed"}, "id = ?", [before])
    off = {"is_active": 0, "disabled_at": now - day, "failing_since": now - 4 * day}
    off["disabled_reason"] = "No answer from hooks.invalid: TimeoutError."
    update("webhooks", off, "name = 'warehouse'")
