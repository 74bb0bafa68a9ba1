"""The producer: registers the task type, creates a task for every file, reads the results."""

import heapq
import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlencode

from taskmanager.demo.figures import FAILURES_SHOWN, LARGEST_SHOWN, Enqueued, ReadBack
from taskmanager.demo.http_client import HttpClient
from taskmanager.demo.progress import Progress

TASK_TYPE: dict[str, Any] = {
    "name": "file.fingerprint",
    "version": "1.0.0",
    "param_schema": {
        "type": "object",
        "properties": {"path": {"type": "string", "minLength": 1, "maxLength": 4096}},
        "required": ["path"],
        "additionalProperties": False,
    },
    # A missing file may appear a moment later. The delay doubles with each attempt.
    "retry": {"strategy": "exponential", "base_seconds": 1, "max_seconds": 60, "jitter": True},
    "max_attempts": 3,
}
SINGLE_CREATES = 300
BATCH_TASKS = 1_000
BATCH_BYTES = 500_000  # well below the limit of a request body


def enqueue(
    http: HttpClient, paths: Sequence[str], progress: Progress, *, singles: int
) -> Enqueued:
    """Creates one task per path: `singles` of them one by one, to measure a call, then batches."""
    seen = Enqueued()
    for done, path in enumerate(paths[:singles]):
        answer = http.call("POST", "/api/tasks", _task(path))
        seen.create_seconds.append(answer.seconds)
        _count(seen, int(not answer.data["deduplicated"]), 1, repeated=answer.repeated)
        progress.show(done)
    done = min(singles, len(paths))
    for batch in _batches(paths[singles:]):
        answer = http.call("POST", "/api/tasks/batch", {"tasks": [_task(path) for path in batch]})
        data = answer.data
        _count(seen, data["created"], len(batch) - data["failed"], repeated=answer.repeated)
        seen.refused += [
            result["error"]["message"] for result in data["results"] if result["outcome"] == "error"
        ]
        done += len(batch)
        progress.show(done)
    return seen


def _task(path: str) -> dict[str, Any]:
    return {"type": TASK_TYPE["name"], "params": {"path": path}}


def _count(seen: Enqueued, created: int, accepted: int, *, repeated: bool) -> None:
    if repeated:
        # The answer to an earlier try was lost, and with it the number of tasks that it created.
        seen.uncertain += accepted - created
    else:
        seen.deduplicated += accepted - created
    seen.created += created


def _batches(paths: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for path in paths:
        cost = len(json.dumps(_task(path))) + 2
        if batch and (len(batch) == BATCH_TASKS or size + cost > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += cost
    if batch:
        yield batch


def read_back(http: HttpClient) -> ReadBack:
    """Lists all finished tasks with params and result, page by page."""
    seen = ReadBack()
    for task in _list_tasks(http, "completed"):
        seen.paths.add(task["params"]["path"])
        seen.completed += 1
        shown = [*seen.largest, task]
        seen.largest = heapq.nlargest(LARGEST_SHOWN, shown, lambda it: it["result"]["size_bytes"])
    for task in _list_tasks(http, "failed"):
        seen.paths.add(task["params"]["path"])
        seen.failed += 1
        if len(seen.failures) < FAILURES_SHOWN:
            seen.failures.append(task)
    return seen


def _list_tasks(http: HttpClient, status: str) -> Iterator[dict[str, Any]]:
    query = {
        "type": TASK_TYPE["name"],
        "status": status,
        "include": "params,result",
        "sort_by": "id",
        "sort_order": "asc",
        "limit": "100",
    }
    while True:
        page = http.call("GET", f"/api/tasks?{urlencode(query)}").data
        yield from page["tasks"]
        if page["next_cursor"] is None:
            return
        query["cursor"] = page["next_cursor"]
