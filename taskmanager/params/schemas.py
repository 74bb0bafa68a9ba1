"""Compiling schemas: what is refused, and the validator that jsonschema-rs makes of the rest.

Owns how a schema is given to the library: with the keywords of its draft alone,
references that stay inside, patterns translated, formats that are registered,
and without the lists of errors that alternatives would collect.
"""

import functools
import json
from collections.abc import Mapping
from copy import copy
from typing import Any, NamedTuple
from urllib.parse import unquote

import jsonschema_rs

from taskmanager.params import limits
from taskmanager.params.formats import FORMATS
from taskmanager.params.limits import KEYWORDS, Place, SchemaRefused, refusal
from taskmanager.params.messages import Problem, Steps
from taskmanager.params.patterns import MAX_STEPS_BACK, PatternRefused, Translation, translate
from taskmanager.params.work import Subschema, WorkTable, work_table

LARGE_SCHEMA_LENGTH = 4_096
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


@functools.lru_cache(maxsize=256)
def _validator_of(schema_text: str) -> SchemaValidator:
    return compile_schema(json.loads(schema_text))


_large_validator_of = functools.lru_cache(maxsize=16)(_validator_of.__wrapped__)


def compile_schema(schema: dict[str, Any]) -> SchemaValidator:
    """A validator that asserts formats and fetches nothing.

    Raises SchemaRefused. The schema has been held against its meta-schema before.
    """
    draft = limits.draft_of(schema)
    reader = _Reader(schema, draft)
    is_linear = all(pattern.linear is not None for pattern in reader.patterns.values())
    # A step back may read the rest of the text again: 1 ns a character, an eighth of a unit.
    per_step = 0 if is_linear else MAX_STEPS_BACK // 8
    units = {
        pattern: translation.busy + per_step * translation.steps_back
        for pattern, translation in reader.patterns.items()
    }
    work = work_table(reader.found.values(), units)
    originals = _originals(reader.patterns, is_linear)
    rewritten = reader.finished_copy({pattern: text for text, pattern in originals.items()})
    try:
        library = jsonschema_rs.validator_for(
            # Not the schema itself, whose patterns are for the engine and no longer of ECMA 262.
            {"$schema": limits.ADDRESSES[draft], "$ref": _OWN_ADDRESS},
            registry=jsonschema_rs.Registry([(_OWN_ADDRESS, rewritten)]),
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
        raise SchemaRefused(refusal((), "", message)) from None
    return SchemaValidator(library, rewritten, originals, reader.copied_length, work)


@functools.cache
def meta_validator(draft: int) -> jsonschema_rs.Validator:
    """What a schema of this draft must fit."""
    address = limits.ADDRESSES[draft]
    # `format` is left out: patterns and references are checked more closely here.
    return jsonschema_rs.validator_for(
        {"$schema": address, "$ref": address}, validate_formats=False, offline=True, mask=""
    )


def _originals(patterns: Mapping[str, Translation], is_linear: bool) -> dict[str, str]:
    """Each pattern by what the engine gets of it; two ways to write the same stay two."""
    originals: dict[str, str] = {}
    for pattern, translation in patterns.items():
        text = (is_linear and translation.linear) or translation.counted
        while text in originals:
            text += "(?:)"
        originals[text] = pattern
    return originals


class _Reader:
    """Goes through a schema once: finds its parts and patterns, and copies it for the library.

    Raises SchemaRefused.
    """

    def __init__(self, schema: dict[str, Any], draft: int) -> None:
        self.draft = draft
        self.found: dict[str, Subschema] = {}  # by JSON Pointer
        self.patterns: dict[str, Translation] = {}
        self.states = 0
        self.copied_length = 0
        self.references: list[tuple[Subschema, Any, bool]] = []
        self.targets: dict[Subschema, Subschema] = {}
        self.refusals: list[Problem] = []
        self.read(schema, (), False)
        if len(self.found) > limits.MAX_SUBSCHEMAS:
            message = f"holds {len(self.found)} subschemas; the limit is {limits.MAX_SUBSCHEMAS}"
            raise SchemaRefused(refusal((), "", message))
        for part, reference, is_moved in self.references:
            self.follow(part, reference, is_moved)
        if self.refusals:
            raise SchemaRefused(*self.refusals)

    def refuse(self, part: Subschema, keyword: str, message: str) -> None:
        self.refusals.append(refusal(part.steps, keyword, message))

    def read(self, schema: Any, steps: Steps, is_moved: bool) -> Subschema:
        """`is_moved` is whether a schema around it has an `$id`, which changes what # means."""
        part = self.found[_pointer(steps)] = Subschema(steps, copy=schema)
        if not isinstance(schema, dict):
            return part
        part.copy = {}
        is_moved = is_moved or (steps != () and _has_address(schema))
        if steps and "$schema" in schema:
            self.refuse(part, "$schema", "may stand only at the top of param_schema")
        for keyword in ("$dynamicRef", "$recursiveRef"):
            if keyword in schema:
                self.refuse(part, keyword, "is not supported; use $ref with #/$defs/…")
        if "$ref" in schema:
            self.references.append((part, schema["$ref"], is_moved))
        for keyword, rule in schema.items():
            known = KEYWORDS.get(keyword)
            if known is None or not known.first <= self.draft <= known.last:
                continue
            part.rules[keyword] = rule
            copied = self.inside(part, keyword, rule, is_moved) if known.place else rule
            if known.place != Place.NOWHERE and (keyword != "format" or rule in FORMATS):
                part.copy[keyword] = copied
            self.note(part, keyword, rule)
        if "$ref" in schema and self.draft <= limits.LAST_DRAFT_WITH_REF_ALONE:
            part.rules, part.copy, part.same, part.inner = {}, {}, [], {}
        self.hide_alternatives(part.copy)
        return part

    def inside(self, part: Subschema, keyword: str, rule: Any, is_moved: bool) -> Any:
        """`rule` with the copies of the schemas in it."""
        place = KEYWORDS[keyword].place
        parts = part.same if place == Place.SAME else part.inner.setdefault(place, [])

        def copy_of(schema: Any, *name: str | int) -> Any:
            if not isinstance(schema, dict | bool):
                return schema  # the names in `dependencies`
            inner = self.read(schema, (*part.steps, keyword, *name), is_moved)
            parts.append(inner)
            return inner.copy

        if isinstance(rule, list):
            return [copy_of(schema, index) for index, schema in enumerate(rule)]
        if keyword in limits.HOLDS_NAMED:
            return {name: copy_of(schema, name) for name, schema in rule.items()}
        return copy_of(rule)

    def note(self, part: Subschema, keyword: str, rule: Any) -> None:
        """Keeps the patterns of a keyword, and the length of what an error copies of it."""
        if keyword in ("const", "enum", "not"):
            self.copied_length = max(self.copied_length, len(json.dumps(rule)))
        for pattern in {"pattern": [rule], "patternProperties": rule}.get(keyword, ()):
            if pattern in self.patterns:
                continue
            try:
                self.patterns[pattern] = translate(pattern)
            except PatternRefused as refused:
                self.refuse(part, keyword, f"is a pattern that {refused}")
                continue
            self.states += self.patterns[pattern].states
            if self.states > limits.MAX_PATTERN_STATES:
                most = limits.MAX_PATTERN_STATES
                message = f"brings all patterns together to more than {most} parts"
                raise SchemaRefused(refusal(part.steps, keyword, message))

    def hide_alternatives(self, copied: dict[str, Any]) -> None:
        """Puts alternatives where only their verdict counts.

        For each `anyOf` or `oneOf` that fails the library would list what is wrong
        with every alternative, with a copy of the value each.
        """
        for keyword in ("anyOf", "oneOf"):
            if keyword in copied:
                alternatives = {keyword: copied.pop(keyword)}
                if self.draft >= limits.FIRST_DRAFT_WITH_IF:
                    hidden: dict[str, Any] = {"if": alternatives, "else": False}
                else:
                    hidden = {"not": {"not": alternatives}}
                copied.setdefault("allOf", []).append(hidden)

    def follow(self, part: Subschema, reference: Any, is_moved: bool) -> None:
        """Adds the target of a reference to what is applied with it."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            message = "must point into this schema itself (#/...): nothing is fetched"
        elif reference[1:2] not in ("", "/"):
            message = (
                "names an anchor, which is not supported; write the path, such as #/$defs/name"
            )
        elif is_moved:
            message = (
                "stands inside a part with an $id of its own, which changes what # means; "
                "take that $id out"
            )
        elif target := self.found.get(unquote(reference[1:])):
            part.same.append(target)
            self.targets[part] = target
            return
        else:
            message = "points at a part that this schema lacks or that is no schema"
        self.refuse(part, "$ref", message)

    def finished_copy(self, texts: Mapping[str, str]) -> Any:
        """The copy, with the patterns as the engine gets them and all targets at its top.

        What refers to a target there is right wherever the copy has put the rest.
        """
        names = {target: f"d{n}" for n, target in enumerate(dict.fromkeys(self.targets.values()))}
        for part, target in self.targets.items():
            part.copy["$ref"] = f"#/$defs/{names[target]}"
        for copied in [part.copy for part in self.found.values() if part.rules]:
            if "pattern" in copied:
                copied["pattern"] = texts[copied["pattern"]]
            if "patternProperties" in copied:
                by_pattern = copied["patternProperties"].items()
                copied["patternProperties"] = {texts[name]: inner for name, inner in by_pattern}
        definitions = {name: copy(target.copy) for target, name in names.items()}
        for target, name in names.items():
            if isinstance(target.copy, dict):
                target.copy.clear()
                target.copy["$ref"] = f"#/$defs/{name}"
        root = self.found[""].copy
        return root | {"$schema": limits.ADDRESSES[self.draft], "$defs": definitions}


def _pointer(steps: Steps) -> str:
    tokens = (str(step).replace("~", "~0").replace("/", "~1") for step in steps)
    return "".join(f"/{token}" for token in tokens)


def _has_address(schema: Mapping[str, Any]) -> bool:
    names = (schema.get("$id"), schema.get("id"))
    return any(isinstance(name, str) and not name.startswith("#") for name in names)
