"""Making and reading tasks over HTTP."""

from tests.conftest import Api


def test_a_created_task_can_be_claimed_and_completed(api: Api) -> None:
    api.register()
    created = api.create(params={"b": 1, "a": [1.5, None]})
    assert created["status"] == "pending"

    claimed = api.claim()
    assert (claimed["id"], claimed["status"], claimed["attempts"]) == (created["id"], "claimed", 1)
    assert claimed["params"] == {"b": 1, "a": [1.5, None]}

    done = api.complete(claimed, result={"answer": 42})
    assert (done["status"], done["result"]) == ("completed", {"answer": 42})
    assert api.events(created["id"]) == ["created", "claimed", "completed"]
