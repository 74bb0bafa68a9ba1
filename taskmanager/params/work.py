"""How much work it is to check a value against a schema, known before it is done.

Owns the count: the checks that a schema can cause at one place of a value, in
units, multiplied over everything that is applied to the same place; and how many
places a value has. A count gives the same answer on a fast and on a slow machine.
"""

import json
import math
from collections.abc import Iterator, Mapping
from itertools import chain, islice, repeat
from typing import Any, NamedTuple

from taskmanager.params.limits import (
    DEFINITIONS,
    KEYWORDS,
    LAST_DRAFT_WITH_REF_ALONE,
    MAX_CHAIN,
    MAX_DEPTH,
    SchemaRefused,
    Steps,
    Subschemas,
    inside,
    target_of,
)

# What one check of a value may cost: 0.2 s. A unit is the time that jsonschema-rs takes for the
# simplest keyword, 7 ns; benchmarks/hostile_schemas.py measures the longest checks.
MAX_WORK = 30_000_000
# Schemas that may be applied one inside the other while a value is checked: each takes 0.5 KB
# of the thread's stack, and a process does not survive the end of it.
MAX_LEVELS = 1_000

# Those whose parts look at the very value that the schema around them looks at.
_SAME_VALUE = frozenset(
    {"allOf", "anyOf", "dependencies", "dependentSchemas", "else", "if", "not", "oneOf", "then"}
)


class Work(NamedTuple):
    """What a schema can cause at one place of a value.

    `checks` are units for each place, `reading` units for each character of the
    texts, `errors` how many errors there can be.
    """

    checks: int
    reading: int
    errors: int = 1

    def plus(self, other: "Work", times: int = 1) -> "Work":
        # Capped, so that a product over 64 levels stays a small number.
        return Work(
            min(self.checks + times * other.checks, MAX_WORK + 1),
            min(self.reading + times * other.reading, MAX_WORK + 1),
            min(self.errors + times * other.errors, MAX_WORK + 1),
        )

    def either(self, other: "Work") -> "Work":
        return Work(
            max(self.checks, other.checks),
            max(self.reading, other.reading),
            max(self.errors, other.errors),
        )


NO_WORK = Work(0, 0, 0)


class Extent(NamedTuple):
    """How large a value is on each level: its places, and the characters of texts and names."""

    places: list[int]
    characters: list[int]

    @property
    def depth(self) -> int:
        return len(self.places) - 1


def extent_of(value: Any) -> Extent:
    """Level by level, so that a long list costs no call for each of its items."""
    places: list[int] = []
    characters: list[int] = []
    level, names = [value], 0
    while level:
        below: list[Any] = []
        count, names = names, 0
        for part in level:
            if isinstance(part, str):
                count += len(part)
            elif isinstance(part, dict):
                names += sum(map(len, part))
                below.extend(part.values())
            elif isinstance(part, list):
                below.extend(part)
        places.append(len(level))
        characters.append(count)
        level = below
    return Extent(places, characters)


class WorkTable(NamedTuple):
    """The most work at one place of a value, for each level of the value.

    The last of `by_level` stands for all deeper levels. `chain` is how many
    schemas are applied to one value, one inside the other.
    """

    by_level: list[Work]
    chain: int

    def units(self, extent: Extent) -> int:
        """What checking a value of this extent can cost."""
        levels = zip(self._levels(extent), extent.places, extent.characters, strict=True)
        return sum(
            work.checks * places + work.reading * characters for work, places, characters in levels
        )

    def error_bytes(self, extent: Extent, bytes_per_error: int) -> int:
        """What all errors together can take: each one, and a copy of the value it is about."""
        inside = sum(extent.characters)
        total = 0
        levels = zip(self._levels(extent), extent.places, extent.characters, strict=True)
        for work, places, characters in levels:
            total += work.errors * (places * bytes_per_error + inside)
            inside -= characters
        return total

    def _levels(self, extent: Extent) -> Iterator[Work]:
        deeper = repeat(self.by_level[-1])
        return islice(chain(self.by_level, deeper), len(extent.places))


_PER_SCHEMA = 2
_PER_KEYWORD = 1
_LEAST_NAME = 4  # characters of JSON that a name takes: "a",
_PER_REQUIRED = 4
_PER_NAME = 2  # of dependentRequired and its like, each looked up in the value
_PER_PATTERN = 6
_PER_FORMAT = 150  # a call of Python
_PER_FORMAT_CHARACTER = 4
_PER_COMPARED = 25  # a value of `const`, or one of an `enum` that is gone through in order
_PER_UNIQUE = 45
# Comparing is quick between integers; a float on one side makes it a fraction of whole numbers.
_PER_BOUND, _PER_FLOAT_BOUND = 60, 200
_PER_MULTIPLE, _PER_FLOAT_MULTIPLE, _PER_DIGIT = 60, 800, 5
_PER_PROPERTY_NAME = 10


class _Part(NamedTuple):
    """A subschema as the sum of work sees it. Others are named by their steps."""

    here: Work  # at the value's own place
    below: Work  # at this place and at every one inside the value, as for uniqueItems
    names: Work  # at each property, for its name
    same_value: list[Steps]
    times: int  # how often the parts for the same value are gone through
    # Of the first ones one at most is for the same property or item, the others are for each.
    properties: tuple[list[Steps], list[Steps]]
    items: tuple[list[Steps], list[Steps]]

    @property
    def is_leaf(self) -> bool:
        return not any((*self.properties, *self.items))


def work_table(
    schema: Any, subschemas: Subschemas, draft: int, patterns: Mapping[str, int]
) -> WorkTable:
    """The table of a schema; `patterns` has the units that each takes for a character.

    Raises SchemaRefused for a schema that is applied to its own value again, or
    through too many others, and where even an empty value is too much work.
    """
    parts = {
        steps: _part(schema, steps, subschema, draft, patterns)
        for steps, subschema in subschemas.items()
    }
    chains = _chains(parts)
    by_level: list[Work] = []
    above: dict[Steps, Work] = {}  # the same one level nearer to the root
    while len(by_level) <= MAX_DEPTH:
        now: dict[Steps, Work] = {}
        for steps in chains:
            part = parts[steps]
            work = part.below.plus(_of_children(part, above) if above else part.here)
            for other in part.same_value:
                work = work.plus(now[other], part.times)
            now[steps] = work
        by_level.append(now[()])
        if now == above or by_level[-1].checks > MAX_WORK:  # so it stays for deeper values
            break
        above = now
    if by_level[0].checks > MAX_WORK:
        message = "applies more checks to one value than can be done in time; flatten it"
        raise SchemaRefused([((), "", message)])
    return WorkTable(by_level, chains[()])


def _of_children(part: _Part, above: Mapping[Steps, Work]) -> Work:
    """What the parts for one property or one item cause there and deeper."""
    work = NO_WORK
    if part.is_leaf:
        return work
    for start, one_of, each in (
        (part.names, *part.properties),
        (NO_WORK, *part.items),
    ):
        side = NO_WORK
        for steps in one_of:
            side = side.either(above[steps])
        for steps in each:
            side = side.plus(above[steps])
        work = work.either(side.plus(start))
    return work


def _part(
    schema: Any, steps: Steps, subschema: Any, draft: int, patterns: Mapping[str, int]
) -> _Part:
    part = _Part(Work(_PER_SCHEMA, 0), NO_WORK, NO_WORK, [], 1, ([], []), ([], []))
    if not isinstance(subschema, dict):
        return part
    if "$ref" in subschema:
        target = target_of(schema, subschema["$ref"])
        part.same_value.extend([target] if target is not None else [])
        if draft <= LAST_DRAFT_WITH_REF_ALONE:
            return part
    here, below = part.here, part.below
    for keyword, rule in subschema.items():
        if keyword in _DEEP:
            below = below.plus(_keyword_work(keyword, rule, patterns))
        elif keyword in KEYWORDS[draft]:
            here = here.plus(_keyword_work(keyword, rule, patterns))
    for inner, _ in inside(subschema, draft):
        if inner[0] not in DEFINITIONS:
            _list_for(part, inner[0]).append((*steps, *inner))
    is_unevaluated = "unevaluatedProperties" in subschema or "unevaluatedItems" in subschema
    name_patterns = subschema.get("patternProperties", ())
    names = Work(
        len(name_patterns) * _PER_PATTERN + ("propertyNames" in subschema) * _PER_PROPERTY_NAME,
        sum(patterns[pattern] for pattern in name_patterns),
        0,
    )
    return part._replace(here=here, below=below, names=names, times=3 if is_unevaluated else 1)


_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
# They go through all that is inside the value.
_DEEP = frozenset({"const", "enum", "uniqueItems"})


def _list_for(part: _Part, keyword: str | int) -> list[Steps]:
    if keyword in _SAME_VALUE:
        return part.same_value
    if keyword == "properties":
        return part.properties[0]
    if keyword in ("items", "prefixItems", "additionalItems"):
        return part.items[0]
    return part.items[1] if keyword in ("contains", "unevaluatedItems") else part.properties[1]


def _keyword_work(keyword: str, rule: Any, patterns: Mapping[str, int]) -> Work:
    """What a keyword does itself."""
    if keyword == "enum":
        kinds = {type(value) for value in rule}
        is_hashed = len(kinds) == 1 and kinds <= {str, int}
        return Work(_PER_KEYWORD if is_hashed else _PER_COMPARED * len(rule), 0)
    if keyword == "const":
        return Work(_PER_COMPARED, 0)
    if keyword == "uniqueItems":
        return Work(_PER_UNIQUE if rule else 0, 0)
    if keyword in _BOUNDS:
        return Work(_PER_FLOAT_BOUND if isinstance(rule, float) else _PER_BOUND, 0)
    if keyword == "multipleOf":
        digits = int(abs(math.log10(rule)))
        is_float = isinstance(rule, float)
        return Work(_PER_FLOAT_MULTIPLE + _PER_DIGIT * digits if is_float else _PER_MULTIPLE, 0)
    if keyword in ("required", "dependentRequired", "dependencies", "dependentSchemas"):
        count = len(rule) if isinstance(rule, dict | list) else 0
        each = _PER_REQUIRED if keyword == "required" else _PER_NAME
        return Work(each * count, 0, len(json.dumps(rule)) // _LEAST_NAME)
    if keyword == "format":
        return Work(_PER_FORMAT, _PER_FORMAT_CHARACTER)
    if keyword == "pattern":
        return Work(_PER_PATTERN, patterns[rule])
    if keyword == "patternProperties":
        return Work(_PER_PATTERN * len(rule), 0)  # also where there is no name to try them on
    return Work(_PER_KEYWORD, 0)


def _chains(parts: Mapping[Steps, _Part]) -> dict[Steps, int]:
    """How many subschemas each one is applied through, itself counted, innermost first.

    Depth first, without recursion: a part met again while it is open closes a cycle.
    """
    lengths: dict[Steps, int] = {}
    for root in parts:
        ahead = {} if root in lengths else {root: iter(parts[root].same_value)}
        while ahead:
            steps, others = next(reversed(ahead.items()))
            other = next(others, None)
            if other is None:
                del ahead[steps]
                inner = max((lengths[other] for other in parts[steps].same_value), default=0)
                lengths[steps] = 1 + inner
                if inner >= MAX_CHAIN:
                    message = f"is applied through more than {MAX_CHAIN} others; flatten it"
                    raise SchemaRefused([(steps, "$ref", message)])
            elif other in ahead:
                message = "leads back to itself without going into the value, so it never ends"
                raise SchemaRefused([(other, "$ref", message)])
            elif other not in lengths:
                ahead[other] = iter(parts[other].same_value)
    return lengths
