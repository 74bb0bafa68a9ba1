"""Encrypted payloads in a file: as they are, or in plain."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from taskmanager.app import close_app, create_app
from tests.conftest import ENGINES, Api, make_key
from tests.transfer.conftest import MakeQueue
from tests.transfer.queues import Queue

KEY, OTHER = Fernet.generate_key().decode(), Fernet.generate_key().decode()
HIDDEN = "xylophone"

Serve = Callable[[Queue, str], Api]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """The API of a queue whose payload keys are these."""
    started = []

    def start(queue: Queue, keys: str) -> Api:
        queue.environment["TASKMANAGER_PAYLOAD_KEY"] = keys
        settings = {"instance_path": queue.folder, "database_url": queue.url}
        app = create_app({**settings, "payload_key": keys})
        started.append(app)
        return Api(app.test_client(), make_key("admin"))

    yield start
    for app in started:
        close_app(app)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "queue.jsonl"


def fill(api: Api) -> None:
    api.register("secret", is_encrypted=True)
    api.create("secret", {"card": HIDDEN}, dedupe="forever", max_attempts=2)
    api.complete(api.claim(), success=False, error=f"no {HIDDEN}")
    api.complete(api.claim(), result=HIDDEN)
    body = {"name": "nightly", "type": "secret", "params": {"card": HIDDEN}, "cron": "0 3 * * *"}
    api.post("/api/schedules", body, 201)


def require_all(api: Api) -> None:
    task = api.get("/api/tasks/1")
    assert (task["params"], task["result"]) == ({"card": HIDDEN}, HIDDEN)
    assert task["attempt_errors"][0]["error_message"] == f"no {HIDDEN}"
    [schedule] = api.get("/api/schedules")["schedules"]
    assert schedule["params"] == {"card": HIDDEN}


@pytest.mark.parametrize("source", ENGINES)
@pytest.mark.parametrize("target", ENGINES)
def test_they_stay_encrypted_and_the_same_key_reads_them(
    make_queue: MakeQueue, serve: Serve, source: str, target: str, file: Path
) -> None:
    old, new = make_queue(source, "old"), make_queue(target, "new")
    fill(serve(old, KEY))
    old.run("export", str(file))
    assert HIDDEN not in file.read_text()
    assert '"payloads":"encrypted"' in file.read_text().partition("\n")[0]
    new.environment["TASKMANAGER_PAYLOAD_KEY"] = f"{OTHER},{KEY}"
    new.run("import", str(file), "--replace-keys")

    api = serve(new, f"{OTHER},{KEY}")
    require_all(api)
    body = {"type": "secret", "params": {"card": HIDDEN}}
    assert api.post("/api/tasks", body)["deduplicated"] is True


def test_what_the_file_has_in_plain_is_encrypted_by_the_import(
    old: Queue, new: Queue, serve: Serve, file: Path
) -> None:
    api = serve(old, KEY)
    fill(api)
    callback = {"type": "secret", "params": {"card": HIDDEN}}
    api.post("/api/batches", {"on_finished": callback}, 201)
    old.run("export", str(file), "--payloads", "plain")
    new.environment["TASKMANAGER_PAYLOAD_KEY"] = OTHER
    done = new.run("import", str(file), "--replace-keys")
    assert "rows that were not encrypted in the file are encrypted now" in done.stderr
    assert HIDDEN not in repr(new.rows())
    require_all(serve(new, OTHER))


@pytest.mark.parametrize("keys", ["", OTHER], ids=["no key", "another key"])
def test_without_their_key_nothing_is_imported(
    old: Queue, new: Queue, serve: Serve, keys: str, file: Path
) -> None:
    fill(serve(old, KEY))
    old.run("export", str(file))
    new.environment["TASKMANAGER_PAYLOAD_KEY"] = keys
    refused = new.run("import", str(file), exit_code=1)
    assert "TASKMANAGER_PAYLOAD_KEY" in refused.stderr
    assert "Nothing was imported" in refused.stderr
    assert new.rows()["tasks"] == []


def test_in_plain_they_are_read_with_any_key(
    old: Queue, new: Queue, serve: Serve, file: Path
) -> None:
    fill(serve(old, KEY))
    old.run("export", str(file), "--payloads", "plain")
    assert file.read_text().count(HIDDEN) >= 4
    assert '"payloads":"plain"' in file.read_text().partition("\n")[0]
    new.environment["TASKMANAGER_PAYLOAD_KEY"] = OTHER
    new.run("import", str(file), "--replace-keys")
    require_all(serve(new, OTHER))


def test_in_plain_they_need_no_key_once_no_type_is_encrypted(
    old: Queue, new: Queue, serve: Serve, file: Path
) -> None:
    api = serve(old, KEY)
    fill(api)
    old.run("export", str(file), "--payloads", "plain")
    new.environment["TASKMANAGER_PAYLOAD_KEY"] = ""
    refused = new.run("import", str(file), exit_code=1).stderr
    assert "'secret' are to be encrypted" in refused
    api.patch("/api/task-types/secret", {"is_encrypted": False})
    old.run("export", str(file), "--payloads", "plain")
    new.run("import", str(file), "--replace-keys")
    require_all(serve(new, ""))
