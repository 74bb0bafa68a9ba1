"""The meta-schemas of the JSON Schema drafts, each as one schema that the compiler takes.

They are jsonschema's. The later ones come in parts that refer to each other by
address and to "whichever schema began" (`$dynamicRef`); here the parts lie side
by side in one schema and the references point into it.
"""

import functools
from collections.abc import Mapping
from typing import Any

from taskmanager.params.schema_compiler import SchemaValidator, compile_schema
from taskmanager.params.schema_limits import DRAFTS

# `format` is left out with the identifiers: what a schema refers to is checked more closely here.
_LEFT_OUT = frozenset(
    {"$anchor", "$dynamicAnchor", "$id", "$recursiveAnchor", "$schema", "$vocabulary", "format"}
    | {"default", "id"}
)


@functools.cache
def meta_schema(draft: int) -> SchemaValidator:
    """What a schema of this draft must fit. Imports jsonschema: at registration only."""
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]

    address = next(address for address, number in DRAFTS.items() if number == draft)
    main = REGISTRY.contents(address)
    parts = {
        address.rsplit("/", 1)[0] + "/" + part["$ref"]: f"#/allOf/{index}"
        for index, part in enumerate(main.get("allOf", ()))
    }
    whole = _rewritten(main, "#", parts)
    whole["allOf"] = [
        _rewritten(REGISTRY.contents(part), place, parts) for part, place in parts.items()
    ]
    return compile_schema(whole, draft)


def _rewritten(node: Any, own_place: str, parts: Mapping[str, str]) -> Any:
    """A copy whose references begin at the root; `own_place` is where this part will lie."""
    if isinstance(node, list):
        return [_rewritten(item, own_place, parts) for item in node]
    if not isinstance(node, dict):
        return node
    copy = {}
    for name, value in node.items():
        if name in ("$dynamicRef", "$recursiveRef") and isinstance(value, str):
            copy["$ref"] = "#"
        elif name == "$ref" and isinstance(value, str):
            copy[name] = _target(value, own_place, parts)
        elif name not in _LEFT_OUT or isinstance(value, dict):
            copy[name] = _rewritten(value, own_place, parts)
    return copy


def _target(reference: str, own_place: str, parts: Mapping[str, str]) -> str:
    document, _, fragment = reference.partition("#")
    place = own_place
    if document:
        place = next(place for address, place in parts.items() if address.endswith(document))
    return "#" if reference == "#" else place + fragment
