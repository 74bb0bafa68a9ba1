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
    return {"path": path, "message": message, "keyword": keyword}


def headline(problems: Sequence[Problem]) -> str:
    """The first problem as a sentence, and how many more there are."""
    first = problems[0]
    more = f" (and {len(problems) - 1} more, see details)" if len(problems) > 1 else ""
    sentence = f"{first['path']} {first['message']}{more}"
    return sentence if sentence.endswith("?") else f"{sentence}."


class Reporter:
    """Describes the errors of one check.

    `schema` is the schema that the library applied, `patterns` has the original
    of each pattern in it, `in_words` says of an original what it asks for, as in
    "must be …".
    """

    def __init__(
        self,
        root: str,
        schema: Any,
        patterns: Mapping[str, str] = MappingProxyType({}),
        in_words: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.root = root
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
        path, keyword = error.instance_path, str(error.schema_path[-1:] and error.schema_path[-1])
        match error.kind:
            case Kind.AdditionalProperties(unexpected):
                yield from self.unknown(error, unexpected, keyword)
            case Kind.UnevaluatedProperties(unexpected) if self.rule_of(error) is False:
                yield from self.unknown(error, unexpected, keyword)
            case Kind.AdditionalItems(limit):
                for index in range(limit, min(len(error.instance), limit + MAX_PROBLEMS)):  # type: ignore[arg-type]
                    yield self.problem([*path, index], "is not allowed", "false")
            case Kind.Required(name) if keyword == "required":
                yield self.problem([*path, name], "is required", keyword)
            case Kind.FalseSchema():
                yield self.of_false(error)
            case Kind.PropertyNames(inner):
                for found in self.of_error(inner):
                    sentence = f"has the property name {_shown(inner.instance)}, which "
                    yield self.problem(path, sentence + found["message"], found["keyword"])
            case _:
                yield self.problem(path, *self.sentence(error, keyword))

    def problem(self, steps: Sequence[str | int], message: str, keyword: str) -> Problem:
        return problem(path_of(self.root, steps), message, keyword)

    def rule_of(self, error: ValidationError, *, up: int = 0) -> Any:
        """What the schema says where the error comes from, or so many steps above it."""
        rule = self.schema
        for step in error.schema_path[: len(error.schema_path) - up]:
            is_there = step in rule if isinstance(rule, dict) else isinstance(rule, list)
            rule = rule[step] if is_there else None
        return rule

    def unknown(
        self, error: ValidationError, names: Iterable[str], keyword: str
    ) -> Iterator[Problem]:
        known = (self.rule_of(error, up=1) or {}).get("properties", {})
        for name in islice(names, MAX_PROBLEMS):
            message = "is not a known field" + self.hints.nearest(name, known)
            yield self.problem([*error.instance_path, name], message, keyword)

    def of_false(self, error: ValidationError) -> Problem:
        around = self.rule_of(error, up=1)
        if error.schema_path[-1:] == ["else"] and isinstance(around, dict):
            for keyword, sentence in _NO_ALTERNATIVE.items():
                condition = around.get("if")
                if isinstance(condition, dict) and set(condition) == {keyword}:
                    return self.problem(error.instance_path, sentence, keyword)
        return self.problem(error.instance_path, "is not allowed", "false")

    def sentence(self, error: ValidationError, keyword: str) -> tuple[str, str]:
        """The sentence, and the keyword that it is about."""
        match error.kind:
            case Kind.Pattern(text):
                pattern = self.patterns.get(text, text)
                what = self.in_words.get(pattern)
                demand = f"be {what}" if what else f"match the pattern {_shown(pattern)}"
                return f"must {demand}, not {_shown(error.instance)}", keyword
            case Kind.BacktrackLimitExceeded() | Kind.RegexEngineFailure():
                return _TOO_MANY_STEPS, keyword
            case Kind.Not({"not": {**alternatives}}) if len(alternatives) == 1:
                for alternative, sentence in _NO_ALTERNATIVE.items():
                    if alternative in alternatives:
                        return sentence, alternative
            case Kind.Contains():
                rules = self.rule_of(error, up=1) or {}
                keyword = "contains" if rules.get("minContains", 1) == 1 else keyword
                if error.schema_path[-1:] == ["maxContains"]:
                    keyword = "maxContains"
                return _CONTAINS[keyword].format(rules.get(keyword)), keyword
        make = _SENTENCES.get(error.kind.name)
        return make(error) if make else f"breaks the schema's rule `{keyword}`", keyword


_NO_ALTERNATIVE = {
    "anyOf": "fits none of the forms that the schema allows",
    "oneOf": "must fit exactly one of the forms that the schema allows",
}
_CONTAINS = {
    "contains": "must hold an item that fits the schema's `contains`",
    "minContains": "must hold {} items that fit the schema's `contains`",
    "maxContains": "must hold at most {} items that fit the schema's `contains`",
}


def _type(error: ValidationError) -> str:
    # null last, as one would say it: integer or null.
    types = sorted(error.kind.types, key=lambda name: (name == "null", name))  # type: ignore[attr-defined]
    return f"must be of type {' or '.join(types)}, not {_kind(error.instance)}"


def _enum(error: ValidationError) -> str:
    options = error.kind.options[:MAX_SHOWN_CHOICES]  # type: ignore[attr-defined]
    choices = ", ".join(_shown(option) for option in options)
    return f"must be one of {choices}, not {_shown(error.instance)}"


def _bound(words: str) -> Callable[[ValidationError], str]:
    """A bound for a number."""
    return lambda error: f"must be {words} {error.kind.limit}, not {_shown(error.instance)}"  # type: ignore[attr-defined]


def _size(words: str, what: str) -> Callable[[ValidationError], str]:
    """A bound for a size."""
    return lambda error: (
        f"must have at {words} {error.kind.limit} {what}, not {len(error.instance)}"  # type: ignore[attr-defined, arg-type]
    )


_SENTENCES: dict[str, Callable[[ValidationError], str]] = {
    "type": _type,
    "enum": _enum,
    "const": lambda error: f"must be {_shown(error.kind.expected_value)}",  # type: ignore[attr-defined]
    "format": lambda error: (
        f"must be a valid {error.kind.format}, not {_shown(error.instance)}"  # type: ignore[attr-defined]
    ),
    "minimum": _bound("at least"),
    "maximum": _bound("at most"),
    "exclusiveMinimum": _bound("more than"),
    "exclusiveMaximum": _bound("less than"),
    "multipleOf": lambda error: (
        f"must be a multiple of {error.kind.multiple_of}, not {_shown(error.instance)}"  # type: ignore[attr-defined]
    ),
    "minLength": _size("least", "characters"),
    "maxLength": _size("most", "characters"),
    "minItems": _size("least", "items"),
    "maxItems": _size("most", "items"),
    "minProperties": _size("least", "properties"),
    "maxProperties": _size("most", "properties"),
    "uniqueItems": lambda error: "must not hold the same item twice",
    "required": lambda error: "lacks a property that goes with another one",
    "not": lambda error: "has a form that the schema forbids",
    "anyOf": lambda error: _NO_ALTERNATIVE["anyOf"],
    "oneOf": lambda error: _NO_ALTERNATIVE["oneOf"],
    "unevaluatedItems": lambda error: "holds items that the schema does not allow",
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
