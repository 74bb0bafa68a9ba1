"""A tour of some sixty calls over every resource, and a move of the queue, on whatever database."""

from pathlib import Path
from typing import Any

from taskmanager.app import close_app, create_app
from tests.conftest import Api, make_key
from tests.support.commands import run_command

ODD = "a\\'\"ü%?{tasks}"


def tour(database_url: str, folder: Path) -> None:
    """Starts on an empty database, calls everything, and checks what is answered."""
    app = create_app({"instance_path": folder / "instance", "database_url": database_url})
    try:
        api = Api(app.test_client(), make_key("admin"))
        use_types(api)
        tasks = use_tasks(api)
        work(api)
        look(api, tasks)
        use_schedules(api)
        use_keys(api)
        watch(api)
    finally:
        close_app(app)


def use_types(api: Api) -> None:
    for name in ("job", "other", "third"):
        api.register(name)
    api.register("job", {"type": "object", "description": ODD}, version="2")
    api.patch("/api/task-types/other", {"is_paused": True})
    api.patch("/api/task-types/other", {"is_paused": False})
    assert api.get("/api/task-types/job?version=1")["version"] == "1"
    assert [one["name"] for one in api.get("/api/task-types")["task_types"]] == [
        *("job", "other", "third")
    ]
    assert api.post("/api/task-types/job/validate", {"params": {}})["valid"]


def use_tasks(api: Api) -> list[dict[str, Any]]:
    """Fourteen tasks, two of them found again and one waiting."""
    parent = api.create("third", {"text": ODD})
    bodies = [
        {
            "type": "job" if n % 2 else "other",
            "params": {"n": n, "text": ODD},
            "priority": n % 3,
            "dedupe": "active",
            "parent_task_id": parent["id"],
        }
        for n in range(12)
    ]
    made = api.post("/api/tasks/batch", {"tasks": [*bodies, bodies[0]]}, 201)
    assert (made["created"], made["deduplicated"]) == (12, 1)
    once = {"type": "third", "params": {}, "dedupe": "forever", "delay_seconds": 3_600}
    later = api.post("/api/tasks", once, 201)
    assert api.post("/api/tasks", once)["id"] == later["id"]
    assert later["status"] == "scheduled"
    return [parent, later, *(one["task"] for one in made["results"][:12])]


def work(api: Api) -> None:
    """Claims of every form, and every way in which an attempt ends."""
    first = api.claim(request_id="r", type="job")
    assert api.claim(request_id="r", type="job")["id"] == first["id"]
    mine = {"worker_id": "worker-1", "claim_token": first["claim_token"]}
    path = f"/api/tasks/{first['id']}"
    assert api.post(f"{path}/progress", {**mine, "progress": 50, "message": ODD})["lease_seconds"]
    api.post(f"{path}/heartbeat", mine)
    done = api.complete(first, result={"text": ODD})
    assert done["result"] == {"text": ODD}
    assert api.complete(first, result={"text": ODD})["replayed"]

    again = api.claim(task_types=["other", "third"], sort_by="id")
    assert api.complete(again, success=False, error=ODD, retry_after_seconds=60)["will_retry"]
    failed = api.claim(type_pattern="jo%")
    assert not api.complete(failed, success=False, error="e", is_retryable=False)["will_retry"]
    api.post(f"/api/tasks/{failed['id']}/retry")
    back = api.claim("worker-2")
    held = {"worker_id": "worker-2", "claim_token": back["claim_token"]}
    api.post(f"/api/tasks/{back['id']}/release", {**held, "delay_seconds": 5})
    api.post(f"/api/tasks/{back['id']}/cancel", {"reason": ODD})

    many = api.claim(limit=4)["tasks"]
    assert len(many) == 4
    beat = {"worker_id": "worker-1", "metadata": {"text": ODD}}
    assert len(api.post("/api/workers/heartbeat", beat)["renewed"]) == 4
    reports = [
        {"id": one["id"], "claim_token": one["claim_token"], "success": n % 2 == 0}
        for n, one in enumerate(many[:3])
    ]
    answer = api.post("/api/tasks/complete", {"worker_id": "worker-1", "completions": reports})
    assert (answer["count"], answer["failed"]) == (3, 0)
    assert len(api.post("/api/workers/worker-1/shutdown")["released"]) == 1


def look(api: Api, tasks: list[dict[str, Any]]) -> None:
    everything = api.get("/api/tasks?with_total=true&limit=100")
    assert (everything["count"], everything["total"]) == (14, 14)
    for query in (
        "status=completed",
        "status=pending&type=job",
        "type=other",
        "priority_min=1&priority_max=2",
        "worker_id=worker-1",
        "sort_by=created_at&sort_order=asc&include=params,result",
        "created_after=2020-01-01T00:00:00Z&created_before=2099-01-01T00:00:00Z",
        "offset=3&limit=2",
    ):
        response = api.call("GET", f"/api/tasks?{query}")
        assert response.status_code == 200, (query, response.get_json())
        assert response.get_json()["data"]["count"] > 0, query
    page = api.get("/api/tasks?limit=5")
    assert api.get(f"/api/tasks?limit=5&cursor={page['next_cursor']}")["count"] == 5
    for task in tasks[:3]:
        assert api.get(f"/api/tasks/{task['id']}")["params"] is not None
        assert api.events(task["id"])[0] == "created"
    assert {one["id"] for one in api.get("/api/workers")["workers"]} == {"worker-1", "worker-2"}
    assert api.get("/api/workers/worker-1")["status"] == "inactive"


def use_schedules(api: Api) -> None:
    body = {"name": "s", "type": "job", "params": {"text": ODD}, "interval_seconds": 60}
    schedule = api.post("/api/schedules", body, 201)
    path = f"/api/schedules/{schedule['id']}"
    assert api.get(path)["next_runs"]
    api.patch(path, {"cron": "0 3 * * *"})
    api.post(f"{path}/run", status=201)
    assert len(api.get("/api/schedules")["schedules"]) == 1
    cron = {"name": "kept", "type": "other", "params": {}, "cron": "0 3 * * *"}
    api.post("/api/schedules", cron, 201)
    api.delete(path)


def use_keys(api: Api) -> None:
    key = api.post("/api/admin/keys", {"name": "k", "role": "worker", "task_types": ["job"]}, 201)
    path = f"/api/admin/keys/{key['id']}"
    api.patch(path, {"rate_limit": "100/minute"})
    limited = api.with_key(key["key"])
    assert {one["type"] for one in limited.get("/api/tasks")["tasks"]} == {"job"}
    new = api.post(f"{path}/rotate", {"overlap_seconds": 60}, 201)
    api.delete(f"/api/admin/keys/{new['id']}")
    api.get(path)
    assert len(api.get("/api/admin/keys")["keys"]) >= 3
    assert api.get("/api/admin/audit")["events"]


def watch(api: Api) -> None:
    api.post("/api/maintenance/run")
    stats = api.get("/api/stats")
    assert len(stats["by_type"]) == 3
    assert sum(stats["by_status"].values()) == 15
    assert api.call("GET", "/api/metrics").status_code == 200
    diagnosis = api.get("/api/admin/doctor")
    levels = {one["code"]: one["level"] for one in diagnosis["findings"]}
    assert "check_failed" not in levels
    assert levels["database"] == levels["database_writes"] == "ok"
    assert api.get("/api/health")["status"] == "healthy"


def move(source: str, target: str, folder: Path) -> None:
    """Runs maintenance, exports one queue and imports it elsewhere, by command."""
    file = str(folder / "queue.jsonl")
    for url, *arguments in (
        (source, "maintain"),
        (source, "export", file),
        (target, "import", "--replace-keys", file),
    ):
        environment = {
            "TASKMANAGER_DATABASE_URL": url,
            "TASKMANAGER_INSTANCE_PATH": str(folder / "commands"),
        }
        done = run_command(*arguments, environment=environment)
        assert done.exit_code == 0, done.output
