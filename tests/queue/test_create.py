"""Storing tasks: what a request for one that exists leaves alone."""

import threading
from typing import Any

import peewee
import pytest

from taskmanager.access.caller import OPERATOR
from taskmanager.clock import utc_now
from taskmanager.db.connection import close_connection
from taskmanager.db.statements import execute
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import Conflict
from taskmanager.queue import create
from taskmanager.queue.complete import Completion, complete_task
from taskmanager.queue.flow.backlog import store_in_transaction
from taskmanager.queue.store import store_tasks
from taskmanager.queue.task_types import TaskDefaults
from tests.conftest import Api

DEFAULTS = TaskDefaults(max_attempts=3, lease_seconds=300)
REQUEST = {"type": "job", "params": {"same": True}, "dedupe": "active"}


# SQLite has one writer at a time.
@pytest.mark.parametrize("engine", ["mariadb"], indirect=True)
def test_who_asks_for_an_unfinished_task_keeps_nobody_from_finishing_it(api: Api) -> None:
    api.register()
    made = api.post("/api/tasks", REQUEST, 201)
    token = api.claim("w")["claim_token"]
    row = create.prepare_task(REQUEST, defaults=DEFAULTS, caller=OPERATOR, now=utc_now())
    ends: list[Any] = []

    def finish() -> None:
        try:
            execute("SET SESSION innodb_lock_wait_timeout = 0")
            completion = Completion(task_id=made["id"], claim_token=token, success=True)
            ends.append(
                complete_task(completion, worker_id="w", caller=OPERATOR, now=utc_now()).task
            )
        except Exception as error:  # noqa: BLE001 - the test looks at it
            ends.append(error)
        finally:
            close_connection()

    @write_transaction
    def ask() -> Any:
        found = store_tasks([row], caller=OPERATOR)
        finisher = threading.Thread(target=finish)
        finisher.start()
        finisher.join(60)
        return found

    [(found, existed)] = ask()

    assert (found["id"], existed) == (made["id"], True)
    assert [end["status"] for end in ends] == ["completed"]


def test_a_parent_that_was_removed_meanwhile_is_a_conflict_and_any_other_refusal_is_not(
    api: Api,
) -> None:
    api.register()
    row = create.prepare_task(REQUEST, defaults=DEFAULTS, caller=OPERATOR, now=utc_now())
    with pytest.raises(Conflict, match="parent task has just been removed"):
        store_in_transaction([{**row, "parent_task_id": 999}], caller=OPERATOR)
    with pytest.raises(peewee.IntegrityError):
        store_in_transaction([{**row, "max_attempts": None}], caller=OPERATOR)
