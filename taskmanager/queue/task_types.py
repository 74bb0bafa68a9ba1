"""Task types: named, versioned JSON Schemas with defaults for their tasks.

A type has a unique name and is never renamed or deleted. Every registered
version is kept; the one registered last is current.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, product
from operator import itemgetter
from typing import Any, NamedTuple

import peewee

from taskmanager.access import audit
from taskmanager.access.caller import Caller, matches
from taskmanager.config import Settings
from taskmanager.db.connection import cache
from taskmanager.db.models import TaskType, TaskTypeVersion, columns_of
from taskmanager.db.queries import first_row, locking, require_unchanged, rows_of
from taskmanager.db.statements import Row, fetch_all, fetch_one, parts_of
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import InvalidRequest, NotFound, ValidationFailed
from taskmanager.params import validation
from taskmanager.params.limits import MAX_SCHEMA_BYTES
from taskmanager.params.work import MAX_WORK
from taskmanager.payloads.sealing import all_opened, require_keyring, with_opened
from taskmanager.queue import outbox
from taskmanager.queue.flow import lanes, placeholders
from taskmanager.rates import parse_rate

# What a type can set for its tasks; None: the settings decide.
DEFAULTS = (
    "priority",
    "max_attempts",
    "lease_seconds",
    "retry",
    "dedupe",
    "dedupe_days",
    "retention_days",
    "notify",
    "max_run_seconds",
    "is_encrypted",
    "concurrency",
    "start_rate",
    "fair",
    "max_open",
)
SWITCHES = ("is_active", "is_paused")
OPEN_STATUSES = lanes.UNFINISHED
OPEN_TASKS_COUNTED = 10_000  # so that a list does not count millions of rows
OPEN_TASKS_VALIDATED = 10_000
COUNTS_PER_STATEMENT = 60
OPEN_TASKS_READ_AT_ONCE = 10  # each may hold a megabyte
REJECTED_TASKS_SHOWN = 5


class Page(NamedTuple):
    """A part of a list of `total` rows; `next_cursor` is None on the last page.

    There may be more rows than `total` if it is not exact.
    """

    rows: list[Row]
    next_cursor: str | None
    total: int
    total_is_exact: bool = True


class TaskDefaults(NamedTuple):
    """What a task gets from the settings if neither its request nor its type sets it."""

    max_attempts: int
    lease_seconds: int

    @classmethod
    def of(cls, settings: Settings) -> "TaskDefaults":
        return cls(max_attempts=settings.max_attempts, lease_seconds=settings.lease_seconds)


def register_task_type(
    *,
    name: str,
    version: str,
    param_schema: Mapping[str, Any],
    defaults: Mapping[str, Any],
    now: int,
    caller: Caller,
) -> tuple[Row, str]:
    """Creates or updates a type; returns its row and `created`, `updated` or `unchanged`.

    `defaults` has those of DEFAULTS that were sent; the others keep their values.
    Raises ValidationFailed for a schema that cannot be used, and InvalidRequest for an
    endpoint that does not exist and for a name that no address can hold.
    """
    caller.require_type(name)
    schema_text = json.dumps(param_schema, ensure_ascii=False, separators=(",", ":"))
    if len(schema_text.encode()) > MAX_SCHEMA_BYTES:
        raise InvalidRequest(
            f"param_schema is {len(schema_text.encode())} bytes as JSON; the limit is "
            f"{MAX_SCHEMA_BYTES}."
        )
    validation.check_schema(param_schema)
    outbox.require_endpoint(defaults.get("notify"))
    found = fetch_one(SELECT_BY_NAME, (name,))
    if found is None and name in (".", ".."):  # clients take them out of an address
        raise InvalidRequest("name may not be '.' or '..', which no address can hold.")
    columns = _columns(defaults)
    lanes.require_one_kind({"concurrency": None, "fair": None, **(found or {}), **columns})
    if found and not _changes(found, {"version": version, "param_schema": schema_text, **columns}):
        return found, "unchanged"
    outcome = _store(name, version, schema_text, columns, now, caller)
    row = get_task_type(name=name)
    if found:
        _follow_lanes(found, row)
    return row, outcome


@write_transaction
def _store(
    name: str, version: str, schema_text: str, columns: Row, now: int, caller: Caller
) -> str:
    try:
        new = {"name": name, "version": version, "created_at": now, "updated_at": now, **columns}
        type_id = TaskType.insert(new).execute()
        outcome = "created"
    except peewee.IntegrityError:
        row = first_row(locking(TaskType.select().where(TaskType.name == name)))
        if row is None:  # types are never deleted, so another constraint refused the row
            raise
        type_id = row["id"]
        walk = lanes.walk_for(row, columns)
        _update(type_id, {"version": version, **columns, **walk}, now)
        outcome = "updated"
    known = TaskTypeVersion.update(param_schema=schema_text, updated_at=now).where(
        TaskTypeVersion.task_type_id == type_id, TaskTypeVersion.version == version
    )
    if not known.execute():
        new = {"task_type_id": type_id, "version": version, "param_schema": schema_text}
        TaskTypeVersion.insert({**new, "created_at": now, "updated_at": now}).execute()
    message = f"{name}: version {version} registered by {caller.name}"
    audit.record(event=f"task_type_{outcome}", message=message, caller=caller, now=now)
    return outcome


def _update(type_id: int, columns: Row, now: int) -> None:
    TaskType.update({**columns, "updated_at": now}).where(TaskType.id == type_id).execute()


def _columns(fields: Mapping[str, Any]) -> Row:
    columns = dict(fields)
    for name in ("retry", "concurrency", "max_open"):
        if columns.get(name) is not None:
            columns[name] = json.dumps(columns[name])
    if columns.get("start_rate") is not None:
        columns["start_rate"] = _start_rate(columns["start_rate"])
    for switch in SWITCHES:
        if columns.get(switch) is not None:
            columns[switch] = int(columns[switch])
    for flag in ("is_encrypted", "fair"):
        if flag in columns:
            columns[flag] = 1 if columns[flag] else None
    if columns.get("is_encrypted"):
        require_keyring()
    return columns


def _start_rate(text: str) -> str:
    try:
        rate = parse_rate(text)
    except ValueError:
        raise InvalidRequest(
            f"start_rate must be N/second, N/minute, N/hour or N/day; not '{text[:50]}'."
        ) from None
    if rate.is_unlimited:
        raise InvalidRequest("start_rate must be at least 1; null means no limit.")
    return str(rate)


def _changes(row: Row, columns: Row) -> Row:
    return {column: value for column, value in columns.items() if row[column] != value}


def change_task_type(
    *,
    name: str,
    changes: Mapping[str, Any],
    now: int,
    caller: Caller,
    updated_at: int | None = None,
) -> Row:
    """Sets switches and defaults of a type; returns its row.

    `updated_at`: see db/queries.require_unchanged. Raises NotFound, InvalidRequest,
    ChangedMeanwhile.
    """
    caller.require_type(name)
    row = get_task_type(name=name)
    outbox.require_endpoint(changes.get("notify"))
    columns = _columns(changes)
    lanes.require_one_kind({**row, **columns})
    if _changes(row, columns):
        _change(row, columns, now, caller, updated_at)
    changed = get_task_type(name=name)
    _follow_lanes(row, changed)
    return changed


def _follow_lanes(before: Row, after: Row) -> None:
    if after["adopted_until"] is not None:
        lanes.begin_walk(after["id"])
    if before["concurrency"] != after["concurrency"]:
        lanes.apply_limit(after["id"])


@write_transaction
def _change(row: Row, columns: Row, now: int, caller: Caller, updated_at: int | None) -> None:
    require_unchanged("task_types", row["id"], updated_at)
    _update(row["id"], {**columns, **lanes.walk_for(row, columns)}, now)
    changed = ", ".join(f"{key} = {value}" for key, value in _changes(row, columns).items())
    message = f"{row['name']}: {changed}"
    audit.record(event="task_type_changed", message=message, caller=caller, now=now)


def get_task_type(*, name: str, version: str | None = None) -> Row:
    """A type's row with the `param_schema` text of its current version, or of `version`.

    Raises NotFound.
    """
    row = _require(fetch_one(SELECT_BY_NAME, (name,)), name)
    if version is None or version == row["version"]:
        return row
    older = first_row(
        TaskTypeVersion.select(TaskTypeVersion.version, TaskTypeVersion.param_schema).where(
            TaskTypeVersion.task_type_id == row["id"], TaskTypeVersion.version == version
        )
    )
    if older is None:
        raise NotFound(
            f"Task type '{name}' has no version '{version}'; the current one is "
            f"'{row['version']}'.",
            code="task_type_version_not_found",
        )
    return {**row, **older}


def get_type_of_new_task(*, name: str) -> Row:
    """What a new task needs of its type: `id`, `is_active`, `param_schema`, and its defaults.

    Raises NotFound.
    """
    return _require(fetch_one(_SELECT_OF_NEW_TASK, (name,)), name)


def _require(row: Row | None, name: str) -> Row:
    if row is None:
        raise NotFound(
            f"Task type '{name}' is not registered. "
            "Register it first with POST /api/task-types/register.",
            code="task_type_not_found",
        )
    return row


def list_versions(*, task_type_id: int) -> list[Row]:
    """`version`, `created_at` and `updated_at` of every version of a type, the newest first."""
    versions = TaskTypeVersion.select(
        TaskTypeVersion.version, TaskTypeVersion.created_at, TaskTypeVersion.updated_at
    )
    of_type = versions.where(TaskTypeVersion.task_type_id == task_type_id)
    return rows_of(of_type.order_by(TaskTypeVersion.id.desc()))


# Templates, since every create runs one of them.
_OF_NEW_TASK = (
    *("id", "name", "version", "is_active"),
    *("dedupe", "priority", "max_attempts", "notify", "max_run_seconds", "is_encrypted"),
    *("concurrency", "fair", "max_open"),
)


def _select(columns: Iterable[str]) -> str:
    of_type = ", ".join(f"type.{column}" for column in columns)
    return (
        f"SELECT {of_type}, current.param_schema FROM {{task_types}} AS type "
        "JOIN {task_type_versions} AS current "
        "ON current.task_type_id = type.id AND current.version = type.version"
    )


SELECT_CURRENT = _select(columns_of(TaskType))
SELECT_BY_NAME = f"{SELECT_CURRENT} WHERE type.name = ?"
_SELECT_OF_NEW_TASK = f"{_select(_OF_NEW_TASK)} WHERE type.name = ?"


def list_task_types(
    *, active_only: bool, limit: int | None, offset: int, cursor: str | None, caller: Caller
) -> Page:
    """Types that the caller may use, by name; `open_tasks` counts up to OPEN_TASKS_COUNTED.

    `cursor` is the name after which the page begins; without `limit` it has every type.
    """
    found = [
        row
        for row in rows_of(TaskType.select().order_by(TaskType.name))
        if caller.may_touch(row["name"]) and (row["is_active"] or not active_only)
    ]
    left = [row for row in found if cursor is None or row["name"] > cursor][offset:]
    rows = left[:limit]
    counts = _count_open_tasks([row["id"] for row in rows])
    for row in rows:
        row["open_tasks"] = min(counts[row["id"]], OPEN_TASKS_COUNTED)
    return Page(rows, rows[-1]["name"] if len(left) > len(rows) else None, len(found))


def _count_open_tasks(type_ids: Sequence[int]) -> Counter[int]:
    """By type; at most OPEN_TASKS_COUNTED of each status. Many in one statement: lists are long."""
    counts: Counter[int] = Counter()
    for some in parts_of(list(product(type_ids, OPEN_STATUSES)), COUNTS_PER_STATEMENT):
        members = (
            "SELECT ? AS type_id, COUNT(*) AS counted FROM "
            "(SELECT id FROM {tasks} WHERE task_type_id = ? AND status = ? LIMIT ?) AS some"
        )
        values = [(type_id, type_id, status, OPEN_TASKS_COUNTED) for type_id, status in some]
        for row in fetch_all(" UNION ALL ".join([members] * len(some)), list(chain(*values))):
            counts[row["type_id"]] += row["counted"]
    return counts


def retry_policies(type_ids: Collection[int]) -> dict[int, Any]:
    """The retry policy of each of these types by its id; None: the default."""
    if not type_ids:
        return {}
    rows = fetch_all("SELECT id, retry FROM {task_types} WHERE id IN ?", (sorted(type_ids),))
    return {row["id"]: json.loads(row["retry"]) if row["retry"] else None for row in rows}


def with_type(row: Row) -> Row:
    """A row of tasks with its type's name. What is encrypted is opened.

    Raises PayloadUnreadable.
    """
    return with_opened(with_type_name(row))


def with_type_name(row: Row) -> Row:
    """A row of tasks or schedules as it is stored, with its type's name.

    Each process remembers the names.
    """
    names, type_id = cache().task_type_names, row["task_type_id"]
    if type_id not in names:
        found = first_row(TaskType.select(TaskType.name).where(TaskType.id == type_id))
        if found is None:
            raise NotFound(f"There is no task type with id {type_id}.", code="task_type_not_found")
        names[type_id] = found["name"]
    return {**row, "type": names[type_id]}


def allowed_rows(rows: Iterable[Row], caller: Caller) -> list[Row]:
    """`with_type` of each row whose type the caller may touch. To the caller the others are not."""
    return all_opened(allowed_as_stored(rows, caller))


def allowed_as_stored(rows: Iterable[Row], caller: Caller) -> list[Row]:
    """The same with `with_type_name`."""
    return [row for row in map(with_type_name, rows) if caller.may_touch(row["type"])]


def find_task_types(
    *,
    caller: Caller,
    ids: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    pattern: str | None = None,
    is_running: bool = False,
    columns: str = "id, name",
) -> list[Row]:
    """`columns` of the types that match every given filter and that the caller may use, by id.

    With `is_running`, of those that are not paused. A template, since every claim runs it.
    """
    if ids == [] or names == []:  # MySQL does not take `IN ()`
        return []
    given = {"id IN ?": ids, "name IN ?": names}
    filters = {condition: list(some) for condition, some in given.items() if some is not None}
    rows = fetch_all(
        f"SELECT {columns} FROM {{task_types}} "
        f"WHERE {' AND '.join([_RUNNING if is_running else '1 = 1', *filters])}",
        list(filters.values()),
    )
    if pattern is not None:
        rows = [row for row in rows if matches(pattern, row["name"])]
    if caller.task_types is not None:
        rows = [row for row in rows if caller.may_touch(row["name"])]
    return sorted(rows, key=itemgetter("id"))


_RUNNING = "is_paused = 0"


def unusable_task_types() -> list[Row]:
    """The types whose current schema can no longer be used: `{name, version, problem}` each.

    They were registered with an earlier version of the program. New tasks of
    these types are refused.
    """
    unusable = []
    for row in fetch_all(f"{SELECT_CURRENT} ORDER BY type.name"):
        try:
            validation.check_schema(json.loads(row["param_schema"]))
        except ValidationFailed as error:
            unusable.append(
                {"name": row["name"], "version": row["version"], "problem": error.message}
            )
    return unusable


def open_tasks_rejected_by(*, name: str, param_schema: Mapping[str, Any], caller: Caller) -> Row:
    """How many unfinished tasks a new schema would reject, before it is registered.

    Returns `{checked, rejected, examples}`. At most OPEN_TASKS_VALIDATED tasks
    are checked, fewer if the schema is costly to check. `examples` has up to
    REJECTED_TASKS_SHOWN of the rejected, with their problems. Results that a blocked task waits
    for count as fitting.
    """
    caller.require_type(name)
    row = get_task_type(name=name)
    validation.check_schema(param_schema)
    schema_text = json.dumps(param_schema)
    budget = validation.WorkBudget()
    checked, rejected = 0, 0
    examples: list[Row] = []
    for task in islice(_open_tasks(row["id"]), OPEN_TASKS_VALIDATED):
        if budget.left < MAX_WORK:
            break
        # Without a name, so that they are gone before the next ones are read.
        problems_of = validation.param_problems
        if task["status"] == "blocked":
            problems_of = placeholders.param_problems
        problems = problems_of(schema_text, json.loads(with_opened(task)["params"]), budget=budget)
        checked += 1
        if problems and len(examples) < REJECTED_TASKS_SHOWN:
            examples.append({"id": task["id"], "errors": problems})
        rejected += bool(problems)
    return {"checked": checked, "rejected": rejected, "examples": examples}


def _open_tasks(type_id: int) -> Iterator[Row]:
    for status in OPEN_STATUSES:
        last_id: int | None = 0
        while last_id is not None:
            # Without the hint MySQL may sort all tasks of the type.
            tasks = fetch_all(
                "SELECT id, status, params, payload_key FROM {tasks} {index tasks_claim_by_id} "
                "WHERE task_type_id = ? AND status = ? AND id > ? ORDER BY id LIMIT ?",
                (type_id, status, last_id, OPEN_TASKS_READ_AT_ONCE),
            )
            yield from tasks
            last_id = tasks[-1]["id"] if len(tasks) == OPEN_TASKS_READ_AT_ONCE else None
