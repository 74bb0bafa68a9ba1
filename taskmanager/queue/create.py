"""Creating tasks: one or a thousand, de-duplicated by their dedupe keys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskmanager.access.caller import Caller
from taskmanager.db.connection import takes
from taskmanager.db.statements import MAX_ROWS, Row, fetch_all, parts_of
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import (
    Conflict,
    DatabaseUnavailable,
    InvalidRequest,
    NotFound,
    QueueFull,
    TaskManagerError,
    TooLarge,
)
from taskmanager.params import validation
from taskmanager.payloads.sealing import as_long, require_keyring
from taskmanager.queue import change, dedupe, endings, outbox, task_types
from taskmanager.queue.columns import available_from, params_text, tags_text, when_available
from taskmanager.queue.flow import backlog, deadlines, dependencies, lanes, placeholders
from taskmanager.queue.store import Stored, store_tasks
from taskmanager.queue.task_types import TaskDefaults

# `type`, `params` and, where given, the other fields of `POST /api/tasks`; `available_at` in
# milliseconds.
Request = Mapping[str, Any]


@dataclass(kw_only=True)
class Outcome:
    """What became of one requested task: `task` or `error` is set."""

    task: Row | None = None
    deduplicated: bool = False
    on_duplicate: str | None = None  # what was done to the task that existed, where that was asked
    error: TaskManagerError | None = None


def create_task(request: Request, *, defaults: TaskDefaults, caller: Caller, now: int) -> Outcome:
    """Creates one task, or finds the one that holds its key.

    Transition: nothing → pending, or scheduled where its time is to come.
    Commits together: the task and its first history row.
    Raises NotFound, InvalidRequest, ValidationFailed, NotAllowed, TooLarge, QueueFull.
    A crash leaves nothing, or the whole task; sent again it is created, or found.
    """
    [outcome] = create_tasks([request], atomic=True, defaults=defaults, caller=caller, now=now)
    if outcome.error is not None:
        raise outcome.error
    return outcome


def create_tasks(
    requests: Sequence[Request], *, atomic: bool, defaults: TaskDefaults, caller: Caller, now: int
) -> list[Outcome]:
    """Creates many tasks in one transaction; an Outcome per request, in order.

    With `atomic` one bad request keeps all of them from being created, and QueueFull is raised.
    Otherwise see `create_task`.
    """
    rows = prepare_tasks(requests, defaults=defaults, caller=caller, now=now)
    stored: list[Stored] = []
    while not stored:
        good = [row for row in rows if not isinstance(row, TaskManagerError)]
        if not good or (atomic and len(good) < len(rows)):
            break
        try:
            stored = _store(good, caller, now)
        except QueueFull as full:
            if atomic:
                raise
            rows = _without(full.refused, rows)
    outcomes = [Outcome(error=row if isinstance(row, TaskManagerError) else None) for row in rows]
    if stored:
        unanswered = (outcome for outcome in outcomes if outcome.error is None)
        for outcome, (task, existed) in zip(unanswered, stored, strict=True):
            outcome.task, outcome.deduplicated = task_types.with_type(task), existed
        for request, outcome in zip(requests, outcomes, strict=True):
            if outcome.deduplicated and request.get("on_duplicate", "keep") != "keep":
                _change_existing(request, outcome, caller, now)
    return outcomes


@write_transaction
def _store(rows: list[Row], caller: Caller, now: int) -> list[Stored]:
    is_limited = any(row["max_open"] for row in rows)
    store = backlog.store_within_limits if is_limited else store_tasks
    stored = store(rows, caller=caller)
    if any(row["depends_on"] for row in rows):
        stored, ended = dependencies.connect(rows, stored, now=now)
        endings.record_followed(ended, now=now)
    return stored


def _without(
    refused: Mapping[int, QueueFull], rows: Sequence[Row | TaskManagerError]
) -> list[Row | TaskManagerError]:
    """The rows with these errors in place of some of those that are good, counted among them."""
    good = [row for row in rows if not isinstance(row, TaskManagerError)]
    left = [refused.get(index, row) for index, row in enumerate(good)]
    following = iter(dependencies.renumbered(left))
    return [row if isinstance(row, TaskManagerError) else next(following) for row in rows]


def _change_existing(request: Request, outcome: Outcome, caller: Caller, now: int) -> None:
    """Makes the task that exists already wait for longer, or do what is asked now.

    In a transaction of its own: a crash before leaves the task as it was, and the same request
    again finds it and changes it. A task that no longer waits stays as it is.
    """
    task = outcome.task or {}
    fields: dict[str, Any] = {"available_at": max(now, available_from(request, now))}
    if request["on_duplicate"] == "replace":
        names = ("params", "priority", "max_attempts", "tags")
        fields |= {name: request[name] for name in names if request.get(name) is not None}
    try:
        outcome.task = change.change_existing(
            task_id=task["id"], request=fields, caller=caller, now=now
        )
        outcome.on_duplicate = f"{request['on_duplicate'].removesuffix('e')}ed"
    except (Conflict, NotFound):
        outcome.on_duplicate = "kept"


def prepare_tasks(
    requests: Sequence[Request], *, defaults: TaskDefaults, caller: Caller, now: int
) -> list[Row | TaskManagerError]:
    """For each request the row for `store_tasks`, or why there is none."""
    rows: list[Row | TaskManagerError] = []
    types: dict[str, Row | TaskManagerError] = {}
    missing_parents = _missing_parents(requests, caller)
    missing_dependencies = dependencies.missing_ids(requests, caller)
    named = {request["notify"] for request in requests if request.get("notify")}
    missing_endpoints = outbox.missing_endpoints(named)
    budget = validation.WorkBudget()
    for request in requests:
        try:
            if request.get("parent_task_id") in missing_parents:
                raise InvalidRequest(
                    f"There is no task {request['parent_task_id']} to be the parent.",
                    code="parent_task_not_found",
                )
            for wanted in request.get("depends_on", ()):
                if type(wanted) is int and wanted in missing_dependencies:
                    raise dependencies.no_such_dependency(wanted)
            if request.get("notify") in missing_endpoints:
                raise outbox.no_such_endpoint(request["notify"])
            task_type = _type_for(request["type"], types, caller)
            rows.append(_new_row(request, task_type, defaults, now, budget))
        except DatabaseUnavailable:  # no fault of this one request
            raise
        except TaskManagerError as error:
            rows.append(error)
    return dependencies.renumbered(rows)


def prepare_task(request: Request, *, defaults: TaskDefaults, caller: Caller, now: int) -> Row:
    """The row that `request` makes, for `store_tasks`; raises what `create_task` raises."""
    return _new_row(request, _type_for(request["type"], {}, caller), defaults, now)


def _missing_parents(requests: Sequence[Request], caller: Caller) -> set[int]:
    """Parents asked for that do not exist, or that the caller may not know to exist."""
    wanted = {request["parent_task_id"] for request in requests if request.get("parent_task_id")}
    if not wanted:
        return wanted
    found: list[Row] = []
    for some in parts_of(list(wanted), MAX_ROWS):
        found += fetch_all("SELECT id, task_type_id FROM {tasks} WHERE id IN ?", (some,))
    return wanted - {row["id"] for row in task_types.allowed_rows(found, caller)}


def _type_for(name: str, known: dict[str, Row | TaskManagerError], caller: Caller) -> Row:
    """The type's row, looked up once a batch. Raises what makes it unusable."""
    if name not in known:
        caller.require_type(name)
        try:
            known[name] = task_types.get_type_of_new_task(name=name)
        except NotFound as error:
            known[name] = error
    found = known[name]
    if isinstance(found, TaskManagerError):
        raise found
    if not found["is_active"]:
        raise InvalidRequest(
            f"Task type '{name}' is not active and takes no new tasks.", code="task_type_inactive"
        )
    return found


def _new_row(
    request: Request,
    task_type: Row,
    defaults: TaskDefaults,
    now: int,
    budget: validation.WorkBudget | None = None,
) -> Row:
    name, params = task_type["name"], request["params"]
    depends_on = request.get("depends_on", [])
    if not depends_on and "on_dependency_failed" in request:
        raise InvalidRequest("on_dependency_failed needs depends_on, which names the tasks.")
    placeholders.check_params(task_type, params, dependencies=len(depends_on), budget=budget)
    policy = request.get("dedupe") or task_type["dedupe"] or dedupe.DEFAULT_POLICY
    priority = _first_given(request.get("priority"), task_type["priority"], 0)
    available_at = max(now, available_from(request, now))
    of: Row = {"payload_key": require_keyring().current.id if task_type["is_encrypted"] else None}
    text = params_text(params)
    if not takes(as_long(text, of=of)):
        raise TooLarge
    key = dedupe.dedupe_key(type_name=name, params=params, requested_key=request.get("dedupe_key"))
    return {
        **of,
        "task_type_id": task_type["id"],
        "type_version": task_type["version"],
        "status": "blocked" if depends_on else when_available(available_at, now)["status"],
        "depends_on": depends_on,
        "max_open": task_type["max_open"],
        "on_dependency_failed": (request.get("on_dependency_failed") or "cancel")
        if depends_on
        else None,
        "params": text,
        "priority": priority,
        "claim_rank": -priority,
        "attempts": 0,
        "max_attempts": _first_given(
            request.get("max_attempts"), task_type["max_attempts"], defaults.max_attempts
        ),
        "dedupe": policy,
        "dedupe_key": dedupe.stored_key(key, task_type),
        **dedupe.held_keys(policy),
        "dedupe_seconds": _dedupe_seconds(request, policy),
        "parent_task_id": request.get("parent_task_id"),
        "tags": tags_text(request.get("tags")),
        **lanes.keys_of_new(request, task_type),
        "traceparent": request.get("traceparent"),
        "notify": request.get("notify") or task_type["notify"],
        "available_at": available_at,
        "expires_at": deadlines.deadline_of(request, available_at=available_at, now=now),
        "max_run_seconds": request.get("max_run_seconds") or task_type["max_run_seconds"],
        "created_at": now,
        "updated_at": now,
    }


def _dedupe_seconds(request: Request, policy: str) -> int | None:
    seconds: int | None = request.get("dedupe_seconds")
    if seconds is not None and policy != "forever":
        raise InvalidRequest(
            f"dedupe_seconds shortens dedupe: forever, but the policy here is '{policy}'."
        )
    return seconds


def _first_given(*values: int | None) -> int:
    return next(value for value in values if value is not None)
