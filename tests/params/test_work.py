"""How much work a check may be: counted beforehand from the schema and the size of the value."""

import json
from typing import Any

import pytest

from taskmanager.errors import ValidationFailed
from taskmanager.params.schemas import compile_schema
from taskmanager.params.validation import WorkBudget, check_schema, param_problems
from taskmanager.params.work import MAX_WORK, extent_of


def units(schema: Any, value: Any) -> int:
    return compile_schema(schema).work.units(extent_of(value))


def nested(levels: int) -> Any:
    return json.loads('{"a":' * levels + "1" + "}" * levels)


def is_stopped(schema: Any, value: Any) -> bool:
    problems = param_problems(json.dumps(schema), value)
    return any(problem["message"].startswith("cannot be checked") for problem in problems)


def test_an_extent_has_the_places_and_characters_of_each_level() -> None:
    extent = extent_of({"ab": ["cde", 1], "f": {"g": "hi"}})
    assert extent.places == [1, 2, 3]
    assert extent.characters == [0, 3, 6]  # names count where their values are


@pytest.mark.parametrize(
    ("schema", "factor"),
    [
        ({"items": {"allOf": [{"type": "integer"}] * 100}}, 100),
        ({"items": {"anyOf": [{"type": "null"}] * 100}}, 100),
        ({"items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"allOf": [{}] * 100}}}, 60),
        ({"allOf": [{"contains": {"type": "null"}, "minContains": 0}] * 100}, 100),
        ({"items": {"enum": [*range(100), "x"]}}, 100),
        ({"allOf": [{"uniqueItems": True}] * 100}, 1_000),
    ],
)
def test_what_is_applied_to_one_place_is_multiplied_by_the_places(schema: Any, factor: int) -> None:
    value = [1] * 1_000
    assert units(schema, value) > factor * units({"items": {"type": "integer"}}, value)


def test_what_stands_beside_is_not_multiplied() -> None:
    few = {"properties": {"a": {"type": "integer"}}}
    many = {"properties": {name: {"type": "integer"} for name in "abcdefghij"}}
    value = dict.fromkeys("abcdefghij", 1)
    assert units(many, value) == units(few, value)


def test_an_expensive_place_costs_only_on_its_own_level() -> None:
    schema = {"properties": {"mail": {"format": "email"}, "rows": {"items": {"type": "integer"}}}}
    assert units(schema, {"mail": "a@b", "rows": [1] * 100_000}) < MAX_WORK / 10


def test_a_schema_that_goes_two_ways_into_each_level_is_stopped_by_depth() -> None:
    schema = {
        "properties": {"a": {"$ref": "#"}},
        "patternProperties": {"^a": {"$ref": "#"}},
    }
    check_schema(schema)
    assert not is_stopped(schema, nested(8))
    assert is_stopped(schema, nested(40))


def test_schemas_inside_one_another_on_every_level_are_stopped_before_the_stack_ends() -> None:
    schema: Any = {"properties": {"a": {"$ref": "#"}}}
    for _ in range(25):
        schema = {"$defs": schema.pop("$defs", {}), "allOf": [schema]}
    assert not is_stopped(schema, nested(20))
    assert is_stopped(schema, nested(60))


def test_a_chain_of_doubled_references_is_refused_at_registration() -> None:
    chain = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(24)}
    with pytest.raises(ValidationFailed) as refused:
        check_schema({"$defs": {**chain, "d24": {}}, "$ref": "#/$defs/d0"})
    assert "applies more checks to one value" in refused.value.message


def test_the_checks_of_one_request_share_a_budget() -> None:
    schema = json.dumps({"items": {"type": "integer"}})
    value = [1] * 1_000
    budget = WorkBudget(2 * units(json.loads(schema), value))
    assert param_problems(schema, value, budget=budget) == []
    assert param_problems(schema, value, budget=budget) == []
    assert "cannot be checked" in param_problems(schema, value, budget=budget)[0]["message"]


def test_of_very_many_errors_only_the_first_is_made() -> None:
    schema = json.dumps({"items": {"type": "string"}})
    assert len(param_problems(schema, [1] * 100)) == 20
    problems = param_problems(schema, [1] * 200_000)
    assert [problem["path"] for problem in problems] == ["params[0]"]


def test_one_error_in_a_large_value_is_found_with_its_place() -> None:
    item = {"properties": {"a": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}}
    value = [{"a": 1, "b": "x" * 50}] * 10_000 + [{"a": "x"}]
    problems = param_problems(json.dumps({"items": item}), value)
    assert [(problem["path"], problem["keyword"]) for problem in problems] == [
        ("params[10000].a", "anyOf")
    ]


def test_a_text_that_makes_a_lookaround_take_too_many_steps_back_cannot_be_checked() -> None:
    schema = {"pattern": "^(?:a(?!b)|a(?!c))*$"}
    assert param_problems(json.dumps(schema), "a" * 100) == []
    assert is_stopped(schema, "a" * 3_000 + "!")
