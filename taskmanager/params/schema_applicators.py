"""The keywords that apply other schemas: to the same value, to its properties, to its items.

Built like those in `schema_assertions`. A subschema pays when it is applied
(`Node.fits`); what loops over a value without applying one pays here.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from taskmanager.params.pattern_matching import Pattern
from taskmanager.params.schema_run import IN_NAME, Check, Node, Path, Run

if TYPE_CHECKING:
    from taskmanager.params.schema_compiler import Place

LAST_DRAFT_WITH_ITEMS_AS_LIST = 2019


def ref(rule: Any, place: "Place") -> Check:
    return place.target(rule).fits


# To the same value


def _nodes(keyword: str, rule: Any, place: "Place") -> list[Node]:
    return [place.node(keyword, index) for index in range(len(rule))]


def all_of(rule: Any, place: "Place") -> Check:
    nodes = _nodes("allOf", rule, place)

    def check(value: Any, path: Path, run: Run) -> bool:
        fits = True
        for node in nodes:
            if not node.fits(value, path, run):
                if run.is_quiet:
                    return False
                fits = False
        return fits

    return check


def any_of(rule: Any, place: "Place") -> Check:
    nodes = _nodes("anyOf", rule, place)

    def check(value: Any, path: Path, run: Run) -> bool:
        for node in nodes:
            if run.fits_quietly(node, value):
                return True
        return run.fail(path, "anyOf", rule, value)

    return check


def one_of(rule: Any, place: "Place") -> Check:
    nodes = _nodes("oneOf", rule, place)

    def check(value: Any, path: Path, run: Run) -> bool:
        fitting = 0
        for node in nodes:
            fitting += run.fits_quietly(node, value)
            if fitting > 1:
                break
        return fitting == 1 or run.fail(path, "oneOf", rule, value)

    return check


def not_(rule: Any, place: "Place") -> Check:
    node = place.node("not")

    def check(value: Any, path: Path, run: Run) -> bool:
        return not run.fits_quietly(node, value) or run.fail(path, "not", rule, value)

    return check


def if_(rule: Any, place: "Place") -> Check:
    condition = place.node("if")
    then = place.node("then") if "then" in place.schema else None
    otherwise = place.node("else") if "else" in place.schema else None

    def check(value: Any, path: Path, run: Run) -> bool:
        node = then if run.fits_quietly(condition, value) else otherwise
        return node is None or node.fits(value, path, run)

    return check


def dependent_schemas(rule: Any, place: "Place") -> Check:
    return _dependent(
        {name: place.node("dependentSchemas", name) for name in rule}, {}, "dependentSchemas"
    )


def dependencies(rule: Any, place: "Place") -> Check:
    """Drafts up to 7: names or a schema."""
    return _dependent(
        {
            name: place.node("dependencies", name)
            for name, needs in rule.items()
            if not isinstance(needs, list)
        },
        {name: needs for name, needs in rule.items() if isinstance(needs, list)},
        "dependencies",
    )


def _dependent(nodes: dict[str, Node], names: dict[str, list[str]], keyword: str) -> Check:
    def check(value: Any, path: Path, run: Run) -> bool:
        if not isinstance(value, dict):
            return True
        run.left -= len(nodes) + len(names)
        fits = True
        for name, node in nodes.items():
            if name in value:
                fits = node.fits(value, path, run) and fits
        for name, others in names.items():
            if name in value:
                run.left -= len(others)
                if not all(other in value for other in others):
                    fits = run.fail(path, keyword, others, value)
        return fits

    return check


# To properties


def properties(rule: Any, place: "Place") -> Check:
    nodes = {name: place.node("properties", name) for name in rule}

    def check(value: Any, path: Path, run: Run) -> bool:
        if not isinstance(value, dict):
            return True
        # The shorter list of names, so that neither many rules nor many properties cost twice.
        names = nodes if len(nodes) <= len(value) else [name for name in value if name in nodes]
        run.left -= min(len(nodes), len(value))
        fits = True
        for name in names:
            if name in value and not nodes[name].fits(value[name], (path, name), run):
                if run.is_quiet:
                    return False
                fits = False
        return fits

    return check


def pattern_properties(rule: Any, place: "Place") -> Check:
    rules = [
        (pattern, place.node("patternProperties", text))
        for text in rule
        if (pattern := place.pattern(text, "patternProperties")) is not None
    ]

    def check(value: Any, path: Path, run: Run) -> bool:
        if not isinstance(value, dict):
            return True
        run.spend(2 * len(rules))  # also where there is no name to try them on
        fits = True
        for pattern, node in rules:
            for name, item in value.items():
                if pattern.found_in(name, run):
                    fits = node.fits(item, (path, name), run) and fits
        return fits

    return check


def _patterns(place: "Place") -> list[Pattern]:
    texts = place.schema.get("patternProperties", ())
    found = [place.pattern(text, "patternProperties") for text in texts]
    return [pattern for pattern in found if pattern is not None]


def additional_properties(rule: Any, place: "Place") -> Check | None:
    if rule is True:
        return None
    known = place.schema.get("properties", {})
    patterns = _patterns(place)
    node = place.node("additionalProperties")

    def check(value: Any, path: Path, run: Run) -> bool:
        if not isinstance(value, dict):
            return True
        run.spend(len(value))
        fits = True
        for name, item in value.items():
            if name in known or any(pattern.found_in(name, run) for pattern in patterns):
                continue
            if rule is False:
                fits = run.fail((path, name), "additionalProperties", known, item)
            else:
                fits = node.fits(item, (path, name), run) and fits
            if run.is_quiet and not fits:
                return False
        return fits

    return check


def property_names(rule: Any, place: "Place") -> Check:
    node = place.node("propertyNames")

    def check(value: Any, path: Path, run: Run) -> bool:
        if not isinstance(value, dict):
            return True
        fits = True
        for name in value:
            fits = node.fits(name, (path, IN_NAME), run) and fits
        return fits

    return check


# To items


def _each(node: Node, start: int) -> Check:
    """Applies `node` to every item from `start` on."""

    def check(value: Any, path: Path, run: Run) -> bool:
        if not isinstance(value, list):
            return True
        fits = True
        for index in range(start, len(value)):
            if not node.fits(value[index], (path, index), run):
                if run.is_quiet:
                    return False
                fits = False
        return fits

    return check


def _in_order(nodes: Sequence[Node]) -> Check:
    def check(value: Any, path: Path, run: Run) -> bool:
        if not isinstance(value, list):
            return True
        fits = True
        for index, (node, item) in enumerate(zip(nodes, value, strict=False)):
            fits = node.fits(item, (path, index), run) and fits
        return fits

    return check


def items(rule: Any, place: "Place") -> Check:
    if isinstance(rule, list):
        return _in_order(_nodes("items", rule, place))
    return _each(place.node("items"), len(place.schema.get("prefixItems", ())))


def prefix_items(rule: Any, place: "Place") -> Check:
    return _in_order(_nodes("prefixItems", rule, place))


def additional_items(rule: Any, place: "Place") -> Check | None:
    before = place.schema.get("items")
    return _each(place.node("additionalItems"), len(before)) if isinstance(before, list) else None


def contains(rule: Any, place: "Place") -> Check:
    node = place.node("contains")
    counts = place.schema if place.draft >= LAST_DRAFT_WITH_ITEMS_AS_LIST else {}
    least, most = counts.get("minContains", 1), counts.get("maxContains")

    def check(value: Any, path: Path, run: Run) -> bool:
        if not isinstance(value, list):
            return True
        fitting = 0
        for item in value:
            fitting += run.fits_quietly(node, item)
            if fitting >= least and most is None:
                return True
        if fitting < least:
            return run.fail(path, "contains" if least == 1 else "minContains", least, value)
        if most is not None and fitting > most:
            return run.fail(path, "maxContains", most, value)
        return True

    return check
