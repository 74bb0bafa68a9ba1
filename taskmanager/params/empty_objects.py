"""PHP writes an empty object as []. Where a value must be an object, that is what is meant."""

from typing import Any

from taskmanager.params.limits import HOLDS_NAMED, KEYWORDS

_SUBSCHEMAS = {name for name, keyword in KEYWORDS.items() if keyword.place} - {*HOLDS_NAMED}
_SUBSCHEMAS_BY_NAME = {"$defs", "definitions", "patternProperties", "properties"}


def object_of(value: Any) -> Any:
    """`value`, or {} for an empty list."""
    return {} if value == [] else value


def schema_with_objects(schema: Any) -> Any:
    """A schema in which [] stands nowhere for an empty object of subschemas; changes `schema`."""
    return _with_objects(object_of(schema))


def _with_objects(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_with_objects(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    for keyword, part in schema.items():
        if keyword in _SUBSCHEMAS:
            schema[keyword] = _with_objects(part)
        elif keyword in _SUBSCHEMAS_BY_NAME:
            by_name = object_of(part)
            if isinstance(by_name, dict):
                by_name = {name: _with_objects(one) for name, one in by_name.items()}
            schema[keyword] = by_name
    return schema
