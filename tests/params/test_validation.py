"""JSON Schema: what is refused, and the sentences that say why."""

import json
from typing import Any

import pytest

from taskmanager.errors import ValidationFailed
from taskmanager.params import schemas
from taskmanager.params.validation import (
    MAX_PROBLEMS,
    check_params,
    check_schema,
    param_problems,
    param_warnings,
)


def problems(schema: Any, params: Any) -> list[dict[str, str]]:
    return param_problems(json.dumps(schema), params)


def only_problem(schema: Any, params: Any) -> tuple[str, str, str]:
    found = problems(schema, params)
    assert len(found) == 1, found
    return found[0]["path"], found[0]["message"], found[0]["keyword"]


SENTENCES: list[tuple[dict[str, Any], Any, str]] = [
    ({"type": "integer"}, "7", "must be of type integer, not string"),
    ({"type": ["integer", "null"]}, [], "must be of type integer or null, not array"),
    ({"type": "string"}, {}, "must be of type string, not object"),
    ({"type": "string"}, True, "must be of type string, not boolean"),
    ({"type": "string"}, None, "must be of type string, not null"),
    ({"type": "integer"}, 1.5, "must be of type integer, not number"),
    ({"enum": ["a", 1, None]}, "b", 'must be one of "a", 1, null, not "b"'),
    ({"const": {"a": 1}}, 2, 'must be {"a": 1}'),
    ({"minLength": 3}, "ab", "must have at least 3 characters, not 2"),
    ({"maxLength": 1}, "ab", "must have at most 1 characters, not 2"),
    ({"pattern": "^a+$"}, "b", 'must match the pattern "^a+$", not "b"'),
    ({"format": "email"}, "b", 'must be a valid email, not "b"'),
    ({"minimum": 3}, 2, "must be at least 3, not 2"),
    ({"maximum": 3}, 4, "must be at most 3, not 4"),
    ({"exclusiveMinimum": 3}, 3, "must be more than 3, not 3"),
    ({"exclusiveMaximum": 3}, 3, "must be less than 3, not 3"),
    ({"multipleOf": 2}, 3, "must be a multiple of 2, not 3"),
    ({"minItems": 1}, [], "must have at least 1 items, not 0"),
    ({"maxItems": 1}, [1, 2], "must have at most 1 items, not 2"),
    ({"uniqueItems": True, "maxItems": 9}, [1, 1], "must not hold the same item twice"),
    ({"contains": {"const": 1}}, [2], "must hold an item that fits the schema's `contains`"),
    ({"minProperties": 1}, {}, "must have at least 1 properties, not 0"),
    ({"maxProperties": 0}, {"a": 1}, "must have at most 0 properties, not 1"),
    (
        {"dependentRequired": {"a": ["b"]}},
        {"a": 1},
        "lacks a property that goes with another one",
    ),
    ({"anyOf": [{"type": "null"}]}, 1, "fits none of the forms that the schema allows"),
    ({"oneOf": [{}, {}]}, 1, "must fit exactly one of the forms that the schema allows"),
    ({"not": {}}, 1, "has a form that the schema forbids"),
]


@pytest.mark.parametrize(("schema", "value", "sentence"), SENTENCES)
def test_each_keyword_has_a_sentence_of_its_own(
    schema: dict[str, Any], value: Any, sentence: str
) -> None:
    whole = {"properties": {"field": {"items": schema}}}
    path, message, keyword = only_problem(whole, {"field": [value]})
    assert (path, message) == ("params.field[0]", sentence)
    assert keyword in schema


def test_a_property_name_that_is_not_allowed_is_named() -> None:
    sentence = "must have at most 1 characters, not 2"
    assert only_problem({"propertyNames": {"maxLength": 1}}, {"ab": 1})[:2] == (
        "params",
        f'has the property name "ab", which {sentence}',
    )
    namesake = {"properties": {"propertyNames": {"maxLength": 1}}}
    assert only_problem(namesake, {"propertyNames": "ab"})[1] == sentence


@pytest.mark.parametrize(
    ("counts", "value", "sentence", "keyword"),
    [
        ({}, [2], "an item that fits", "contains"),
        ({"minContains": 2}, [1], "2 items that fit", "minContains"),
        ({"maxContains": 1}, [1, 1], "1 to 1 items that fit", "maxContains"),
        ({"minContains": 0, "maxContains": 1}, [1, 1], "at most 1 items that fit", "maxContains"),
    ],
)
def test_the_number_of_items_that_must_fit_is_named(
    counts: dict[str, int], value: list[int], sentence: str, keyword: str
) -> None:
    found = only_problem({"contains": {"const": 1}, **counts}, value)
    assert found == ("params", f"must hold {sentence} the schema's `contains`", keyword)


def test_items_and_properties_that_no_keyword_allows_are_named() -> None:
    closed = {"prefixItems": [True], "unevaluatedItems": False}
    assert only_problem(closed, [1, "x"])[1] == 'holds "x", which the schema does not allow'
    draft_7 = {"$schema": "http://json-schema.org/draft-07/schema#"}
    found = problems({**draft_7, "items": [True], "additionalItems": False}, [1, 2, 3])
    assert [(problem["path"], problem["message"]) for problem in found] == [
        ("params[1]", "is not allowed"),
        ("params[2]", "is not allowed"),
    ]
    typed = {"properties": {"a": {}}, "unevaluatedProperties": {"type": "string"}}
    sentence = "does not fit the schema's `unevaluatedProperties`"
    assert only_problem(typed, {"b": 1})[:2] == ("params.b", sentence)
    found = problems({"propertyNames": False}, {"a": 1})
    assert found[0]["message"] == 'has the property name "a", which is not allowed'


def test_a_property_whose_schema_is_false_is_not_allowed() -> None:
    found = only_problem({"properties": {"a": False}}, {"a": 1})
    assert found == ("params.a", "is not allowed", "false")


def test_a_property_whose_name_is_a_number_is_named_as_a_property() -> None:
    found = only_problem({"properties": {"1": {"minLength": 3}}}, {"1": "ab"})
    assert found == ("params.1", "must have at least 3 characters, not 2", "minLength")
    found = only_problem({"properties": {"1": {"anyOf": [{"type": "null"}]}}}, {"1": 5})
    assert found == ("params.1", "fits none of the forms that the schema allows", "anyOf")


def test_a_long_value_is_not_repeated_whole() -> None:
    message = only_problem({"properties": {"a": {"format": "email"}}}, {"a": "x" * 10_000})[1]
    assert len(message) < 120
    assert message.endswith("…")


def test_every_missing_property_is_named_once() -> None:
    found = problems({"required": ["a", "b", "c"]}, {"b": 1})
    assert [problem["path"] for problem in found] == ["params.a", "params.c"]
    assert {problem["message"] for problem in found} == {"is required"}


def test_every_unknown_property_is_named_with_the_nearest_known_one() -> None:
    schema = {"properties": {"video_id": {}}, "additionalProperties": False}
    found = problems(schema, {"vidio_id": 1, "zzz": 2, "video_id": 3})
    assert [(problem["path"], problem["message"]) for problem in found] == [
        ("params.vidio_id", "is not a known field; did you mean 'video_id'?"),
        ("params.zzz", "is not a known field"),
    ]


def test_properties_outside_the_patterns_and_unevaluated_ones_are_refused() -> None:
    patterned = {"patternProperties": {"^x": {}}, "additionalProperties": False}
    assert only_problem(patterned, {"y": 1})[:2] == ("params.y", "is not a known field")
    unevaluated = {"properties": {"a": {}}, "unevaluatedProperties": False}
    assert only_problem(unevaluated, {"b": 1})[:2] == ("params.b", "is not a known field")


def test_the_number_of_problems_is_bounded() -> None:
    schema = {"additionalProperties": {"type": "null"}}
    assert len(problems(schema, {str(number): 1 for number in range(1_000)})) == MAX_PROBLEMS


def test_params_that_do_not_fit_are_refused_with_all_problems() -> None:
    schema = json.dumps({"properties": {"a": {"type": "null"}, "b": {"type": "null"}}})
    check_params(schema, {"a": None}, type_name="job")
    with pytest.raises(ValidationFailed) as refused:
        check_params(schema, {"a": 1, "b": 1}, type_name="job")
    assert refused.value.code == "validation_failed"
    assert "'job'" in refused.value.message
    assert "(and 1 more, see details)" in refused.value.message
    assert len(refused.value.details or ()) == 2


def test_a_reference_into_the_schema_itself_is_followed() -> None:
    schema = {"$defs": {"name": {"type": "string"}}, "properties": {"a": {"$ref": "#/$defs/name"}}}
    check_schema(schema)
    assert only_problem(schema, {"a": 1})[0] == "params.a"


def test_a_reference_to_a_part_that_is_not_there_is_a_problem_not_a_crash() -> None:
    assert only_problem({"$ref": "#/$defs/gone"}, {})[1].startswith("cannot be checked")


@pytest.mark.parametrize(
    "reference",
    ["http://127.0.0.1:9/x.json", "https://example.com/s", "file:///etc/passwd", "other.json", ""],
)
def test_a_reference_to_anything_outside_is_refused(reference: str) -> None:
    schema = {"properties": {"a": {"anyOf": [{"$ref": reference}]}}}
    with pytest.raises(ValidationFailed) as refused:
        check_schema(schema)
    assert "nothing is fetched" in str(refused.value.details)
    assert "param_schema.properties.a.anyOf[0].$ref" in str(refused.value.details)


def test_a_ref_inside_plain_data_is_no_reference() -> None:
    check_schema({"const": {"$ref": "http://example.com"}, "enum": [{"$ref": "http://x"}]})


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"type": "strin"}, "param_schema.type"),
        ({"properties": {"a": {"minimum": "3"}}}, "param_schema.properties.a.minimum"),
        ({"required": "a"}, "param_schema.required"),
        ({"properties": []}, "param_schema.properties"),
        ({"pattern": 3}, "param_schema.pattern"),
        ({"$schema": "http://example.com/no-such-draft"}, "param_schema.$schema"),
        ([], "param_schema"),
        ("x", "param_schema"),
    ],
)
def test_a_broken_schema_is_refused_with_the_place(schema: Any, path: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        check_schema(schema)
    details = refused.value.details
    assert isinstance(details, list)
    assert path in [problem["path"] for problem in details]


@pytest.mark.parametrize(
    "draft",
    [
        "https://json-schema.org/draft/2020-12/schema",
        "https://json-schema.org/draft/2019-09/schema",
        "http://json-schema.org/draft-07/schema#",
        "http://json-schema.org/draft-04/schema#",
    ],
)
def test_the_draft_that_a_schema_names_decides(draft: str) -> None:
    schema = {"$schema": draft, "type": "object", "properties": {"a": {"type": "string"}}}
    check_schema(schema)
    assert only_problem(schema, {"a": 1})[0] == "params.a"


def test_draft_four_takes_exclusive_minimum_as_a_switch() -> None:
    schema = {"minimum": 3, "exclusiveMinimum": True}
    check_schema({"$schema": "http://json-schema.org/draft-04/schema#", **schema})
    with pytest.raises(ValidationFailed):
        check_schema(schema)


def test_formats_are_checked_for_strings_only() -> None:
    schema = {"properties": {"a": {"format": "youtube-video-id"}}}
    assert only_problem(schema, {"a": "short"})[2] == "format"
    assert problems(schema, {"a": 7}) == []
    assert problems({"properties": {"a": {"format": "no-such-format"}}}, {"a": "x"}) == []


def test_formats_that_are_not_registered_are_ignored() -> None:
    for name in ("idn-email", "regex", "json-pointer", "order-number"):
        assert problems({"format": name}, "( not one") == []


def test_the_same_problem_is_listed_once() -> None:
    assert len(problems({"allOf": [{"required": ["a"]}] * 3}, {})) == 1


def test_a_property_that_the_schema_does_not_name_is_a_warning() -> None:
    schema = json.dumps({"properties": {"video_id": {}}})
    assert param_warnings(schema, {"video_id": 1, "vidio_id": 2}) == [
        {
            "path": "params.vidio_id",
            "message": "is not named by the schema; did you mean 'video_id'?",
            "keyword": "properties",
        }
    ]
    assert param_warnings("{}", {"a": 1}) == []


def test_validators_are_remembered_by_schema_up_to_a_bound() -> None:
    schemas._validator_of.cache_clear()
    first = schemas.validator_of('{"type": "object"}')
    assert schemas.validator_of('{"type": "object"}') is first
    for number in range(300):
        schemas.validator_of(json.dumps({"const": number}))
    assert schemas._validator_of.cache_info().currsize == 256
