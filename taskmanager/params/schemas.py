"""Compiling schemas: what is refused, and the validator that jsonschema-rs makes of the rest.

Owns how a schema is given to the library: with the keywords of its draft alone,
references that stay inside, patterns translated, formats that are registered,
and without the lists of errors that alternatives would collect.
"""

import functools
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import jsonschema_rs

from taskmanager.params import limits
from taskmanager.params.formats import FORMATS
from taskmanager.params.limits import SchemaRefused, Steps
from taskmanager.params.patterns import MAX_STEPS_BACK, PatternRefused, Translation, translate
from taskmanager.params.work import WorkTable, work_table

VALIDATOR_CACHE_SIZE = 256
LARGE_SCHEMA_LENGTH = 4_096
LARGE_VALIDATOR_CACHE_SIZE = 16

UNKNOWN_DRAFT = (
    "is not a known draft; leave it out for https://json-schema.org/draft/2020-12/schema "
    "(drafts 4, 6, 7 and 2019-09 are known too)"
)
_FIRST_DRAFT_WITH_IF = 7
_LIBRARY_CLASSES: dict[int, tuple[type[jsonschema_rs.Validator], int]] = {
    4: (jsonschema_rs.Draft4Validator, jsonschema_rs.Draft4),
    6: (jsonschema_rs.Draft6Validator, jsonschema_rs.Draft6),
    7: (jsonschema_rs.Draft7Validator, jsonschema_rs.Draft7),
    2019: (jsonschema_rs.Draft201909Validator, jsonschema_rs.Draft201909),
    2020: (jsonschema_rs.Draft202012Validator, jsonschema_rs.Draft202012),
}
_OWN_ADDRESS = "urn:schema"


class SchemaValidator(NamedTuple):
    """A compiled schema; threads may share it.

    `schema` is what the library was given, in which the paths of its errors
    lead; `patterns` has the original of each pattern in it. `copied_length` is
    the most characters of a rule that an error holds a copy of.
    """

    library: jsonschema_rs.Validator
    schema: Any
    patterns: Mapping[str, str]
    copied_length: int
    work: WorkTable


def validator_of(schema_text: str) -> SchemaValidator:
    """The validator of a schema, given as its JSON text; remembered per process.

    Raises SchemaRefused, for a schema that was stored before a limit was set.
    """
    is_large = len(schema_text) > LARGE_SCHEMA_LENGTH
    return (_large_validator_of if is_large else _validator_of)(schema_text)


@functools.lru_cache(maxsize=VALIDATOR_CACHE_SIZE)
def _validator_of(schema_text: str) -> SchemaValidator:
    return compile_schema(json.loads(schema_text))


@functools.lru_cache(maxsize=LARGE_VALIDATOR_CACHE_SIZE)
def _large_validator_of(schema_text: str) -> SchemaValidator:
    return compile_schema(json.loads(schema_text))


def compile_schema(schema: Mapping[str, Any]) -> SchemaValidator:
    """A validator that asserts formats and fetches nothing.

    Raises SchemaRefused. The schema has been held against its meta-schema before.
    """
    draft = limits.draft_of(schema)
    if draft is None:
        raise SchemaRefused([((), "$schema", f"names a draft that {UNKNOWN_DRAFT}")])
    subschemas = limits.find_subschemas(schema, draft)
    refusals = limits.reference_refusals(schema, subschemas)
    if refusals:
        raise SchemaRefused(refusals)
    patterns = _translated(subschemas.items(), draft)
    is_linear = all(translation.linear is not None for translation in patterns.values())
    work = work_table(schema, subschemas, draft, _units(patterns, is_linear))
    texts = _texts(patterns, is_linear)
    rewritten = _Rewriting(schema, draft, texts).of(schema)
    kind, number = _LIBRARY_CLASSES[draft]
    try:
        library = kind(
            # Not the schema itself, whose patterns are for the engine and no longer of ECMA 262.
            {"$ref": _OWN_ADDRESS},
            registry=jsonschema_rs.Registry([(_OWN_ADDRESS, rewritten)], draft=number),
            formats=dict(FORMATS),
            validate_formats=True,
            offline=True,
            mask="",
            pattern_options=jsonschema_rs.RegexOptions()
            if is_linear
            else jsonschema_rs.FancyRegexOptions(backtrack_limit=MAX_STEPS_BACK),
        )
    except ValueError:  # the only limit left is that of a compiled pattern
        message = "holds a pattern that takes too much memory; give it smaller counts or classes"
        raise SchemaRefused([((), "", message)]) from None
    originals = {text: pattern for pattern, text in texts.items()}
    return SchemaValidator(library, rewritten, originals, _copied_length(subschemas), work)


@functools.cache
def meta_validator(draft: int) -> jsonschema_rs.Validator:
    """What a schema of this draft must fit."""
    address = limits.ADDRESSES[draft]
    # `format` is left out: patterns and references are checked more closely here.
    kind, _ = _LIBRARY_CLASSES[draft]
    return kind({"$ref": address}, validate_formats=False, offline=True, mask="")


def _translated(subschemas: Iterable[tuple[Steps, Any]], draft: int) -> dict[str, Translation]:
    """Every pattern of the schema with its translation. Raises SchemaRefused."""
    found: dict[str, Translation] = {}
    refusals: list[limits.Refusal] = []
    states = 0
    for steps, subschema in subschemas:
        for keyword, pattern in _patterns_in(subschema):
            try:
                translation = translate(pattern)
            except PatternRefused as refused:
                refusals.append((steps, keyword, f"is a pattern that {refused}"))
                continue
            if pattern not in found:
                found[pattern] = translation
                states += translation.states
            if states > limits.MAX_PATTERN_STATES:
                message = (
                    f"brings all patterns together to more than {limits.MAX_PATTERN_STATES} parts"
                )
                raise SchemaRefused([(steps, keyword, message)])
    if refusals:
        raise SchemaRefused(refusals)
    return found


def _units(patterns: Mapping[str, Translation], is_linear: bool) -> dict[str, int]:
    """What each pattern takes for a character of a text, in units of work."""
    # A step back may read the rest of the text again: 1 ns a character, an eighth of a unit.
    stepping = 0 if is_linear else MAX_STEPS_BACK // 8
    return {
        pattern: translation.busy + (stepping if translation.steps_back else 0)
        for pattern, translation in patterns.items()
    }


def _texts(patterns: Mapping[str, Translation], is_linear: bool) -> dict[str, str]:
    """Each pattern as the engine gets it; two ways to write the same stay two."""
    texts: dict[str, str] = {}
    known: set[str] = set()
    for pattern, translation in patterns.items():
        linear = translation.linear
        text = linear if is_linear and linear is not None else translation.counted
        while text in known:
            text += "(?:)"
        texts[pattern] = text
        known.add(text)
    return texts


def _patterns_in(subschema: Any) -> Iterable[tuple[str, str]]:
    if not isinstance(subschema, dict):
        return
    if isinstance(subschema.get("pattern"), str):
        yield "pattern", subschema["pattern"]
    for pattern in subschema.get("patternProperties", ()):
        yield "patternProperties", pattern


def _copied_length(subschemas: Mapping[Steps, Any]) -> int:
    copied = (
        len(json.dumps(subschema[keyword]))
        for subschema in subschemas.values()
        if isinstance(subschema, dict)
        for keyword in ("const", "enum", "not")
        if keyword in subschema
    )
    return max(copied, default=0)


class _Rewriting:
    """A copy of a schema as the library gets it."""

    def __init__(self, schema: Any, draft: int, patterns: Mapping[str, str]) -> None:
        self.schema = schema
        self.draft = draft
        self.patterns = patterns

    def of(self, subschema: Any) -> Any:
        if not isinstance(subschema, dict):
            return subschema
        inner: dict[str | int, dict[Steps, Any]] = {}
        for steps, part in limits.inside(subschema, self.draft):
            inner.setdefault(steps[0], {})[steps[1:]] = self.of(part)
        copy: dict[str, Any] = {}
        for keyword, rule in subschema.items():
            if keyword in _ALTERNATIVES:
                continue
            if keyword == "$ref":
                copy[keyword] = self.reference(rule)
            elif keyword == "pattern":
                copy[keyword] = self.patterns[rule]
            elif keyword == "patternProperties":
                copy[keyword] = {
                    self.patterns[str(name)]: part
                    for (name,), part in inner.get(keyword, {}).items()
                }
            elif keyword in inner:
                copy[keyword] = _with_parts(rule, inner[keyword])
            elif keyword in limits.KEYWORDS[self.draft] and _is_asserted(keyword, rule):
                copy[keyword] = rule
        hidden = [
            self.hidden({keyword: list(inner[keyword].values())})
            for keyword in _ALTERNATIVES
            if keyword in subschema
        ]
        if hidden:
            copy["allOf"] = [*copy.get("allOf", ()), *hidden]
        return copy

    def hidden(self, alternatives: dict[str, Any]) -> dict[str, Any]:
        """Alternatives where only their verdict counts.

        For each `anyOf` or `oneOf` that fails the library would list what is wrong
        with every alternative, with a copy of the value each.
        """
        if self.draft >= _FIRST_DRAFT_WITH_IF:
            return {"if": alternatives, "else": False}
        return {"not": {"not": alternatives}}

    def reference(self, reference: str) -> str:
        """The reference to where its target stands in the copy."""
        ahead = list(limits.target_of(self.schema, reference) or ())
        tokens: list[str | int] = []
        subschema = self.schema
        while ahead:
            keyword = str(ahead.pop(0))
            rule = subschema[keyword]
            is_one = keyword in limits.HOLDS_ONE and not isinstance(rule, list)
            name = None if is_one else ahead.pop(0)
            if keyword in _ALTERNATIVES:
                index = len(subschema.get("allOf", ()))
                index += keyword == "oneOf" and "anyOf" in subschema
                way = ("if",) if self.draft >= _FIRST_DRAFT_WITH_IF else ("not", "not")
                tokens += ["allOf", index, *way]
            tokens.append(keyword)
            if name is None:
                subschema = rule
                continue
            tokens.append(self.patterns[str(name)] if keyword == "patternProperties" else name)
            subschema = rule[name]
        escaped = (str(token).replace("~", "~0").replace("/", "~1") for token in tokens)
        return "#" + "".join(f"/{quote(token, safe='')}" for token in escaped)


_ALTERNATIVES = ("anyOf", "oneOf")


def _with_parts(rule: Any, parts: Mapping[Steps, Any]) -> Any:
    """`rule` with its subschemas replaced."""
    if () in parts:
        return parts[()]
    if isinstance(rule, list):
        return list(parts.values())
    return {**rule, **{name: part for (name,), part in parts.items()}}


def _is_asserted(keyword: str, rule: Any) -> bool:
    return keyword != "format" or rule in FORMATS
