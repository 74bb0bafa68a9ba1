"""Which keys a start needs, and what happens without them."""

from typing import Any

import pytest

from taskmanager.db.statements import fetch_all
from taskmanager.errors import ConfigurationError
from tests.conftest import Api
from tests.payloads.conftest import HIDDEN, KEY, NEW_KEY


def create(queue: Api, **fields: Any) -> Any:
    return queue.create("secret", {"card": HIDDEN}, **fields)


def key_ids() -> list[str]:
    return [row["id"] for row in fetch_all("SELECT id FROM {payload_keys} ORDER BY created_at")]


def test_a_start_with_another_key_is_refused_and_says_which_is_missing(
    queue: Api, restart: Any
) -> None:
    create(queue)
    [key_id] = key_ids()
    with pytest.raises(ConfigurationError, match=f"with the key {key_id}, which TASK"):
        restart(NEW_KEY)
    with pytest.raises(ConfigurationError, match=f"key {key_id}"):
        restart()


def test_a_start_without_any_key_is_refused_where_a_type_is_encrypted(
    queue: Api, restart: Any
) -> None:
    with pytest.raises(ConfigurationError, match="'secret' are to be encrypted"):
        restart()
    queue.patch("/api/task-types/secret", {"is_encrypted": False})
    restart().get("/api/tasks")


def test_the_first_key_encrypts_and_the_others_decrypt(queue: Api, restart: Any) -> None:
    old = create(queue)
    both = restart(NEW_KEY, KEY)
    assert both.get(f"/api/tasks/{old['id']}")["params"] == {"card": HIDDEN}
    new = create(both)
    used = [row["payload_key"] for row in fetch_all("SELECT payload_key FROM {tasks} ORDER BY id")]
    assert used == key_ids()
    assert len(set(used)) == 2
    swapped = restart(KEY, NEW_KEY)
    for task in (old, new):
        assert swapped.get(f"/api/tasks/{task['id']}")["params"] == {"card": HIDDEN}


def test_a_task_and_its_history_keep_one_key(queue: Api, restart: Any) -> None:
    create(queue)
    both = restart(NEW_KEY, KEY)
    both.complete(both.claim(), success=False, error="no")
    used = fetch_all(
        "SELECT payload_key FROM {tasks} UNION ALL SELECT payload_key FROM {task_logs} "
        "WHERE message IS NOT NULL"
    )
    assert {row["payload_key"] for row in used} == {key_ids()[0]}


def test_all_keys_find_the_same_duplicates(queue: Api, restart: Any) -> None:
    task = create(queue, dedupe="forever")
    both = restart(NEW_KEY, KEY)
    body = {"type": "secret", "params": {"card": HIDDEN}}
    assert both.post("/api/tasks", body)["id"] == task["id"]
    create(both)
    assert restart(NEW_KEY, KEY).post("/api/tasks", body)["id"] == task["id"]


def test_a_process_without_the_key_stores_nothing_in_plain(
    queue: Api, api: Api, restart: Any
) -> None:
    """It was started before the type was encrypted by a process that has one."""
    queue.patch("/api/task-types/secret", {"is_encrypted": False})
    without = restart()
    queue.patch("/api/task-types/secret", {"is_encrypted": True})
    body = {"type": "secret", "params": {"card": HIDDEN}}
    refused = without.post("/api/tasks", body, 400)
    assert refused["code"] == "no_payload_key"
    assert "TASKMANAGER_PAYLOAD_KEY" in refused["message"]
    task = create(queue)
    assert without.get(f"/api/tasks/{task['id']}", 503)["code"] == "no_payload_key"


def test_a_type_is_not_encrypted_without_a_key(restart: Any) -> None:
    without = restart()
    body = {"name": "job", "version": "1", "param_schema": {}, "is_encrypted": True}
    refused = without.post("/api/task-types/register", body, 400)
    assert refused["code"] == "no_payload_key"
    without.register("job")
    without.patch("/api/task-types/job", {"is_encrypted": True}, 400)


def test_registering_a_type_again_leaves_it_encrypted(queue: Api) -> None:
    assert queue.register("secret")["is_encrypted"] is True
    assert queue.register("open", is_encrypted=False)["updated"] is False
