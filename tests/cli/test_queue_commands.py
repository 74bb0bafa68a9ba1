"""The commands that look at the queue and change it: on the server and elsewhere."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from taskmanager.cli import tasks
from taskmanager.db.statements import update
from tests.conftest import Api, Clock
from tests.support.commands import run_command
from tests.support.server import Server


@pytest.fixture
def run(
    api: Api, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Runs a command on the same queue as `api`."""
    monkeypatch.setenv("TASKMANAGER_INSTANCE_PATH", str(tmp_path / "instance"))
    monkeypatch.setenv("TASKMANAGER_DATABASE_URL", database_url)

    def command(*arguments: str, exit_code: int = 0) -> Result:
        result = run_command(*arguments)
        assert result.exit_code == exit_code, result.output
        assert "Traceback" not in result.output
        return result

    return command


@pytest.fixture
def failures(api: Api, clock: Clock) -> list[str]:
    """Thirty tasks of which ten failed, half of these with a timeout; the first one did. Ids."""
    api.register("fetch", max_attempts=1)
    ids = []
    for n in range(30):
        ids.append(str(api.create("fetch", {"n": n})["id"]))
        task = api.claim("w1")
        if n % 3:
            api.complete(task)
        else:
            code = "timeout" if n % 2 else "gone"
            api.complete(task, success=False, error=f"No answer in {n} s", error_code=code)
    return ids


def rows(result: Result) -> list[list[str]]:
    """The cells of a table without its headings."""
    return [re.split(r" {2,}", line.strip()) for line in result.stdout.splitlines()[1:]]


def test_tasks_are_listed_by_any_filter_of_the_api(
    run: Callable[..., Result], failures: list[str]
) -> None:
    found = rows(run("tasks", "list", "status=failed", "error_code=timeout", "--limit", "3"))
    assert [row[2] for row in found] == ["failed"] * 3
    assert all(row[-1].startswith("timeout: No answer in") for row in found)
    listed = json.loads(run("tasks", "list", "params.n=7", "--json").stdout)
    assert len(listed) == 1
    everything = run("tasks", "list", "--limit", "300")
    assert len(rows(everything)) == 30
    assert "more" not in everything.stderr
    assert "more" in run("tasks", "list", "--limit", "29").stderr


def test_a_mistyped_filter_is_explained(run: Callable[..., Result], api: Api) -> None:
    assert "did you mean 'status'" in run("tasks", "list", "statsu=failed", exit_code=1).stderr
    assert "NAME=VALUE" in run("tasks", "list", "failed", exit_code=2).stderr


def test_a_task_is_shown_with_its_history(run: Callable[..., Result], failures: list[str]) -> None:
    shown = run("tasks", "show", failures[0]).stdout
    for part in ("fetch", "failed", '{"n": 0}', "created", "claimed", "No answer in 0 s"):
        assert part in shown
    as_json = json.loads(run("tasks", "show", failures[0], "--json").stdout)
    assert as_json["logs"][0]["event"] == "created"
    assert "there is no task 999999999" in run("tasks", "show", "999999999", exit_code=1).stderr


def test_a_task_is_created_and_its_id_printed(run: Callable[..., Result], api: Api) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    api.register("job", schema)
    made = run("tasks", "create", "job", '{"n": 1}', "priority=7", "dedupe_key=123x")
    task = api.get(f"/api/tasks/{made.stdout.strip()}")
    assert (task["params"], task["priority"]) == ({"n": 1}, 7)
    again = run("tasks", "create", "job", '{"n": 1}', "dedupe_key=123x")
    assert again.stdout == made.stdout
    assert "exists already" in again.stderr
    assert "params.n" in run("tasks", "create", "job", '{"n": "x"}', exit_code=1).stderr
    assert "no JSON" in run("tasks", "create", "job", "{n: 1}", exit_code=2).stderr


def test_a_task_is_created_that_depends_on_others(run: Callable[..., Result], api: Api) -> None:
    api.register()
    first, second = (str(api.create()["id"]) for _ in range(2))
    named = ("--depends-on", first, "--depends-on", second)
    made = run("tasks", "create", "job", '{"n": {"$result_of": 1}}', *named)
    task = api.get(f"/api/tasks/{made.stdout.strip()}")
    assert task["status"] == "blocked"
    edges = api.get(f"/api/tasks/{task['id']}/graph")["edges"]
    assert [str(edge["depends_on_id"]) for edge in edges] == [first, second]
    wrong = run("tasks", "create", "job", "--depends-on", "4711", exit_code=1)
    assert "There is no task 4711 to depend on." in wrong.stderr
    assert run("tasks", "create", "job", "--depends-on", "x", exit_code=2).stdout == ""


def test_a_task_is_created_with_tags_and_found_by_them(
    run: Callable[..., Result], api: Api
) -> None:
    api.register("job")
    task_id = run("tasks", "create", "job", "--tag", "a b", "--tag", "c").stdout.strip()
    run("tasks", "create", "job", '{"n": 2}')

    [found] = json.loads(run("tasks", "list", "tag=a b", "--json").stdout)

    assert (str(found["id"]), found["tags"]) == (task_id, ["a b", "c"])


def test_errors_are_grouped(run: Callable[..., Result], failures: list[str]) -> None:
    found = rows(run("tasks", "errors"))
    assert sorted((row[0], row[2], row[-1]) for row in found) == [
        ("5", "gone", "No answer in # s"),
        ("5", "timeout", "No answer in # s"),
    ]


def test_tasks_are_changed_by_filter_or_id(
    run: Callable[..., Result], failures: list[str], api: Api
) -> None:
    rehearsed = run("tasks", "retry", "error_code=timeout", "--dry-run").stdout
    assert rehearsed == "5 of 5 tasks would be changed (retry)\n"
    assert api.get("/api/stats")["by_status"]["failed"] == 10
    assert "5 of 5 tasks changed" in run("tasks", "retry", "error_code=timeout").stdout
    assert api.get("/api/stats")["by_status"]["failed"] == 5
    run("tasks", "update", "status=pending", "--priority", "3")
    assert api.claim()["priority"] == 3
    assert "1 skipped: task_finished" in run("tasks", "cancel", failures[0]).stdout
    done = run("tasks", "cancel", "status=pending", "--reason", "enough").stdout
    assert done.startswith("4 of 4")
    assert run("tasks", "release", "worker_id=worker-1").stdout.startswith("1 of 1")
    assert run("tasks", "delete", "type=fetch").stdout.startswith("29 of 29")


def test_a_retry_of_a_task_whose_dependency_has_not_completed_says_which_one_comes_first(
    run: Callable[..., Result], api: Api
) -> None:
    api.register()
    first = str(api.create()["id"])
    second = str(api.create(params={"n": 2}, depends_on=[int(first)])["id"])
    run("tasks", "cancel", first)
    refused = run("tasks", "retry", second, exit_code=1)
    assert refused.stdout == "0 of 1 tasks changed (retry), 1 skipped: dependency_failed\n"
    assert f"Task {first}, which this task depends on, has not completed" in refused.stderr
    rehearsed = run("tasks", "retry", second, "--dry-run").stdout
    assert "1 skipped: dependency_failed" in rehearsed
    assert "2 of 2 tasks changed" in run("tasks", "retry", second, first).stdout


@pytest.mark.parametrize("arguments", [[], ["1.5"]])
def test_which_tasks_are_meant_must_be_said(
    run: Callable[..., Result], api: Api, arguments: list[str]
) -> None:
    refused = run("tasks", "cancel", *arguments, exit_code=2)
    assert re.search("such as (type=job|status=failed)", refused.stderr)


@pytest.mark.parametrize(
    "command", [["retry"], ["cancel"], ["release"], ["delete"], ["update", "--priority", "1"]]
)
def test_ids_together_with_filters_are_refused_as_such(
    run: Callable[..., Result], api: Api, command: list[str]
) -> None:
    refused = run("tasks", *command, "1", "type=job", exit_code=2)
    assert "either by their ids or by filters, not by both" in refused.stderr


def test_what_to_update_must_be_said(run: Callable[..., Result], api: Api) -> None:
    assert "--priority" in run("tasks", "update", "1", exit_code=2).stderr


def test_types_workers_and_schedules_are_listed_and_switched(
    run: Callable[..., Result], api: Api, failures: list[str]
) -> None:
    api.register("other")
    body = {
        "name": "nightly",
        "type": "other",
        "params": {},
        "cron": "0 3 * * *",
        "tags": ["a", "b"],
    }
    schedule = api.post("/api/schedules", body, 201)
    assert run("types", "pause", "other").stdout == "other is paused\n"
    assert [row[2] for row in rows(run("types", "list"))] == ["active", "paused"]
    assert run("types", "resume", "other").stdout == "other is active\n"
    shown = json.loads(run("types", "show", "other").stdout)
    assert shown["param_schema"] == {"type": "object"}
    assert (shown["retention_days"], shown["is_encrypted"]) == (None, False)
    api.patch("/api/task-types/other", {"retention_days": 7})
    assert [row[-2:] for row in rows(run("types", "list"))] == [["-", "no"], ["7", "no"]]
    assert rows(run("workers", "list"))[0][:5] == ["w1", "active", "0", "20", "10"]
    [listed] = rows(run("schedules", "list"))
    assert listed[1:4] == ["nightly", "other", "0 3 * * *"]
    assert listed[-1] == "a, b"
    created = run("schedules", "run", str(schedule["id"])).stdout.strip()
    assert api.get(f"/api/tasks/{created}")["type"] == "other"
    for name in ("types", "workers", "schedules"):
        assert len(json.loads(run(name, "list", "--json").stdout)) >= 1


def test_batches_are_listed_closed_cancelled_and_retried(
    run: Callable[..., Result], api: Api
) -> None:
    api.register()
    tasks = [{"type": "job", "params": {"n": n}} for n in range(3)]
    then = {"type": "job", "params": {"of": {"$batch": "id"}}}
    body = {"name": "May", "tasks": tasks, "metadata": {"for": "Käthe"}, "on_finished": then}
    may = str(api.post("/api/batches", {**body, "is_open": True}, 201)["id"])
    api.post("/api/batches", {}, 201)
    api.complete(api.claim("w1"))
    newest, oldest = rows(run("batches", "list"))
    assert newest[1:5] == ["-", "open", "0", "0"]
    assert oldest[:8] == [may, "May", "open", "33", "3", "1", "0", "0"]
    assert run("batches", "close", may).stdout == (
        f"batch {may} is running: 1 completed, 0 failed, 0 cancelled, 2 unfinished\n"
    )
    assert run("batches", "cancel", may, "--reason", "too late").stdout == (
        "2 tasks changed (cancel)\n"
        f"batch {may} is finished: 1 completed, 0 failed, 2 cancelled, 0 unfinished\n"
    )
    shown = run("batches", "show", may).stdout
    assert re.search(r"^on_finished_task_id: +\d+$", shown, re.MULTILINE)
    assert '{"for": "Käthe"}' in shown
    assert run("batches", "retry", may).stdout.splitlines()[-1] == (
        f"batch {may} is running: 1 completed, 0 failed, 0 cancelled, 2 unfinished"
    )
    assert json.loads(run("batches", "show", may, "--json").stdout)["name"] == "May"
    assert len(json.loads(run("batches", "list", "--json").stdout)) == 2
    assert "no batch 999" in run("batches", "show", "999", exit_code=1).stderr


def test_webhooks_and_their_deliveries_are_listed_and_sent_again(
    run: Callable[..., Result], api: Api, clock: Clock
) -> None:
    url = "https://nowhere.invalid/"
    hook = str(api.post("/api/webhooks", {"name": "billing", "url": url}, 201)["id"])
    for name in ("off", "failing", "disabled"):
        api.post("/api/webhooks", {"name": name, "url": url, "is_active": name != "off"}, 201)
    now = {"failing_since": clock.now}
    update("webhooks", now, "name IN ('failing', 'disabled')")
    update("webhooks", {"disabled_at": clock.now}, "name = 'disabled'")
    states = {row[1]: row[2] for row in rows(run("webhooks", "list"))}
    assert states == {
        "billing": "active",
        "off": "inactive",
        "failing": "failing",
        "disabled": "disabled",
    }
    assert len(json.loads(run("webhooks", "list", "--json").stdout)) == 4
    api.register()
    for _ in range(2):
        api.post(f"/api/tasks/{api.create(notify='billing')['id']}/cancel", {})
    update("webhook_deliveries", {"status": "failed", "error": "No answer."}, "1 = 1")
    newest, oldest = rows(run("webhooks", "deliveries", hook))
    assert newest[1:3] == ["failed", "task.cancelled"]
    assert newest[-1] == "No answer."
    assert len(rows(run("webhooks", "deliveries", hook, "--limit", "1"))) == 1
    assert (
        run("webhooks", "resend", hook, oldest[0]).stdout == f"delivery {oldest[0]} is due again\n"
    )
    listed = json.loads(run("webhooks", "deliveries", hook, "--json").stdout)
    assert [one["status"] for one in listed] == ["failed", "pending"]
    assert "no delivery 999" in run("webhooks", "resend", hook, "999", exit_code=1).stderr


@pytest.fixture
def measured(api: Api, clock: Clock) -> None:
    """Of three tasks that waited a minute one ended after ten seconds, and one failed."""
    clock.now += 60_000 - clock.now % 60_000
    api.register("video", max_attempts=1)
    for _ in range(3):
        api.create("video")
    clock.advance(600)
    for report in ({}, {"success": False, "error": "no", "error_code": "timeout"}):
        task = api.claim("w1")
        clock.advance(10)
        api.complete(task, **report)
    clock.advance(60)
    api.post("/api/maintenance/run")


def test_lists_show_how_long_tasks_wait_and_run_and_when_they_are_done(
    run: Callable[..., Result], measured: None, api: Api
) -> None:
    [cells] = rows(run("types", "list"))
    shown = dict(zip(("wait", "wait95", "run", "run95", "drained"), cells[4:9], strict=True))
    assert float(shown["wait"]) == pytest.approx(600, rel=0.125)
    assert float(shown["run"]) == pytest.approx(10, rel=0.125)
    assert shown["drained"] == api.get("/api/stats")["drains_at"]["video"][:19]
    [as_json] = json.loads(run("types", "list", "--json").stdout)
    assert as_json["run_seconds"]["count"] == 2
    assert rows(run("workers", "list"))[0][5:7] == ["0.2", "0.03"]


def test_watch_shows_rates_and_what_fails(
    run: Callable[..., Result], measured: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tasks.time, "sleep", leave)
    shown = run("tasks", "watch", exit_code=1).stdout
    assert "failed attempts, last hour: 1 video timeout" in shown
    [heading] = [line for line in shown.splitlines() if line.startswith("type ")]
    assert heading.split("  ")[-1] == "drained at"


def test_the_same_commands_work_from_anywhere(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server()
    there = ["--url", server.url, "--key", server.key]

    def run(*arguments: str, exit_code: int = 0) -> Result:
        result = run_command(*arguments)
        assert result.exit_code == exit_code, result.output
        return result

    server.call(
        "POST",
        "/api/task-types/register",
        {"name": "job", "version": "1", "param_schema": {"type": "object"}},
    )
    made = run("tasks", "create", "job", '{"n": 1}', *there).stdout.strip()
    assert rows(run("tasks", "list", "params.n=1", *there))[0][0] == made
    assert "1 of 1" in run("tasks", "cancel", made, *there).stdout
    assert "status: " in run("tasks", "show", made, *there).stdout
    wrong = run("tasks", "list", "--url", server.url, "--key", "tm_wrong", exit_code=1)
    assert "key" in wrong.stderr
    assert "--key" in run("tasks", "list", "--url", server.url, exit_code=2).stderr
    refused = run("tasks", "list", "--url", "http://127.0.0.1:9", "--key", "x", exit_code=1)
    assert "No answer from http://127.0.0.1:9" in refused.stderr
    assert "http://" in run("tasks", "list", "--url", "ftp://x", "--key", "x", exit_code=2).stderr


def test_names_of_strangers_cannot_falsify_a_table(run: Callable[..., Result], api: Api) -> None:
    api.register("job", max_attempts=1)
    api.create()
    api.complete(api.claim(), success=False, error="red \x1b[31m\nnew line")
    shown = run("tasks", "list").stdout
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 2
