"""A queue of the PHP TaskManager, with its tables and habits on a real server, becomes ours."""

import json
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest

from taskmanager.app import close_app, create_app
from taskmanager.db.statements import fetch_all
from tests.conftest import Api, make_key
from tests.support.mariadb import MariaDB
from tests.transfer.conftest import MakeQueue
from tests.transfer.queues import Queue

TABLES = """
CREATE TABLE task_types (
    id INT AUTO_INCREMENT PRIMARY KEY,
    name VARCHAR(255) NOT NULL UNIQUE,
    version VARCHAR(50) NOT NULL,
    param_schema_json TEXT NOT NULL,
    is_active BOOLEAN DEFAULT TRUE,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP
);
CREATE TABLE tasks (
    id INT AUTO_INCREMENT PRIMARY KEY,
    type_id INT NOT NULL,
    status ENUM('pending', 'claimed', 'completed', 'failed') DEFAULT 'pending',
    params_json TEXT NOT NULL,
    dedupe_key VARCHAR(64) NOT NULL UNIQUE,
    result_json TEXT NULL,
    error_message TEXT NULL,
    priority INT DEFAULT 0,
    progress INT DEFAULT 0,
    attempts INT DEFAULT 0,
    claimed_by VARCHAR(255) NULL,
    claimed_at TIMESTAMP NULL,
    completed_at TIMESTAMP NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    FOREIGN KEY (type_id) REFERENCES task_types (id)
);
CREATE TABLE task_history (
    id INT AUTO_INCREMENT PRIMARY KEY,
    task_id INT NOT NULL,
    status_change VARCHAR(50) NOT NULL,
    worker_id VARCHAR(255) NULL,
    message TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    FOREIGN KEY (task_id) REFERENCES tasks (id)
)
"""
LONG = "😀 a stack trace\n" * 800  # 13,600 characters
CREATED, DONE = "2026-03-01 12:00:00", "2026-03-01 12:30:00"  # in the time zone of its session
ENGINES = ("sqlite", "mariadb")


class PhpQueue:
    """The database of a PHP TaskManager, in which its session has the time zone +02:00."""

    def __init__(self, server: MariaDB) -> None:
        self.url = server.create_database("php")
        self._connection = pymysql.connect(
            host="127.0.0.1", port=server.port, user="root", database="php", autocommit=True
        )
        self.run("SET time_zone = '+02:00'")
        for statement in TABLES.split(";\n"):
            self.run(statement)

    def run(self, statement: str, *values: Any) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values or None)

    def insert(self, table: str, **row: Any) -> None:
        times = ("created_at",) if table == "task_history" else ("created_at", "updated_at")
        row = {**dict.fromkeys(times, CREATED), **row}
        places = ", ".join(["%s"] * len(row))
        self.run(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", *row.values())

    def type(self, number: int, name: str, schema: Any, **more: Any) -> None:
        text = schema if isinstance(schema, str) else json.dumps(schema)
        self.insert("task_types", id=number, name=name, version="1.0.0", param_schema_json=text)
        for column, value in more.items():
            self.run(f"UPDATE task_types SET {column} = %s WHERE id = {number}", value)

    def task(self, number: int, params: str, type_id: int = 1, **more: Any) -> None:
        row = {"type_id": type_id, "params_json": params, "dedupe_key": f"{number:064d}", **more}
        self.insert("tasks", id=number, **row)

    def event(self, task_id: int, change: str, **more: Any) -> None:
        self.insert("task_history", task_id=task_id, status_change=change, **more)

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def php(mariadb_server: MariaDB) -> Iterator[PhpQueue]:
    mariadb_server.run("SET GLOBAL time_zone = '-05:00'")  # of the sessions that read it
    queue = PhpQueue(mariadb_server)
    yield queue
    queue.close()
    mariadb_server.run("SET GLOBAL time_zone = 'SYSTEM'")


@pytest.fixture(params=ENGINES)
def new(make_queue: MakeQueue, request: pytest.FixtureRequest) -> Queue:
    return make_queue(request.param, "new")


@pytest.fixture
def small(make_queue: MakeQueue) -> Queue:
    return make_queue("sqlite", "new")


def imported(queue: Queue, php: PhpQueue) -> dict[str, Any]:
    """The answer to `import-php --json`; the notes by their codes."""
    answer: dict[str, Any] = json.loads(queue.run("import-php", php.url, "--json").stdout)
    answer["notes"] = {note["code"]: note for note in answer["notes"]}
    return answer


def by_id(queue: Queue, table: str) -> dict[int, dict[str, Any]]:
    queue.open()
    return {row["id"]: row for row in fetch_all(f"SELECT * FROM {table} ORDER BY id")}


def test_types_tasks_and_history_keep_their_ids_and_times(new: Queue, php: PhpQueue) -> None:
    php.type(3, "video.scrape", {"type": "object", "properties": [], "required": []})
    php.task(
        7,
        '{"b": "ä😀\\u0000", "a": 1.50}',
        type_id=3,
        status="completed",
        result_json="[]",
        priority=0,
        progress=80,
        attempts=2,
        claimed_by="php-worker",
        claimed_at=CREATED,
        completed_at=DONE,
        updated_at=DONE,
    )
    php.task(9, "[]", type_id=3)
    php.event(7, "created", message="Task created")
    php.event(7, "claimed", worker_id="php-worker")
    php.event(7, "pending (retry)", worker_id="php-worker", message="Task failed: busy")
    php.event(7, "progress_update", worker_id="php-worker", message="80%")
    php.event(7, "completed", worker_id="php-worker", created_at=DONE)
    answer = imported(new, php)

    assert answer["rows"] == {
        "task_types": 1,
        "task_type_versions": 1,
        "tasks": 2,
        "task_logs": 5,
    }
    assert set(answer["notes"]) == {"pruned_soon"}
    created = 1_772_359_200_000  # 10:00 UTC
    [type_row] = by_id(new, "task_types").values()
    assert (type_row["id"], type_row["name"], type_row["is_active"]) == (3, "video.scrape", 1)
    [version] = by_id(new, "task_type_versions").values()
    assert json.loads(version["param_schema"])["properties"] == {}
    tasks = by_id(new, "tasks")
    done, waiting = tasks[7], tasks[9]
    assert (done["status"], done["params"]) == ("completed", '{"b":"ä😀\\u0000","a":1.5}')
    assert (done["result"], done["progress"], done["worker_id"]) == ("[]", 100, "php-worker")
    assert (done["created_at"], done["completed_at"]) == (created, created + 1_800_000)
    assert (waiting["status"], waiting["params"], waiting["attempts"]) == ("pending", "{}", 0)
    events = list(by_id(new, "task_logs").values())
    assert [(row["event"], row["status"], row["attempt"]) for row in events] == [
        ("created", "pending", None),
        ("claimed", "claimed", 1),
        ("retry_scheduled", "pending", 1),
        ("progress", None, 1),
        ("completed", "completed", 1),
    ]
    assert events[4]["created_at"] == created + 1_800_000


def test_the_service_goes_on_with_what_was_imported(new: Queue, php: PhpQueue) -> None:
    php.type(1, "job", {"type": "object"})
    php.task(1, '{"n": 1}', status="claimed", claimed_by="gone", attempts=5, claimed_at=CREATED)
    php.task(2, '{"n": 2}', status="failed", error_message="old", claimed_by="php", attempts=1)
    php.event(2, "failed", worker_id="php", message="old")
    php.run("ALTER TABLE tasks AUTO_INCREMENT = 50")  # the last ones were deleted
    imported(new, php)
    app = create_app({"instance_path": new.folder, "database_url": new.url})
    try:
        api = Api(app.test_client(), make_key("admin"))
        assert api.create(params={"n": 3})["id"] == 50
        again = api.post("/api/tasks", {"type": "job", "params": {"n": 2}})
        assert (again["id"], again["deduplicated"]) == (2, True)
        task = api.claim()
        assert (task["id"], task["attempts"]) == (1, task["max_attempts"])
        assert api.complete(task, result={"ok": True})["status"] == "completed"
        assert api.events(1) == ["released", "claimed", "completed"]
        # A PHP worker that reports its failure once more gets the answer of the first report.
        report = {"worker_id": "php", "success": False, "error_message": "old"}
        assert api.post("/api/tasks/2/complete", report)["status"] == "failed"
        assert api.get("/api/tasks/2")["error_message"] == "old"
    finally:
        close_app(app)


def test_what_does_not_fit_is_imported_as_well_as_can_be_and_noted(
    new: Queue, php: PhpQueue
) -> None:
    php.type(1, "job", {"type": "object", "properties": {"n": {"type": "integer"}}})
    php.type(2, "Old:type/with space", {"type": "object", "properties": {"n": {"required": True}}})
    php.type(3, "broken", '{"type": "object"')
    php.task(1, '{"a": 1, "b": 2.0}', status="completed", completed_at=DONE)
    php.task(2, '{"b": 2, "a": 1}')
    php.task(3, '{"a": 1, "b": 2}', status="claimed", claimed_by="w", attempts=1)
    php.task(4, '{"a": ', status="pending")
    php.task(5, "[1]", status="completed", result_json="{'a': 1}")
    php.task(6, '{"n": "\\ud800"}', type_id=2)
    php.task(7, '{"n": 1}', type_id=2, status="failed", error_message=f"\0{LONG}")
    php.event(7, "failed", message=LONG, worker_id="w")
    php.event(7, "something_of_a_later_version_with_a_long_name")
    notes = imported(new, php)["notes"]

    assert {code: note["count"] for code, note in notes.items()} == {
        "type_renamed": 1,
        "type_inactive": 2,
        "claimed": 1,
        "duplicate": 2,
        "params": 3,
        "result": 1,
        "shortened": 2,
        "pruned_soon": 3,
    }
    assert notes["type_renamed"]["first"] == ["Old:type/with space is now Old_type_with_space"]
    assert notes["duplicate"]["first"] == ["2 like 1", "3 like 1"]
    assert "properties.n.required must be of type array" in notes["type_inactive"]["first"][0]
    assert notes["type_inactive"]["first"][1] == "broken: it is not JSON"
    types = by_id(new, "task_types")
    assert [types[number]["is_active"] for number in (1, 2, 3)] == [1, 0, 0]
    tasks = by_id(new, "tasks")
    statuses = " ".join(tasks[number]["status"] for number in range(1, 8))
    assert statuses == "completed pending pending failed completed failed failed"
    assert [tasks[number]["dedupe"] for number in (1, 2, 3)] == ["forever", "none", "none"]
    assert (tasks[3]["attempts"], tasks[3]["worker_id"]) == (0, None)
    assert json.loads(tasks[4]["params"]) == {"params_json": '{"a": '}
    assert (tasks[4]["error_code"], tasks[5]["error_code"]) == ("invalid_params", None)
    assert tasks[4]["error_message"] == "The params are not a JSON object."
    assert json.loads(tasks[5]["result"]) == "{'a': 1}"
    assert tasks[7]["error_message"] == ("\ufffd" + LONG)[:10_000]
    events = [row["event"] for row in by_id(new, "task_logs").values() if row["task_id"] == 7]
    assert events == ["failed", "something_of_a_later_version_wit"]
    app = create_app({"instance_path": new.folder, "database_url": new.url})
    try:
        api = Api(app.test_client(), make_key("admin"))
        for number in range(1, 8):
            errors = api.get(f"/api/tasks/{number}")["attempt_errors"]
            assert [error["attempt"] for error in errors] == [1] * len(errors)
            api.get(f"/api/tasks/{number}/logs")
        assert len(api.get("/api/task-types")["task_types"]) == 3
        refused = api.post("/api/tasks", {"type": "broken", "params": {}}, 400)
        assert refused["code"] == "task_type_inactive"
        api.patch("/api/task-types/broken", {"is_active": True})
        api.post("/api/tasks", {"type": "broken", "params": {}}, 201)
    finally:
        close_app(app)


def test_tables_of_another_version_may_lack_priority_and_progress_or_have_fractions_of_seconds(
    small: Queue, php: PhpQueue
) -> None:
    php.run("ALTER TABLE tasks MODIFY created_at TIMESTAMP(3) NULL")
    php.run("ALTER TABLE tasks DROP COLUMN priority, DROP COLUMN progress")
    php.type(1, "job", {"type": "object"})
    started = "2026-03-01 12:00:00.250"
    php.task(1, "{}", status="failed", created_at=started, completed_at=DONE)
    imported(small, php)
    [task] = by_id(small, "tasks").values()
    assert task["created_at"] == 1_772_359_200_250
    assert (task["priority"], task["progress"], task["status"]) == (0, 0, "failed")


def test_a_person_reads_what_was_done_in_plain_words(small: Queue, php: PhpQueue) -> None:
    php.type(1, "job", {"type": "object"})
    php.task(1, "{}")
    for number in range(2, 32):
        php.task(number, "{}")
    said = small.run("import-php", php.url).stderr
    first, *notes = said.splitlines()
    address = php.url.rpartition("@")[2]
    assert first.startswith("Imported 33 rows, 31 of them tasks, from the PHP TaskManager in ")
    assert address in first
    assert "root" not in said
    [note] = notes
    assert note.startswith("- Tasks have the same type and params as an earlier one. ")
    assert note.endswith("(30): " + ", ".join(f"{n} like 1" for n in range(2, 22)) + " and 10 more")


def test_keys_stay_and_a_queue_in_use_is_left_alone(small: Queue, php: PhpQueue) -> None:
    php.type(1, "job", {"type": "object"})
    small.run("keys", "create", "--name", "me", "--role", "admin")
    imported(small, php)
    assert [row["name"] for row in by_id(small, "api_keys").values()] == ["me"]
    [event] = [r for r in by_id(small, "audit_events").values() if r["event"] == "queue_imported"]
    assert event["message"].startswith("2 rows, exported by PHP TaskManager at 20")
    again = small.run("import-php", php.url, exit_code=1)
    assert "This queue is in use: it has task types" in again.stderr


def test_a_database_that_is_none_of_the_php_taskmanager_is_refused(
    small: Queue, php: PhpQueue
) -> None:
    def refused(url: str) -> str:
        failed = small.run("import-php", url, exit_code=1)
        assert failed.stderr.count("\n") == 1
        assert failed.stderr.endswith("Nothing was imported.\n")
        assert "TASKMANAGER_" not in failed.stderr
        assert not any(small.rows()["task_types"])
        return failed.stderr

    php.run("DROP TABLE task_history")
    assert "lacks the table task_history" in refused(php.url)
    php.run("DROP TABLE tasks")
    php.run("CREATE TABLE tasks (id INT, params TEXT)")
    assert "lacks in tasks the columns attempts, claimed_at, claimed_by" in refused(php.url)
    assert "There is no database with this name" in refused(php.url + "_of_no_one")
    for wrong in ("sqlite:///queue.db", "mysqli://me:secret@localhost/php", "mysql://localhost"):
        assert "The address must look like mysql://" in refused(wrong)
    closed = php.url.replace(php.url.rpartition(":")[2].partition("/")[0], "1")
    assert "Nothing answers at the address" in refused(closed)


def test_an_import_that_fails_half_way_leaves_the_queue_empty(
    small: Queue, php: PhpQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    php.type(1, "job", {"type": "object"})
    php.task(1, "{}")
    php.run("SET SESSION sql_mode = ''")
    php.run("SET SESSION foreign_key_checks = 0")
    php.task(2, "{}", type_id=99)
    php.event(98, "created")
    monkeypatch.setattr("taskmanager.transfer.importing.audit.record", lambda **_: 1 / 0)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        small.run("import-php", php.url)
    assert not any(small.rows()[table] for table in ("task_types", "tasks", "task_logs"))
    monkeypatch.undo()
    notes = imported(small, php)["notes"]
    assert {code: note["first"] for code, note in notes.items()} == {
        "without_type": ["2"],
        "without_task": ["1"],
    }
    assert not [file for file in small.folder.iterdir() if file.stat().st_size > 10**6]
