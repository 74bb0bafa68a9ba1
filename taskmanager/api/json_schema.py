"""A shorthand for JSON Schemas, in which the bodies and the answers of the API are written."""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}
TIME: Schema = {"type": "string", "format": "date-time"}


def like(schema: Schema, *examples: Any) -> Schema:
    return {**schema, "examples": list(examples)}


def or_null(schema: Schema) -> Schema:
    kind = schema["type"]
    nullable = {**schema, "type": [*([kind] if isinstance(kind, str) else kind), "null"]}
    if "enum" in schema:
        nullable["enum"] = [*schema["enum"], None]
    return nullable


def integer(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def list_of(items: Schema, *, most: int | None = None) -> Schema:
    """A list. With `most` it has 1 to `most` items."""
    limits = {} if most is None else {"minItems": 1, "maxItems": most}
    return {"type": "array", "items": items, **limits}


def record(*optional: str, **fields: Schema) -> Schema:
    """An object with exactly these fields; those named in `optional` may be missing."""
    return {
        "type": "object",
        "properties": fields,
        "required": [name for name in fields if name not in optional],
        "additionalProperties": False,
    }
