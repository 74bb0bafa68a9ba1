"""What a schema may be made of: its size, its parts and its references.

Owns the drafts and their keywords, where the parts of a schema are, where its
references lead and which of them are refused. How much work a schema causes is
in `work`. Everything here takes time in proportion to the schema's size.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

MAX_SCHEMA_BYTES = 65_536
MAX_DEPTH = 64
MAX_SUBSCHEMAS = 5_000
MAX_CHAIN = 64  # subschemas applied to one and the same value, one inside the other
MAX_PATTERN_STATES = 10_000  # of all patterns together

Steps = tuple[str | int, ...]
Subschemas = Mapping[Steps, Any]
# Where it is, the keyword, and a message that begins with a verb.
Refusal = tuple[Steps, str, str]

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

HOLDS_ONE = frozenset(
    {
        "additionalItems",
        "additionalProperties",
        "contains",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_HOLDS_LIST = frozenset({"allOf", "anyOf", "items", "oneOf", "prefixItems"})
DEFINITIONS = frozenset({"$defs", "definitions"})
_HOLDS_NAMED = DEFINITIONS | {
    "dependencies",
    "dependentSchemas",
    "patternProperties",
    "properties",
}
_IDENTIFIERS = ("$id", "id")

_DRAFT_4 = DEFINITIONS | {
    *("$ref", "type", "enum", "multipleOf", "minimum", "maximum", "exclusiveMinimum"),
    *("exclusiveMaximum", "minLength", "maxLength", "pattern", "format", "minItems", "maxItems"),
    *("uniqueItems", "minProperties", "maxProperties", "required", "properties"),
    *("patternProperties", "additionalProperties", "items", "additionalItems", "dependencies"),
    *("allOf", "anyOf", "oneOf", "not"),
}
_DRAFT_6 = _DRAFT_4 | {"const", "contains", "propertyNames"}
_DRAFT_7 = _DRAFT_6 | {"if", "then", "else"}
_DRAFT_2019 = (_DRAFT_7 - {"dependencies"}) | {
    *("dependentRequired", "dependentSchemas", "minContains", "maxContains"),
    *("unevaluatedItems", "unevaluatedProperties"),
}
_DRAFT_2020 = (_DRAFT_2019 - {"additionalItems"}) | {"prefixItems"}
# The keywords that count. All others say nothing about a value.
KEYWORDS: dict[int, frozenset[str]] = {
    4: _DRAFT_4,
    6: _DRAFT_6,
    7: _DRAFT_7,
    2019: _DRAFT_2019,
    2020: _DRAFT_2020,
}


class SchemaRefused(Exception):
    """The schema cannot be checked in bounded time; `refusals` says where and why."""

    def __init__(self, refusals: list[Refusal]) -> None:
        super().__init__(refusals)
        self.refusals = refusals


def draft_of(schema: Any) -> int | None:
    """The number of the draft that a schema names, DEFAULT_DRAFT for none, None for an unknown."""
    named = schema.get("$schema") if isinstance(schema, dict) else None
    if named is None:
        return DEFAULT_DRAFT
    return DRAFTS.get(named.removesuffix("#")) if isinstance(named, str) else None


def size_refusals(schema: Any) -> list[Refusal]:
    """What makes a schema too large to be looked at."""
    try:
        size = len(json.dumps(schema, ensure_ascii=False, separators=(",", ":")).encode())
    except RecursionError:
        return [((), "", _TOO_DEEP)]
    if size > MAX_SCHEMA_BYTES:
        return [((), "", f"is {size} bytes as JSON; the limit is {MAX_SCHEMA_BYTES}")]
    level, depth = [schema], 0
    while level := [part for whole in level for part in _parts(whole)]:
        depth += 1
        if depth > MAX_DEPTH:
            return [((), "", _TOO_DEEP)]
    return []


_TOO_DEEP = f"is nested more than {MAX_DEPTH} levels deep; move parts of it to $defs"


def _parts(whole: Any) -> Sequence[Any]:
    if isinstance(whole, dict):
        return list(whole.values())
    return whole if isinstance(whole, list) else ()


def find_subschemas(schema: Any, draft: int) -> dict[Steps, Any]:
    """Every schema inside a schema, itself included, by the steps that lead there.

    Raises SchemaRefused when there are too many.
    """
    found: dict[Steps, Any] = {(): schema}
    ahead: list[Steps] = [()]
    while ahead:
        steps = ahead.pop()
        for inner, subschema in inside(found[steps], draft):
            found[(*steps, *inner)] = subschema
            ahead.append((*steps, *inner))
    if len(found) > MAX_SUBSCHEMAS:
        message = f"holds {len(found)} subschemas; the limit is {MAX_SUBSCHEMAS}"
        raise SchemaRefused([((), "", message)])
    return found


def inside(schema: Any, draft: int) -> Iterator[tuple[Steps, Any]]:
    """The schemas directly inside; what has the wrong shape is left to the meta-schema."""
    if not isinstance(schema, dict):
        return
    for keyword, value in schema.items():
        if keyword not in KEYWORDS[draft] and keyword not in DEFINITIONS:
            continue
        if keyword in HOLDS_ONE and _is_schema(value):
            yield (keyword,), value
        elif keyword in _HOLDS_LIST and isinstance(value, list):
            for index, part in enumerate(value):
                if _is_schema(part):
                    yield (keyword, index), part
        elif keyword in _HOLDS_NAMED and isinstance(value, dict):
            for name, part in value.items():
                if _is_schema(part):
                    yield (keyword, name), part


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


def reference_refusals(schema: Any, subschemas: Subschemas) -> list[Refusal]:
    """The references that cannot be followed."""
    refusals: list[Refusal] = []
    for steps, subschema in subschemas.items():
        if not isinstance(subschema, dict):
            continue
        if steps and "$schema" in subschema:
            refusals.append((steps, "$schema", "may stand only at the top of param_schema"))
        for keyword in ("$dynamicRef", "$recursiveRef"):
            if keyword in subschema:
                refusals.append((steps, keyword, "is not supported; use $ref with #/$defs/…"))
        if "$ref" in subschema:
            problem = _reference_problem(schema, subschemas, steps, subschema["$ref"])
            if problem:
                refusals.append((steps, "$ref", problem))
    return refusals


def _reference_problem(
    schema: Any, subschemas: Subschemas, steps: Steps, reference: Any
) -> str | None:
    if not isinstance(reference, str) or not reference.startswith("#"):
        return "must point into this schema itself (#/...): nothing is fetched"
    if not (reference == "#" or reference.startswith("#/")):
        return "names an anchor, which is not supported; write the path, such as #/$defs/name"
    for length in range(1, len(steps) + 1):
        # A part that is no subschema, such as the object behind `properties`, has no identity.
        above = subschemas.get(steps[:length])
        if isinstance(above, dict) and _is_identified(above):
            return (
                "stands inside a part with an $id of its own, which changes what # means; "
                "take that $id out"
            )
    target = target_of(schema, reference)
    if target is None:
        return "points at a part that this schema lacks"
    return None if target in subschemas else "points at a part of this schema that is no schema"


def _is_identified(schema: Mapping[str, Any]) -> bool:
    return any(
        isinstance(schema.get(name), str) and not schema[name].startswith("#")
        for name in _IDENTIFIERS
    )


def target_of(schema: Any, reference: str) -> Steps | None:
    """The steps that `#/a/b` stands for, None where they lead nowhere."""
    steps: list[str | int] = []
    part = schema
    for token in unquote(reference[1:]).split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(part, dict) and name in part:
            steps.append(name)
            part = part[name]
        elif isinstance(part, list) and (index := _index(name)) < len(part):
            steps.append(index)
            part = part[index]
        else:
            return None
    return tuple(steps)


def _index(token: str) -> int:
    """The place in a list that a step names, past the end of any list where it names none."""
    is_index = token.isascii() and token.isdigit() and len(token) < 7 and token == str(int(token))
    return int(token) if is_index else MAX_SCHEMA_BYTES


def path_of(root: str, steps: Sequence[str | int]) -> str:
    """The steps as people read them: `param_schema.properties.a.anyOf[0]`."""
    path = root
    for step in steps:
        path += f"[{step}]" if isinstance(step, int) else f".{shortened(step)}"
    return path.removeprefix(".")


def shortened(text: str, longest: int = 100) -> str:
    """`text`, cut where a stranger's name would fill the answer."""
    return text if len(text) <= longest else text[: longest - 1] + "…"
