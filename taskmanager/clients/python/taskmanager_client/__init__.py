"""Client and worker of TaskManager, a task queue behind an HTTP API.

from taskmanager_client import Client, Worker

tm = Client.from_env()
task = tm.create("video.fetch", {"id": "x"})

worker = Worker(tm)

@worker.task("video.fetch")
def fetch(task):
    return {"title": ...}

worker.run()
"""

from taskmanager_client.client import Client
from taskmanager_client.errors import (
    ApiError,
    ClientError,
    Fail,
    NoAnswer,
    Release,
    Retry,
    Stopped,
    WaitTimeout,
)
from taskmanager_client.models import Key, LogEntry, Schedule, Task, TaskType, WorkerState
from taskmanager_client.task import HeldTask
from taskmanager_client.worker import Worker

__version__ = "0.2.0"
__all__ = [
    "ApiError",
    "Client",
    "ClientError",
    "Fail",
    "HeldTask",
    "Key",
    "LogEntry",
    "NoAnswer",
    "Release",
    "Retry",
    "Schedule",
    "Stopped",
    "Task",
    "TaskType",
    "WaitTimeout",
    "Worker",
    "WorkerState",
]
