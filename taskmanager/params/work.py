"""How much work it is to check a value against a schema, known before it is done.

Owns the count: the checks that a schema can cause at one place of a value, in
units, multiplied over everything that is applied to the same place; and how many
places a value has. A count gives the same answer on a fast and on a slow machine.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any, NamedTuple

from taskmanager.params.limits import MAX_CHAIN, MAX_DEPTH, Place, SchemaRefused, refusal
from taskmanager.params.messages import Steps

# What one check of a value may cost: 0.2 s. A unit is the time that jsonschema-rs takes for the
# simplest keyword, 7 ns; benchmarks/hostile_schemas.py measures the longest checks.
MAX_WORK = 30_000_000
# Schemas that may be applied one inside the other while a value is checked: each takes 0.5 KB
# of the thread's stack, and a process does not survive the end of it.
MAX_LEVELS = 1_000


@dataclass(eq=False)
class Subschema:
    """A schema, or one inside it: where it is, and the keywords in it that count.

    `copy` is what the library gets in its place. `same` are the schemas that are
    applied with it to the same value, `inner` those that go into the value.
    """

    steps: Steps
    rules: dict[str, Any] = field(default_factory=dict)
    copy: Any = None
    same: list["Subschema"] = field(default_factory=list)
    inner: dict[Place | None, list["Subschema"]] = field(default_factory=dict)


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
        return Work(*map(max, self, other))


NO_WORK = Work(0, 0, 0)


class Extent(NamedTuple):
    """How large a value is on each level: its places, and the characters of texts and names."""

    places: list[int]
    characters: list[int]


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
        return sum(
            work.checks * places + work.reading * characters
            for work, places, characters in self._levels(extent)
        )

    def error_bytes(self, extent: Extent, bytes_per_error: int) -> int:
        """What all errors together can take: each one, and a copy of the value it is about."""
        inside = sum(extent.characters)
        total = 0
        for work, places, characters in self._levels(extent):
            total += work.errors * (places * bytes_per_error + inside)
            inside -= characters
        return total

    def _levels(self, extent: Extent) -> Iterator[tuple[Work, int, int]]:
        works = chain(self.by_level, repeat(self.by_level[-1]))
        return zip(works, extent.places, extent.characters, strict=False)


def work_table(subschemas: Iterable[Subschema], patterns: Mapping[str, int]) -> WorkTable:
    """The table of a schema, which is the first of its subschemas.

    `patterns` has the units that each pattern takes for a character. Raises
    SchemaRefused for a schema that is applied to its own value again, or through
    too many others, and where even an empty value is too much work.
    """
    chains: dict[Subschema, int] = {}
    root, *_ = subschemas
    for part in subschemas:
        _measure_chain(part, chains)
    costs = {part: _cost(part.rules, patterns) for part in chains}
    by_level: list[Work] = []
    above: dict[Subschema, Work] = {}  # the same one level nearer to the root
    while len(by_level) <= MAX_DEPTH:
        now: dict[Subschema, Work] = {}
        for part, cost in costs.items():
            work = cost.below
            if not above:
                work = work.plus(cost.here)
            elif part.inner:
                work = work.plus(_of_children(part, cost.names, above))
            for other in part.same:
                work = work.plus(now[other], cost.times)
            now[part] = work
        by_level.append(now[root])
        if now == above or by_level[-1].checks > MAX_WORK:  # so it stays for deeper values
            break
        above = now
    if by_level[0].checks > MAX_WORK:
        message = "applies more checks to one value than can be done in time; flatten it"
        raise SchemaRefused(refusal((), "", message))
    return WorkTable(by_level, chains[root])


def _measure_chain(
    part: Subschema, chains: dict[Subschema, int], around: tuple[Subschema, ...] = ()
) -> int:
    """How many subschemas `part` is applied through, itself counted.

    Those are added to `chains`, innermost first.
    """
    if part in around:
        message = "leads back to itself without going into the value, so it never ends"
        raise SchemaRefused(refusal(part.steps, "$ref", message))
    if part not in chains and len(around) < MAX_CHAIN:
        lengths = [_measure_chain(other, chains, (*around, part)) for other in part.same]
        chains[part] = 1 + max(lengths, default=0)
    if chains.get(part, MAX_CHAIN + 1) > MAX_CHAIN:
        message = f"is applied through more than {MAX_CHAIN} others; flatten it"
        raise SchemaRefused(refusal(part.steps, "$ref", message))
    return chains[part]


def _of_children(part: Subschema, names: Work, above: Mapping[Subschema, Work]) -> Work:
    """What the parts for one property or one item cause there and deeper."""
    work = NO_WORK
    for start, one_of, each in (
        (names, Place.PROPERTY, Place.EACH_PROPERTY),
        (NO_WORK, Place.ITEM, Place.EACH_ITEM),
    ):
        side = NO_WORK
        for child in part.inner.get(one_of, ()):
            side = side.either(above[child])
        for child in part.inner.get(each, ()):
            side = side.plus(above[child])
        work = work.either(side.plus(start))
    return work


class _Cost(NamedTuple):
    """What the keywords of a subschema cost themselves."""

    here: Work  # at the value's own place
    below: Work  # at this place and at every one inside the value, as for uniqueItems
    names: Work  # at each property, for its name
    times: int  # how often the parts for the same value are gone through


def _cost(rules: Mapping[str, Any], patterns: Mapping[str, int]) -> _Cost:
    here, below = Work(_PER_SCHEMA, 0), NO_WORK
    for keyword, rule in rules.items():
        work = _keyword_work(keyword, rule, patterns)
        if keyword in _DEEP:
            below = below.plus(work)
        else:
            here = here.plus(work)
    names = [patterns[pattern] for pattern in rules.get("patternProperties", ())]
    for_names = len(names) * _PER_PATTERN + ("propertyNames" in rules) * _PER_PROPERTY_NAME
    is_unevaluated = "unevaluatedProperties" in rules or "unevaluatedItems" in rules
    return _Cost(here, below, Work(for_names, sum(names), 0), 3 if is_unevaluated else 1)


_PER_SCHEMA = 2
_PER_PROPERTY_NAME = 10
_PER_PATTERN = 6
_PER_COMPARED = 25  # a value of `const`, or one of an `enum` that is gone through in order
# Comparing is quick between integers; a float on one side makes it a fraction of whole numbers.
_PER_FLOAT_BOUND, _PER_FLOAT_MULTIPLE, _PER_DIGIT = 200, 800, 5
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
# What each keyword costs; 1 for those that are not named here.
_UNITS = {
    **dict.fromkeys(_BOUNDS, 60),
    "multipleOf": 60,
    "const": _PER_COMPARED,
    "uniqueItems": 45,
    "pattern": _PER_PATTERN,
    "format": 150,  # a call of Python
}
_PER_FORMAT_CHARACTER = 4
# For each name in these, which is looked up in the value. `"a",` is the shortest.
_PER_NAME = {"required": 4, "dependentRequired": 2, "dependencies": 2, "dependentSchemas": 2}
_LEAST_NAME = 4
# They go through all that is inside the value.
_DEEP = frozenset({"const", "enum", "uniqueItems"})


def _keyword_work(keyword: str, rule: Any, patterns: Mapping[str, int]) -> Work:
    """What a keyword does itself."""
    units, reading, errors = _UNITS.get(keyword, 1), 0, 1
    if keyword == "enum":
        kinds = {type(value) for value in rule}
        is_hashed = len(kinds) == 1 and kinds <= {str, int}
        units = 1 if is_hashed else _PER_COMPARED * len(rule)
    elif keyword in _BOUNDS and isinstance(rule, float):
        units = _PER_FLOAT_BOUND
    elif keyword == "multipleOf" and isinstance(rule, float):
        units = _PER_FLOAT_MULTIPLE + _PER_DIGIT * int(abs(math.log10(rule)))
    elif keyword in _PER_NAME:
        units = _PER_NAME[keyword] * len(rule)
        errors = len(json.dumps(rule)) // _LEAST_NAME
    elif keyword == "uniqueItems" and not rule:
        units = 0
    elif keyword == "format":
        reading = _PER_FORMAT_CHARACTER
    elif keyword == "pattern":
        reading = patterns[rule]
    elif keyword == "patternProperties":
        units = _PER_PATTERN * len(rule)  # also where there is no name to try them on
    return Work(units, reading, errors)
