"""What a schema may be made of: its draft, its size and the keywords that count.

Where its references lead is in `schemas`, how much work it causes in `work`.
"""

import json
from enum import IntEnum, auto
from typing import Any, NamedTuple

from taskmanager.params.messages import Problem, Steps, path_of, problem

MAX_SCHEMA_BYTES = 65_536
MAX_DEPTH = 64
MAX_SUBSCHEMAS = 5_000
MAX_CHAIN = 64  # subschemas applied to one and the same value, one inside the other
MAX_PATTERN_STATES = 10_000  # of all patterns together

# Drafts by the year or number that tells them apart, in the order of their age.
DRAFTS = {
    "http://json-schema.org/draft-04/schema": 4,
    "http://json-schema.org/draft-06/schema": 6,
    "http://json-schema.org/draft-07/schema": 7,
    "https://json-schema.org/draft/2019-09/schema": 2019,
    "https://json-schema.org/draft/2020-12/schema": 2020,
}
ADDRESSES = {number: address for address, number in DRAFTS.items()}
DEFAULT_DRAFT = 2020
LAST_DRAFT_WITH_REF_ALONE = 7  # keywords beside a $ref count for nothing
FIRST_DRAFT_WITH_IF = 7


class Place(IntEnum):
    """What the schemas in a keyword are applied to."""

    SAME = auto()  # the very value that the schema around them is applied to
    PROPERTY = auto()  # a property, for which there is at most one of them
    EACH_PROPERTY = auto()
    ITEM = auto()  # an item, for which there is at most one of them
    EACH_ITEM = auto()
    NOWHERE = auto()  # only what refers to them


class Keyword(NamedTuple):
    """The drafts that know a keyword, and where the schemas in it are applied."""

    first: int = 4
    last: int = 2020
    place: Place | None = None


# The keywords that count. All others say nothing about a value.
KEYWORDS = {
    **dict.fromkeys(
        (
            *("$ref", "type", "enum", "multipleOf", "minimum", "maximum", "exclusiveMinimum"),
            *("exclusiveMaximum", "minLength", "maxLength", "pattern", "format", "minItems"),
            *("maxItems", "uniqueItems", "minProperties", "maxProperties", "required"),
        ),
        Keyword(),
    ),
    "const": Keyword(6),
    **dict.fromkeys(("minContains", "maxContains", "dependentRequired"), Keyword(2019)),
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "not"), Keyword(place=Place.SAME)),
    **dict.fromkeys(("if", "then", "else"), Keyword(FIRST_DRAFT_WITH_IF, place=Place.SAME)),
    "dependencies": Keyword(last=7, place=Place.SAME),
    "dependentSchemas": Keyword(2019, place=Place.SAME),
    "properties": Keyword(place=Place.PROPERTY),
    "patternProperties": Keyword(place=Place.EACH_PROPERTY),
    "additionalProperties": Keyword(place=Place.EACH_PROPERTY),
    "propertyNames": Keyword(6, place=Place.EACH_PROPERTY),
    "unevaluatedProperties": Keyword(2019, place=Place.EACH_PROPERTY),
    "items": Keyword(place=Place.ITEM),
    "prefixItems": Keyword(2020, place=Place.ITEM),
    "additionalItems": Keyword(last=2019, place=Place.ITEM),
    "contains": Keyword(6, place=Place.EACH_ITEM),
    "unevaluatedItems": Keyword(2019, place=Place.EACH_ITEM),
    **dict.fromkeys(("$defs", "definitions"), Keyword(place=Place.NOWHERE)),
}
HOLDS_NAMED = (
    *("$defs", "definitions", "dependencies", "dependentSchemas"),
    *("patternProperties", "properties"),
)


class SchemaRefused(Exception):
    """The schema cannot be checked in bounded time; `problems` says where and why."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(problems)
        self.problems = list(problems)


def refusal(steps: Steps, keyword: str, message: str) -> Problem:
    """What is wrong with the schema at `steps`; `message` begins with a verb."""
    path = path_of("param_schema", (*steps, keyword) if keyword else steps)
    return problem(path, message, keyword or "schema")


def draft_of(schema: dict[str, Any]) -> int:
    """The number of the draft that a schema names, DEFAULT_DRAFT for none. Raises SchemaRefused."""
    named = schema.get("$schema")
    if named is None:
        return DEFAULT_DRAFT
    draft = DRAFTS.get(named.removesuffix("#")) if isinstance(named, str) else None
    if draft is None:
        raise SchemaRefused(refusal((), "$schema", _UNKNOWN_DRAFT))
    return draft


def is_too_deep(value: Any) -> bool:
    """Whether lists and objects are nested more than MAX_DEPTH levels deep.

    Level by level, so that a long list costs no call for each of its items.
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for whole in level
            for item in (whole.values() if isinstance(whole, dict) else whole)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return False
    return True


def check_size(schema: Any) -> None:
    """Raises SchemaRefused for a schema that is too large to be looked at."""
    try:
        size = len(json.dumps(schema, ensure_ascii=False, separators=(",", ":")).encode())
    except RecursionError:
        raise SchemaRefused(refusal((), "", _TOO_DEEP)) from None
    if size > MAX_SCHEMA_BYTES:
        message = f"is {size} bytes as JSON; the limit is {MAX_SCHEMA_BYTES}"
        raise SchemaRefused(refusal((), "", message))
    if is_too_deep(schema):
        raise SchemaRefused(refusal((), "", _TOO_DEEP))


_UNKNOWN_DRAFT = (
    "is not a known draft; leave it out for https://json-schema.org/draft/2020-12/schema "
    "(drafts 4, 6, 7 and 2019-09 are known too)"
)
_TOO_DEEP = f"is nested more than {MAX_DEPTH} levels deep; move parts of it to $defs"
