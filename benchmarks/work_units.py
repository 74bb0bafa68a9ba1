"""How long a unit of work takes, at most, for each keyword of a schema.

    python -m benchmarks.work_units [FAMILY …]

A check is refused when the estimate in `taskmanager/params/work.py` exceeds
MAX_WORK units. Each family here is a schema that grows, and a value that makes
its checks as slow as they can be. It grows until the estimate is just below the
limit; then the check is measured. Printed are the time that the processor worked
and the time per unit. Exit status 1 if a check takes longer than a second.
"""

import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any

from taskmanager.params.limits import SchemaRefused
from taskmanager.params.schemas import SchemaValidator, compile_schema
from taskmanager.params.work import MAX_WORK, extent_of

LIMIT_SECONDS = 1.0
GROWTH = 1.3
MAX_SIZE = 4_000

SHUFFLED = "".join(random.Random(1).choices("ab", k=300_000))
ONES = [1] * 50_000

Family = Callable[[int], tuple[Any, Any]]


def items(schema: Any) -> Any:
    return {"items": schema}


def all_of(schema: Any, size: int) -> Any:
    return {"items": {"allOf": [schema] * size}}


def names(count: int) -> dict[str, int]:
    return {f"p{number}": 1 for number in range(count)}


def nested_unevaluated(size: int) -> Any:
    schema: Any = {"properties": {"q": {}}}
    for _ in range(min(size, 12)):
        schema = {"unevaluatedProperties": False, "allOf": [schema]}
    return items(schema)


FAMILIES: dict[str, Family] = {
    "type": lambda size: (all_of({"type": "integer"}, size), ONES),
    "minimum": lambda size: (all_of({"minimum": 0.5}, size), [1.5] * 20_000),
    "multipleOf": lambda size: (all_of({"multipleOf": 0.01}, size), [1e308] * 5_000),
    "multipleOf, tiny": lambda size: (all_of({"multipleOf": 1e-300}, size), [1e308] * 2_000),
    "const": lambda size: (all_of({"const": list(range(100))}, size), [list(range(100))] * 2_000),
    "enum": lambda size: (
        items({"enum": [{"a": {"b": n}} for n in range(size)]}),
        [{"a": {"b": size - 1}}] * 10_000,
    ),
    "anyOf": lambda size: (
        items({"anyOf": [{"const": n} for n in range(size)]}),
        [size - 1] * 50_000,
    ),
    "oneOf": lambda size: (items({"oneOf": [*[{"type": "null"}] * size, {}]}), ONES),
    "not": lambda size: (all_of({"not": {"type": "null"}}, size), ONES),
    "if": lambda size: (all_of({"if": {"type": "null"}, "then": False}, size), ONES),
    "pattern": lambda size: (
        {"pattern": f"(a|b)*a(a|b){{{size * 10}}}c"},
        SHUFFLED,
    ),
    "pattern, word": lambda size: (
        {"not": {"pattern": rf"\b(?:a|b)*a(a|b){{{size * 5}}}c\b"}},
        SHUFFLED,
    ),
    "pattern, lookbehind": lambda size: (
        {"pattern": "(?<!b)[ab]*[cd]"},
        "a" * (size * 50),
    ),
    "patternProperties": lambda size: (
        {"patternProperties": {f"^p{n}(a|b)*x": {} for n in range(size)}},
        names(20_000),
    ),
    "propertyNames": lambda size: (
        {"allOf": [{"propertyNames": {"maxLength": 9}}] * size},
        names(20_000),
    ),
    "required": lambda size: (
        all_of({"required": ["a", "b", "c"]}, size),
        [{"a": 1, "b": 1, "c": 1}] * 10_000,
    ),
    "dependentRequired": lambda size: (
        items({"dependentRequired": {f"p{n}": ["x"] for n in range(size)}}),
        [{}] * 50_000,
    ),
    "contains": lambda size: (
        {"allOf": [{"contains": {"type": "string"}, "minContains": 0, "maxContains": 1}] * size},
        ONES,
    ),
    "uniqueItems": lambda size: (
        {"allOf": [{"uniqueItems": True}] * size},
        [[n] for n in range(50_000)],
    ),
    "unevaluatedProperties": lambda size: (
        {
            "unevaluatedProperties": False,
            "anyOf": [
                {"properties": {f"p{n}": {}}, "additionalProperties": True} for n in range(size)
            ],
        },
        names(20_000),
    ),
    "unevaluatedProperties, nested": lambda size: (nested_unevaluated(size), [{"q": 1}] * 5_000),
    "format": lambda size: (
        all_of({"format": "date-time"}, size),
        ["2026-01-31T12:00:00Z"] * 5_000,
    ),
    "format ipv6": lambda size: (
        all_of({"not": {"format": "ipv6"}}, size),
        ["1:2:3:4:5:6:7:1.2.3.400"] * 5_000,
    ),
}


def largest(family: Family) -> tuple[SchemaValidator, Any, int]:
    """The largest schema of the family that is accepted with its value, and its units."""
    found: tuple[SchemaValidator, Any, int] | None = None
    size = 1
    while size < MAX_SIZE:
        schema, value = family(size)
        try:
            validator = compile_schema(schema)
        except SchemaRefused:
            break
        units = validator.work.units(extent_of(value))
        if units > MAX_WORK:
            break
        found = validator, value, units
        size = max(size + 1, int(size * GROWTH))
    assert found is not None
    return found


def main() -> None:
    slowest = 0.0
    for name in sys.argv[1:] or FAMILIES:
        validator, value, units = largest(FAMILIES[name])
        start = time.process_time()
        validator.library.is_valid(value)
        taken = time.process_time() - start
        slowest = max(slowest, taken)
        schema_bytes = len(json.dumps(validator.schema))
        print(
            f"{name:30} {taken * 1000:7.1f} ms {taken / units * 1e9:6.1f} ns a unit, "
            f"{units:>10,} units, schema of {schema_bytes:,} bytes"
        )
    raise SystemExit(slowest > LIMIT_SECONDS)


if __name__ == "__main__":
    main()
