"""What is larger than the max_allowed_packet of the server: refused for good, or split."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from taskmanager.app import close_app, create_app
from taskmanager.db.connection import database
from taskmanager.db.statements import fetch_value
from taskmanager.errors import TooLarge
from tests.conftest import Api, make_key, require
from tests.support.commands import run_command
from tests.support.mariadb import MariaDB, is_installed

pytestmark = pytest.mark.slow
MEGABYTE = 1_048_576


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDB]:
    """A server that takes a megabyte at once."""
    require("MariaDB (mariadbd)", is_installed())
    server = MariaDB(tmp_path_factory.mktemp("small"), options=["--max-allowed-packet=1M"])
    server.start()
    yield server
    server.stop()


@pytest.fixture
def api(small: MariaDB, tmp_path: Path) -> Iterator[Api]:
    url = small.create_database("queue")
    settings = {"database_url": url, "max_body_bytes": 8 * MEGABYTE}
    app = create_app({"instance_path": tmp_path / "instance", **settings})
    api = Api(app.test_client(), make_key("admin"))
    api.register()
    yield api
    close_app(app)


# Each is larger as a part of a statement than as JSON.
LARGE = {"quotes": '"' * 350_000, "backslashes": "\\" * 520_000, "plain": "x" * MEGABYTE}


def refused(response: Any, code: str = "too_large_for_database") -> str:
    body = response.get_json()
    assert (response.status_code, body["code"]) == (413, code), body
    assert "Retry-After" not in response.headers
    assert "max_allowed_packet" in body["message"]
    return str(body["message"])


@pytest.mark.parametrize("text", LARGE.values(), ids=LARGE.keys())
def test_params_that_the_server_cannot_take_are_refused_for_good(api: Api, text: str) -> None:
    body = {"type": "job", "params": {"text": text}}
    assert "Send less" in refused(api.call("POST", "/api/tasks", body))
    assert api.get("/api/tasks")["count"] == 0


def test_one_too_large_task_of_a_batch_does_not_keep_the_others_out(api: Api) -> None:
    bodies = [{"type": "job", "params": {"text": text}} for text in ("a", LARGE["quotes"], "b")]
    results = api.post("/api/tasks/batch", {"tasks": bodies}, 201)["results"]
    assert [one["outcome"] for one in results] == ["created", "error", "created"]
    error = results[1]["error"]
    assert (error["status"], error["code"]) == (413, "too_large_for_database")


@pytest.mark.parametrize("step", [1, 3])
def test_a_batch_that_is_too_large_for_one_statement_is_stored_by_several(
    api: Api, small: MariaDB, step: int
) -> None:
    small.run(f"SET GLOBAL auto_increment_increment = {step}")
    database.close_quietly()
    try:
        bodies = [{"type": "job", "params": {"n": n, "text": '"' * 10_000}} for n in range(120)]
        results = api.post("/api/tasks/batch", {"tasks": bodies}, 201)["results"]
    finally:
        small.run("SET GLOBAL auto_increment_increment = 1")
        database.close_quietly()
    for n, result in enumerate(results):
        task_id = result["task"]["id"]
        assert fetch_value("SELECT params FROM tasks WHERE id = ?", (task_id,)).startswith(
            f'{{"n":{n},'
        )


@pytest.mark.parametrize("text", LARGE.values(), ids=LARGE.keys())
def test_a_result_that_cannot_be_stored_ends_the_task(api: Api, text: str) -> None:
    api.create()
    task = api.claim()
    report = {"worker_id": "worker-1", "claim_token": task["claim_token"], "success": True}
    path = f"/api/tasks/{task['id']}/complete"
    for _ in range(2):  # as after an answer that was lost
        response = api.call("POST", path, {**report, "result": text})
        assert "has failed and is not tried again" in refused(response, "result_too_large")
        assert response.get_json()["details"] == {"status": "failed"}
    failed = api.get(f"/api/tasks/{task['id']}")
    assert (failed["status"], failed["error_code"]) == ("failed", "result_too_large")
    assert "max_allowed_packet" in failed["error_message"]
    assert api.events(task["id"]) == ["created", "claimed", "failed"]
    assert api.claim(status=404)["code"] == "no_task_available"
    other = api.call("POST", path, {**report, "success": False, "error": "other"})
    assert other.get_json()["code"] == "task_finished"


def test_reports_are_judged_one_by_one(api: Api) -> None:
    for _ in range(60):
        api.create()
    held = api.claim(limit=100)["tasks"]
    named = [{"id": one["id"], "claim_token": one["claim_token"]} for one in held]
    completions = [{**one, "success": True, "result": '"' * 40_000} for one in named]
    completions[7]["result"] = LARGE["quotes"]
    done = api.post("/api/tasks/complete", {"worker_id": "worker-1", "completions": completions})
    errors = {n: one["error"]["code"] for n, one in enumerate(done["results"]) if "error" in one}
    assert errors == {7: "result_too_large"}
    assert api.get("/api/stats")["by_status"]["completed"] == 59


def test_long_errors_of_many_reports_are_stored(api: Api) -> None:
    api.post(
        "/api/tasks/batch",
        {"tasks": [{"type": "job", "params": {"n": n}} for n in range(200)]},
        201,
    )
    held = [task for _ in range(2) for task in api.claim(limit=100)["tasks"]]
    completions = [
        {"id": one["id"], "claim_token": one["claim_token"], "success": False, "error": '"' * 9_000}
        for one in held
    ]
    done = api.post("/api/tasks/complete", {"worker_id": "worker-1", "completions": completions})
    assert done["failed"] == 0
    assert api.events(held[-1]["id"]) == ["created", "claimed", "retry_scheduled"]


def test_the_doctor_compares_the_server_with_the_settings(api: Api) -> None:
    findings = {one["code"]: one for one in api.get("/api/admin/doctor")["findings"]}
    assert findings["packet_size"]["level"] == "warning"
    assert "1,048,576" in findings["packet_size"]["found"]


def test_nothing_else_that_is_large_is_an_outage(api: Api) -> None:
    large = LARGE["quotes"]
    schema = {"type": "object", "description": large * 2}
    types = {"name": "large", "version": "1", "param_schema": schema}
    schedule = {"name": "s", "type": "job", "params": {"text": large}, "interval_seconds": 60}
    beat = {"worker_id": "worker-1", "metadata": {"text": large}}
    for path, body in (
        ("/api/task-types/register", types),
        ("/api/schedules", schedule),
        ("/api/workers/heartbeat", beat),
        ("/api/admin/keys", {"name": "k", "role": "worker", "task_types": ["a" * 200] * 6_000}),
    ):
        response = api.call("POST", path, body)
        assert response.status_code in (400, 413), (path, response.get_json())


def test_a_statement_is_sent_up_to_the_largest_that_the_server_takes(api: Api) -> None:
    statement = "SELECT LENGTH('')"
    room = MEGABYTE - len(statement) - 2  # the byte before it counts, and less than the limit
    assert fetch_value("SELECT LENGTH(?)", ("x" * room,)) == room
    with pytest.raises(TooLarge):
        fetch_value("SELECT LENGTH(?)", ("x" * (room + 1),))
    with database.connection().cursor() as cursor:  # the server agrees
        database.connection().max_packet = 2 * MEGABYTE
        with pytest.raises(pymysql.err.OperationalError) as refused:
            cursor.execute("SELECT LENGTH(%s)", ("x" * (room + 1),))
        assert refused.value.args[0] in (1153, 2006, 2013)
    database.close_quietly()


def test_an_import_names_the_row_that_the_server_cannot_take(
    api: Api, small: MariaDB, tmp_path: Path
) -> None:
    source = f"sqlite:///{tmp_path / 'queue.db'}"
    app = create_app({"instance_path": tmp_path / "instance", "database_url": source})
    other = Api(app.test_client(), make_key("admin"))
    other.register()
    for text in ("small", LARGE["quotes"]):
        other.create(params={"text": text})
    close_app(app)
    file = str(tmp_path / "queue.jsonl")
    assert command(tmp_path, source, "export", file) == (0, "")
    target = small.create_database("moved")
    status, said = command(tmp_path, target, "import", file)
    assert status == 1
    assert "max_allowed_packet" in said
    assert "Line 9 is not taken by the database" in said
    assert "Traceback" not in said
    assert small.rows("SELECT COUNT(*) FROM moved.tasks") == [(0,)]


def command(folder: Path, url: str, *arguments: str) -> tuple[int, str]:
    """The exit status of a command, and what it says if it fails."""
    environment = {
        "TASKMANAGER_DATABASE_URL": url,
        "TASKMANAGER_INSTANCE_PATH": str(folder / "commands"),
    }
    done = run_command(*arguments, environment=environment)
    return done.exit_code, done.output if done.exit_code else ""
