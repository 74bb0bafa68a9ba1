"""The calls of the API as methods.

Fields, filters and options have the names that docs/api.md gives them.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, TypeVar, Union
from urllib.parse import quote, urlencode

from taskmanager_client.errors import ApiError, ClientError, NoAnswer, WaitTimeout
from taskmanager_client.models import (
    Event,
    Key,
    LogEntry,
    Schedule,
    Task,
    TaskType,
    WorkerState,
    read,
)
from taskmanager_client.transport import HttpTransport, Transport, call_once, delay_after, text_once

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from taskmanager_client import answers, fields

Json = Any
T = TypeVar("T")
Repeat = Union[bool, Callable[[], bool]]

TIMEOUT_SECONDS = 30.0
RETRY_SECONDS = 60.0
FIRST_LOOK_SECONDS = 0.5
MAX_LOOK_SECONDS = 5.0
MAX_WAIT_SECONDS = 20  # of one call


class Client:
    """Calls one TaskManager with one key. Threads may share it.

    A call whose answer is lost, or which the server cannot serve now (429, 502, 503, 504), is
    repeated for `retry_seconds` where that is safe, but not where the queue is full (`queue_full`).
    Every method raises ApiError if the server refuses the call, and NoAnswer if there is no answer
    within `timeout` seconds.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout: float = TIMEOUT_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
        transport: Transport | None = None,
    ) -> None:
        """`transport` replaces HTTP, for tests. Raises ValueError for an address that is none."""
        self.transport = transport or HttpTransport(url, key)
        self._timeout = timeout
        self._retry_seconds = retry_seconds

    @classmethod
    def from_env(cls, **options: Any) -> Client:
        """The client for TASKMANAGER_URL and TASKMANAGER_KEY. Raises ValueError without them."""
        for name in ("TASKMANAGER_URL", "TASKMANAGER_KEY"):
            if not os.environ.get(name):
                raise ValueError(f"{name} is not set in the environment.")
        return cls(os.environ["TASKMANAGER_URL"], os.environ["TASKMANAGER_KEY"], **options)

    # Tasks

    def create(
        self,
        type: str,
        params: Mapping[str, Json] | None = None,
        **options: Unpack[fields.TaskOptions],
    ) -> Task:
        """Creates a task, or returns the one that exists: then `deduplicated` is True."""
        task = _created_once({"type": type, "params": dict(params or {}), **options})
        data = self.call("POST", "/tasks", task, repeat=lambda: self._is_created_once([task]))
        return read(Task, data)

    def create_many(
        self, tasks: Iterable[fields.NewTask], *, atomic: bool = False
    ) -> list[Task | ApiError]:
        """Creates up to 1,000 tasks in one call. Each is a dict with `type`, `params` and options.

        Returns for each task, in order, the task or the reason why it was refused. With `atomic`
        a single bad task raises ApiError, and none is created.
        """
        prepared = [_created_once({**task}) for task in tasks]
        data = self.call(
            "POST",
            "/tasks/batch",
            {"tasks": prepared, "atomic": atomic},
            repeat=lambda: self._is_created_once(prepared),
        )
        return [_created(result) for result in data["results"]]

    def _is_created_once(self, tasks: Sequence[Mapping[str, Json]]) -> bool:
        """Whether the same creation, sent again, finds the tasks of the first one."""
        try:
            return all(
                (task.get("dedupe") or self.type(task["type"]).dedupe) != "none" for task in tasks
            )
        except ClientError:
            return False

    def get(self, task_id: int) -> Task:
        """The full task."""
        return read(Task, self.call("GET", f"/tasks/{task_id}"))

    def tasks(self, **filters: Unpack[fields.TaskList]) -> Iterator[Task]:
        """Every task that matches all filters, page by page, newest first.

        `params` takes values within the params: `params={"user.id": 5}`.
        """
        for page in self._pages("/tasks", _filter_of(filters)):
            for task in page["tasks"]:
                yield read(Task, task)

    def wait(self, task: Task | int, *, timeout: float = 300) -> Task:
        """The task once it is finished. Raises WaitTimeout after `timeout` seconds.

        Asks a server that waits to answer then, and looks now and then at any other.
        """
        task_id = task.id if isinstance(task, Task) else task
        ends_at = time.monotonic() + timeout
        pause = FIRST_LOOK_SECONDS
        while True:
            asked_at = time.monotonic()
            # Not for so long that the request ends without an answer.
            seconds = int(max(0, min(MAX_WAIT_SECONDS, self._timeout / 2, ends_at - asked_at)))
            found = read(Task, self.call("GET", f"/tasks/{task_id}?wait_seconds={seconds}"))
            if found.is_finished:
                return found
            left = ends_at - time.monotonic()
            if left <= 0:
                raise WaitTimeout(
                    f"Task {task_id} is still {found.status} after {timeout:g} seconds."
                )
            time.sleep(max(0, min(pause, left) - (time.monotonic() - asked_at)))
            pause = min(pause * 1.5, MAX_LOOK_SECONDS)

    def logs(self, task_id: int) -> list[LogEntry]:
        """The history of a task, oldest first."""
        data = self.call("GET", f"/tasks/{task_id}/logs")
        return [read(LogEntry, entry) for entry in data["logs"]]

    def graph(self, task_id: int) -> answers.TaskGraph:
        """What a task depends on and what depends on it, directly or not."""
        graph: answers.TaskGraph = self.call("GET", f"/tasks/{task_id}/graph")
        return graph

    def events(
        self, after: str | None = None, **filters: Unpack[fields.EventFilters]
    ) -> answers.EventPage:
        """What happened to tasks after the cursor `after`, oldest first; keep its `next_cursor`.

        "latest" begins with what happens next, None with the oldest event that is kept.
        """
        data = self.call("GET", "/events" + _query({"after": after, **filters}))
        data["events"] = [read(Event, event) for event in data["events"]]
        page: answers.EventPage = data
        return page

    def change(self, task_id: int, **changes: Unpack[fields.TaskChanges]) -> Task:
        """Changes a task that waits. Refused once a worker has claimed it."""
        return read(Task, self.call("PATCH", f"/tasks/{task_id}", dict(changes)))

    def cancel(self, task_id: int, reason: str | None = None) -> Task:
        """Cancels an unfinished task."""
        return read(Task, self.call("POST", f"/tasks/{task_id}/cancel", {"reason": reason}))

    def retry(self, task_id: int) -> Task:
        """Makes a failed or cancelled task pending again, with new attempts."""
        return read(Task, self.call("POST", f"/tasks/{task_id}/retry", {}, repeat=False))

    def errors(self, **filters: Unpack[fields.TaskFilters]) -> list[answers.ErrorGroup]:
        """The newest failed tasks, 1,000 at most, in groups; the largest group first."""
        path = "/tasks/errors" + _query(_filter_of(filters))
        groups: list[answers.ErrorGroup] = self.call("GET", path)["groups"]
        return groups

    def retry_many(self, **which: Unpack[fields.ManyTasks]) -> answers.ManyChanged:
        """Makes failed and cancelled tasks pending again, with new attempts.

        This call and the next four take `ids` or `filter`. They change up to `limit` tasks, 1,000
        unless given; `next_cursor` of the answer continues. With `dry_run` they only count.
        """
        return self._change_many("retry", which)

    def cancel_many(
        self, *, reason: str | None = None, **which: Unpack[fields.ManyTasks]
    ) -> answers.ManyChanged:
        """Cancels unfinished tasks."""
        return self._change_many("cancel", {**which, "reason": reason})

    def release_many(self, **which: Unpack[fields.ManyTasks]) -> answers.ManyChanged:
        """Takes tasks from the workers that hold them, without counting the attempt."""
        return self._change_many("release", which)

    def delete_many(self, **which: Unpack[fields.ManyTasks]) -> answers.ManyChanged:
        """Deletes finished tasks with their history."""
        return self._change_many("delete", which)

    def update_many(self, **changes: Unpack[fields.ManyChanges]) -> answers.ManyChanged:
        """Changes the priority or the time of tasks that nobody holds."""
        return self._change_many("update", changes)

    def _change_many(self, action: str, which: Mapping[str, Json]) -> answers.ManyChanged:
        body = {**which}
        if "filter" in body:
            body["filter"] = _filter_of(body["filter"])
        # Sent again, it would change the next tasks.
        changed: answers.ManyChanged = self.call("POST", f"/tasks/{action}", body, repeat=False)
        return changed

    # The calls of a worker. Worker makes them by itself.

    def claim(self, worker_id: str, **what: Unpack[fields.Claim]) -> list[dict[str, Json]]:
        """Claims up to `limit` tasks, one unless given; [] where none is available.

        Each is the task as JSON with its `claim_token`; `fields` names those fields of it that
        are wanted. The server waits up to `wait_seconds` for a task, if it can; less than the
        client's timeout.
        """
        body = {"worker_id": worker_id, "limit": 1, "request_id": uuid.uuid4().hex, **what}
        try:
            tasks: list[dict[str, Json]] = self.call("POST", "/tasks/claim", body)["tasks"]
        except ApiError as error:
            if error.code == "no_task_available":
                return []
            raise
        return tasks

    def complete(self, task_id: int, worker_id: str, **outcome: Unpack[fields.Outcome]) -> Task:
        """Reports how an attempt ended."""
        report = {"worker_id": worker_id, **outcome}
        return read(Task, self.call("POST", f"/tasks/{task_id}/complete", report))

    def complete_many(
        self,
        worker_id: str,
        completions: Sequence[fields.Completion],
        *,
        with_tasks: bool = True,
    ) -> list[answers.CompletionResult]:
        """Reports how many attempts ended; a result for each, in order, with its task if wanted."""
        body = {
            "worker_id": worker_id,
            "completions": list(completions),
            "with_tasks": with_tasks,
        }
        results: list[answers.CompletionResult] = self.call("POST", "/tasks/complete", body)[
            "results"
        ]
        return results

    def progress(
        self,
        task_id: int,
        worker_id: str,
        progress: int,
        message: str | None = None,
        *,
        claim_token: str | None = None,
    ) -> answers.Lease:
        """Reports progress, 0 to 100, and renews the lease."""
        body = {"worker_id": worker_id, "progress": progress, "message": message}
        return self._renew(task_id, "progress", {**body, "claim_token": claim_token})

    def heartbeat(
        self,
        task_id: int,
        worker_id: str,
        *,
        claim_token: str | None = None,
        lease_seconds: int | None = None,
    ) -> answers.Lease:
        """Renews the lease of one task; for `lease_seconds` from now where that is given."""
        body = {"worker_id": worker_id, "claim_token": claim_token, "lease_seconds": lease_seconds}
        return self._renew(task_id, "heartbeat", body)

    def _renew(self, task_id: int, call: str, body: Mapping[str, Json]) -> answers.Lease:
        lease: answers.Lease = self.call("POST", f"/tasks/{task_id}/{call}", body)
        return lease

    def release(
        self,
        task_id: int,
        worker_id: str,
        *,
        claim_token: str | None = None,
        delay_seconds: float | None = None,
    ) -> Task:
        """Puts a claimed task back; the attempt is not counted."""
        body = {"worker_id": worker_id, "claim_token": claim_token, "delay_seconds": delay_seconds}
        data = self.call("POST", f"/tasks/{task_id}/release", body, repeat=False)
        return read(Task, data)

    def heartbeat_worker(
        self,
        worker_id: str,
        *,
        tasks: Sequence[fields.HeldTaskId] | None = None,
        metadata: Mapping[str, Json] | None = None,
    ) -> answers.WorkerHeartbeat:
        """Renews the leases of a worker's tasks: of `tasks`, or of all that it holds."""
        body = {"worker_id": worker_id, "tasks": tasks, "metadata": metadata}
        beat: answers.WorkerHeartbeat = self.call("POST", "/workers/heartbeat", body)
        return beat

    def shut_down_worker(self, worker_id: str) -> list[int]:
        """Puts back what the worker holds, and marks it inactive. The ids of these tasks."""
        data = self.call("POST", f"/workers/{quote(worker_id, safe='')}/shutdown", {})
        released: list[int] = data["released"]
        return released

    # Task types

    def register(
        self,
        name: str,
        version: str,
        param_schema: Mapping[str, Json],
        **defaults: Unpack[fields.TypeDefaults],
    ) -> TaskType:
        """Registers a task type, or its new version; without a change it does nothing."""
        body = {"name": name, "version": version, "param_schema": dict(param_schema), **defaults}
        return read(TaskType, self.call("POST", "/task-types/register", body))

    def types(self) -> list[TaskType]:
        """All task types that the key may use."""
        data = self.call("GET", "/task-types")
        return [read(TaskType, one) for one in data["task_types"]]

    def type(self, name: str, version: str | None = None) -> TaskType:
        """A task type with its schema."""
        path = f"/task-types/{quote(name, safe='')}" + _query({"version": version})
        return read(TaskType, self.call("GET", path))

    def change_type(self, name: str, **changes: Unpack[fields.TypeChanges]) -> TaskType:
        """Pauses a type (`is_paused=True`), switches it off, or changes its defaults."""
        data = self.call("PATCH", f"/task-types/{quote(name, safe='')}", changes)
        return read(TaskType, data)

    def validate(
        self,
        name: str,
        *,
        params: Mapping[str, Json] | None = None,
        param_schema: Mapping[str, Json] | None = None,
    ) -> answers.Verdict:
        """Checks `params` against the type, or its open tasks against a new `param_schema`."""
        path = f"/task-types/{quote(name, safe='')}/validate"
        body = {"params": params, "param_schema": param_schema}
        verdict: answers.Verdict = self.call("POST", path, body)
        return verdict

    # Schedules

    def create_schedule(
        self,
        name: str,
        type: str,
        params: Mapping[str, Json],
        **options: Unpack[fields.ScheduleOptions],
    ) -> Schedule:
        """Creates a schedule, with `cron` or `interval_seconds`."""
        body = {"name": name, "type": type, "params": params, **options}
        return read(Schedule, self.call("POST", "/schedules", body, repeat=False))

    def schedules(self) -> Iterator[Schedule]:
        """All schedules."""
        for page in self._pages("/schedules", {}):
            for schedule in page["schedules"]:
                yield read(Schedule, schedule)

    def schedule(self, schedule_id: int) -> Schedule:
        """One schedule."""
        return read(Schedule, self.call("GET", f"/schedules/{schedule_id}"))

    def change_schedule(
        self, schedule_id: int, **changes: Unpack[fields.ScheduleChanges]
    ) -> Schedule:
        """Changes a schedule; `is_active=False` switches it off."""
        return read(Schedule, self.call("PATCH", f"/schedules/{schedule_id}", changes))

    def delete_schedule(self, schedule_id: int) -> None:
        """Deletes a schedule. The tasks that it created stay."""
        self.call("DELETE", f"/schedules/{schedule_id}", repeat=False)

    def run_schedule(self, schedule_id: int) -> Task:
        """Creates the task of a schedule now."""
        return read(Task, self.call("POST", f"/schedules/{schedule_id}/run", {}, repeat=False))

    # Workers and the service

    def workers(self) -> Iterator[WorkerState]:
        """All workers, the one seen last first."""
        for page in self._pages("/workers", {}):
            for worker in page["workers"]:
                yield read(WorkerState, worker)

    def worker(self, worker_id: str) -> WorkerState:
        """One worker."""
        return read(WorkerState, self.call("GET", f"/workers/{quote(worker_id, safe='')}"))

    def health(self) -> answers.Health:
        """Whether the service works."""
        health: answers.Health = self.call("GET", "/health")
        return health

    def stats(self) -> answers.Statistics:
        """Counts of tasks, and what was finished lately."""
        statistics: answers.Statistics = self.call("GET", "/stats")
        return statistics

    def metrics(self) -> str:
        """The same and more in the text format of Prometheus."""
        return self._repeated(lambda: text_once(self.transport, "/metrics", self._timeout))

    def clients(self) -> list[answers.ClientFile]:
        """The clients that the server hands out."""
        files: list[answers.ClientFile] = self.call("GET", "/clients")["clients"]
        return files

    # For administrators

    def create_key(self, name: str, **options: Unpack[fields.KeyOptions]) -> answers.NewKey:
        """Creates an API key, with a `role` or `scopes`."""
        return _new_key(self.call("POST", "/admin/keys", {"name": name, **options}, repeat=False))

    def keys(self) -> list[Key]:
        """All API keys, without their secrets."""
        return [read(Key, one) for one in self.call("GET", "/admin/keys")["keys"]]

    def key(self, key_id: int) -> Key:
        """One API key."""
        return read(Key, self.call("GET", f"/admin/keys/{key_id}"))

    def change_key(self, key_id: int, **changes: Unpack[fields.KeyChanges]) -> Key:
        """Changes what a key may do."""
        return read(Key, self.call("PATCH", f"/admin/keys/{key_id}", changes))

    def rotate_key(self, key_id: int, *, overlap_seconds: int | None = None) -> answers.NewKey:
        """Replaces a key by a new one. The old one works for `overlap_seconds` more."""
        body = {"overlap_seconds": overlap_seconds}
        return _new_key(self.call("POST", f"/admin/keys/{key_id}/rotate", body, repeat=False))

    def revoke_key(self, key_id: int) -> Key:
        """Makes a key useless, for good."""
        return read(Key, self.call("DELETE", f"/admin/keys/{key_id}"))

    def create_batch(
        self, tasks: Iterable[fields.NewTask] = (), **options: Unpack[fields.BatchOptions]
    ) -> answers.BatchWithTasks:
        """Creates tasks that belong together; one that exists already does not become a member.

        Not repeated if the answer is lost: that would be another batch.
        """
        body = {**options, "tasks": [_created_once({**task}) for task in tasks]}
        made: answers.BatchWithTasks = self.call("POST", "/batches", body, repeat=False)
        return made

    def add_to_batch(
        self, batch_id: int, tasks: Iterable[fields.NewTask]
    ) -> answers.BatchWithTasks:
        """Creates tasks in an open batch, all or none."""
        prepared = [_created_once({**task}) for task in tasks]
        made: answers.BatchWithTasks = self.call(
            "POST",
            f"/batches/{batch_id}/tasks",
            {"tasks": prepared},
            repeat=lambda: self._is_created_once(prepared),
        )
        return made

    def close_batch(self, batch_id: int) -> answers.Batch:
        """Lets a batch take no more tasks, so that it can finish."""
        batch: answers.Batch = self.call("POST", f"/batches/{batch_id}/close", {})
        return batch

    def batch(self, batch_id: int) -> answers.Batch:
        """One batch. Its tasks: `tasks(batch_id=…)`."""
        batch: answers.Batch = self.call("GET", f"/batches/{batch_id}")
        return batch

    def batches(self) -> Iterator[answers.Batch]:
        """Every batch, the newest first."""
        for page in self._pages("/batches", {}):
            yield from page["batches"]

    def cancel_batch(self, batch_id: int, reason: str | None = None) -> answers.BatchChanged:
        """Closes a batch and those in it, and cancels their tasks, up to 10,000 a call."""
        path = f"/batches/{batch_id}/cancel"
        changed: answers.BatchChanged = self.call("POST", path, {"reason": reason})
        return changed

    def retry_batch(self, batch_id: int) -> answers.BatchChanged:
        """Tries the failed and cancelled tasks of a batch again, up to 10,000 a call."""
        changed: answers.BatchChanged = self.call("POST", f"/batches/{batch_id}/retry", {})
        return changed

    def create_webhook(self, name: str, url: str, *, is_active: bool = True) -> answers.NewWebhook:
        """Creates an endpoint that is notified when tasks end. Returns its secret too."""
        body = {"name": name, "url": url, "is_active": is_active}
        made: answers.NewWebhook = self.call("POST", "/webhooks", body, repeat=False)
        return made

    def webhooks(self) -> list[answers.Webhook]:
        """All endpoints, without their secrets."""
        found: list[answers.Webhook] = self.call("GET", "/webhooks")["webhooks"]
        return found

    def webhook(self, webhook_id: int) -> answers.Webhook:
        """One endpoint."""
        found: answers.Webhook = self.call("GET", f"/webhooks/{webhook_id}")
        return found

    def change_webhook(
        self, webhook_id: int, **changes: Unpack[fields.WebhookChanges]
    ) -> answers.Webhook:
        """Changes an endpoint; `is_active=False` switches it off."""
        changed: answers.Webhook = self.call("PATCH", f"/webhooks/{webhook_id}", changes)
        return changed

    def delete_webhook(self, webhook_id: int) -> None:
        """Deletes an endpoint and its deliveries."""
        self.call("DELETE", f"/webhooks/{webhook_id}", repeat=False)

    def rotate_webhook(
        self, webhook_id: int, *, overlap_seconds: int | None = None
    ) -> answers.NewWebhook:
        """Gives an endpoint a new secret. The old one signs too for `overlap_seconds`."""
        body = {"overlap_seconds": overlap_seconds}
        path = f"/webhooks/{webhook_id}/rotate"
        rotated: answers.NewWebhook = self.call("POST", path, body, repeat=False)
        return rotated

    def deliveries(self, webhook_id: int) -> Iterator[answers.Delivery]:
        """What was sent to an endpoint or is to be, the newest first."""
        for page in self._pages(f"/webhooks/{webhook_id}/deliveries", {}):
            yield from page["deliveries"]

    def resend_delivery(self, webhook_id: int, delivery_id: int) -> answers.Delivery:
        """Makes a delivery due again."""
        path = f"/webhooks/{webhook_id}/deliveries/{delivery_id}/resend"
        delivery: answers.Delivery = self.call("POST", path, {})
        return delivery

    def alerts(self) -> list[answers.Alert]:
        """What is wrong, and what was wrong in the last seven days."""
        found: list[answers.Alert] = self.call("GET", "/alerts")["alerts"]
        return found

    def audit(self) -> Iterator[answers.AuditEvent]:
        """What was done with keys and types and to many tasks, the newest first."""
        for page in self._pages("/admin/audit", {}):
            yield from page["events"]

    def doctor(self) -> list[answers.Finding]:
        """What the server finds when it tests its host."""
        findings: list[answers.Finding] = self.call("GET", "/admin/doctor")["findings"]
        return findings

    def maintain(self) -> answers.MaintenanceDone:
        """Runs maintenance now."""
        done: answers.MaintenanceDone = self.call("POST", "/maintenance/run", {})
        return done

    def call(self, method: str, path: str, body: Json = None, *, repeat: Repeat = True) -> Json:
        """Any call: `path` begins below /api. Returns `data` of the answer.

        `repeat` says whether the call may be sent again although the server may have acted on
        it, or is asked that once it matters.
        """
        return self._repeated(
            lambda: call_once(self.transport, method, path, body, self._timeout), repeat
        )

    def _repeated(self, send: Callable[[], T], repeat: Repeat = True) -> T:
        ends_at = time.monotonic() + self._retry_seconds
        tries = 0
        while True:
            tries += 1
            try:
                return send()
            except ClientError as error:
                delay = delay_after(error, tries)
                if delay is None or time.monotonic() + delay > ends_at:
                    raise
                if isinstance(error, NoAnswer):
                    may_be_done = error.sent
                else:
                    may_be_done = isinstance(error, ApiError) and error.status != 429
                if may_be_done:
                    repeat = repeat() if callable(repeat) else repeat
                    if not repeat:
                        raise
            time.sleep(delay)

    def _pages(self, path: str, filters: Mapping[str, Json]) -> Iterator[dict[str, Json]]:
        query = dict(filters)
        while True:
            page = self.call("GET", path + _query(query))
            yield page
            if page["next_cursor"] is None:
                return
            query["cursor"] = page["next_cursor"]


def _created_once(task: dict[str, Json]) -> dict[str, Json]:
    """The body of one creation. Without de-duplication a call sent again would create a second
    task, so such a task gets a key of its own instead.
    """
    if task.get("dedupe") == "none":
        return {**task, "dedupe": "forever", "dedupe_key": uuid.uuid4().hex}
    return task


def _created(result: Mapping[str, Json]) -> Task | ApiError:
    if result["outcome"] == "error":
        error = result["error"]
        return ApiError(
            error["message"],
            code=error["code"],
            status=error["status"],
            details=error.get("details"),
        )
    return read(Task, {**result["task"], "deduplicated": result["outcome"] == "deduplicated"})


def _filter_of(filters: Mapping[str, Json]) -> dict[str, Json]:
    """The filters as the API names them: each value within the params has a name of its own."""
    named = {name: value for name, value in filters.items() if name != "params"}
    named.update({f"params.{path}": value for path, value in filters.get("params", {}).items()})
    return named


def _new_key(data: dict[str, Json]) -> answers.NewKey:
    return {"secret": data["key"], "key": read(Key, data)}


def _query(fields: Mapping[str, Json]) -> str:
    sent = {name: _text(value) for name, value in fields.items() if value is not None}
    return f"?{urlencode(sent)}" if sent else ""


def _text(value: Json) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value)
