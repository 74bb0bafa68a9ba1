"""What an import could not take over as it was: counted and listed for the person who runs it."""

from typing import Any

LISTED = 20

SENTENCES = {
    "type_renamed": "Task types with characters that names may not have were renamed",
    "type_inactive": (
        "Task types whose schema cannot be used take no new tasks. Register each with a correct "
        "schema, then set is_active"
    ),
    "claimed": "Tasks that a worker held are pending again",
    "duplicate": (
        "Tasks have the same type and params as an earlier one. They are kept, but a new task is "
        "compared with the earlier one only"
    ),
    "params": (
        "Tasks have params that are not a JSON object. Their text is in params.params_json. Those "
        "that were not finished have failed with the code invalid_params"
    ),
    "status": "Tasks have an unknown status and are imported as failed",
    "result": "Tasks have a result that is not JSON. It was imported as a string",
    "shortened": "Texts longer than 10,000 characters were cut, in tasks",
    "without_type": "Tasks of a type that does not exist were left out",
    "without_task": "Entries of the history of tasks that do not exist were left out",
    "pruned_soon": (
        "Tasks finished longer ago than TASKMANAGER_RETENTION_DAYS. The next maintenance deletes "
        "them unless you raise that setting first"
    ),
}


class Notes:
    """Counts every case; lists the first LISTED of each kind."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def add(self, kind: str, case: str | int) -> None:
        """`kind` is one of SENTENCES, `case` an id or what happened to which."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        cases = self._found.setdefault(kind, [])
        if len(cases) < LISTED:
            cases.append(str(case))

    def as_json(self) -> list[dict[str, Any]]:
        return [
            {
                "code": kind,
                "message": f"{SENTENCES[kind]}.",
                "count": self._counts[kind],
                "first": self._found[kind],
            }
            for kind in SENTENCES
            if kind in self._counts
        ]

    def as_lines(self) -> list[str]:
        lines = []
        for note in self.as_json():
            more = note["count"] - len(note["first"])
            cases = ", ".join(note["first"]) + (f" and {more:,} more" if more else "")
            lines.append(f"{note['message'][:-1]} ({note['count']:,}): {cases}")
        return lines
