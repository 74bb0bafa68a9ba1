"""Checking schemas, and params and request bodies against them.

Schemas and values come from strangers, so all that is done for them is bounded
before it is begun: a schema by what may stand in it (`limits`), one check of a
value by the work that the schema can cause at each place of it (`work`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any

from jsonschema_rs import ValidationError, Validator

from taskmanager.errors import ValidationFailed
from taskmanager.params import limits
from taskmanager.params.limits import SchemaRefused
from taskmanager.params.messages import (
    MAX_PROBLEMS,
    TOO_COSTLY,
    TOO_DEEP,
    Problem,
    Reporter,
    headline,
    path_of,
    problem,
)
from taskmanager.params.schemas import SchemaValidator, compile_schema, meta_validator, validator_of
from taskmanager.params.work import MAX_LEVELS, MAX_WORK, extent_of

# What all the checks of one request may cost together.
MAX_WORK_TOGETHER = 2 * MAX_WORK

# The library makes all errors before it shows one, each with a copy of its value and its rule.
# So much may they take together, in bytes: 100 MB for 0.3 s. Else only the first one is made.
MAX_ERROR_BYTES = 100_000_000
_BYTES_PER_ERROR = 2_000
_BYTES_PER_CHARACTER = 5


@dataclass
class WorkBudget:
    """What the checks of one request may still cost, in units."""

    left: int = MAX_WORK_TOGETHER


def check_schema(schema: Any) -> None:
    """Raises ValidationFailed unless `schema` is a JSON Schema that can be applied here.

    Refused besides what its draft forbids: what is too large, refers to
    anything but a part of the schema itself (nothing is ever fetched) or
    cannot be checked in bounded time.
    """
    if not isinstance(schema, dict):
        raise ValidationFailed(
            "param_schema must be a JSON Schema, that is an object.",
            details=[problem("param_schema", "must be an object", "type")],
        )
    try:
        draft = limits.draft_of(schema)
        limits.check_size(schema)
        problems = _meta_problems(schema, draft)
        if not problems:
            compile_schema(schema)
    except SchemaRefused as refused:
        problems = refused.problems
    if problems:
        raise ValidationFailed(
            f"param_schema is not a JSON Schema that can be used: {headline(problems)}",
            details=problems[:MAX_PROBLEMS],
        )


def _meta_problems(schema: Mapping[str, Any], draft: int) -> list[Problem]:
    validator = meta_validator(draft)
    if validator.is_valid(schema):
        return []
    problems = Reporter("param_schema", schema).problems(validator.iter_errors(schema))
    for found in problems:
        if found["keyword"] == "anyOf" and found["path"].endswith(".type"):
            found["message"] = f"must be one of {_TYPES}, or a list of them"
    return problems


_TYPES = "array, boolean, integer, null, number, object, string"


def param_problems(
    schema_text: str, params: Any, *, budget: WorkBudget | None = None
) -> list[Problem]:
    """What keeps `params` from fitting the schema: at most MAX_PROBLEMS, none where it fits.

    Who checks many values for one request makes one `budget` for all of them.
    """
    try:
        validator = validator_of(schema_text)
    except SchemaRefused as refused:
        found = refused.problems[0]
        message = f"cannot be checked: {found['path']} {found['message']}"
        return [problem("params", message, "schema")]
    return problems_of(validator, params, root="params", budget=budget)


def param_warnings(schema_text: str, params: Any) -> list[Problem]:
    """Properties that the schema's top level does not name: allowed, but often a typing error."""
    known = json.loads(schema_text).get("properties")
    if not isinstance(known, dict) or not isinstance(params, dict):
        return []
    reporter = Reporter("params", params)
    unknown = (name for name in params if name not in known)
    return [
        problem(
            path_of("params", (name,)),
            "is not named by the schema" + reporter.hint(name, known),
            "properties",
        )
        for name in islice(unknown, MAX_PROBLEMS)
    ]


def check_params(
    schema_text: str, params: Any, *, type_name: str, budget: WorkBudget | None = None
) -> None:
    """Raises ValidationFailed, naming every problem, unless `params` fits the schema."""
    problems = param_problems(schema_text, params, budget=budget)
    if problems:
        raise not_fitting(type_name, problems)


def not_fitting(type_name: str, problems: Sequence[Problem]) -> ValidationFailed:
    """The error for params with these problems."""
    return ValidationFailed(
        f"params do not fit the schema of task type '{type_name}': {headline(problems)}",
        details=problems,
    )


def problems_of(
    validator: SchemaValidator,
    value: Any,
    *,
    root: str = "",
    in_words: Mapping[str, str] = MappingProxyType({}),
    budget: WorkBudget | None = None,
) -> list[Problem]:
    """What is wrong with a value; paths begin with `root`, or with the names of its fields.

    `in_words` says of a pattern, or of `anyOf`, what it asks for, as in "must be …".
    """
    extent = extent_of(value)
    units = validator.work.units(extent)
    if units > MAX_WORK or (budget and units > budget.left):
        return [problem(root, TOO_COSTLY, "schema")]
    if validator.work.chain * len(extent.places) > MAX_LEVELS:
        return [problem(root, TOO_DEEP, "schema")]
    if budget:
        budget.left -= units
    library = validator.library
    if library.is_valid(value):
        return []
    bytes_per_error = _BYTES_PER_ERROR + _BYTES_PER_CHARACTER * validator.copied_length
    makes_all = validator.work.error_bytes(extent, bytes_per_error) <= MAX_ERROR_BYTES
    errors = library.iter_errors(value) if makes_all else _first_error(library, value)
    reporter = Reporter(root, value, validator.schema, validator.patterns, in_words)
    return reporter.problems(errors)


def _first_error(validator: Validator, value: Any) -> Sequence[ValidationError]:
    try:
        validator.validate(value)
    except ValidationError as error:
        return [error]
    return []
