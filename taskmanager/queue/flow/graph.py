"""The graph of a task: what it depends on and what depends on it, directly or not. Bounded."""

from taskmanager.access.caller import Caller
from taskmanager.db.statements import Row, fetch_all
from taskmanager.queue import task_types
from taskmanager.queue.flow.dependencies import NAMED_BY

MAX_NODES = 200
MAX_EDGES = 1_000

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
