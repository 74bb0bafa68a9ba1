"""JSON Schema: checking schemas, and values against them, with problems a stranger understands.

jsonschema finds the problems; every sentence is ours, so no library's text
reaches a caller. jsonschema is imported when the first schema is used, because
a process that only answers a health check or an empty poll need not pay 55 ms.
"""

import difflib
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from taskmanager.exceptions import ValidationFailed
from taskmanager.services.formats import FORMATS

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

MAX_PROBLEMS = 20
MAX_SHOWN_VALUE = 60
VALIDATOR_CACHE_SIZE = 256

# Keywords whose value is data, in which a "$ref" is no reference.
_DATA_KEYWORDS = frozenset({"const", "enum", "default", "examples"})
_REFERENCES = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})

Problem = dict[str, str]


def check_schema(schema: Any) -> None:
    """Raises ValidationFailed unless `schema` is a JSON Schema that can be applied here.

    Refused besides what its draft forbids: a reference to anything but a part
    of the schema itself, since nothing is ever fetched.
    """
    from jsonschema.validators import validator_for

    if not isinstance(schema, dict):
        raise ValidationFailed(
            "param_schema must be a JSON Schema, that is an object.",
            details=[_problem("param_schema", "must be an object", "type")],
        )
    draft = schema.get("$schema")
    unknown = object()
    if draft is not None and validator_for(schema, default=unknown) is unknown:
        raise ValidationFailed(
            "param_schema names a JSON Schema draft that is not known.",
            details=[
                _problem(
                    "param_schema.$schema",
                    "is not a known draft; leave it out for "
                    "https://json-schema.org/draft/2020-12/schema",
                    "$schema",
                )
            ],
        )
    validator_class = _draft_of(schema)
    meta = validator_class(validator_class.META_SCHEMA)
    problems = list(_first(describe(error, "param_schema") for error in meta.iter_errors(schema)))
    problems = [problem for group in problems for problem in group]
    problems += [
        _problem(path, "must point into this schema itself (#/...): nothing is fetched", keyword)
        for path, keyword, target in _references(schema, "param_schema")
        if not target.startswith("#")
    ]
    if problems:
        raise ValidationFailed(
            f"param_schema is not a valid JSON Schema: {_headline(problems)}",
            details=problems[:MAX_PROBLEMS],
        )


def param_problems(schema_text: str, params: Any) -> list[Problem]:
    """What keeps `params` from fitting the schema: at most MAX_PROBLEMS, none where it fits."""
    return _problems(compiled_validator(schema_text), params, "params")


def param_warnings(schema_text: str, params: Any) -> list[Problem]:
    """Properties that the schema's top level does not name: allowed, but often a typing error."""
    known = json.loads(schema_text).get("properties")
    if not isinstance(known, dict) or not isinstance(params, dict):
        return []
    return [
        _problem(f"params.{name}", "is not named by the schema" + _hint(name, known), "properties")
        for name in params
        if name not in known
    ]


def check_params(schema_text: str, params: Any, *, type_name: str) -> None:
    """Raises ValidationFailed, naming every problem, unless `params` fits the schema."""
    problems = param_problems(schema_text, params)
    if problems:
        raise ValidationFailed(
            f"params do not fit the schema of task type '{type_name}': {_headline(problems)}",
            details=problems,
        )


def body_problems(validator: "Validator", body: Any) -> list[Problem]:
    """What is wrong with a request body; paths are the names of its fields."""
    return _problems(validator, body, "")


@functools.lru_cache(maxsize=VALIDATOR_CACHE_SIZE)
def compiled_validator(schema_text: str) -> "Validator":
    """The validator of a schema, given as its JSON text; remembered per process."""
    return make_validator(json.loads(schema_text))


def make_validator(schema: Mapping[str, Any]) -> "Validator":
    """A validator that asserts formats and fetches nothing."""
    from jsonschema import FormatChecker
    from referencing import Registry

    checker = FormatChecker(formats=())
    for name, check in FORMATS.items():
        checker.checks(name)(functools.partial(_check_string, check))
    return _draft_of(schema)(schema, registry=Registry(), format_checker=checker)


def _check_string(check: Any, value: Any) -> bool:
    return not isinstance(value, str) or bool(check(value))


def _draft_of(schema: Mapping[str, Any]) -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for

    return validator_for(schema, default=Draft202012Validator)


def _problems(validator: "Validator", value: Any, root: str) -> list[Problem]:
    from referencing.exceptions import Unresolvable

    try:
        groups = list(_first(describe(error, root) for error in validator.iter_errors(value)))
    except Unresolvable:
        return [_problem(root, "cannot be checked: the schema refers to a part it lacks", "$ref")]
    except RecursionError:
        return [_problem(root, "cannot be checked: the schema refers to itself for ever", "$ref")]
    return [problem for group in groups for problem in group][:MAX_PROBLEMS]


def _first(groups: Iterator[list[Problem]]) -> Iterator[list[Problem]]:
    found = 0
    last: list[Problem] = []
    for group in groups:
        if group == last:  # jsonschema reports several missing properties once for each of them
            continue
        yield group
        last = group
        found += len(group)
        if found >= MAX_PROBLEMS:
            return


def _references(node: Any, path: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name in _REFERENCES and isinstance(value, str):
                yield f"{path}.{name}", name, value
            elif name not in _DATA_KEYWORDS:
                yield from _references(value, f"{path}.{name}")
    elif isinstance(node, list):
        for index, item in enumerate(node):
            yield from _references(item, f"{path}[{index}]")


def _problem(path: str, message: str, keyword: str) -> Problem:
    return {"path": path, "message": message, "keyword": keyword}


def _headline(problems: Sequence[Problem]) -> str:
    first = problems[0]
    more = f" (and {len(problems) - 1} more, see details)" if len(problems) > 1 else ""
    return f"{first['path']} {first['message']}{more}."


def describe(error: "ValidationError", root: str) -> list[Problem]:
    """The problems behind one jsonschema error: one for most keywords, one per unknown property."""
    path = root
    for step in error.absolute_path:
        path = f"{path}[{step}]" if isinstance(step, int) else f"{path}.{step}".lstrip(".")
    keyword = str(error.validator)
    value, rule = error.instance, error.validator_value
    if keyword == "required":
        return [
            _problem(f"{path}.{name}".lstrip("."), "is required", keyword)
            for name in rule
            if name not in value
        ]
    if keyword in ("additionalProperties", "unevaluatedProperties") and isinstance(value, dict):
        schema = error.schema if isinstance(error.schema, dict) else {}
        known = schema.get("properties", {})
        patterned = bool(schema.get("patternProperties"))
        return [
            _problem(
                f"{path}.{name}".lstrip("."), "is not a known field" + _hint(name, known), keyword
            )
            for name in value
            if name not in known and not patterned
        ] or [_problem(path, "has a property that is not allowed", keyword)]
    sentence = _sentence(keyword, rule, value)
    steps = list(error.absolute_schema_path)[-3:-1]
    if steps[-1:] == ["propertyNames"] and steps != ["properties", "propertyNames"]:
        sentence = f"has the property name {_shown(value)}, which {sentence}"
    return [_problem(path, sentence, keyword)]


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


_SENTENCES = {
    "const": lambda rule, value: f"must be {_shown(rule)}",
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
    "minProperties": lambda rule, value: f"must have at least {rule} properties, not {len(value)}",
    "maxProperties": lambda rule, value: f"must have at most {rule} properties, not {len(value)}",
    "dependentRequired": lambda rule, value: "lacks a property that goes with another one",
    "anyOf": lambda rule, value: "fits none of the forms that the schema allows",
    "oneOf": lambda rule, value: "must fit exactly one of the forms that the schema allows",
    "not": lambda rule, value: "has a form that the schema forbids",
}


def _kind(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    return names.get(type(value), "array" if isinstance(value, list) else "object")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_SHOWN_VALUE else text[: MAX_SHOWN_VALUE - 1] + "…"


def _hint(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
