"""What docs/php-taskmanager.md says of each call, called as clients of the PHP TaskManager do."""

from typing import Any

from tests.conftest import Api

SCHEMA = '{"type": "object", "properties": [], "required": []}'


def register(api: Api, status: int = 201, **more: Any) -> Any:
    body = {"name": "PrismQ.Script", "version": "1.0.0", "param_schema": SCHEMA, **more}
    return api.post("/api/task-types/register", body, status)


def test_the_day_of_a_php_worker(api: Api) -> None:
    type_id = register(api)["id"]
    again = register(api, 200)
    assert (again["id"], again["created"], again["updated"]) == (type_id, False, False)
    made = api.post("/api/tasks", {"type": "PrismQ.Script", "params": [], "priority": None}, 201)
    same = api.post("/api/tasks", {"type": "PrismQ.Script", "params": []}, 200)
    assert (same["id"], same["deduplicated"]) == (made["id"], True)
    claim = {"worker_id": "php-1", "task_type_id": str(type_id), "type_pattern": None}
    task = api.post("/api/tasks/claim", claim)
    assert (task["type"], task["params"], task["attempts"]) == ("PrismQ.Script", {}, 1)
    progress = {"worker_id": "php-1", "progress": 50, "message": None}
    api.post(f"/api/tasks/{task['id']}/progress", progress)
    failed = {"worker_id": "php-1", "success": False, "error": "busy", "result": None}
    answer = api.post(f"/api/tasks/{task['id']}/complete", failed)
    assert (answer["status"], answer["will_retry"]) == ("pending", True)
    api.post("/api/tasks/claim", claim)
    done = {"worker_id": "php-1", "success": True, "result": {"ok": 1}, "error": ""}
    for replayed in (False, True):
        answer = api.post(f"/api/tasks/{task['id']}/complete", done)
        assert (answer["status"], answer["replayed"]) == ("completed", replayed)
    nothing = api.post("/api/tasks/claim", claim, 404)
    assert nothing["code"] == "no_task_available"
    assert nothing["details"]["poll_after_seconds"] > 0


def test_the_lists_of_its_page(api: Api) -> None:
    register(api)
    api.create("PrismQ.Script")
    [task] = api.get("/api/tasks?status=pending&limit=100")["tasks"]
    assert {"worker_id", "claimed_by"} <= task.keys()
    [task_type] = api.get("/api/task-types?active_only=true")["task_types"]
    assert task_type["name"] == "PrismQ.Script"


def test_statuses_that_differ(api: Api) -> None:
    register(api)
    task = api.create("PrismQ.Script")
    report = {"worker_id": "php-1", "success": True}
    assert api.post(f"/api/tasks/{task['id']}/complete", report, 409)["code"] == "task_not_claimed"
    assert "code" in api.post(f"/api/tasks/{task['id']}/fail", report, 404)
    api.get("/api/tasks/999", 404)
    api.get("/api/task-types/unknown", 404)
    api.get("/api/tasks?limit=101", 400)
    register(api, 400, name="a:b")
    register(api, 400, colour="red")


def test_registering_does_not_activate(api: Api) -> None:
    register(api)
    api.patch("/api/task-types/PrismQ.Script", {"is_active": False})
    assert register(api, 200, version="1.0.1")["is_active"] is False
