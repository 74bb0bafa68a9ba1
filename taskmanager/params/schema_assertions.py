"""The keywords that look at one value: its type, its size, what it is equal to.

Each function here takes a keyword's value and the place it stands at, and
returns the check. What a check does in proportion to the value it pays for.
"""

from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from taskmanager.params.formats import FORMATS
from taskmanager.params.schema_run import Check, Path, Run
from taskmanager.params.work_meter import WorkMeter

if TYPE_CHECKING:
    from taskmanager.params.schema_compiler import Place

_TYPES: dict[str, tuple[type, ...]] = {
    "array": (list,),
    "boolean": (bool,),
    "integer": (int,),
    "null": (type(None),),
    "number": (int, float),
    "object": (dict,),
    "string": (str,),
}
TYPE_NAMES = tuple(_TYPES)
_FIRST_DRAFT_WITH_WHOLE_FLOATS = 6  # 1.0 is an integer

_FIRST_PAST_INTEGERS = 2.0**64

_COST_OF_IDENTITY = 10
_COST_OF_FRACTION = 100
_COST_OF_FORMAT = 40
_CHARACTERS_PER_UNIT = 8


def type_(rule: Any, place: "Place") -> Check:
    names = [rule] if isinstance(rule, str) else rule
    classes = frozenset(kind for name in names for kind in _TYPES.get(name, ()))
    takes_whole_floats = "integer" in names and place.draft >= _FIRST_DRAFT_WITH_WHOLE_FLOATS

    def check(value: Any, path: Path, run: Run) -> bool:
        kind = type(value)
        if kind in classes or (kind is float and takes_whole_floats and value.is_integer()):
            return True
        return run.fail(path, "type", rule, value)

    return check


def identity(value: Any, meter: WorkMeter) -> str:
    """A text that two JSON values share exactly when they are equal (1 and 1.0, any key order).

    A text, because its hash is seeded: those of numbers and tuples can be made
    to collide by whoever chooses them.
    """
    meter.spend(_COST_OF_IDENTITY)
    if isinstance(value, str):
        meter.spend(len(value) // _CHARACTERS_PER_UNIT)
        return f"{len(value)}:{value}"
    if isinstance(value, list):
        return "[" + ",".join([identity(item, meter) for item in value]) + "]"
    if isinstance(value, dict):
        names = sorted(value)
        pairs = [identity(name, meter) + identity(value[name], meter) for name in names]
        return "{" + ",".join(pairs) + "}"
    # Past that no integer of a request can equal it, and all its digits would take long to write.
    if isinstance(value, float) and value.is_integer() and abs(value) < _FIRST_PAST_INTEGERS:
        return str(int(value))
    return repr(value)


def enum(rule: Any, place: "Place") -> Check:
    return _one_of(rule, "enum", rule)


def const(rule: Any, place: "Place") -> Check:
    return _one_of([rule], "const", rule)


def _one_of(allowed: Iterable[Any], keyword: str, rule: Any) -> Check:
    free = WorkMeter(1 << 60)  # paid for by the limit on the schema's size
    identities = frozenset(identity(item, free) for item in allowed)
    texts = frozenset(item for item in allowed if isinstance(item, str))

    def check(value: Any, path: Path, run: Run) -> bool:
        if value in texts if isinstance(value, str) else identity(value, run) in identities:
            return True
        return run.fail(path, keyword, rule, value)

    return check


def unique_items(rule: Any, place: "Place") -> Check | None:
    def check(value: Any, path: Path, run: Run) -> bool:
        if not isinstance(value, list):
            return True
        seen: set[str] = set()
        for item in value:
            known = identity(item, run)
            if known in seen:
                return run.fail(path, "uniqueItems", rule, value)
            seen.add(known)
        return True

    return check if rule else None


def _number(keyword: str, is_right: Callable[[Any, Any], bool]) -> Callable[..., Check | None]:
    def build(rule: Any, place: "Place") -> Check | None:
        if isinstance(rule, bool):
            return None  # draft 4: a switch that belongs to `minimum` or `maximum`

        def check(value: Any, path: Path, run: Run) -> bool:
            if type(value) not in (int, float) or is_right(value, rule):
                return True
            return run.fail(path, keyword, rule, value)

        return check

    return build


exclusive_minimum = _number("exclusiveMinimum", lambda value, rule: value > rule)
exclusive_maximum = _number("exclusiveMaximum", lambda value, rule: value < rule)
_minimum = _number("minimum", lambda value, rule: value >= rule)
_maximum = _number("maximum", lambda value, rule: value <= rule)


def minimum(rule: Any, place: "Place") -> Check | None:
    is_exclusive = place.schema.get("exclusiveMinimum") is True
    return (exclusive_minimum if is_exclusive else _minimum)(rule, place)


def maximum(rule: Any, place: "Place") -> Check | None:
    is_exclusive = place.schema.get("exclusiveMaximum") is True
    return (exclusive_maximum if is_exclusive else _maximum)(rule, place)


def multiple_of(rule: Any, place: "Place") -> Check:
    """Decimal, as the numbers are written: 19.99 is a multiple of 0.01."""
    divisor = _exact(rule)

    def check(value: Any, path: Path, run: Run) -> bool:
        kind = type(value)
        if kind is int and divisor.denominator == 1:
            is_multiple = value % divisor.numerator == 0
        elif kind is int or kind is float:
            run.spend(_COST_OF_FRACTION)
            is_multiple = (_exact(value) / divisor).denominator == 1
        else:
            return True
        return is_multiple or run.fail(path, "multipleOf", rule, value)

    return check


def _exact(number: float) -> Fraction:
    return Fraction(number) if isinstance(number, int) else Fraction(repr(number))


_Compare = Callable[[int, Any], bool]


def _size(
    keyword: str, kind: type[str] | type[list[Any]] | type[dict[str, Any]], is_right: _Compare
) -> Callable[[Any, "Place"], Check]:
    def build(rule: Any, place: "Place") -> Check:
        def check(value: Any, path: Path, run: Run) -> bool:
            if not isinstance(value, kind) or is_right(len(value), rule):
                return True
            return run.fail(path, keyword, rule, value)

        return check

    return build


def _is_at_least(size: int, rule: Any) -> bool:
    return bool(size >= rule)


def _is_at_most(size: int, rule: Any) -> bool:
    return bool(size <= rule)


min_length = _size("minLength", str, _is_at_least)
max_length = _size("maxLength", str, _is_at_most)
min_items = _size("minItems", list, _is_at_least)
max_items = _size("maxItems", list, _is_at_most)
min_properties = _size("minProperties", dict, _is_at_least)
max_properties = _size("maxProperties", dict, _is_at_most)


def pattern(rule: Any, place: "Place") -> Check | None:
    compiled = place.pattern(rule, "pattern")
    if compiled is None:
        return None

    def check(value: Any, path: Path, run: Run) -> bool:
        if not isinstance(value, str) or compiled.found_in(value, run):
            return True
        return run.fail(path, "pattern", rule, value)

    return check


def format_(rule: Any, place: "Place") -> Check | None:
    is_one = FORMATS.get(rule)
    if is_one is None:
        return None

    def check(value: Any, path: Path, run: Run) -> bool:
        if not isinstance(value, str):
            return True
        run.spend(_COST_OF_FORMAT + len(value))
        return is_one(value) or run.fail(path, "format", rule, value)

    return check


def required(rule: Any, place: "Place") -> Check | None:
    if isinstance(rule, bool):
        return None

    def check(value: Any, path: Path, run: Run) -> bool:
        if not isinstance(value, dict):
            return True
        run.left -= len(rule)
        fits = True
        for name in rule:
            if name not in value:
                fits = run.fail((path, name), "required", rule, value)
        return fits

    return check


def dependent_required(rule: Any, place: "Place") -> Check:
    def check(value: Any, path: Path, run: Run) -> bool:
        if not isinstance(value, dict):
            return True
        run.left -= len(rule)
        for name, others in rule.items():
            if name in value:
                run.left -= len(others)
                if not all(other in value for other in others):
                    return run.fail(path, "dependentRequired", rule, value)
        return True

    return check
