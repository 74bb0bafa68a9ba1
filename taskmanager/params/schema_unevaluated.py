"""`unevaluatedProperties` and `unevaluatedItems`: what no other keyword has looked at.

Which properties or items a schema looks at is asked of the schema and of all
those that it applies to the same value, as far as the value fits them. The way
is one for both; they differ in what single keywords look at.
"""

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from taskmanager.params.schema_applicators import LAST_DRAFT_WITH_ITEMS_AS_LIST
from taskmanager.params.schema_run import Check, Node, Path, Run

if TYPE_CHECKING:
    from taskmanager.params.schema_compiler import Place

# Names or indexes that were looked at.
Collector = Callable[[Any, Run], set[Hashable]]

_COST_OF_COLLECTING = 10
_COST_OF_PART = 4  # those that apply no schema cost nothing besides


def unevaluated_properties(rule: Any, place: "Place") -> Check | None:
    if rule is True:
        return None
    collect = _collector(place, _names_seen_here, without="unevaluatedProperties")
    node, known = place.node("unevaluatedProperties"), place.schema.get("properties", {})

    def check(value: Any, path: Path, run: Run) -> bool:
        if not isinstance(value, dict):
            return True
        seen = collect(value, run)
        fits = True
        for name, item in value.items():
            if name in seen:
                continue
            if rule is False:
                fits = run.fail((path, name), "unevaluatedProperties", known, item)
            else:
                fits = node.fits(item, (path, name), run) and fits
        return fits

    return check


def unevaluated_items(rule: Any, place: "Place") -> Check | None:
    if rule is True:
        return None
    collect = _collector(place, _items_seen_here, without="unevaluatedItems")
    node = place.node("unevaluatedItems")

    def check(value: Any, path: Path, run: Run) -> bool:
        if not isinstance(value, list):
            return True
        seen = collect(value, run)
        fits = True
        for index, item in enumerate(value):
            if index not in seen:
                fits = node.fits(item, (path, index), run) and fits
        return fits

    return check


def _collector(
    place: "Place", seen_here: Callable[["Place", str | None], list[Collector]], without: str | None
) -> Collector:
    """Built once a place, however many ways lead there."""
    known = place.collectors.get((seen_here, place.steps))
    if known is not None and without is None:
        return known
    parts = [*seen_here(place, without), *_seen_by_others(place, seen_here)]

    def collect(value: Any, run: Run) -> set[Hashable]:
        run.spend(_COST_OF_COLLECTING + len(value) + _COST_OF_PART * len(parts))
        seen: set[Hashable] = set()
        for part in parts:
            seen |= part(value, run)
        return seen

    if without is None:
        place.collectors[seen_here, place.steps] = collect
    return collect


def _seen_by_others(
    place: "Place", seen_here: Callable[["Place", str | None], list[Collector]]
) -> list[Collector]:
    def of(other: "Place") -> Collector:
        return _collector(other, seen_here, None)

    schema = place.schema
    parts: list[Collector] = []
    if "$ref" in schema:
        parts.append(of(place.target_place(schema["$ref"])))
    for index in range(len(schema.get("allOf", ()))):
        parts.append(of(place.inside("allOf", index)))
    for keyword in ("anyOf", "oneOf"):
        for index in range(len(schema.get(keyword, ()))):
            inside = place.inside(keyword, index)
            parts.append(_if_it_fits(place.node(keyword, index), of(inside), None))
    if "if" in schema:
        otherwise = of(place.inside("else")) if "else" in schema else None
        parts.append(_if_it_fits(place.node("if"), of(place.inside("if")), otherwise))
        if "then" in schema:
            parts.append(_if_it_fits(place.node("if"), of(place.inside("then")), None))
    for name in schema.get("dependentSchemas", ()):
        parts.append(_if_it_has(name, of(place.inside("dependentSchemas", name))))
    return parts


def _if_it_fits(condition: Node, then: Collector, otherwise: Collector | None) -> Collector:
    def collect(value: Any, run: Run) -> set[Hashable]:
        collector = then if run.fits_quietly(condition, value) else otherwise
        return collector(value, run) if collector else set()

    return collect


def _if_it_has(name: str, then: Collector) -> Collector:
    return lambda value, run: then(value, run) if name in value else set()


def _names_seen_here(place: "Place", without: str | None) -> list[Collector]:
    schema = place.schema
    if any(
        keyword in schema and keyword != without
        for keyword in ("additionalProperties", "unevaluatedProperties")
    ):
        return [lambda value, run: set(value)]
    known = frozenset(schema.get("properties", ()))
    parts: list[Collector] = [lambda value, run: {name for name in value if name in known}]
    for text in schema.get("patternProperties", ()):
        pattern = place.pattern(text, "patternProperties")
        if pattern is not None:
            parts.append(
                lambda value, run, pattern=pattern: {  # type: ignore[misc]
                    name for name in value if pattern.found_in(name, run)
                }
            )
    return parts


def _items_seen_here(place: "Place", without: str | None) -> list[Collector]:
    schema, takes_list = place.schema, place.draft <= LAST_DRAFT_WITH_ITEMS_AS_LIST
    first = schema.get("items") if takes_list else schema.get("prefixItems")
    rest = ["unevaluatedItems", "additionalItems" if isinstance(first, list) else "items"]
    if not takes_list:
        rest[1] = "items"
    if any(keyword in schema and keyword != without for keyword in rest):
        return [lambda value, run: set(range(len(value)))]
    count = len(first) if isinstance(first, list) else 0
    parts: list[Collector] = [lambda value, run: set(range(min(count, len(value))))]
    if "contains" in schema and not takes_list:
        node = place.node("contains")
        parts.append(
            lambda value, run: {
                index for index, item in enumerate(value) if run.fits_quietly(node, item)
            }
        )
    return parts
