"""docs/operating.md: its commands, in its order, on the queue that it describes."""

import json
import re
import shlex
from pathlib import Path

import pytest

from taskmanager.db.statements import fetch_value, insert_many
from tests.conftest import Api, Clock
from tests.support.commands import run_command
from tests.support.releases.current import ROOT

PAGE = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
STEPS = re.findall(r"```sh\n(.+?)\n```\n\n```text\n(.*?)```", PAGE, re.DOTALL)
TASKS, PENDING, REPORTS = 50_000, 2_000, 500
REASONS = (
    ("timeout", "No answer within {n} s"),
    ("not_found", "https://example.com/{n} is gone"),
    (None, "KeyError: 'url' in row {n}"),
)
PER_REASON = 100


def fill(types: dict[str, int], now: int) -> None:
    """300 failed tasks, three of them with a tag, among 50,000; some tasks are still pending."""

    def row(n: int) -> dict[str, object]:
        failed, pending = n < PER_REASON * len(REASONS), n >= TASKS - PENDING
        code, message = REASONS[n % len(REASONS)] if failed else (None, None)
        return {
            "id": n + 1,
            "task_type_id": types["report" if n >= TASKS - REPORTS else "fetch"],
            "type_version": "1",
            "status": "failed" if failed else "pending" if pending else "completed",
            "params": "{}",
            "error_code": code,
            "error_message": message and message.format(n=n),
            "priority": 0,
            "claim_rank": 0,
            "attempts": 0 if pending else 3 if failed else 1,
            "max_attempts": 3,
            "worker_id": None if pending else "worker-1",
            "dedupe": "none",
            "dedupe_key": f"{n:064x}",
            "tags": json.dumps(["customer-7"]) if n < 3 else None,
            "available_at": now,
            "completed_at": None if pending else now,
            "created_at": now,
            "updated_at": now,
        }

    for start in range(0, TASKS, 10_000):
        insert_many("tasks", [row(n) for n in range(start, start + 10_000)])
    insert_many("task_tags", [{"tag": "customer-7", "task_id": n + 1} for n in range(3)])


def let_workers_work(api: Api, clock: Clock) -> None:
    """Ten minutes in which one worker does ten times as much as the other; then maintenance."""
    for _ in range(10):
        clock.advance(60)
        for worker_id, count in (("worker-1", 10), ("worker-2", 1)):
            for task in api.claim(worker_id, type="fetch", limit=count)["tasks"]:
                clock.advance(2)
                api.complete(task)
    clock.advance(60)
    api.post("/api/maintenance/run", {})


def comparable(text: str) -> list[str]:
    """The lines without times and without the width of columns."""
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+", "TIME", text)
    return [" ".join(line.split()) for line in text.splitlines()]


@pytest.mark.slow
def test_each_command_prints_what_the_page_shows(
    api: Api, clock: Clock, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.now -= clock.now % 60_000  # rates are counted by the minute
    types = {name: api.register(name)["id"] for name in ("fetch", "report")}
    for worker_id in ("worker-1", "worker-2"):
        api.post("/api/workers/heartbeat", {"worker_id": worker_id})
    fill(types, clock.now)
    let_workers_work(api, clock)
    monkeypatch.setenv("TASKMANAGER_INSTANCE_PATH", str(tmp_path / "instance"))
    monkeypatch.setenv("TASKMANAGER_DATABASE_URL", database_url)

    printed = {}
    for command, _ in STEPS:
        program, *arguments = shlex.split(command)
        result = run_command(*arguments, program=program)
        assert result.exit_code == 0, result.output
        printed[command] = comparable(result.stdout)

    assert printed == {command: comparable(shown) for command, shown in STEPS}
    counts = [
        fetch_value("SELECT COUNT(*) AS counted FROM {tasks} WHERE status = ?", (status,))
        for status in ("failed", "pending", "cancelled")
    ]
    assert counts == [200, PENDING - REPORTS - 110 + PER_REASON, REPORTS]


def test_every_command_of_the_page_is_run() -> None:
    assert len(STEPS) == PAGE.count("```sh") == PAGE.count("\ntaskmanager ")
