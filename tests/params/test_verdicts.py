"""The verdicts of compiled schemas are those of jsonschema, on each keyword and at random."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema.validators import validator_for
from referencing import Registry

from taskmanager.errors import ValidationFailed
from taskmanager.params.formats import FORMATS
from taskmanager.params.limits import DRAFTS
from taskmanager.params.validation import check_schema, param_problems

ADDRESSES = {number: address for address, number in DRAFTS.items()}


def of_draft(number: int, schema: dict[str, Any]) -> dict[str, Any]:
    return {"$schema": ADDRESSES[number], **schema}


def fits(schema: Any, value: Any) -> bool:
    problems = param_problems(json.dumps(schema), value)
    assert not any(problem["message"].startswith("cannot be checked") for problem in problems)
    return not problems


def fits_for_jsonschema(schema: Any, value: Any) -> bool:
    draft = validator_for(schema, default=jsonschema.Draft202012Validator)
    return bool(draft(schema, registry=Registry()).is_valid(value))


VALUES: list[Any] = [
    *(None, True, False, 0, 1, 1.0, -1, 2, 2.5, 7, 1e300, 2**62),
    *("", "a", "ab", "abc", "b", "a\n", "1", "é"),
    *([], [1], [1, 1], [1, 2], [1, 1.0], [1, True], ["a", 1], [[1], [1]], [None, {}], [{}, {}]),
    *({}, {"a": 1}, {"a": "x"}, {"b": 1}, {"a": 1, "b": 2}, {"a": 1, "b": 2, "c": 3}, {"ab": 1}),
    *({"a": {"a": 1}}, {"a": [1, "x"]}, {"a": {"b": {"a": 1}}}, [{"a": 1}, {"a": 1.0}]),
]

# For each draft the keywords it brings or reads in its own way.
SCHEMAS: list[tuple[int, dict[str, Any]]] = [
    (4, {"type": "integer"}),
    (4, {"minimum": 1, "exclusiveMinimum": True}),
    (4, {"maximum": 1, "exclusiveMaximum": True}),
    (4, {"minimum": 1, "exclusiveMinimum": False}),
    (4, {"const": 1, "contains": {"type": "null"}}),
    (4, {"$ref": "#/definitions/a", "type": "null", "definitions": {"a": {"type": "string"}}}),
    (4, {"items": [{"type": "integer"}, {"type": "integer"}], "additionalItems": False}),
    (4, {"dependencies": {"a": ["b"], "b": {"required": ["c"]}}}),
    (6, {"type": "integer"}),
    (6, {"exclusiveMinimum": 1, "exclusiveMaximum": 7}),
    (6, {"contains": {"const": 1}, "minContains": 2}),
    (6, {"propertyNames": {"maxLength": 1}}),
    (6, {"items": [True, False]}),
    (6, {"if": False, "else": False}),
    (7, {"if": {"type": "integer"}, "then": {"minimum": 1}, "else": {"type": "string"}}),
    (7, {"then": False, "else": False}),
    (7, {"dependencies": {"a": False}}),
    (7, {"$ref": "#/definitions/a", "maximum": 0, "definitions": {"a": True}}),
    (2019, {"items": [{"type": "integer"}], "additionalItems": {"type": "string"}}),
    (2019, {"items": [{}], "unevaluatedItems": False}),
    (2019, {"contains": {"const": 1}, "minContains": 2, "maxContains": 2}),
    (2019, {"dependentRequired": {"a": ["b"]}, "dependentSchemas": {"b": {"required": ["c"]}}}),
    (2019, {"$ref": "#/$defs/a", "maximum": 1, "$defs": {"a": {"type": "integer"}}}),
    (2019, {"dependencies": {"a": False}}),
    (2020, {"prefixItems": [{"type": "integer"}], "items": {"type": "string"}}),
    (2020, {"prefixItems": [{}], "unevaluatedItems": False}),
    (2020, {"contains": {"const": 1}, "unevaluatedItems": {"type": "null"}}),
    (2020, {"contains": {"const": 1}, "minContains": 0}),
    (2020, {"additionalItems": False}),
    (2020, {"uniqueItems": True}),
    (2020, {"enum": [1, "a", [1], {"a": 1}, None, False]}),
    (2020, {"const": {"a": [1, "x"]}}),
    (2020, {"multipleOf": 2}),
    (2020, {"minLength": 2, "maxLength": 2}),
    (2020, {"pattern": "^a"}),
    (2020, {"minItems": 1, "maxItems": 1}),
    (2020, {"minProperties": 1, "maxProperties": 2}),
    (2020, {"required": ["a", "b"]}),
    (2020, {"properties": {"a": {"type": "integer"}, "b": False}}),
    (2020, {"patternProperties": {"^a": {"type": "integer"}}, "additionalProperties": False}),
    (2020, {"properties": {"a": {}}, "additionalProperties": {"type": "string"}}),
    (2020, {"allOf": [{"type": ["object", "array"]}, {"required": ["a"]}]}),
    (2020, {"anyOf": [{"type": "string"}, {"minimum": 2}]}),
    (2020, {"oneOf": [{"type": "string"}, {"minLength": 2}]}),
    (2020, {"not": {"type": ["integer", "object"]}}),
    (2020, {"properties": {"a": {"$ref": "#"}}, "maxProperties": 1}),
    (2020, {"$ref": "#/$defs/a~1b/not", "$defs": {"a/b": {"not": {"type": "string"}}}}),
    (2020, {"$ref": "#/$defs/a%25b", "$defs": {"a%b": {"type": "string"}}}),
    (2020, {"unevaluatedProperties": False, "allOf": [{"properties": {"a": {}}}]}),
    (
        2020,
        {"unevaluatedProperties": False, "anyOf": [{"required": ["b"], "properties": {"b": {}}}]},
    ),
    (2020, {"unevaluatedProperties": {"type": "string"}, "properties": {"b": {}}}),
    (2020, {"unevaluatedProperties": False, "patternProperties": {"a": {}}}),
    (2020, {"unevaluatedProperties": False, "additionalProperties": {"type": "integer"}}),
    (
        2020,
        {
            "unevaluatedProperties": False,
            "if": {"required": ["a"], "properties": {"a": {}}},
            "then": {"properties": {"b": {}}},
            "else": {"properties": {"c": {}}},
        },
    ),
    (2020, {"unevaluatedProperties": False, "dependentSchemas": {"a": {"properties": {"a": {}}}}}),
    (
        2020,
        {
            "unevaluatedProperties": False,
            "$ref": "#/$defs/x",
            "$defs": {"x": {"properties": {"a": {}}}},
        },
    ),
]


@pytest.mark.parametrize(("draft", "schema"), SCHEMAS, ids=str)
def test_each_keyword_gives_the_verdict_of_jsonschema(draft: int, schema: dict[str, Any]) -> None:
    whole = of_draft(draft, schema)
    check_schema(whole)
    mine = [fits(whole, value) for value in VALUES]
    assert mine == [fits_for_jsonschema(whole, value) for value in VALUES]


def test_multiples_are_counted_in_decimal() -> None:
    assert fits({"multipleOf": 0.01}, 19.99)
    assert not fits({"multipleOf": 0.01}, 19.995)
    assert fits({"multipleOf": 0.1}, 3)
    assert not fits({"multipleOf": 3}, 4.5)


@pytest.mark.parametrize("draft", [4, 6, 7])
def test_a_meta_schema_fits_itself(draft: int) -> None:
    check_schema(validator_for({"$schema": ADDRESSES[draft]}).META_SCHEMA)


def test_a_draft_that_is_not_supported_is_named() -> None:
    for address in ("http://json-schema.org/draft-03/schema#", "http://example.com", 7):
        with pytest.raises(ValidationFailed) as refused:
            check_schema({"$schema": address})
        assert "2020-12" in str(refused.value.details)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from(["", "a", "ab", "b"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=6,
)
_NAMES = st.sampled_from("abc")
_SIZES = st.integers(0, 3)


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=1, max_size=3)
    by_name = st.dictionaries(_NAMES, inner, max_size=3)
    names = st.lists(_NAMES, max_size=2, unique=True)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["integer", "object", "array", ["string", "null"]]),
            "enum": st.lists(_VALUES, min_size=1, max_size=3, unique_by=repr),
            "const": _VALUES,
            "minimum": _SIZES,
            "exclusiveMaximum": _SIZES,
            "multipleOf": st.integers(1, 3),
            "minLength": _SIZES,
            "pattern": st.sampled_from(["^a", "b$", "^[ab]*$"]),
            "maxItems": _SIZES,
            "uniqueItems": st.booleans(),
            "prefixItems": several,
            "items": inner,
            "contains": inner,
            "minContains": _SIZES,
            "maxContains": _SIZES,
            "properties": by_name,
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "b|c"]), inner, max_size=2),
            "additionalProperties": inner,
            "propertyNames": inner,
            "required": names,
            "maxProperties": _SIZES,
            "dependentRequired": st.dictionaries(_NAMES, names, max_size=2),
            "dependentSchemas": by_name,
            "allOf": several,
            "anyOf": several,
            "oneOf": several,
            "not": inner,
            "if": inner,
            "then": inner,
            "else": inner,
        },
    )


_SCHEMAS = st.recursive(st.booleans() | _objects(st.booleans()), _objects, max_leaves=8)


@given(_SCHEMAS, st.lists(_VALUES, min_size=1, max_size=5))
def test_a_random_schema_gives_the_verdicts_of_jsonschema(schema: Any, values: list[Any]) -> None:
    whole = {"allOf": [schema], "properties": {"deeper": {"$ref": "#/allOf/0"}}}
    check_schema(whole)
    for value in [*values, {"deeper": values[0]}]:
        assert fits(whole, value) is fits_for_jsonschema(whole, value), (whole, value)


def test_the_documented_schema_can_be_registered_and_every_format_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "schemas.md").read_text(encoding="utf-8")
    example = json.loads(page[page.index("    {\n") : page.index("\n    }\n") + 6])
    check_schema(example)
    assert fits(example, {"video_id": "dQw4w9WgXcQ", "day": "2026-01-31", "quality": "low"})
    assert not fits(example, {"video_id": "dQw4w9WgXcQ", "day": "2026-02-31"})
    assert [name for name in FORMATS if f"`{name}`" not in page] == []


def test_checking_params_imports_neither_jsonschema_nor_its_meta_schemas() -> None:
    program = (
        "import sys; from taskmanager.params.validation import param_problems; "
        """assert param_problems('{"required": ["a"]}', {}); """
        "print([name for name in ('jsonschema', 'referencing') if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout == "[]\n"


@pytest.mark.parametrize("draft", [4, 2020])
def test_a_reference_to_an_alternative_or_a_name_pattern_is_followed(draft: int) -> None:
    defs = "definitions" if draft == 4 else "$defs"
    schema = of_draft(
        draft,
        {
            defs: {
                "x": {
                    "allOf": [{}],
                    "anyOf": [{"type": "string"}],
                    "oneOf": [{}, {"type": "null"}],
                    "patternProperties": {r"^\d~/": {"type": "integer"}},
                }
            },
            "properties": {
                "a": {"$ref": f"#/{defs}/x/anyOf/0"},
                "b": {"$ref": f"#/{defs}/x/oneOf/1"},
                "c": {"$ref": f"#/{defs}/x/patternProperties/^%5Cd~0~1"},
            },
        },
    )
    check_schema(schema)
    assert fits(schema, {"a": "x", "b": None, "c": 1})
    assert [name for name in "abc" if fits(schema, {name: True})] == []


def test_two_name_patterns_that_mean_the_same_both_count() -> None:
    schema = {"patternProperties": {r"^\d": {"minimum": 3}, "^[0-9]": {"maximum": 5}}}
    assert [value for value in (2, 4, 6) if fits(schema, {"1": value})] == [4]


@pytest.mark.parametrize("draft", list(ADDRESSES))
def test_a_word_ends_where_the_letters_of_ascii_end_in_every_draft(draft: int) -> None:
    schema = of_draft(draft, {"pattern": r"\bfoo\b", "patternProperties": {r"\bx": {"not": {}}}})
    check_schema(schema)
    assert [text for text in ("éfoo", "foo é", "afoo", "x" * 5_000) if fits(schema, text)] == [
        "éfoo",
        "foo é",
    ]


def test_integers_past_64_bits_are_compared_exactly() -> None:
    assert fits({"const": 2**70}, 2**70)
    assert not fits({"const": 2**70}, 2**70 + 1)
    assert not fits({"maximum": 2**70}, 2**70 + 1)
    assert fits({"type": "integer", "multipleOf": 2}, 2**70)
    assert not fits({"type": "number"}, float("nan"))
