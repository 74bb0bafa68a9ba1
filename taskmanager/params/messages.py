"""What the errors of jsonschema-rs mean to the person who sent the value.

Every sentence is ours, made from an error's kind and its values, so no text of
the library reaches a caller.
"""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from jsonschema_rs import ValidationError
from jsonschema_rs import ValidationErrorKind as Kind

MAX_PROBLEMS = 20
MAX_SHOWN_VALUE = 60
MAX_SHOWN_CHOICES = 20

# Names are compared for hints in quadratic time.
MAX_HINTS = 5
MAX_HINT_LENGTH = 40
MAX_HINT_LENGTH_GAP = 4
MAX_HINT_CHOICES = 50
# How near a name must be. "tpye" and "type" have 0.75, "prio" and "priority" 0.67, "status" and
# "tags" 0.6.
NEAR = 0.65

Problem = dict[str, str]
Steps = tuple[str | int, ...]

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


def path_of(root: str, steps: Iterable[str | int]) -> str:
    """The steps as people read them: `param_schema.properties.a.anyOf[0]`."""
    path = root
    for step in steps:
        path += f"[{step}]" if isinstance(step, int) else f".{shortened(step)}"
    return path.removeprefix(".")


def shortened(text: str, longest: int = 100) -> str:
    """`text`, cut where a stranger's name would fill the answer."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


@dataclass
class Reporter:
    """Describes the errors of one check of `value`.

    `schema` is the schema that the library applied, `patterns` has the original
    of each pattern in it, `in_words` says of an original, or of `anyOf`, what it asks
    for, as in "must be …".
    """

    root: str
    value: Any
    schema: Any = None
    patterns: Mapping[str, str] = field(default_factory=dict)
    in_words: Mapping[str, str] = field(default_factory=dict)
    hints_left: int = MAX_HINTS

    def problems(self, errors: Iterable[ValidationError]) -> list[Problem]:
        """At most MAX_PROBLEMS, each of them once."""
        found: list[Problem] = []
        for steps, message, keyword in (one for error in errors for one in self.described(error)):
            described = problem(path_of(self.root, steps), message, keyword)
            if described not in found:
                found.append(described)
            if len(found) == MAX_PROBLEMS:
                break
        return found

    def described(self, error: ValidationError) -> Iterator[tuple[Sequence[Any], str, str]]:
        """Steps, message and keyword of an error: one, or one for each name or item it is about."""
        steps, value = _follow(self.value, error.instance_path)
        keyword = str(error.schema_path[-1])
        match error.kind:
            case Kind.AdditionalProperties(names) | Kind.UnevaluatedProperties(names):
                for name in islice(names, MAX_PROBLEMS):
                    yield [*steps, name], self.unknown(error, name), keyword
            case Kind.AdditionalItems(limit):
                for index in range(limit, min(len(value), limit + MAX_PROBLEMS)):
                    yield [*steps, index], *_NOT_ALLOWED
            case Kind.UnevaluatedItems(texts):
                for text in islice(texts, MAX_PROBLEMS):
                    shown = shortened(str(text), MAX_SHOWN_VALUE)
                    yield steps, f"holds {shown}, which the schema does not allow", keyword
            case Kind.Required(name) if keyword == "required":
                yield [*steps, name], "is required", keyword
            case Kind.PropertyNames(inner):
                message, about = self.sentence(inner, inner.instance)
                yield steps, _has_name(inner.instance) + message, about
            case Kind.FalseSchema() if keyword == "propertyNames":
                yield steps, f"{_has_name(next(iter(value)))}is not allowed", "false"
            case _:
                yield steps, *self.sentence(error, value)

    def unknown(self, error: ValidationError, name: str) -> str:
        keyword, around = str(error.schema_path[-1]), self.around(error)
        if around.get(keyword) is not False:  # unevaluatedProperties with a schema of its own
            return f"does not fit the schema's `{keyword}`"
        return "is not a known field" + self.hint(name, around.get("properties", ()))

    def hint(self, name: str, known: Iterable[str]) -> str:
        """The nearest known name, for the first few unknown ones of an answer."""
        if self.hints_left == 0 or len(name) > MAX_HINT_LENGTH:
            return ""
        self.hints_left -= 1
        similar = (
            choice for choice in known if abs(len(choice) - len(name)) <= MAX_HINT_LENGTH_GAP
        )
        choices = islice(similar, MAX_HINT_CHOICES)
        near = difflib.get_close_matches(name, choices, n=1, cutoff=NEAR)
        return f"; did you mean '{near[0]}'?" if near else ""

    def around(self, error: ValidationError) -> dict[str, Any]:
        """The schema that the keyword of an error stands in, empty where there is none."""
        _, around = _follow(self.schema, error.schema_path[:-1])
        return around if isinstance(around, dict) else {}

    def sentence(self, error: ValidationError, value: Any) -> tuple[str, str]:
        """The sentence, and the keyword that it is about."""
        keyword, around = str(error.schema_path[-1]), self.around(error)
        rule: Any = around.get(keyword, error.kind.value)
        name = error.kind.name
        match error.kind:
            case Kind.Pattern(text):
                pattern = self.patterns.get(text, text)
                what = self.in_words.get(pattern)
                demand = f"be {what}" if what else f"match the pattern {_shown(pattern)}"
                return f"must {demand}, not {_shown(value)}", keyword
            case Kind.BacktrackLimitExceeded() | Kind.RegexEngineFailure():
                return _TOO_MANY_STEPS, keyword
            case Kind.Contains():
                return _contains(around)
            case Kind.Not() | Kind.FalseSchema() if hidden := _hidden(keyword, around):
                name = keyword = hidden
                if what := self.in_words.get(hidden):
                    return f"must be {what}, not {_shown(value)}", keyword
            case Kind.FalseSchema():
                return _NOT_ALLOWED
            case Kind.ExclusiveMinimum(limit) | Kind.ExclusiveMaximum(limit):
                rule = limit  # which in draft 4 stands beside it
            case Kind.Type():
                rule = " or ".join([rule] if isinstance(rule, str) else rule)
            case Kind.Enum():
                rule = ", ".join(_shown(item) for item in rule[:MAX_SHOWN_CHOICES])
            case Kind.Constant():
                rule = _shown(rule)
        size = len(value) if isinstance(value, str | list | dict) else 0
        words = {"rule": rule, "value": _shown(value), "kind": _kind(value), "size": size}
        sentence = _SENTENCES.get(name, "breaks the schema's rule `{keyword}`")
        return sentence.format(keyword=keyword, **words), keyword


def _follow(whole: Any, steps: Iterable[str | int]) -> tuple[list[str | int], Any]:
    """The steps, and the part where they lead, None where that is nowhere.

    The library takes a name of digits for a number; here it is a name again.
    """
    names: list[str | int] = []
    for step in steps:
        names.append(str(step) if isinstance(whole, dict) else step)
        if isinstance(whole, dict):
            whole = whole.get(str(step))
        else:
            whole = whole[int(step)] if isinstance(whole, list) else None
    return names, whole


def _hidden(keyword: str, around: Mapping[str, Any]) -> str | None:
    """Which of `anyOf` and `oneOf` `schemas` has put there, where only its verdict counts."""
    alternatives = around.get("if") if keyword == "else" else around.get("not")
    if keyword == "not" and isinstance(alternatives, dict):
        alternatives = alternatives.get("not")
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

_SENTENCES = {
    "type": "must be of type {rule}, not {kind}",
    "enum": "must be one of {rule}, not {value}",
    "const": "must be {rule}",
    "minLength": "must have at least {rule} characters, not {size}",
    "maxLength": "must have at most {rule} characters, not {size}",
    "format": "must be a valid {rule}, not {value}",
    "minimum": "must be at least {rule}, not {value}",
    "maximum": "must be at most {rule}, not {value}",
    "exclusiveMinimum": "must be more than {rule}, not {value}",
    "exclusiveMaximum": "must be less than {rule}, not {value}",
    "multipleOf": "must be a multiple of {rule}, not {value}",
    "minItems": "must have at least {rule} items, not {size}",
    "maxItems": "must have at most {rule} items, not {size}",
    "uniqueItems": "must not hold the same item twice",
    "minProperties": "must have at least {rule} properties, not {size}",
    "maxProperties": "must have at most {rule} properties, not {size}",
    "required": "lacks a property that goes with another one",
    "anyOf": "fits none of the forms that the schema allows",
    "oneOf": "must fit exactly one of the forms that the schema allows",
    "not": "has a form that the schema forbids",
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
