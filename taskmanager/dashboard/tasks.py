"""/dashboard/tasks: the list with its filters, and changing many tasks, asked once."""

from typing import Any, NamedTuple

from flask import Blueprint, Response, g, request

from taskmanager.api.auth import requires
from taskmanager.api.request_schemas import PRIORITY
from taskmanager.dashboard import search_line
from taskmanager.dashboard.answers import lead_to, page
from taskmanager.dashboard.filters import asked_filters, task_filter
from taskmanager.dashboard.wording import count_of
from taskmanager.errors import InvalidRequest
from taskmanager.queue import bulk, read
from taskmanager.queue.task_types import find_task_types

blueprint = Blueprint("tasks", __name__)

PAGE_SIZE = 50
# Of those that a filter finds, how many one click changes; the rest with the next one.
CHANGED_AT_ONCE = 5_000
SORTS = ("id", "priority")


class Change(NamedTuple):
    """What a button does to many tasks: its label, and what happens to them, for a sentence."""

    label: str
    will: str
    is_final: bool = False


CHANGES = {
    "retry": Change("Retry", "will be tried again with new attempts"),
    "cancel": Change("Cancel", "will be cancelled"),
    "release": Change("Release", "will be taken from their workers and wait again"),
    "priority": Change("Set priority", "will get another priority"),
    "delete": Change("Delete", "will be deleted with their history", is_final=True),
}
_ACTIONS = {
    "retry": bulk.RETRY,
    "cancel": bulk.CANCEL,
    "release": bulk.RELEASE,
    "delete": bulk.DELETE,
}
# In the plural, for what was not changed.
_SKIPPED = {
    "task_not_retryable": "have not failed and were not cancelled",
    "task_finished": "are finished already",
    "task_not_claimed": "are not running",
    "task_not_finished": "are not finished",
    "task_not_waiting": "are not waiting",
    "task_not_found": "are gone",
    "dependency_failed": "depend on a task that has not completed",
    "duplicate_task": "have an unfinished twin with the same dedupe key",
}


@blueprint.get("/tasks")
@requires("tasks:read")
def show() -> Response:
    """GET /dashboard/tasks: a page of tasks; `q` is a search line, `cursor` goes on."""
    line = request.args.get("q")
    filters, problem, found = asked_filters(), None, read.Page(tasks=[], next_cursor=None)
    sort_by = request.args.get("sort", "id")
    try:
        if line is not None:
            return _search(line)
        found = read.list_tasks(
            task_filter=task_filter(filters),
            sort_by=sort_by if sort_by in SORTS else "id",
            descending=True,
            limit=PAGE_SIZE,
            offset=0,
            cursor=request.args.get("cursor") or None,
            with_total=False,
            caller=g.caller,
        )
    except InvalidRequest as error:
        problem = error.message
    return page(
        "tasks.html",
        400 if problem else 200,
        page=found,
        filters=filters,
        line=search_line.line_of(filters) if line is None else line,
        problem=problem,
        statuses=read.STATUSES,
        types=[row["name"] for row in find_task_types(caller=g.caller)],
        sort_by=sort_by,
        is_first="cursor" not in request.args,
        changes=CHANGES,
    )


def _search(line: str) -> Response:
    """Leads to the address that has the line's filters, or to the task whose id it is."""
    task_id = search_line.task_id_of(line)
    if task_id is not None:
        return lead_to("task.show", task_id=task_id)
    filters = search_line.filters_of(line)
    return lead_to("tasks.show", **filters)


@blueprint.post("/tasks/change")
@requires("tasks:manage")
def change() -> Response:
    """POST /dashboard/tasks/change: `action` on the tasks `id`, or with `everything` on a filter's.

    First shows how many tasks it would change. With `confirmed` it changes them.
    """
    name = request.form.get("action", "")
    if name not in CHANGES:
        raise InvalidRequest("Choose what to do with the tasks.")
    is_everything = bool(request.form.get("everything"))
    ids = None if is_everything else _ids()
    filters = asked_filters(request.form) if is_everything else {}
    if ids == []:
        raise InvalidRequest("Select tasks first, or all that match.")
    is_confirmed = bool(request.form.get("confirmed"))
    outcome = bulk.change_tasks(
        _action(name),
        ids=ids,
        task_filter=task_filter(filters),
        limit=CHANGED_AT_ONCE,
        cursor=None,
        dry_run=not is_confirmed,
        reason=None,
        asked={"ids": ids[:20]} if ids is not None else {"filter": filters},
        caller=g.caller,
        now=g.now,
    )
    back = request.form.get("back", "")
    if is_confirmed:
        said = done_sentence(name, outcome)
        if back.isdecimal() and name != "delete":  # the page of a deleted task is gone
            return lead_to("task.show", said=said, task_id=int(back))
        return lead_to("tasks.show", said=said, **asked_filters(request.form))
    return page(
        "confirm.html",
        name=name,
        change=CHANGES[name],
        outcome=outcome,
        skipped=skipped_sentences(outcome),
        ids=ids,
        filters=asked_filters(request.form),
        line=search_line.line_of(filters),
        priority=request.form.get("priority", "0"),
        back=back,
    )


def _ids() -> list[int]:
    texts = request.form.getlist("id")
    if not all(text.isdecimal() and len(text) <= 18 for text in texts):
        raise InvalidRequest("One of the ids is no number.")
    return [int(text) for text in texts]


def _action(name: str) -> bulk.Action:
    if name != "priority":
        return _ACTIONS[name]
    text = request.form.get("priority", "0").strip() or "0"
    low, high = PRIORITY["minimum"], PRIORITY["maximum"]
    if not text.lstrip("-").isdecimal() or len(text) > 8 or not low <= int(text) <= high:
        raise InvalidRequest(f"A priority is a whole number from {low:,} to {high:,}.")
    return bulk.updating(int(text), None)


def done_sentence(name: str, outcome: bulk.Outcome) -> str:
    """What one of CHANGES has done, to be said at the top of the next page."""
    said = f"{CHANGES[name].label}: {count_of(outcome.changed, 'task')} done."
    if outcome.next_cursor:
        said += " More tasks match: select all again to go on."
    return " ".join([said, *skipped_sentences(outcome)])


def skipped_sentences(outcome: bulk.Outcome) -> list[str]:
    """How many tasks stay as they are and why, a sentence for each reason."""
    return [
        f"{count:,} {_SKIPPED.get(code, code)} and stay as they are."
        for code, count in outcome.skipped.items()
    ]


def shown_changes(status: str) -> dict[str, Any]:
    """The changes that a task in `status` allows."""
    return {name: CHANGES[name] for name in CHANGES if status in _statuses(name)}


def _statuses(name: str) -> Any:
    return bulk.updating(0, None).statuses if name == "priority" else _ACTIONS[name].statuses
