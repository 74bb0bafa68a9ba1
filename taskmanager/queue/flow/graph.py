"""The graph of a task: what it depends on and what depends on it, directly or not. Bounded.

Also says in words what of it a blocked task waits for.
"""

from taskmanager.access.caller import Caller
from taskmanager.db.statements import Row, fetch_all
from taskmanager.queue import task_types

MAX_NODES = 200
MAX_EDGES = 1_000
IDS_SHOWN = 10
MAX_NAMED = 1_000  # tasks that one task depends on

NAMED_BY = (
    "SELECT task_id, depends_on_id, position, is_open FROM {task_dependencies} "
    "{index task_dependencies_by_task} WHERE task_id IN ? ORDER BY task_id, position LIMIT ?"
)
NAMING = (
    "SELECT task_id, depends_on_id, position, is_open FROM {task_dependencies} "
    "{index task_dependencies_open} WHERE depends_on_id IN ? "
    "ORDER BY depends_on_id, is_open, task_id LIMIT ?"
)


def graph_of(*, task_id: int, caller: Caller) -> tuple[list[Row], list[Row], bool]:
    """The tasks that a task depends on and that depend on it, directly or not.

    Returns their rows, the edges, and whether that is all: a graph has at most MAX_NODES tasks
    and MAX_EDGES edges. Tasks that the caller may not touch or that were pruned are left out.
    """
    known: dict[int, None] = {task_id: None}
    edges: dict[tuple[int, int], Row] = {}
    is_complete = True
    for statement, towards in ((NAMED_BY, "depends_on_id"), (NAMING, "task_id")):
        layer = [task_id]
        while layer and is_complete:
            found = fetch_all(statement, (layer, MAX_EDGES + 1))
            edges |= {(row["task_id"], row["position"]): row for row in found}
            new = [one for one in dict.fromkeys(row[towards] for row in found) if one not in known]
            is_complete = len(edges) <= MAX_EDGES and len(known) + len(new) <= MAX_NODES
            layer = new[: MAX_NODES - len(known)]
            known |= dict.fromkeys(layer)
    rows = fetch_all(
        "SELECT id, task_type_id, status, error_code FROM {tasks} WHERE id IN ? ORDER BY id",
        (list(known),),
    )
    nodes = task_types.allowed_as_stored(rows, caller)
    shown = {row["id"] for row in nodes}
    between = [
        row for row in edges.values() if row["task_id"] in shown and row["depends_on_id"] in shown
    ]
    return nodes, between[:MAX_EDGES], is_complete


def words_for(task_id: int, *, caller: Caller) -> str:
    """What a blocked task waits for, as a sentence: how many, and the first that may be named."""
    links = fetch_all(NAMED_BY, ([task_id], MAX_NAMED))
    left = list(dict.fromkeys(link["depends_on_id"] for link in links if link["is_open"]))
    total = len({link["depends_on_id"] for link in links})
    rows = fetch_all("SELECT id, task_type_id FROM {tasks} WHERE id IN ?", (left or [0],))
    may = {row["id"] for row in task_types.allowed_as_stored(rows, caller)}
    named = [str(one) for one in left if one in may][:IDS_SHOWN]
    more = ", …" if len(named) < len(left) else ""
    which = f": {', '.join(named)}{more}" if named else ""
    return f"{len(left)} of the {total} tasks that it depends on have not ended{which}."
