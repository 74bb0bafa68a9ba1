"""The definitions of recurring tasks: creating, reading, changing and deleting schedules.

due_times.py computes when a schedule is due, runs.py does what happens then.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import peewee
from peewee import fn

from taskmanager.access import audit
from taskmanager.access.caller import Caller
from taskmanager.db.errors import is_duplicate
from taskmanager.db.models import Schedule
from taskmanager.db.queries import locking, require_unchanged, rows_of
from taskmanager.db.statements import Row
from taskmanager.db.transactions import write_transaction
from taskmanager.errors import Conflict, InvalidRequest, NotFound
from taskmanager.params import validation
from taskmanager.payloads.sealing import require_keyring, under_key, with_opened
from taskmanager.queue import create, outbox, task_types
from taskmanager.queue.answer_size import require_small
from taskmanager.queue.columns import params_text, tags_text
from taskmanager.queue.schedules import due_times
from taskmanager.queue.schedules.due_times import Timing
from taskmanager.queue.task_types import Page, TaskDefaults

OVERLAPS = ("allow", "skip")
DEFAULT_TIMEZONE = "UTC"
MAX_INTERVAL_SECONDS = 366 * 86_400
NEXT_RUNS_SHOWN = 5
MAX_PARAMS_LENGTH = 65_536

OF_ITS_TASKS = ("priority", "max_attempts", "notify", "concurrency_key", "group_key")
_PLAIN_FIELDS = ("name", "overlap", *OF_ITS_TASKS)


def create_schedule(
    fields: Mapping[str, Any], *, defaults: TaskDefaults, caller: Caller, now: int
) -> Row:
    """Creates a schedule from the fields of `POST /api/schedules`; its first run is after `now`.

    Raises NotFound, NotAllowed, InvalidRequest and ValidationFailed as
    `create_task` does, or for its timing, and Conflict if the name is taken.
    """
    timing = _new_timing(fields)
    outbox.require_endpoint(fields.get("notify"))
    request = {"type": fields["type"], "params": fields["params"]}
    task = create.prepare_task(request, defaults=defaults, caller=caller, now=now)
    require_small("params", params_text(fields["params"]), MAX_PARAMS_LENGTH)
    first = due_times.first_after(timing, now)
    row: Row = {
        "task_type_id": task["task_type_id"],
        "overlap": "allow",
        "is_active": 1,
        **_columns(fields, timing),
        "created_at": now,
        "updated_at": now,
    }
    row["next_run_at"] = first if row["is_active"] else None
    row["payload_key"] = task["payload_key"]
    return get_schedule(schedule_id=_insert(row, caller, now), caller=caller)


@write_transaction
def _insert(row: Row, caller: Caller, now: int) -> int:
    key = None if row["payload_key"] is None else require_keyring().find(row["payload_key"])
    with _unless_name_is_taken(row["name"]):
        schedule_id: int = Schedule.insert(row if key is None else {**row, "params": ""}).execute()
    if key is not None:  # for its id
        texts = under_key({**row, "id": schedule_id}, "schedules", key)
        Schedule.update(texts).where(Schedule.id == schedule_id).execute()
    _record("schedule_created", schedule_id, row["name"], f"made by {caller.name}", caller, now)
    return schedule_id


@contextlib.contextmanager
def _unless_name_is_taken(name: str | None) -> Iterator[None]:
    try:
        yield
    except peewee.IntegrityError as error:
        if not is_duplicate(error):
            raise
        raise Conflict(
            f"There is a schedule named '{name}' already; change it with PATCH, or choose another "
            "name.",
            code="schedule_exists",
        ) from None


def _record(event: str, schedule_id: int, name: str, what: str, caller: Caller, now: int) -> None:
    message = f"schedule {schedule_id} ({name}) {what}"
    audit.record(event=event, message=message, caller=caller, now=now)


def list_schedules(*, limit: int, offset: int, cursor: str | None, caller: Caller) -> Page:
    """Schedules of the types that the caller may use, by name, after the name `cursor`."""
    schedules = Schedule.select()
    if caller.task_types is not None:
        types = task_types.find_task_types(caller=caller)
        schedules = schedules.where(Schedule.task_type_id.in_([row["id"] for row in types]))
    beyond = schedules if cursor is None else schedules.where(Schedule.name > cursor)
    found = rows_of(beyond.order_by(Schedule.name).limit(limit + 1).offset(offset))
    rows = [with_opened(task_types.with_type_name(row), "schedules") for row in found[:limit]]
    more = len(found) > limit
    return Page(rows, rows[-1]["name"] if more else None, schedules.count())


def count_schedules(*, caller: Caller) -> dict[str, int]:
    """How many schedules of those types are `active` and how many `inactive`."""
    groups = Schedule.select(
        Schedule.task_type_id, Schedule.is_active, fn.COUNT(Schedule.id).alias("schedules")
    ).group_by(Schedule.task_type_id, Schedule.is_active)
    counts = {"active": 0, "inactive": 0}
    for group in task_types.allowed_rows(rows_of(groups), caller):
        counts["active" if group["is_active"] else "inactive"] += group["schedules"]
    return counts


def get_schedule(*, schedule_id: int, caller: Caller) -> Row:
    """One schedule with `next_runs`, its next due times. Raises NotFound."""
    return with_next_runs(find_schedule(schedule_id, caller))


def with_next_runs(row: Row) -> Row:
    """A schedule with `next_runs`, its next due times."""
    runs = []
    if row["next_run_at"] is not None:
        try:
            runs = due_times.upcoming(timing_of(row), row["next_run_at"], NEXT_RUNS_SHOWN)
        except InvalidRequest:  # this host does not know its time zone; the next run will say so
            runs = [row["next_run_at"]]
    return {**row, "next_runs": runs}


def find_schedule(schedule_id: int, caller: Caller, *, lock: bool = False) -> Row:
    """A schedule with its type's name. Raises NotFound, also if the caller may not use the type.

    `lock`: its row is locked until the transaction ends.
    """
    schedule = Schedule.select().where(Schedule.id == schedule_id)
    found = rows_of(locking(schedule) if lock else schedule)
    for row in task_types.allowed_as_stored(found, caller):
        return with_opened(row, "schedules")
    raise NotFound(f"There is no schedule {schedule_id}.", code="schedule_not_found")


def change_schedule(
    *,
    schedule_id: int,
    changes: Mapping[str, Any],
    caller: Caller,
    now: int,
    updated_at: int | None = None,
) -> Row:
    """Changes the fields of `PATCH /api/schedules/{id}`; returns the schedule.

    With another timing, or when it becomes active again, it is next due at the
    first due time after `now`: runs that were missed meanwhile are not made up.
    `updated_at`: see db/queries.require_unchanged.

    Raises NotFound, InvalidRequest, ValidationFailed, ChangedMeanwhile, Conflict.
    """
    row = find_schedule(schedule_id, caller)
    outbox.require_endpoint(changes.get("notify"))
    if "params" in changes:
        schema_text = task_types.get_task_type(name=row["type"])["param_schema"]
        validation.check_params(schema_text, changes["params"], type_name=row["type"])
        require_small("params", params_text(changes["params"]), MAX_PARAMS_LENGTH)
    _changed_columns(row, changes, now)  # raises before anything is locked
    _change(schedule_id, changes, caller, now, updated_at)
    return get_schedule(schedule_id=schedule_id, caller=caller)


@write_transaction
def _change(
    schedule_id: int,
    changes: Mapping[str, Any],
    caller: Caller,
    now: int,
    updated_at: int | None,
) -> None:
    require_unchanged("schedules", schedule_id, updated_at)
    row = find_schedule(schedule_id, caller, lock=True)
    changed = _changed_columns(row, changes, now)
    if not changed:
        return
    columns = {**changed, "updated_at": now}
    if "params" in changed:  # the switch of the type counts from now on
        task_type = task_types.get_type_of_new_task(name=row["type"])
        key = require_keyring().current if task_type["is_encrypted"] else None
        columns |= under_key({**row, **changed}, "schedules", key)
    with _unless_name_is_taken(changed.get("name")):
        Schedule.update(columns).where(Schedule.id == schedule_id).execute()
    # Params may be long, and the next run follows from the other columns.
    shown = ", ".join(
        column if column == "params" else f"{column} = {value}"
        for column, value in changed.items()
        if column != "next_run_at"
    )
    what = f"changed by {caller.name}: {shown}"
    _record("schedule_changed", schedule_id, row["name"], what, caller, now)


def _changed_columns(row: Row, changes: Mapping[str, Any], now: int) -> Row:
    """The columns whose values differ from `row` after `changes`, `next_run_at` among them."""
    timing = _new_timing(changes, row)
    columns = _columns(changes, timing)
    changed = {column: value for column, value in columns.items() if row[column] != value}
    is_active = columns.get("is_active", row["is_active"])
    if changed.keys() & set(Timing._fields):
        first = due_times.first_after(timing, now)  # checks the timing of an inactive one, too
        changed["next_run_at"] = first if is_active else None
    elif "is_active" in changed:
        changed["next_run_at"] = due_times.first_after(timing, now) if is_active else None
    return changed


def _columns(fields: Mapping[str, Any], timing: Timing) -> Row:
    """What a request sets, as the table has it."""
    columns: Row = {name: fields[name] for name in _PLAIN_FIELDS if name in fields}
    columns |= timing._asdict()
    if "params" in fields:
        columns["params"] = params_text(fields["params"])
    if "tags" in fields:
        columns["tags"] = tags_text(fields["tags"])
    if "is_active" in fields:
        columns["is_active"] = int(fields["is_active"])
    return columns


def _new_timing(fields: Mapping[str, Any], row: Row | None = None) -> Timing:
    """The timing that a request asks for; what it leaves out comes from `row`."""
    cron, interval_seconds = fields.get("cron"), fields.get("interval_seconds")
    if cron is not None and interval_seconds is not None:
        raise InvalidRequest("Send cron or interval_seconds, not both.")
    if cron is not None:  # one that is stored already stays as it is
        cron = due_times.clean_cron(cron)
    elif interval_seconds is None:
        if row is None:
            raise InvalidRequest("A schedule needs a cron expression or interval_seconds.")
        cron, interval_seconds = row["cron"], row["interval_seconds"]
    if cron is None:
        if "timezone" in fields:
            raise InvalidRequest("timezone goes with cron; an interval is the same in every zone.")
        return Timing(cron=None, timezone=DEFAULT_TIMEZONE, interval_seconds=interval_seconds)
    zone = fields.get("timezone", row["timezone"] if row else DEFAULT_TIMEZONE)
    return Timing(cron=cron, timezone=zone, interval_seconds=None)


def timing_of(row: Row) -> Timing:
    """When a schedule is due, from its row."""
    return Timing(**{column: row[column] for column in Timing._fields})


@write_transaction
def delete_schedule(*, schedule_id: int, caller: Caller, now: int) -> Row:
    """Deletes a schedule; the tasks that it created stay. Raises NotFound."""
    row = find_schedule(schedule_id, caller, lock=True)
    Schedule.delete().where(Schedule.id == schedule_id).execute()
    what = f"removed by {caller.name}"
    _record("schedule_deleted", schedule_id, row["name"], what, caller, now)
    return row
