"""Placeholders in params for the results of other tasks: `{"$result_of": N, "path": "a.b"}`.

N is the position in the task's depends_on, from 0. `path` names a value inside the result: keys of
objects and positions in lists, separated by dots. Without it the whole result is meant. In a task
that depends on no other task such an object is an ordinary value.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from taskmanager.db.statements import Row
from taskmanager.errors import ValidationFailed
from taskmanager.params import validation
from taskmanager.params.messages import Problem, path_of
from taskmanager.params.paths import value_at

NAME = "$result_of"

# What a schema can say of an object or a list before all of the values in it are known.
_KNOWN_EARLY = frozenset(
    ("required", "additionalProperties", "propertyNames", "type", "minProperties", "maxProperties")
)


# A value in a result: the position in depends_on, and the path in the result.
Place = tuple[int, str]


class NoSuchValue(Exception):
    """A result has no value at the path of a placeholder; the message says so."""


def used_values(params: Any, *, dependencies: int) -> Counter[Place]:
    """The values of results that the params take, with how many times each.

    Raises ValidationFailed for a placeholder that is wrong.
    """
    found: Counter[Place] = Counter()
    for where, value in _placeholders(params, "params"):
        at, path = value[NAME], value.get("path", "")
        if type(at) is not int or not 0 <= at < dependencies:
            message = f"{NAME} must be a position in depends_on, from 0 to {dependencies - 1}"
        elif not isinstance(path, str) or value.keys() - {NAME, "path"}:
            message = f"takes {NAME} and, as text, path; nothing else"
        else:
            found[at, path] += 1
            continue
        raise ValidationFailed(
            f"{where}: {message}.", details=[{"path": where, "message": message, "keyword": NAME}]
        )
    return found


def check_params(
    task_type: Row,
    params: Mapping[str, Any],
    *,
    dependencies: int,
    budget: validation.WorkBudget | None = None,
) -> None:
    """Raises ValidationFailed unless the params of a task with so many dependencies fit.

    Params with placeholders are refused where they do not fit whatever the results will be.
    """
    schema_text, type_name = task_type["param_schema"], task_type["name"]
    if not dependencies or not used_values(params, dependencies=dependencies):
        validation.check_params(schema_text, params, type_name=type_name, budget=budget)
    elif problems := param_problems(schema_text, params, budget=budget):
        raise validation.not_fitting(type_name, problems)


def param_problems(
    schema_text: str, params: Any, *, budget: validation.WorkBudget | None = None
) -> list[Problem]:
    """What keeps the params of a blocked task from fitting the schema whatever the results will be.

    What concerns a placeholder, or a rule about all values of an object or a list around it, is
    left to the check of the filled params.
    """
    places = [where for where, _ in _placeholders(params, "params")]

    def is_known(problem: Mapping[str, Any]) -> bool:
        path = problem["path"]
        if any(path == one or path.startswith((f"{one}.", f"{one}[")) for one in places):
            return False
        is_around = any(one.startswith((f"{path}.", f"{path}[")) for one in places)
        return not is_around or problem["keyword"] in _KNOWN_EARLY

    problems = validation.param_problems(schema_text, params, budget=budget)
    return [problem for problem in problems if is_known(problem)]


def filled(value: Any, values: Mapping[Place, Any]) -> Any:
    """The params with each placeholder replaced by its value."""
    if isinstance(value, dict):
        if NAME in value:
            return values[value[NAME], value.get("path", "")]
        return {name: filled(part, values) for name, part in value.items()}
    if isinstance(value, list):
        return [filled(part, values) for part in value]
    return value


def value_in(result: Any, place: Place) -> Any:
    """The value at this place in a result; None where the result is None. Raises NoSuchValue."""
    position, path = place
    if result is None or not path:
        return result
    try:
        return value_at(result, path)
    except LookupError:
        message = f"The result of depends_on[{position}] has no value at '{path}'."
        raise NoSuchValue(message) from None


def _placeholders(value: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each placeholder with where it is, as problems of the schema name a place."""
    if isinstance(value, dict):
        if NAME in value:
            yield path, value
            return
        for name, part in value.items():
            yield from _placeholders(part, path_of(path, (name,)))
    elif isinstance(value, list):
        for at, part in enumerate(value):
            yield from _placeholders(part, path_of(path, (at,)))
