"""What the errors of jsonschema-rs mean to the person who sent the value.

Every sentence is ours, made from an error's kind and its values, so no text of
the library reaches a caller.
"""

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any

from jsonschema_rs import ValidationError
from jsonschema_rs import ValidationErrorKind as Kind

from taskmanager.params.limits import path_of, shortened

MAX_PROBLEMS = 20
MAX_SHOWN_VALUE = 60
MAX_SHOWN_CHOICES = 20

# Names are compared for hints in quadratic time.
MAX_HINTS = 5
MAX_HINT_LENGTH = 40
MAX_HINT_LENGTH_GAP = 4
MAX_HINT_CHOICES = 50

Problem = dict[str, str]

TOO_COSTLY = (
    "cannot be checked: the schema and this value together take more work than one check may; "
    "send less at once, or give the schema fewer alternatives and maxItems or maxLength"
)
TOO_DEEP = "cannot be checked: the schema and this value together are nested too deep"
_TOO_MANY_STEPS = (
    "cannot be checked: the lookarounds of the schema's pattern take too many steps on this text"
)


def problem(path: str, message: str, keyword: str) -> Problem:
    """One entry of the `details` of an error."""
    return {"path": path, "message": message, "keyword": keyword}


def headline(problems: Sequence[Problem]) -> str:
    """The first problem as a sentence, and how many more there are."""
    first = problems[0]
    more = f" (and {len(problems) - 1} more, see details)" if len(problems) > 1 else ""
    sentence = f"{first['path']} {first['message']}{more}"
    return sentence if sentence.endswith("?") else f"{sentence}."


class Reporter:
    """Describes the errors of one check of `value`.

    `schema` is the schema that the library applied, `patterns` has the original
    of each pattern in it, `in_words` says of an original what it asks for, as in
    "must be …".
    """

    def __init__(
        self,
        root: str,
        value: Any,
        *,
        schema: Any = None,
        patterns: Mapping[str, str] = MappingProxyType({}),
        in_words: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.root = root
        self.value = value
        self.schema = schema
        self.patterns = patterns
        self.in_words = in_words
        self.hints = Hints()

    def problems(self, errors: Iterable[ValidationError]) -> list[Problem]:
        """At most MAX_PROBLEMS, each of them once."""
        found: list[Problem] = []
        for described in (one for error in errors for one in self.of_error(error)):
            if described not in found:
                found.append(described)
            if len(found) == MAX_PROBLEMS:
                break
        return found

    def of_error(self, error: ValidationError) -> Iterator[Problem]:
        """An error as problems: one, or one for each property or item that is not allowed."""
        path, keyword, value = (
            error.instance_path,
            _keyword(error),
            _at(self.value, error.instance_path),
        )
        match error.kind:
            case Kind.AdditionalProperties(names) | Kind.UnevaluatedProperties(names):
                yield from self.unknown(error, names, keyword)
            case Kind.AdditionalItems(limit):
                for index in range(limit, min(len(value), limit + MAX_PROBLEMS)):
                    yield self.problem([*path, index], "is not allowed", "false")
            case Kind.UnevaluatedItems(texts):
                for text in islice(texts, MAX_PROBLEMS):
                    shown = shortened(str(text), MAX_SHOWN_VALUE)
                    message = f"holds {shown}, which the schema does not allow"
                    yield self.problem(path, message, keyword)
            case Kind.Required(name) if keyword == "required":
                yield self.problem([*path, name], "is required", keyword)
            case Kind.PropertyNames(inner):
                message, about = self.sentence(inner, inner.instance)
                yield self.problem(path, _has_name(inner.instance) + message, about)
            case Kind.FalseSchema() if keyword == "propertyNames":
                yield self.problem(path, f"{_has_name(next(iter(value)))}is not allowed", "false")
            case _:
                yield self.problem(path, *self.sentence(error, value))

    def problem(self, steps: Sequence[str | int], message: str, keyword: str) -> Problem:
        return problem(path_of(self.root, steps), message, keyword)

    def unknown(
        self, error: ValidationError, names: Iterable[str], keyword: str
    ) -> Iterator[Problem]:
        around = _at(self.schema, error.schema_path[:-1]) or {}
        for name in islice(names, MAX_PROBLEMS):
            message = "is not a known field"
            if around.get(keyword) is False:
                message += self.hints.nearest(name, around.get("properties", ()))
            else:  # unevaluatedProperties with a schema of its own
                message = f"does not fit the schema's `{keyword}`"
            yield self.problem([*error.instance_path, name], message, keyword)

    def sentence(self, error: ValidationError, value: Any) -> tuple[str, str]:
        """The sentence, and the keyword that it is about."""
        keyword = _keyword(error)
        around = _at(self.schema, error.schema_path[:-1])
        around = around if isinstance(around, dict) else {}
        rule: Any = around.get(keyword, error.kind.value)
        match error.kind:
            case Kind.Pattern(text):
                pattern = self.patterns.get(text, text)
                what = self.in_words.get(pattern)
                demand = f"be {what}" if what else f"match the pattern {_shown(pattern)}"
                return f"must {demand}, not {_shown(value)}", keyword
            case Kind.BacktrackLimitExceeded() | Kind.RegexEngineFailure():
                return _TOO_MANY_STEPS, keyword
            case Kind.FalseSchema():
                hidden = _hidden(around.get("if")) if keyword == "else" else None
                return (_SENTENCES[hidden](None, value), hidden) if hidden else _NOT_ALLOWED
            case Kind.Not() if isinstance(rule, dict) and (hidden := _hidden(rule.get("not"))):
                return _SENTENCES[hidden](None, value), hidden
            case Kind.Contains():
                return _contains(around)
            case Kind.ExclusiveMinimum(limit) | Kind.ExclusiveMaximum(limit):
                rule = limit  # which in draft 4 stands beside it
        make = _SENTENCES.get(error.kind.name)
        return make(rule, value) if make else f"breaks the schema's rule `{keyword}`", keyword


def _keyword(error: ValidationError) -> str:
    return str(error.schema_path[-1]) if error.schema_path else "schema"


def _at(whole: Any, steps: Iterable[str | int]) -> Any:
    """The part of a schema or value where the steps lead, None where that is nowhere."""
    for step in steps:
        is_there = step in whole if isinstance(whole, dict) else isinstance(whole, list)
        whole = whole[step] if is_there else None
    return whole


def _hidden(alternatives: Any) -> str | None:
    """Which of `anyOf` and `oneOf` `schemas` has put there, where only its verdict counts."""
    keywords = list(alternatives) if isinstance(alternatives, dict) else []
    return keywords[0] if keywords in (["anyOf"], ["oneOf"]) else None


def _has_name(name: Any) -> str:
    return f"has the property name {_shown(name)}, which "


def _contains(around: Mapping[str, Any]) -> tuple[str, str]:
    least, most = around.get("minContains", 1), around.get("maxContains")
    if most is not None:
        range_ = f"{least} to {most}" if least else f"at most {most}"
        count, keyword = f"{range_} items that fit", "maxContains"
    elif least != 1:
        count, keyword = f"{least} items that fit", "minContains"
    else:
        count, keyword = "an item that fits", "contains"
    return f"must hold {count} the schema's `contains`", keyword


_NOT_ALLOWED = "is not allowed", "false"

# Made of the keyword's rule and the value.
_SENTENCES: dict[str, Callable[[Any, Any], str]] = {
    "type": lambda rule, value: (
        f"must be of type {' or '.join([rule] if isinstance(rule, str) else rule)}, "
        f"not {_kind(value)}"
    ),
    "enum": lambda rule, value: (
        f"must be one of {', '.join(_shown(item) for item in rule[:MAX_SHOWN_CHOICES])}, "
        f"not {_shown(value)}"
    ),
    "const": lambda rule, value: f"must be {_shown(rule)}",
    "minLength": lambda rule, value: f"must have at least {rule} characters, not {len(value)}",
    "maxLength": lambda rule, value: f"must have at most {rule} characters, not {len(value)}",
    "format": lambda rule, value: f"must be a valid {rule}, not {_shown(value)}",
    "minimum": lambda rule, value: f"must be at least {rule}, not {_shown(value)}",
    "maximum": lambda rule, value: f"must be at most {rule}, not {_shown(value)}",
    "exclusiveMinimum": lambda rule, value: f"must be more than {rule}, not {_shown(value)}",
    "exclusiveMaximum": lambda rule, value: f"must be less than {rule}, not {_shown(value)}",
    "multipleOf": lambda rule, value: f"must be a multiple of {rule}, not {_shown(value)}",
    "minItems": lambda rule, value: f"must have at least {rule} items, not {len(value)}",
    "maxItems": lambda rule, value: f"must have at most {rule} items, not {len(value)}",
    "uniqueItems": lambda rule, value: "must not hold the same item twice",
    "minProperties": lambda rule, value: f"must have at least {rule} properties, not {len(value)}",
    "maxProperties": lambda rule, value: f"must have at most {rule} properties, not {len(value)}",
    "required": lambda rule, value: "lacks a property that goes with another one",
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
