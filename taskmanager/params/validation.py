"""JSON Schema: checking schemas, and values against them, with problems a stranger understands.

Schemas and values come from strangers, so all that is done for them is bounded:
a schema by what may stand in it (`schema_limits`, `pattern_syntax`), one check
of a value by the work it may cost (`work_meter`). Every sentence is ours, so no
library's text reaches a caller.
"""

import difflib
import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any

from taskmanager.errors import ValidationFailed
from taskmanager.params import schema_limits
from taskmanager.params.schema_assertions import TYPE_NAMES
from taskmanager.params.schema_compiler import SchemaRefused, SchemaValidator, compile_schema
from taskmanager.params.schema_limits import Refusal, path_of, shortened
from taskmanager.params.schema_run import IN_NAME, Failure, Run, with_room
from taskmanager.params.work_meter import TooCostly, WorkMeter

MAX_PROBLEMS = 20
MAX_SHOWN_VALUE = 60
# A compiled schema takes about a hundred times the bytes of its text.
VALIDATOR_CACHE_SIZE = 256
LARGE_SCHEMA_LENGTH = 4_096
LARGE_VALIDATOR_CACHE_SIZE = 16

# What one check of a value may cost: about 100 ms, twice that on a slow host. An object of ten
# fields costs some hundred units; a megabyte of ordinary data stays within the limit.
MAX_UNITS = 1_200_000
# Most end far below; one that does not begins again, prepared for a long run.
ORDINARY_UNITS = 20_000
# What all the checks of one request may cost together.
MAX_UNITS_TOGETHER = 5 * MAX_UNITS

# Names are compared for hints in quadratic time.
MAX_HINTS = 5
MAX_HINT_LENGTH = 40
MAX_HINT_LENGTH_GAP = 4
MAX_HINT_CHOICES = 50

Problem = dict[str, str]


def check_schema(schema: Any) -> None:
    """Raises ValidationFailed unless `schema` is a JSON Schema that can be applied here.

    Refused besides what its draft forbids: what is too large, refers to
    anything but a part of the schema itself (nothing is ever fetched) or
    cannot be checked in bounded time.
    """
    if not isinstance(schema, dict):
        raise ValidationFailed(
            "param_schema must be a JSON Schema, that is an object.",
            details=[_problem("param_schema", "must be an object", "type")],
        )
    draft = schema_limits.draft_of(schema)
    if draft is None:
        raise ValidationFailed(
            "param_schema names a JSON Schema draft that is not known.",
            details=[_problem("param_schema.$schema", _UNKNOWN_DRAFT, "$schema")],
        )
    problems = _refused(schema_limits.size_refusals(schema), "param_schema")
    problems = problems or _meta_problems(schema, draft)
    if not problems:
        try:
            compile_schema(schema, draft)
        except SchemaRefused as refused:
            problems = _refused(refused.refusals, "param_schema")
    if problems:
        raise ValidationFailed(
            f"param_schema is not a JSON Schema that can be used: {headline(problems)}",
            details=problems[:MAX_PROBLEMS],
        )


_UNKNOWN_DRAFT = (
    "is not a known draft; leave it out for https://json-schema.org/draft/2020-12/schema "
    "(drafts 4, 6, 7 and 2019-09 are known too)"
)


def _meta_problems(schema: Mapping[str, Any], draft: int) -> list[Problem]:
    from taskmanager.params.schema_drafts import meta_schema

    problems = _problems(meta_schema(draft), schema, "param_schema", None)
    for problem in problems:
        if problem["keyword"] == "anyOf" and problem["path"].endswith(".type"):
            problem["message"] = f"must be one of {', '.join(TYPE_NAMES)}, or a list of them"
    return problems


def param_problems(
    schema_text: str, params: Any, *, allowance: WorkMeter | None = None
) -> list[Problem]:
    """What keeps `params` from fitting the schema: at most MAX_PROBLEMS, none where it fits.

    Who checks many values for one request makes an `allowance` of
    MAX_UNITS_TOGETHER and passes it each time.
    """
    try:
        is_large = len(schema_text) > LARGE_SCHEMA_LENGTH
        validator = (_compiled_large_validator if is_large else compiled_validator)(schema_text)
    except SchemaRefused as refused:
        path, message = _refused(refused.refusals, "param_schema")[0]["path"], "cannot be checked"
        return [_problem("params", f"{message}: {path} {refused.refusals[0][2]}", "schema")]
    return _problems(validator, params, "params", allowance)


def param_warnings(schema_text: str, params: Any) -> list[Problem]:
    """Properties that the schema's top level does not name: allowed, but often a typing error."""
    known = json.loads(schema_text).get("properties")
    if not isinstance(known, dict) or not isinstance(params, dict):
        return []
    hints = Hints()
    unknown = (name for name in params if name not in known)
    return [
        _problem(
            path_of("params", (name,)),
            "is not named by the schema" + hints.nearest(name, known),
            "properties",
        )
        for name in islice(unknown, MAX_PROBLEMS)
    ]


def check_params(
    schema_text: str, params: Any, *, type_name: str, allowance: WorkMeter | None = None
) -> None:
    """Raises ValidationFailed, naming every problem, unless `params` fits the schema."""
    problems = param_problems(schema_text, params, allowance=allowance)
    if problems:
        raise ValidationFailed(
            f"params do not fit the schema of task type '{type_name}': {headline(problems)}",
            details=problems,
        )


def body_problems(
    validator: SchemaValidator, body: Any, *, in_words: Mapping[str, str]
) -> list[Problem]:
    """What is wrong with a request body; paths are the names of its fields.

    `in_words` says of a pattern what it asks for, as in "must be …".
    """
    return _problems(validator, body, "", None, in_words)


@functools.lru_cache(maxsize=VALIDATOR_CACHE_SIZE)
def compiled_validator(schema_text: str) -> SchemaValidator:
    """The validator of a schema, given as its JSON text; remembered per process.

    Raises SchemaRefused, for a schema that was stored before a limit was set.
    """
    return make_validator(json.loads(schema_text))


@functools.lru_cache(maxsize=LARGE_VALIDATOR_CACHE_SIZE)
def _compiled_large_validator(schema_text: str) -> SchemaValidator:
    return make_validator(json.loads(schema_text))


def make_validator(schema: Mapping[str, Any]) -> SchemaValidator:
    """A validator that asserts formats and fetches nothing. Raises SchemaRefused."""
    draft = schema_limits.draft_of(schema)
    if draft is None:
        raise SchemaRefused([((), "$schema", f"names a draft that {_UNKNOWN_DRAFT}")])
    return compile_schema(schema, draft)


def _problems(
    validator: SchemaValidator,
    value: Any,
    root: str,
    allowance: WorkMeter | None,
    in_words: Mapping[str, str] = MappingProxyType({}),
) -> list[Problem]:
    units = MAX_UNITS if allowance is None else min(MAX_UNITS, allowance.left)
    run = Run(units=min(units, ORDINARY_UNITS), most_failures=MAX_PROBLEMS)
    unfinished = []
    try:
        try:
            validator.check(value, run)
        except TooCostly:
            run = Run(units=units, most_failures=MAX_PROBLEMS)
            with_room(validator.check, value, run)
    except TooCostly:
        unfinished = [_problem(root, _TOO_COSTLY, "schema")]
    except RecursionError:
        unfinished = [_problem(root, _TOO_DEEP, "schema")]
    if allowance is not None:
        allowance.left -= run.units - run.left
    hints = Hints()
    return [_described(failure, root, hints, in_words) for failure in run.failures] + unfinished


_TOO_COSTLY = (
    "cannot be checked: the schema and this value together take more work than one check may; "
    "send less at once, or give the schema fewer alternatives and maxItems or maxLength"
)
_TOO_DEEP = "cannot be checked: the schema and this value together are nested too deep"


def _refused(refusals: Iterable[Refusal], root: str) -> list[Problem]:
    return [
        _problem(
            path_of(root, (*steps, keyword) if keyword else steps), message, keyword or "schema"
        )
        for steps, keyword, message in islice(refusals, MAX_PROBLEMS)
    ]


def _problem(path: str, message: str, keyword: str) -> Problem:
    return {"path": path, "message": message, "keyword": keyword}


def headline(problems: Sequence[Problem]) -> str:
    """The first problem as a sentence, and how many more there are."""
    first = problems[0]
    more = f" (and {len(problems) - 1} more, see details)" if len(problems) > 1 else ""
    sentence = f"{first['path']} {first['message']}{more}"
    return sentence if sentence.endswith("?") else f"{sentence}."


def _described(failure: Failure, root: str, hints: "Hints", in_words: Mapping[str, str]) -> Problem:
    """What a failure means to the person who sent the value; `root` is the value's own name."""
    steps = failure.steps
    path = path_of(root, tuple(step for step in steps if step != IN_NAME))
    keyword, rule, value = failure.keyword, failure.rule, failure.value
    if keyword in ("additionalProperties", "unevaluatedProperties"):
        sentence = "is not a known field" + hints.nearest(str(steps[-1]), rule)
    elif keyword == "pattern" and rule in in_words:
        sentence = f"must be {in_words[rule]}, not {_shown(value)}"
    else:
        sentence = _sentence(keyword, rule, value)
    if steps[-1:] == (IN_NAME,):
        sentence = f"has the property name {_shown(value)}, which {sentence}"
    return _problem(path, sentence, keyword)


def _sentence(keyword: str, rule: Any, value: Any) -> str:
    if keyword == "type":
        allowed = " or ".join(rule) if isinstance(rule, list) else rule
        return f"must be of type {allowed}, not {_kind(value)}"
    if keyword == "enum":
        return (
            f"must be one of {', '.join(_shown(item) for item in rule[:20])}, not {_shown(value)}"
        )
    make = _SENTENCES.get(keyword)
    return make(rule, value) if make else f"breaks the schema's rule `{keyword}`"


_SENTENCES: dict[str, Callable[[Any, Any], str]] = {
    "const": lambda rule, value: f"must be {_shown(rule)}",
    "required": lambda rule, value: "is required",
    "false": lambda rule, value: "is not allowed",
    "minLength": lambda rule, value: f"must have at least {rule} characters, not {len(value)}",
    "maxLength": lambda rule, value: f"must have at most {rule} characters, not {len(value)}",
    "pattern": lambda rule, value: f"must match the pattern {_shown(rule)}, not {_shown(value)}",
    "format": lambda rule, value: f"must be a valid {rule}, not {_shown(value)}",
    "minimum": lambda rule, value: f"must be at least {rule}, not {_shown(value)}",
    "maximum": lambda rule, value: f"must be at most {rule}, not {_shown(value)}",
    "exclusiveMinimum": lambda rule, value: f"must be more than {rule}, not {_shown(value)}",
    "exclusiveMaximum": lambda rule, value: f"must be less than {rule}, not {_shown(value)}",
    "multipleOf": lambda rule, value: f"must be a multiple of {rule}, not {_shown(value)}",
    "minItems": lambda rule, value: f"must have at least {rule} items, not {len(value)}",
    "maxItems": lambda rule, value: f"must have at most {rule} items, not {len(value)}",
    "uniqueItems": lambda rule, value: "must not hold the same item twice",
    "contains": lambda rule, value: "must hold an item that fits the schema's `contains`",
    "minContains": lambda rule, value: f"must hold {rule} items that fit the schema's `contains`",
    "maxContains": lambda rule, value: (
        f"must hold at most {rule} items that fit the schema's `contains`"
    ),
    "minProperties": lambda rule, value: f"must have at least {rule} properties, not {len(value)}",
    "maxProperties": lambda rule, value: f"must have at most {rule} properties, not {len(value)}",
    "dependentRequired": lambda rule, value: "lacks a property that goes with another one",
    "dependencies": lambda rule, value: "lacks a property that goes with another one",
    "anyOf": lambda rule, value: "fits none of the forms that the schema allows",
    "oneOf": lambda rule, value: "must fit exactly one of the forms that the schema allows",
    "not": lambda rule, value: "has a form that the schema forbids",
}


def _kind(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    return names.get(type(value), "array" if isinstance(value, list) else "object")


def _shown(value: Any) -> str:
    """The beginning of a value as JSON, without writing out all of a large one."""
    text = ""
    beginning = value[:MAX_SHOWN_VALUE] if isinstance(value, str) else value
    for piece in json.JSONEncoder(ensure_ascii=False).iterencode(beginning):
        text += piece[: MAX_SHOWN_VALUE + 1]
        if len(text) > MAX_SHOWN_VALUE:
            break
    return shortened(text, MAX_SHOWN_VALUE)


class Hints:
    """The nearest known names, for the first few unknown ones of an answer."""

    def __init__(self) -> None:
        self.left = MAX_HINTS

    def nearest(self, name: str, known: Iterable[str]) -> str:
        if self.left == 0 or len(name) > MAX_HINT_LENGTH:
            return ""
        self.left -= 1
        similar = (
            choice for choice in known if abs(len(choice) - len(name)) <= MAX_HINT_LENGTH_GAP
        )
        near = difflib.get_close_matches(name, islice(similar, MAX_HINT_CHOICES), n=1)
        return f"; did you mean '{near[0]}'?" if near else ""
