"""What a type checker must accept of the Python client, and with an ignore what it must refuse.

An ignore that is not needed is an error too.
"""

from datetime import datetime

from taskmanager_client import ApiError, Client, HeldTask, Worker

tm = Client.from_env()

task = tm.create("video.fetch", {"id": "x"}, delay_seconds=60, dedupe="active")
ended: datetime | None = task.completed_at
tm.create("video.fetch", {"id": "x"}, delay="60")  # type: ignore[call-arg]
tm.create("video.fetch", {"id": "x"}, priority="high")  # type: ignore[arg-type]
tm.create("video.fetch", {"id": "x"}, dedupe="sometimes")  # type: ignore[arg-type]
tm.create_many([{"type": "video.fetch"}])  # type: ignore[typeddict-item]

for made in tm.create_many([{"type": "video.fetch", "params": {}}]):
    print(made.code if isinstance(made, ApiError) else made.id)
for found in tm.tasks(status=["failed"], params={"user.id": 5}, include=["params"]):
    print(found.params)
tm.tasks(user=5)  # type: ignore[call-arg]
tm.retry_many(filter={"error_code": "timeout"}, limit=100)["changed"].bit_length()
tm.retry_many(filter={"code": "timeout"})  # type: ignore[typeddict-unknown-key]
tm.update_many(ids=[1], priority=5)
tm.complete(1, "w")  # type: ignore[call-arg]
tm.register("video.fetch", "1", {}, retry={"strategy": "fixed", "base_seconds": 5})
tm.register("video.fetch", "1", {}, retry={"strategy": "often"})  # type: ignore[arg-type]

worker = Worker(tm, concurrency=4)


@worker.task("video.fetch", lease_seconds=120)
def fetch(task: HeldTask) -> dict[str, str]:
    task.progress(50, "half")
    return {"title": str(task.params["id"])}
