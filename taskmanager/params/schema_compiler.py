"""Turns a schema into checks that run in bounded time.

Owns which keywords each draft has, and puts the parts together: every
subschema becomes a Node once, however many references lead to it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from taskmanager.params import schema_applicators as applicators
from taskmanager.params import schema_assertions as assertions
from taskmanager.params import schema_unevaluated as unevaluated
from taskmanager.params.pattern_matching import Pattern, compile_pattern
from taskmanager.params.pattern_syntax import PatternRefused
from taskmanager.params.schema_limits import (
    MAX_PATTERN_STATES,
    MAX_SUBSCHEMAS,
    Refusal,
    Steps,
    find_subschemas,
    reference_refusals,
    target_of,
)
from taskmanager.params.schema_run import Check, EnoughFailures, Node, Path, Run

Builder = Callable[[Any, "Place"], Check | None]

_DRAFT_4: dict[str, Builder] = {
    "$ref": applicators.ref,
    "type": assertions.type_,
    "enum": assertions.enum,
    "multipleOf": assertions.multiple_of,
    "minimum": assertions.minimum,
    "maximum": assertions.maximum,
    "minLength": assertions.min_length,
    "maxLength": assertions.max_length,
    "pattern": assertions.pattern,
    "format": assertions.format_,
    "minItems": assertions.min_items,
    "maxItems": assertions.max_items,
    "uniqueItems": assertions.unique_items,
    "minProperties": assertions.min_properties,
    "maxProperties": assertions.max_properties,
    "required": assertions.required,
    "properties": applicators.properties,
    "patternProperties": applicators.pattern_properties,
    "additionalProperties": applicators.additional_properties,
    "items": applicators.items,
    "additionalItems": applicators.additional_items,
    "dependencies": applicators.dependencies,
    "allOf": applicators.all_of,
    "anyOf": applicators.any_of,
    "oneOf": applicators.one_of,
    "not": applicators.not_,
}
_DRAFT_6 = {
    **_DRAFT_4,
    "const": assertions.const,
    "exclusiveMinimum": assertions.exclusive_minimum,
    "exclusiveMaximum": assertions.exclusive_maximum,
    "contains": applicators.contains,
    "propertyNames": applicators.property_names,
}
_DRAFT_7 = {**_DRAFT_6, "if": applicators.if_}
_DRAFT_2019 = {
    **{keyword: builder for keyword, builder in _DRAFT_7.items() if keyword != "dependencies"},
    "dependentRequired": assertions.dependent_required,
    "dependentSchemas": applicators.dependent_schemas,
    "unevaluatedItems": unevaluated.unevaluated_items,
    "unevaluatedProperties": unevaluated.unevaluated_properties,
}
_DRAFT_2020 = {
    **{
        keyword: builder for keyword, builder in _DRAFT_2019.items() if keyword != "additionalItems"
    },
    "prefixItems": applicators.prefix_items,
}
KEYWORDS = {4: _DRAFT_4, 6: _DRAFT_6, 7: _DRAFT_7, 2019: _DRAFT_2019, 2020: _DRAFT_2020}
_LAST_DRAFT_WITH_REF_ALONE = 7  # keywords beside a $ref count for nothing


class SchemaRefused(Exception):
    """The schema cannot be checked in bounded time; `refusals` says where and why."""

    def __init__(self, refusals: list[Refusal]) -> None:
        super().__init__(refusals)
        self.refusals = refusals


class SchemaValidator(NamedTuple):
    """A compiled schema; threads may share it."""

    root: Node

    def check(self, value: Any, run: Run) -> None:
        """Leaves in `run` what is wrong with `value`, in the order of the schema.

        Raises TooCostly, and RecursionError where value and schema together
        are nested too deep to be followed.
        """
        try:  # noqa: SIM105 - contextlib would cost every request a microsecond
            self.root.fits(value, None, run)
        except EnoughFailures:
            pass


class Compilation:
    """What is known while one schema is compiled."""

    def __init__(self, schema: Any, draft: int) -> None:
        self.schema = schema
        self.draft = draft
        self.keywords = KEYWORDS[draft]
        self.subschemas = find_subschemas(schema)
        self.nodes: dict[Steps, Node] = {}
        self.waiting: list[Steps] = []
        self.collectors: dict[Any, unevaluated.Collector] = {}
        self.patterns: dict[str, Pattern] = {}
        self.pattern_states = 0
        self.refusals: list[Refusal] = []

    def node(self, steps: Steps) -> Node:
        """The node of a subschema, which gets its checks later: no recursion, and cycles close."""
        node = self.nodes.get(steps)
        if node is None:
            node = self.nodes[steps] = Node()
            self.waiting.append(steps)
        return node

    def run(self) -> Node:
        root = self.node(())
        while self.waiting:
            steps = self.waiting.pop()
            self.nodes[steps].set_checks(self._checks(Place(self, steps, self.subschemas[steps])))
        return root

    def _checks(self, place: "Place") -> list[Check]:
        if place.schema is False:
            return [_nothing]
        if place.schema is True:
            return []
        keywords: Mapping[str, Any] = place.schema
        if self.draft <= _LAST_DRAFT_WITH_REF_ALONE and "$ref" in keywords:
            keywords = {"$ref": keywords["$ref"]}
        checks = []
        for keyword, rule in keywords.items():
            builder = self.keywords.get(keyword)
            check = builder(rule, place) if builder else None
            if check is not None:
                checks.append(check)
        return checks

    def pattern(self, text: str, steps: Steps, keyword: str) -> Pattern | None:
        """None, and a refusal noted, where it cannot be used."""
        if text in self.patterns:
            return self.patterns[text]
        try:
            pattern = compile_pattern(text)
        except PatternRefused as refused:
            self.refusals.append((steps, keyword, f"is a pattern that {refused}"))
            return None
        self.patterns[text] = pattern
        self.pattern_states += pattern.states
        if self.pattern_states > MAX_PATTERN_STATES:
            message = f"brings all patterns together to more than {MAX_PATTERN_STATES} parts"
            raise SchemaRefused([(steps, keyword, message)])
        return pattern


class Place(NamedTuple):
    """A subschema while it is compiled: what a keyword may ask about its surroundings."""

    compilation: Compilation
    steps: Steps
    schema: Any

    @property
    def draft(self) -> int:
        return self.compilation.draft

    @property
    def collectors(self) -> dict[Any, unevaluated.Collector]:
        return self.compilation.collectors

    def node(self, *inner: str | int) -> Node:
        return self.compilation.node((*self.steps, *inner))

    def inside(self, *inner: str | int) -> "Place":
        return self._at((*self.steps, *inner))

    def target(self, reference: str) -> Node:
        return self.compilation.node(self._target_steps(reference))

    def target_place(self, reference: str) -> "Place":
        return self._at(self._target_steps(reference))

    def pattern(self, text: str, keyword: str) -> Pattern | None:
        return self.compilation.pattern(text, self.steps, keyword)

    def _at(self, steps: Steps) -> "Place":
        schema = self.compilation.subschemas[steps]
        return Place(self.compilation, steps, {} if isinstance(schema, bool) else schema)

    def _target_steps(self, reference: str) -> Steps:
        steps = target_of(self.compilation.schema, reference)
        assert steps is not None  # noqa: S101 - references were checked before
        return steps


def compile_schema(schema: Any, draft: int) -> SchemaValidator:
    """Raises SchemaRefused. The schema has been held against its meta-schema before."""
    compilation = Compilation(schema, draft)
    if len(compilation.subschemas) > MAX_SUBSCHEMAS:
        message = f"holds {len(compilation.subschemas)} subschemas; the limit is {MAX_SUBSCHEMAS}"
        raise SchemaRefused([((), "", message)])
    refusals = reference_refusals(schema, compilation.subschemas)
    if refusals:
        raise SchemaRefused(refusals)
    root = compilation.run()
    if compilation.refusals:
        raise SchemaRefused(compilation.refusals)
    return SchemaValidator(root)


def _nothing(value: Any, path: Path, run: Run) -> bool:
    return run.fail(path, "false", False, value)
